/** The client library: a seat is kept through what happens to its connection, and what was said is not lost. */

import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { copyFile, mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join as pathJoin } from "node:path";
import { after, describe, test } from "node:test";
import { fileURLToPath, pathToFileURL } from "node:url";

import { startLine } from "./support/line.mjs";
import { connect, library } from "./support/peer.mjs";
import { startServer } from "./support/server.mjs";
import { until, within } from "./support/waiting.mjs";

const PUBLIC = fileURLToPath(new URL("../../public/js/", import.meta.url));
const NEW = { version: "4.8", transport: "websocket" };

// The page's scripts stand in no package; the name tells Node what the copy is.
const home = await mkdtemp(pathJoin(tmpdir(), "duet-client-"));
after(() => rm(home, { recursive: true, force: true }));
await copyFile(pathJoin(PUBLIC, "duet.js"), pathJoin(home, "duet.mjs"));
const { DuetRoom } = await import(pathToFileURL(pathJoin(home, "duet.mjs")).href);

const server = await startServer({ after });

/** As `sessionStorage`: one a tab. */
function tab() {
  const kept = new Map();
  return {
    kept,
    getItem: (key) => kept.get(key) ?? null,
    setItem: (key, value) => void kept.set(key, value),
    removeItem: (key) => void kept.delete(key),
  };
}

const EVENTS = ["created", "joined", "resumed", "waiting", "refused", "peer-joined", "peer-reconnecting", "peer-resumed", "peer-left", "ready",
  "message", "superseded", "ended", "disconnected", "unreachable"];

/** A room object whose every event is kept; `url` may be that of a line. */
function open(t, name, { url = server.url, version = "4.8", storage = tab(), ...options } = {}) {
  const room = new DuetRoom(name, { io: library(version), url, storage, ...options });
  room.story = [];
  room.storage = storage;
  for (const event of EVENTS) room.on(event, (...told) => room.story.push([event, ...told]));
  room.names = () => room.story.map(([event]) => event);
  room.heard = () => room.story.filter(([event]) => event === "message").map(([, ...args]) => args);
  room.is = (state) => until(`${name} is ${state} (${version})`, () => room.state === state).catch((error) => {
    throw new Error(`${error.message}; it is ${room.state}: ${JSON.stringify(room.story.slice(-6))}`);
  });
  t.after(() => room.leave());
  return room;
}

async function together(...rooms) {
  for (const room of rooms) await room.is("together");
}

async function openPair(t, name, options = {}) {
  const first = open(t, name, { ...options, ...options.first });
  first.join();
  await first.is("alone");
  const second = open(t, name, { ...options, ...options.second });
  second.join();
  await together(first, second);
  return [first, second];
}

/** `io` that lets the test have the socket, as no page needs to. */
function spied(version, keepIn) {
  return (...args) => (keepIn.socket = library(version)(...args));
}

/** Ends the connection as a page that is unloaded does: without a word, and for good. */
function unload({ socket }) {
  socket.io.reconnection(false);
  socket.io.engine.close();
}

