/** Who gets a seat, what is told to whom in which order, and how seats come free. */

import assert from "node:assert/strict";
import { after, describe, test } from "node:test";

import { KINDS, Peer, VERSIONS, connect, kindName, pair, seat } from "./support/peer.mjs";
import { RawSocket, frame, http, opening } from "./support/raw.mjs";
import { startServer } from "./support/server.mjs";
import { until, within } from "./support/waiting.mjs";

const server = await startServer({ after });

const NEW = { version: "4.8", transport: "websocket" };

describe("the order of a room's first words", () => {
  for (const kind of KINDS) {
    test(`${kindName(kind)}: join before anything of the second peer, ready after joined`, async (t) => {
      const room = t.name;
      const [first, second] = await Promise.all([connect(t, server.url, kind), connect(t, server.url, kind)]);
      first.emit("create or join", room);
      await first.storyThat("created", (story) => story.length === 1);
      second.emit("create or join", room);
      second.emit("message", "at once");
      second.emit("bye", room);
      await first.storyThat("bye", (story) => story.at(-1)[0] === "bye");
      assert.deepEqual(first.story, [
        ["created", room, first.id],
        ["join", room],
        ["ready", room],
        ["message", "at once"],
        ["bye", room, { id: second.id, reason: "left" }],
      ]);
      assert.equal((await second.ask("message", "marker")).code, "not_in_room");
      assert.deepEqual(second.story, [["joined", room, second.id], ["ready", room]]);
    });
  }

  test("what the first peer says on ready is heard by the second after its own ready", async (t) => {
    for (let round = 0; round < 50; round += 1) {
      const room = `${t.name} ${round}`;
      const [first, second] = await Promise.all([connect(t, server.url, NEW), connect(t, server.url, NEW)]);
      first.socket.on("join", () => first.emit("message", "on join"));
      first.socket.on("ready", () => first.emit("message", "on ready"));
      second.socket.on("joined", () => second.emit("message", "on joined"));
      first.emit("create or join", room);
      await first.next("created");
      second.emit("create or join", room);
      await second.storyThat("both messages", (story) => story.length === 4);
      assert.deepEqual(second.story, [["joined", room, second.id], ["ready", room], ["message", "on join"], ["message", "on ready"]]);
      await first.storyThat("the message", (story) => story.length === 3);
      assert.deepEqual(first.story, [["join", room], ["ready", room], ["message", "on joined"]]);
      first.close();
      second.close();
    }
  });
});

describe("joining again", () => {
  for (const version of VERSIONS) {
    test(`answers a ${version} as the first time did, and disturbs nobody`, async (t) => {
      const room = t.name;
      const kind = { version, transport: "websocket" };
      const [first, second] = await Promise.all([connect(t, server.url, kind), connect(t, server.url, kind)]);
      const created = await first.join(room);
      assert.deepEqual(await first.join(room), created);
      const joined = await second.join(room);
      assert.equal(joined.outcome, "joined");
      await first.next("join");
      await first.next("ready");
      await second.next("ready");
      for (let again = 0; again < 3; again += 1) {
        assert.deepEqual(await first.join(room), created);
        assert.deepEqual(await second.join(room), joined);
      }
      assert.deepEqual(await first.ask("message", "marker"), { ok: true });
      assert.deepEqual(await second.ask("message", "marker"), { ok: true });
      assert.deepEqual(await first.next("message"), ["marker"]);
      assert.deepEqual(await second.next("message"), ["marker"]);
      assert.deepEqual([first.story, second.story], [[], []]);
      // Once is enough to leave.
      assert.deepEqual(await second.ask("bye", room), { ok: true });
      assert.equal((await second.ask("bye", room)).code, "not_in_room");
    });
  }
});

