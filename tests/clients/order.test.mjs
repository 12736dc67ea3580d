/** In the order in which it was sent, all of it, exactly once. */

import assert from "node:assert/strict";
import { after, describe, test } from "node:test";

import { Peer, connect, kindName, pair } from "./support/peer.mjs";
import { RawSocket, frame, http, opening } from "./support/raw.mjs";
import { startServer } from "./support/server.mjs";
import { within } from "./support/waiting.mjs";

const MANY = 5_000;
const server = await startServer({ after });

const NEW = { version: "4.8", transport: "websocket" };
const kinds = (versions, transport) => versions.map((version) => ({ version, transport }));

/** Words of a message that takes about `bytes` on the wire. */
const words = (bytes) => "x".repeat(bytes - 22);

/** The story of a peer that was sent `count` numbered messages, and then a marker. */
function assertNumbered(story, count, padding) {
  assert.equal(story.length, count + 1);
  // Compared one by one: a difference is told by its number, not by five thousand lines.
  for (const [index, event] of story.slice(0, -1).entries()) {
    if (event[0] !== "message" || event[1] !== index || event[2] !== padding || event.length !== 3) {
      assert.fail(`at ${index}: ${JSON.stringify(event).slice(0, 100)}`);
    }
  }
  assert.deepEqual(story.at(-1), ["message", "marker"]);
}

const isMarked = (story) => story.at(-1)?.[1] === "marker";

/** Emits without a pause, but lets the receiver, who lives in the same process, read meanwhile. */
async function emitNumbered(sender, count, padding) {
  for (let number = 0; number < count; number += 1) {
    sender.emit("message", number, padding);
    if (number % 200 === 199) await new Promise((resolve) => setImmediate(resolve));
  }
  sender.emit("message", "marker");
}

async function allArrive(sender, receiver, count, padding) {
  await emitNumbered(sender, count, padding);
  const story = await receiver.storyThat(`${count} messages`, isMarked);
  assertNumbered(story, count, padding);
  assert.deepEqual(sender.story, []);
}

describe(`${MANY} messages back to back`, () => {
  const receivers = [...kinds(["1.7", "2.0", "2.5", "3.1", "4.8"], "websocket"), ...kinds(["1.7", "2.5", "3.1", "4.8"], "polling")];
  for (const receiver of receivers) {
    for (const bytes of [100, 600]) {
      test(`of ${bytes} bytes arrive at ${kindName(receiver)}`, async (t) => {
        const [from, to] = await pair(t, server.url, t.name, NEW, receiver);
        await allArrive(from, to, MANY, words(bytes));
      });
    }
  }

  const senders = [
    ...kinds(["1.7", "2.5", "3.1"], "websocket").map((kind) => [kind, 600]),
    // An old client puts all that waits into one request, which may not be larger than one packet.
    ...kinds(["1.7", "2.5", "3.1"], "polling").map((kind) => [kind, 100]),
    [{ version: "4.8", transport: "polling" }, 600],
  ];
  for (const [sender, bytes] of senders) {
    test(`of ${bytes} bytes from ${kindName(sender)} arrive`, async (t) => {
      const [from, to] = await pair(t, server.url, t.name, sender, NEW);
      await allArrive(from, to, MANY, words(bytes));
    });
  }

  test("from both peers at once arrive", async (t) => {
    const [first, second] = await pair(t, server.url, t.name, NEW, { version: "2.5", transport: "websocket" });
    await Promise.all([first, second].map((peer) => emitNumbered(peer, MANY, words(100))));
    for (const peer of [first, second]) assertNumbered(await peer.storyThat("all messages", isMarked), MANY, words(100));
  });
});

/** Emits until the peer that upgrades has done so, then the rest: it is sent to before, during and after. */
async function flood(upgrading, sender, count, padding) {
  let number = 0;
  const some = () => {
    for (let left = 20; left > 0 && number < count - 500; left -= 1, number += 1) sender.emit("message", number, padding);
  };
  let done = false;
  void upgrading.upgraded.then(() => (done = true));
  const at = { before: 0, during: 0 };
  void upgrading.upgrading.then(() => {
    at.before = number;
    some();
  });
  while (!done) {
    some();
    await new Promise((resolve) => setImmediate(resolve));
  }
  at.during = number - at.before;
  for (; number < count; number += 1) {
    sender.emit("message", number, padding);
    if (number % 200 === 199) await new Promise((resolve) => setImmediate(resolve));
  }
  sender.emit("message", "marker");
  assert.ok(at.before > 0 && at.during > 0, `sent ${at.before} before and ${at.during} during the upgrade`);
}