for (const version of ["2.5", "3.1", "4.8"]) {
  describe(`socket.io-client ${version}`, () => {
    test("two meet, and each side is told once, one of them that it came last", async (t) => {
      const [first, second] = await openPair(t, t.name + version, { version });
      assert.deepEqual(first.names(), ["created", "peer-joined", "ready"]);
      assert.deepEqual(second.names(), ["joined", "peer-joined", "ready"]);
      assert.deepEqual([first.story.at(-1)[1], second.story.at(-1)[1]], [{ last: false }, { last: true }]);
      assert.deepEqual(await first.send("to the other", { n: 1 }), { ok: true });
      await until("it is heard", () => second.heard().length === 1);
      assert.deepEqual(second.heard(), [["to the other", { n: 1 }]]);
      second.leave();
      await first.is("alone");
      assert.deepEqual(first.story.at(-1), ["peer-left", { id: first.story.at(-1)[1].id, reason: "left" }]);
      assert.equal(second.storage.kept.size, 0);
    });

    test("a cut connection takes its seat back, and says in order what was said meanwhile", async (t) => {
      const line = await startLine(t, server.port);
      const [first, second] = await openPair(t, t.name + version, { version, second: { url: line.url } });
      line.break();
      await first.is("apart");
      await second.is("reconnecting");
      const answers = [1, 2, 3].map((n) => first.send("from first", n));
      const others = [1, 2, 3].map((n) => second.send("from second", n));
      const since = performance.now();
      line.mend();
      await together(first, second);
      t.diagnostic(`resumed ${Math.round(performance.now() - since)} ms after the line was mended`);
      assert.deepEqual(await Promise.all([...answers, ...others]), Array(6).fill({ ok: true }));
      await until("all is heard", () => first.heard().length === 3 && second.heard().length === 3);
      assert.deepEqual(first.heard(), [1, 2, 3].map((n) => ["from second", n]));
      assert.deepEqual(second.heard(), [1, 2, 3].map((n) => ["from first", n]));
      assert.ok(second.names().includes("resumed"));
      assert.deepEqual(first.names().slice(0, 5), ["created", "peer-joined", "ready", "peer-reconnecting", "peer-resumed"]);
      assert.equal(first.names().filter((name) => name === "ready").length, 2);
      assert.equal(second.names().filter((name) => name === "ready").length, 2);
      assert.deepEqual(second.story.filter(([name]) => name === "ready").at(-1)[1], { last: true });
    });

    test("a page that is loaded again has its seat back", async (t) => {
      const own = {};
      const [first, second] = await openPair(t, t.name + version, { version, second: { io: spied(version, own) } });
      unload(own);
      await first.is("apart");
      const again = open(t, second.name, { version, storage: second.storage });
      again.join();
      await together(first, again);
      assert.deepEqual(again.names(), ["resumed", "peer-joined", "ready"]);
      assert.ok(first.names().includes("peer-resumed"));
      assert.deepEqual(await again.send("back"), { ok: true });
      await until("it is heard", () => first.heard().length === 1);
    });

    test("a duplicated tab takes the seat, and the first does not fight for it until it is asked to", async (t) => {
      const [first, second] = await openPair(t, t.name + version, { version });
      const copy = tab();
      for (const [key, value] of second.storage.kept) copy.setItem(key, value);
      const twin = open(t, second.name, { version, storage: copy });
      twin.join();
      await second.is("superseded");
      await together(first, twin);
      assert.equal((await second.send("from the past")).ok, false);
      assert.ok(!first.names().includes("peer-left"));
      second.takeBack();
      await twin.is("superseded");
      await together(first, second);
      assert.deepEqual(await second.send("mine again"), { ok: true });
      await until("it is heard", () => first.heard().length === 1);
    });

    test("a full room is waited for", async (t) => {
      const [first, second] = await openPair(t, t.name + version, { version });
      const third = open(t, first.name, { version });
      third.join();
      await third.is("refused");
      const { message, ...told } = third.story.at(-1)[1];
      assert.deepEqual(told, { code: "full", retryable: true, retryInMs: null });
      third.wait();
      await third.is("waiting");
      second.leave();
      await together(first, third);
      assert.deepEqual(third.names(), ["refused", "waiting", "joined", "peer-joined", "ready"]);
      assert.ok(third.storage.getItem(`duet.seat:${third.name}`), "the token came with the event");
    });

    test("what a dead line swallowed comes once more, after a change of networks and after a reload", async (t) => {
      const line = await startLine(t, server.port);
      const [first, second] = await openPair(t, t.name + version, { version, second: { url: line.url } });
      const say = async (...numbers) => {
        for (const n of numbers) assert.deepEqual(await first.send(n), { ok: true }, `${n} is accepted`);
      };
      await say(1, 2);
      await until("the first are heard", () => second.heard().length === 2);
      line.hold();
      await say(3, 4, 5);
      line.mendForNew();
      assert.equal(await second.check({ timeoutMs: 300 }), null);
      await together(first, second);
      await say(6);
      await until("all is heard", () => second.heard().length === 6);
      line.hold();
      await say(7, 8);
      const again = open(t, second.name, { version, storage: second.storage });
      again.join();
      await together(first, again);
      await say(9);
      await until("the rest is heard", () => again.heard().length === 3);
      assert.deepEqual([second.heard().flat(), again.heard().flat()], [[1, 2, 3, 4, 5, 6], [7, 8, 9]]);
    });
  });
}

test("a connection that is dead without a word is found out, and replaced", async (t) => {
  const line = await startLine(t, server.port);
  const [first, second] = await openPair(t, t.name, { second: { url: line.url } });
  line.hold();
  const lost = second.send("into the dark");
  line.mendForNew();
  const since = performance.now();
  assert.equal(await second.check({ timeoutMs: 300 }), null);
  await until("the seat was taken back", () => second.names().includes("resumed"));
  await together(first, second);
  t.diagnostic(`replaced in ${Math.round(performance.now() - since)} ms`);
  assert.deepEqual(await lost, { ok: true });
  await until("it is heard", () => first.heard().length > 0);
  assert.deepEqual(first.heard(), [["into the dark"]]);
  const answer = await second.check();
  assert.equal(answer.outcome, "joined");
});