describe("a socket in two rooms", () => {
  test("what names a room reaches that room, a message reaches both, bye leaves one or all", async (t) => {
    const [left, right] = [`${t.name}: left`, `${t.name}: right`];
    const [middle, a, b] = await Promise.all([1, 2, 3].map(() => connect(t, server.url, NEW)));
    await seat(middle, a, left);
    await seat(b, middle, right);

    const offer = (room) => ({ type: "offer", sdp: `for ${room}`, room });
    assert.deepEqual(await middle.ask("offer", offer(left)), { ok: true });
    assert.deepEqual(await middle.ask("offer", offer(right)), { ok: true });
    assert.deepEqual(await middle.ask("ready", right), { ok: true });
    assert.deepEqual(await middle.ask("message", "to both"), { ok: true });
    await a.storyThat("the message", (story) => story.length >= 2);
    await b.storyThat("the message", (story) => story.length >= 3);
    assert.deepEqual(a.story.splice(0), [["offer", `for ${left}`], ["message", "to both"]]);
    assert.deepEqual(b.story.splice(0), [["offer", `for ${right}`], ["ready", right], ["message", "to both"]]);

    a.emit("message", "from the left");
    assert.deepEqual(await middle.next("message"), ["from the left"]);
    b.emit("message", "from the right");
    assert.deepEqual(await middle.next("message"), ["from the right"]);
    assert.equal((await a.ask("ready", right)).code, "not_in_room");

    assert.deepEqual(await middle.ask("bye", left), { ok: true });
    assert.deepEqual(await a.next("bye"), [left, { id: middle.id, reason: "left" }]);
    assert.deepEqual(await middle.ask("message", "to the right"), { ok: true });
    assert.deepEqual(await b.next("message"), ["to the right"]);
    assert.equal((await a.ask("message", "anybody?")).code, "no_peer");
    assert.deepEqual([a.story, b.story, middle.story], [[], [], []]);

    await middle.join(left);
    await a.next("join");
    await a.next("ready");
    await middle.next("ready");
    assert.deepEqual(await middle.ask("bye"), { ok: true });
    assert.deepEqual(await a.next("bye"), [left, { id: middle.id, reason: "left" }]);
    assert.deepEqual(await b.next("bye"), [right, { id: middle.id, reason: "left" }]);
    assert.equal((await middle.ask("message", "gone")).code, "not_in_room");
    assert.deepEqual(await middle.ask("bye"), { ok: true });
  });
});

describe("the reason of a bye", () => {
  const leave = {
    "left, by name": ["left", (peer, room) => peer.emit("bye", room)],
    "left, without a name": ["left", (peer) => peer.emit("bye")],
    "disconnected, by the client": ["disconnected", (peer) => peer.socket.disconnect()],
    "disconnected, by the engine": ["disconnected", (peer) => peer.socket.io.engine.close()],
  };
  for (const kind of KINDS) {
    for (const [how, [reason, act]] of Object.entries(leave)) {
      test(`${kindName(kind)}: ${how}`, async (t) => {
        const [first, second] = await pair(t, server.url, t.name, NEW, kind);
        const { id } = second;
        act(second, t.name);
        assert.deepEqual(await first.next("bye"), [t.name, { id, reason }]);
        const third = await connect(t, server.url, NEW);
        assert.equal((await third.join(t.name)).outcome, "joined");
        assert.deepEqual(await first.next("join"), [t.name]);
      });
    }
    if (kind.transport !== "polling") {
      test(`${kindName(kind)}: disconnected, by a broken connection`, async (t) => {
        const [first, second] = await pair(t, server.url, t.name, NEW, kind);
        const { id } = second;
        const { ws } = second.socket.io.engine.transport;
        ws._socket.destroy();
        assert.deepEqual(await first.next("bye"), [t.name, { id, reason: "disconnected" }]);
      });
    }
  }

  test("timed_out, when a peer does not answer any more", async (t) => {
    const node = await startServer(t, { DUET_TIMEOUTS__PING_INTERVAL: "1s", DUET_TIMEOUTS__PING_TIMEOUT: "1s" });
    const first = await connect(t, node.url, NEW);
    await first.join("silence");
    const silent = new RawSocket(t, node);
    silent.write(opening(node, 4));
    await silent.textsThat("it is open", (texts) => texts.some((text) => text.startsWith("0")));
    silent.write(frame("40"));
    await silent.textsThat("it is connected", (texts) => texts.some((text) => text.startsWith("40")));
    silent.write(frame('42["create or join","silence"]'));
    await first.next("join");
    await first.next("ready");
    const [room, { reason }] = await first.next("bye");
    assert.deepEqual([room, reason], ["silence", "timed_out"]);
    assert.ok(silent.texts.includes("2"), "it was asked before it was given up");
  });

  test("protocol_error, when a peer breaks the protocol", async (t) => {
    const first = await connect(t, server.url, NEW);
    await first.join(t.name);
    const raw = new RawSocket(t, server);
    raw.write(opening(server, 3));
    await raw.textsThat("it is connected", (texts) => texts.includes("40"));
    raw.write(frame(`42["create or join","${t.name}"]`));
    await first.next("join");
    await first.next("ready");
    raw.write(frame("42[this is no JSON"));
    const [room, { reason }] = await first.next("bye");
    assert.deepEqual([room, reason], [t.name, "protocol_error"]);
    await within("the connection ends", raw.closed);
  });

  test("protocol_error, when a polling peer breaks the protocol", async (t) => {
    const first = await connect(t, server.url, NEW);
    await first.join(t.name);
    const path = "/socket.io/?EIO=3&transport=polling";
    const session = `${path}&sid=${/"sid":"([^"]+)"/.exec((await http(server, path)).text)[1]}`;
    const join = `42["create or join","${t.name}"]`;
    const post = (body) => http(server, session, { method: "POST", body, headers: { "content-type": "text/plain" } });
    assert.equal((await post(`${join.length}:${join}`)).status, 200);
    await first.next("join");
    await first.next("ready");
    await post("99999:42[");
    const [, { reason }] = await first.next("bye");
    assert.equal(reason, "protocol_error");
  });
});