describe(`${MANY} messages before, during and after an upgrade`, () => {
  for (const version of ["1.7", "2.0", "2.5", "3.1", "4.8"]) {
    for (const bytes of [100, 600]) {
      test(`of ${bytes} bytes arrive at a ${version} that upgrades`, async (t) => {
        const sender = await connect(t, server.url, NEW);
        await sender.join(t.name);
        const receiver = new Peer(server.url, { version, transport: "upgrade" });
        t.after(() => receiver.close());
        receiver.socket.on("connect", () => receiver.emit("create or join", t.name));
        assert.deepEqual(await sender.next("join"), [t.name]);
        assert.deepEqual(await sender.next("ready"), [t.name]);
        await flood(receiver, sender, MANY, words(bytes));
        const story = await receiver.storyThat("all messages", isMarked);
        assert.deepEqual(story.splice(0, 2), [["joined", t.name, receiver.id], ["ready", t.name]]);
        assertNumbered(story, MANY, words(bytes));
        assert.equal(receiver.carrier, "websocket");
      });
    }

    test(`of 100 bytes from a ${version} that upgrades arrive`, async (t) => {
      const receiver = await connect(t, server.url, NEW);
      await receiver.join(t.name);
      const sender = new Peer(server.url, { version, transport: "upgrade" });
      t.after(() => sender.close());
      // Without waiting for any answer: the first message is right behind the join.
      await new Promise((resolve) => sender.socket.on("connect", () => {
        sender.emit("create or join", t.name);
        resolve(flood(sender, sender, MANY, words(100)));
      }));
      const story = await receiver.storyThat("all messages", isMarked);
      assert.deepEqual(story.splice(0, 2), [["join", t.name], ["ready", t.name]]);
      assertNumbered(story, MANY, words(100));
      assert.deepEqual(sender.story, [["joined", t.name, sender.id], ["ready", t.name]]);
    });
  }
});

// The official client opens its WebSocket and says CONNECT at the same time: either may be first.
test("a session that upgrades before it has said CONNECT is sent any number of bytes", async (t) => {
  const path = "/socket.io/?EIO=4&transport=polling";
  const sid = /"sid":"([^"]+)"/.exec((await http(server, path)).text)[1];
  const raw = new RawSocket(t, server);
  raw.write(opening(server, 4, `&sid=${sid}`), frame("2probe"));
  await raw.textsThat("the probe is answered", (texts) => texts.includes("3probe"));
  raw.write(frame("5"), frame("40"));
  await raw.textsThat("it is connected", (texts) => texts.some((text) => text.startsWith("40")));
  raw.write(frame(`42["create or join","${t.name}"]`));
  await raw.textsThat("created", (texts) => texts.some((text) => text.startsWith('42["created"')));
  const sender = await connect(t, server.url, NEW);
  await sender.join(t.name);
  for (let number = 0; number < 300; number += 1) {
    assert.deepEqual(await sender.ask("message", number, words(10_000)), { ok: true }, `message ${number}`);
    await raw.textsThat(`message ${number}`, (texts) => texts.at(-1).startsWith(`42["message",${number},`));
  }
});

describe("events of every kind keep their order", () => {
  for (const kind of [NEW, ...kinds(["1.7", "2.5", "4.8"], "polling"), { version: "2.0", transport: "websocket" }]) {
    test(`sent by ${kindName(kind)}, leaving and coming back among them`, async (t) => {
      const room = t.name;
      const waiting = await connect(t, server.url, NEW);
      await waiting.join(room);
      const sender = await connect(t, server.url, kind);
      const expected = [];
      for (let round = 0; round < 5; round += 1) {
        sender.emit("create or join", room);
        expected.push(["join", room], ["ready", room]);
        for (let number = 0; number < 40; number += 1) {
          const mark = round * 1000 + number;
          const candidate = { type: "candidate", label: number, id: "0", candidate: `candidate:${mark}`, room };
          sender.emit("offer", { type: "offer", sdp: { type: "offer", sdp: String(mark) }, room });
          sender.emit("candidate", candidate);
          sender.emit("message", mark, Buffer.from([number]));
          sender.emit("answer", { type: "answer", sdp: String(mark), room });
          sender.emit("ready", room);
          expected.push(
            ["offer", { type: "offer", sdp: String(mark) }],
            ["candidate", candidate],
            ["message", mark, { bytes: Buffer.from([number]).toString("hex") }],
            ["answer", String(mark)],
            ["ready", room],
          );
        }
        sender.emit("bye", ...[[], [room]][round % 2]);
        expected.push(["bye", room, { id: sender.id, reason: "left" }]);
      }
      sender.emit("create or join", room);
      sender.emit("message", "marker");
      expected.push(["join", room], ["ready", room], ["message", "marker"]);
      assert.deepEqual(await waiting.storyThat("the marker", isMarked), expected);
    });
  }

  test("acknowledgements come in the order of the requests", async (t) => {
    const [first] = await pair(t, server.url, t.name, NEW);
    const answered = [];
    const all = [];
    for (let number = 0; number < 500; number += 1) {
      const [event, ...args] = [["message", number], ["no such event"], ["ready", t.name], ["ready", "elsewhere"], ["create or join", t.name]][number % 5];
      all.push(new Promise((resolve) => first.emit(event, ...args, () => resolve(answered.push(number)))));
    }
    await within("all acknowledgements", Promise.all(all));
    assert.deepEqual(answered, Array.from(answered.keys()));
  });
});