test("what is given up on its way is not said again", async (t) => {
  const line = await startLine(t, server.port);
  const [first, second] = await openPair(t, t.name, { second: { url: line.url, window: 2 } });
  line.hold();
  const lost = ["on its way", "kept", "waits"].map((word) => second.send(word));
  assert.equal(second.discard(([word]) => word !== "kept"), 1);
  assert.equal((await lost[2]).code, "discarded");
  assert.equal(second.pending, 2);
  line.mendForNew();
  assert.equal(await second.check({ timeoutMs: 300 }), null);
  assert.equal((await lost[0]).code, "discarded");
  assert.deepEqual(await lost[1], { ok: true });
  await until("it is heard", () => first.heard().length > 0);
  assert.deepEqual([first.heard(), second.pending], [[["kept"]], 0]);
});

test("what was acknowledged is not said again, whenever the line is cut", async (t) => {
  const line = await startLine(t, server.port);
  const [first, second] = await openPair(t, t.name, { second: { url: line.url } });
  const acknowledged = [];
  let said = 0;
  for (let round = 0; round < 5; round++) {
    const sent = [];
    for (let n = 0; n < 20; n++) {
      const number = said++;
      sent.push(second.send(number).then((answer) => answer.ok && acknowledged.push(number)));
      if (n === 10) setImmediate(() => line.cut());
    }
    await within("all is acknowledged", Promise.all(sent), () => JSON.stringify([second.state, second.pending]));
  }
  assert.equal(acknowledged.length, 100);
  await until("all is heard", () => new Set(first.heard().flat()).size === 100);
  const heard = first.heard().flat();
  // Only what was on its way when the line was cut may come twice.
  assert.ok(heard.length <= 100 + 5, `${heard.length} heard`);
  const once = heard.filter((number, at) => heard.indexOf(number) === at);
  assert.deepEqual(once, [...Array(100).keys()]);
});

test("a wide window has several on their way at a time", async (t) => {
  const [first, second] = await openPair(t, t.name, { window: 8 });
  const answers = await Promise.all(Array.from({ length: 50 }, (_, n) => second.send(n)));
  assert.ok(answers.every(({ ok }) => ok));
  await until("all is heard", () => first.heard().length === 50);
  assert.deepEqual(first.heard().flat(), [...Array(50).keys()]);
});

test("what is kept is bounded, given up on request, and never reaches the next peer", async (t) => {
  const own = {};
  const [first, second] = await openPair(t, t.name, { keep: 3, second: { io: spied("4.8", own) } });
  unload(own);
  await first.is("apart");
  const answers = [1, 2, 3].map((n) => first.send(n));
  assert.equal((await first.send(4)).code, "too_many_kept");
  assert.equal(first.discard(([n]) => n === 2), 1);
  assert.equal((await answers[1]).code, "discarded");
  assert.equal(first.pending, 2);
  // Its page leaves for good by another connection.
  const again = open(t, second.name, { storage: second.storage });
  again.on("resumed", () => again.leave());
  again.join();
  await first.is("alone");
  assert.deepEqual((await Promise.all([answers[0], answers[2]])).map(({ ok }) => ok).includes(false), true);
  assert.equal((await first.send("to nobody")).code, "no_peer");
  const stranger = open(t, first.name);
  stranger.join();
  await together(first, stranger);
  await first.send("to you");
  await until("it is heard", () => stranger.heard().length > 0);
  assert.deepEqual(stranger.heard(), [["to you"]]);
});

for (const version of ["2.5", "3.1", "4.8"]) {
  test(`who is turned away at the door is told why, and may come again with what was missing (${version})`, async (t) => {
    const secret = "a secret that is long enough, by far";
    const { url } = await startServer(t, { DUET_ADMISSION__JWT_SECRET: secret });
    const own = version.startsWith("2") ? { query: {} } : { auth: {} };
    const room = open(t, t.name, { url, version, socket: own });
    room.join();
    await room.is("refused");
    const { message, ...told } = room.story.at(-1)[1];
    assert.deepEqual(told, { code: "unauthorized", retryable: false, retryInMs: null });
    const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
    const body = `${part({ alg: "HS256" })}.${part({ sub: "somebody", rooms: [t.name], exp: Date.now() / 1000 + 60 })}`;
    const token = `${body}.${createHmac("sha256", secret).update(body).digest("base64url")}`;
    const next = open(t, t.name, { url, version, socket: version.startsWith("2") ? { query: { token } } : { auth: { token } } });
    next.join();
    await next.is("alone");
    if (version.startsWith("2")) return;
    own.auth.token = token;
    room.join();
    await together(room, next);
  });
}