describe("a race for seats", () => {
  const ROOMS = 25;
  const EACH = 40;

  /** Asks for seats, all at once, and answers the outcomes. */
  async function race(peers, room) {
    return within(
      `a race for ${room}`,
      Promise.all(peers.map((peer) => new Promise((resolve) => {
        peer.socket.emit("create or join", room, ({ ok, outcome, code }) => resolve({ peer, result: ok ? outcome : code }));
      }))),
    );
  }

  function assertOneEach(outcomes) {
    const count = (wanted) => outcomes.filter(({ result }) => result === wanted).length;
    assert.deepEqual(
      { created: count("created"), joined: count("joined"), full: count("full") },
      { created: 1, joined: 1, full: outcomes.length - 2 },
    );
  }

  test(`${EACH} at once for each of ${ROOMS} rooms: one creates, one joins, the others are told full; then again`, async (t) => {
    const rooms = await Promise.all(
      Array.from({ length: ROOMS }, async (_, number) => {
        const peers = Array.from({ length: EACH }, (_, index) => {
          const peer = new Peer(server.url, { version: VERSIONS[index % VERSIONS.length], transport: "websocket" });
          t.after(() => peer.close());
          return peer;
        });
        await Promise.all(peers.map((peer) => within(`${peer}: connecting`, peer.connected)));
        return { room: `race ${number}`, peers };
      }),
    );
    const first = await Promise.all(rooms.map(({ room, peers }) => race(peers, room)));
    const losers = [];
    for (const [number, outcomes] of first.entries()) {
      const { room } = rooms[number];
      assertOneEach(outcomes);
      const { peer: creator } = outcomes.find(({ result }) => result === "created");
      const { peer: joiner } = outcomes.find(({ result }) => result === "joined");
      await creator.storyThat("ready", (story) => story.length === 3);
      assert.deepEqual(creator.story, [["created", room, creator.id], ["join", room], ["ready", room]]);
      await joiner.storyThat("ready", (story) => story.length === 2);
      assert.deepEqual(joiner.story, [["joined", room, joiner.id], ["ready", room]]);
      joiner.story.length = 0;
      for (const { peer, result } of outcomes) {
        if (result === "full") assert.deepEqual(peer.story.splice(0), [["full", room]]);
      }

      // One says so, the other just goes: both seats come free.
      assert.deepEqual(await creator.ask("bye", room), { ok: true });
      await joiner.next("bye");
      joiner.socket.disconnect();
      losers.push({ room, peers: outcomes.filter(({ result }) => result === "full").map(({ peer }) => peer) });
    }
    await until("all seats are free", async () => (await server.metric("duet_seats")) === 0);
    const second = await Promise.all(losers.map(({ room, peers }) => race(peers, room)));
    for (const outcomes of second) assertOneEach(outcomes);
    assert.equal(await server.metric("duet_rooms"), ROOMS);
    assert.equal(await server.metric("duet_seats"), 2 * ROOMS);
  });
});