describe("the first words of a client are heard", () => {
  for (const kind of [...kinds(["1.7", "2.0", "2.5", "3.1", "4.8"], "websocket"), ...kinds(["1.7", "2.0", "2.5", "3.1", "4.8"], "polling")]) {
    test(`said in the connect handler of ${kindName(kind)}, by 20 at once`, async (t) => {
      await Promise.all(
        Array.from({ length: 20 }, async (_, number) => {
          const room = `${t.name} ${number}`;
          const peer = new Peer(server.url, kind);
          t.after(() => peer.close());
          peer.socket.on("connect", () => {
            peer.emit("create or join", room);
            peer.emit("message", "anybody?");
          });
          const [, id] = await peer.next("created");
          assert.equal(id, peer.id);
          const [{ event, code }] = await peer.next("rejected");
          assert.deepEqual([event, code], ["message", "no_peer"]);
        }),
      );
    });

    // The lesson's page emits before it is connected; the library keeps that back until it is.
    test(`said before ${kindName(kind)} is connected`, async (t) => {
      const peer = new Peer(server.url, kind);
      t.after(() => peer.close());
      peer.emit("create or join", t.name);
      assert.deepEqual(await peer.next("created"), [t.name, peer.id]);
    });
  }

  test("Engine.IO 3: in one polling request", async (t) => {
    const path = "/socket.io/?EIO=3&transport=polling";
    const session = `${path}&sid=${/"sid":"([^"]+)"/.exec((await http(server, path)).text)[1]}`;
    const body = [`42["create or join","${t.name}"]`, '420["message",1]'].map((packet) => `${packet.length}:${packet}`).join("");
    assert.equal((await http(server, session, { method: "POST", body, headers: { "content-type": "text/plain" } })).text, "ok");
    let told = "";
    while (!told.includes("no_peer")) {
      const { status, text } = await http(server, session);
      assert.equal(status, 200);
      told += text;
    }
    assert.match(told, new RegExp(`"created","${t.name}".*430\\[\\{"ok":false,"code":"no_peer"`, "s"));
  });

  // The protocol wants the answer to CONNECT to be waited for. One that does not wait is heard all the same.
  for (const [eio, connecting] of [[3, []], [4, [frame("40")]]]) {
    test(`Engine.IO ${eio}: in one burst with the opening`, async (t) => {
      await Promise.all(Array.from({ length: 50 }, async (_, number) => {
        const raw = new RawSocket(t, server);
        const room = `${t.name} ${number}`;
        raw.write(opening(server, eio), ...connecting, frame(`42["create or join","${room}"]`), frame('420["message",1]'));
        const texts = await raw.textsThat("the acknowledgement", (all) => all.some((text) => text.startsWith("430")));
        assertHeard(texts, room);
      }));
    });
  }

  for (const apart of [false, true]) {
    test(`Engine.IO 4: by polling, in ${apart ? "requests that do not wait for an answer" : "one request"}`, async (t) => {
      await Promise.all(Array.from({ length: 20 }, async (_, number) => {
        const path = "/socket.io/?EIO=4&transport=polling";
        const session = `${path}&sid=${JSON.parse((await http(server, path)).text.slice(1)).sid}`;
        const room = `${t.name} ${number}`;
        const packets = ["40", `42["create or join","${room}"]`, '420["message",1]'];
        for (const body of apart ? packets : [packets.join("\x1e")]) {
          assert.equal((await http(server, session, { method: "POST", body })).text, "ok");
        }
        const texts = [];
        while (!texts.some((text) => text.startsWith("430"))) {
          const { status, text } = await http(server, session);
          assert.equal(status, 200);
          texts.push(...text.split("\x1e"));
        }
        assertHeard(texts, room);
      }));
    });
  }
});

/** That somebody who joined `room` and spoke to nobody was told so. */
function assertHeard(texts, room) {
  const told = texts.filter((text) => text.startsWith("42") && !text.startsWith('42["log"'));
  assert.equal(told.length, 1, JSON.stringify(texts));
  assert.ok(told[0].startsWith(`42["created","${room}",`), told[0]);
  const answered = texts.findIndex((text) => text.startsWith('430[{"ok":false,"code":"no_peer",'));
  assert.ok(answered > texts.indexOf(told[0]), JSON.stringify(texts));
}