test("a token that is stale is no matter", async (t) => {
  const storage = tab();
  storage.setItem(`duet.seat:${t.name}`, "00".repeat(16));
  const room = open(t, t.name, { storage });
  room.join();
  await room.is("alone");
  assert.deepEqual(room.names(), ["created"]);
  assert.notEqual(storage.getItem(`duet.seat:${t.name}`), "00".repeat(16));
});

test("a count that is none is no matter", async (t) => {
  for (const count of ["", "null", "7", "{", '{"id":1,"peers":0,"messages":0}', '{"id":"x","peers":-1,"messages":1e99}']) {
    const [first, second] = await openPair(t, `${t.name} ${count}`);
    assert.deepEqual(await first.send("once"), { ok: true });
    await until("it is heard", () => second.heard().length === 1);
    second.storage.setItem(`duet.seat:${second.name}:heard`, count);
    const again = open(t, second.name, { storage: second.storage });
    again.join();
    await together(first, again);
    assert.deepEqual(await first.send("and no more"), { ok: true });
    await until("it is heard", () => again.heard().length === 1);
    assert.deepEqual(again.heard(), [["and no more"]]);
  }
});

test("storage that throws, or none, costs only what is beyond the page", async (t) => {
  const broken = { getItem: () => assert.fail("no"), setItem: () => assert.fail("no"), removeItem: () => assert.fail("no") };
  for (const [n, storage] of [broken, null].entries()) {
    const line = await startLine(t, server.port);
    const room = open(t, `${t.name} ${n}`, { url: line.url, storage });
    room.join();
    await room.is("alone");
    line.cut();
    await until("the seat is back", () => room.names().includes("resumed"));
  }
});

test("who comes back to an empty room is told that the other is gone", async (t) => {
  const line = await startLine(t, server.port);
  const [first, second] = await openPair(t, t.name, { first: { url: line.url } });
  line.break();
  await second.is("apart");
  second.leave();
  line.mend();
  await first.is("alone");
  assert.deepEqual(first.names().slice(-2), ["resumed", "peer-left"]);
});

test("a server that ends is left for as long as it says, and the seat asked for on the next", async (t) => {
  const one = await startServer(t, { DUET_TIMEOUTS__DRAIN: "2s" });
  const two = await startServer(t);
  const line = await startLine(t, one.port, two.port);
  const [first, second] = await openPair(t, t.name, { url: line.url });
  one.signal("SIGTERM");
  // Two servers that know nothing of each other: seats, not these seats, but both come by themselves.
  await until("both have a seat on the other", () => [first, second].every((room) => room.names().filter((name) => name === "ready").length === 2));
  await one.ended;
  await together(first, second);
});

test("a client of the lesson and the library meet", async (t) => {
  const old = await connect(t, server.url, NEW);
  await old.join(t.name);
  const room = open(t, t.name);
  room.join();
  await room.is("together");
  await old.next("join");
  await old.next("ready");
  // What the lesson's peer relays is no news of the room.
  old.emit("ready", t.name);
  assert.deepEqual(await old.ask("message", "got user media"), { ok: true });
  await until("it is heard", () => room.heard().length === 1);
  assert.equal(room.names().filter((name) => name === "ready").length, 1);
  await room.send({ type: "offer" });
  assert.deepEqual(await old.next("message"), [{ type: "offer" }]);
});

test("a listener that throws breaks nothing", async (t) => {
  const thrown = [];
  const real = globalThis.setTimeout;
  const room = open(t, t.name);
  room.on("created", () => {
    // Only the next timer is the one that reports.
    globalThis.setTimeout = (act) => {
      globalThis.setTimeout = real;
      return real(() => {
        try {
          act();
        } catch (error) {
          thrown.push(error.message);
        }
      });
    };
    throw new Error("of the page");
  });
  room.join();
  await room.is("alone");
  await until("it is reported", () => thrown.length > 0);
  assert.deepEqual(thrown, ["of the page"]);
});

test("what it declares is what it has", async () => {
  const declared = await readFile(pathJoin(PUBLIC, "duet.d.ts"), "utf8");
  const body = declared.slice(declared.indexOf("export class DuetRoom"));
  const names = [...body.matchAll(/^ {2}(?:readonly )?([a-zA-Z]+)[(<:]/gm)].map(([, name]) => name);
  assert.deepEqual([...new Set(names)].sort(), Object.getOwnPropertyNames(DuetRoom.prototype).sort());
  const source = await readFile(pathJoin(PUBLIC, "duet.js"), "utf8");
  const events = declared.slice(declared.indexOf("export interface DuetEvents"), declared.indexOf("export class DuetRoom"));
  const told = [...events.matchAll(/^ {2}"?([a-z-]+)"?\(/gm)].map(([, name]) => name);
  assert.deepEqual(told.filter((name) => !source.includes(`"${name}"`)), []);
});
