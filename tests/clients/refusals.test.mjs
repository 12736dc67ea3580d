/** What the server says to anything it will not do, and that nothing of it reaches anybody else. */

import assert from "node:assert/strict";
import { after, describe, test } from "node:test";

import { comparable, connect, pair } from "./support/peer.mjs";
import { startServer } from "./support/server.mjs";
import { until, within } from "./support/waiting.mjs";

const NEW = { version: "4.8", transport: "websocket" };
const OLD = { version: "1.7", transport: "websocket" };
const POLLING = { version: "4.8", transport: "polling" };

const RETRYABLE = {
  unknown_event: false,
  bad_payload: false,
  bad_room: false,
  full: true,
  not_in_room: false,
  no_peer: true,
  peer_too_slow: true,
  too_slow: true,
  too_many_rooms: false,
  too_many_requests: true,
  unavailable: true,
  draining: true,
};

const server = await startServer({ after });

/** The whole form of a refusal, as an acknowledgement. */
function assertRefused(answer, codes, about) {
  const list = [codes].flat();
  assert.ok(list.includes(answer.code), `${about}: ${JSON.stringify(answer)} instead of ${list}`);
  assert.deepEqual(answer, { ok: false, code: answer.code, message: answer.message, retryable: RETRYABLE[answer.code] }, about);
  assert.match(answer.message, /^[\x20-\x7e]+$/, about);
}

/** The whole form of a `rejected` event. */
function assertRejected([told, ...more], event, codes, about) {
  assert.deepEqual(more, [], about);
  assert.equal(told.event, event, about);
  const { event: _, ...rest } = told;
  assertRefused({ ok: false, ...rest }, codes, about);
}

/** Refused both ways: by the acknowledgement, and by `rejected` for a client that asked for none. */
async function refused(peer, event, args, codes) {
  const about = `${peer}: ${event} ${JSON.stringify(args)?.slice(0, 100)}`;
  assertRefused(await peer.ask(event, ...args), codes, about);
  peer.emit(event, ...args);
  assertRejected(await peer.next("rejected"), event, codes, about);
}

for (const kind of [NEW, OLD, POLLING]) {
  describe(`each refusal, told to ${kind.version} over ${kind.transport}`, () => {
    const of = (about) => `${about} (${kind.version} over ${kind.transport})`;

    test("unknown_event", async (t) => {
      const peer = await connect(t, server.url, kind);
      await refused(peer, "no such event", [1, { two: 2 }], "unknown_event");
      for (const name of ["", "joined", "created", "rejected", "log", "full", "__proto__", "constructor", "create or join ", "Message"]) {
        await refused(peer, name, ["room"], "unknown_event");
      }
      // A name of any length is told back, but not at any length.
      assertRefused(await peer.ask("x".repeat(10_000)), "unknown_event");
      peer.emit("x".repeat(10_000), 1);
      const [told] = await peer.next("rejected");
      assert.equal(told.event, "x".repeat(64));
      assert.deepEqual(peer.story, []);
    });

    test("not_in_room", async (t) => {
      const peer = await connect(t, server.url, kind);
      const [first, second] = await pair(t, server.url, of("somebody else's"), kind);
      const others = of("somebody else's");
      for (const room of [others, of("nobody's")]) {
        await refused(peer, "message", ["hello"], "not_in_room");
        await refused(peer, "ready", [room], "not_in_room");
        await refused(peer, "offer", [{ type: "offer", sdp: "v=0", room }], "not_in_room");
        await refused(peer, "answer", [{ type: "answer", sdp: { type: "answer", sdp: "v=0" }, room }], "not_in_room");
        await refused(peer, "candidate", [{ type: "candidate", label: 1, id: "1", candidate: "", room }], "not_in_room");
        await refused(peer, "bye", [room], "not_in_room");
      }
      await peer.join(of("its own"));
      await refused(peer, "ready", [others], "not_in_room");
      await refused(peer, "offer", [{ type: "offer", sdp: "v=0", room: others }], "not_in_room");
      await refused(peer, "bye", [others], "not_in_room");
      assert.deepEqual(await first.ask("message", "marker"), { ok: true });
      assert.deepEqual(await second.next("message"), ["marker"]);
      assert.deepEqual(first.story, []);
    });

    test("no_peer", async (t) => {
      const room = of("a room for one");
      const peer = await connect(t, server.url, kind);
      await peer.join(room);
      await refused(peer, "message", ["hello"], "no_peer");
      await refused(peer, "ready", [room], "no_peer");
      await refused(peer, "answer", [{ type: "answer", sdp: "v=0", room }], "no_peer");
      // What begins a call waits for who comes.
      assert.deepEqual(await peer.ask("offer", { type: "offer", sdp: "v=0", room }), { ok: true, kept: true });
      const candidate = { type: "candidate", label: 0, id: "0", candidate: null, room };
      assert.deepEqual(await peer.ask("candidate", candidate), { ok: true, kept: true });
      assert.deepEqual(await peer.ask("bye", room), { ok: true });
    });

    test("full is told by its own event, and by the acknowledgement", async (t) => {
      const room = of("a full room");
      const [first, second] = await pair(t, server.url, room, kind);
      const third = await connect(t, server.url, kind);
      assertRefused(await third.ask("create or join", room), "full");
      assert.deepEqual(await third.next("full"), [room]);
      third.emit("create or join", room);
      assert.deepEqual(await third.next("full"), [room]);
      // The one refused receives nothing of the room and reaches nobody in it.
      await refused(third, "message", ["let me in"], "not_in_room");
      first.emit("message", "between us");
      assert.deepEqual(await second.next("message"), ["between us"]);
      assertRefused(await third.ask("ready", room), "not_in_room");
      assert.deepEqual([first.story, second.story, third.story], [[], [], []]);
    });

    test("too_many_rooms", async (t) => {
      const peer = await connect(t, server.url, kind);
      const other = await connect(t, server.url, kind);
      for (let number = 0; number < 32; number += 1) await peer.join(of(`one of many ${number}`));
      await refused(peer, "create or join", [of("one too many")], "too_many_rooms");
      assert.equal((await peer.join(of("one of many 0"))).outcome, "created");
      // The seat that was refused is not taken.
      assert.equal((await other.join(of("one too many"))).outcome, "created");
      assert.deepEqual(await peer.ask("bye", of("one of many 5")), { ok: true });
      assert.equal((await peer.join(of("one too many"))).outcome, "joined");
    });
  });
}

test("draining: a node that shuts down seats nobody, tells the peers that stay, and ends in order", async (t) => {
  // Long enough for the last socket to ask while the first are being ended.
  const node = await startServer(t, { DUET_TIMEOUTS__DRAIN: "4s" });
  const pairs = [];
  for (let number = 0; number < 12; number += 1) pairs.push(await pair(t, node.url, `room ${number}`, NEW));
  const askers = pairs.flat();
  node.signal("SIGTERM");
  const told = await Promise.any(askers.map(async (peer) => {
    await peer.storyThat("the end is announced", (story) => story.some(([name]) => name === "draining"));
    return peer;
  }));
  assert.ok(told);
  const answers = await Promise.allSettled(
    askers.map((peer) => new Promise((resolve, reject) => {
      peer.socket.emit("create or join", "another", resolve);
      void peer.disconnected.then(reject);
    })),
  );
  const given = answers.filter(({ status }) => status === "fulfilled").map(({ value }) => value);
  assert.ok(given.length > 0, "nobody was answered");
  for (const answer of given) assertRefused(answer, "draining");
  const byes = askers.flatMap((peer) => peer.story.filter(([name]) => name === "bye"));
  for (const [, , { reason }] of byes) assert.equal(reason, "node_shutdown");
  assert.deepEqual(await within("the server ends", node.ended), [0, null]);
  await until("everybody is cut off", () => askers.every((peer) => !peer.socket.connected));
});

test("peer_too_slow and too_slow: a receiver that stops reading is closed with a reason, and its peer told", async (t) => {
  const room = "slow";
  const [sender, receiver] = await pair(t, server.url, room, NEW);
  const { id } = receiver;
  const wire = receiver.socket.io.engine.transport.ws._socket;
  wire.pause();
  const words = "x".repeat(200_000);
  let answer;
  do {
    answer = await sender.ask("message", words);
  } while (answer.ok);
  assertRefused(answer, "peer_too_slow");
  assert.deepEqual(await sender.next("bye"), [room, { id, reason: "too_slow" }]);
  assertRefused(await sender.ask("message", "still there?"), "no_peer");
  wire.resume();
  await within("it is closed", receiver.disconnected);
  const rejected = receiver.story.filter(([name]) => name === "rejected");
  assert.equal(rejected.length, 1);
  assertRejected(rejected[0].slice(1), "message", "too_slow");
  assert.equal(receiver.story.at(-1)[0], "rejected", "the reason is the last word");
});

// ---- anything from anybody -------------------------------------------------------------------------------------------

let deep = "x";
for (let depth = 0; depth < 200; depth += 1) deep = [deep];

/** One argument each, or several. */
const JUNK = [
  [],
  [null],
  [undefined],
  [0],
  [-1],
  [1.5],
  [1e300],
  [NaN],
  [true],
  [false],
  [""],
  ["x".repeat(129)],
  ["x".repeat(10_000)],
  ["😀".repeat(129)],
  ["a\0b"],
  ["tab\t"],
  ["line\nbreak"],
  ["\u007f"],
  ["\u0085"],
  ["\ud800"],
  ["lone \udc00 surrogate"],
  [[]],
  [["a room"]],
  [[[[[]]]]],
  [{}],
  [{ room: "a room" }],
  [{ toString: "a room" }],
  [{ room: { room: "a room" } }],
  [{ type: "offer", room: "a room" }],
  [{ sdp: "v=0" }],
  [{ type: "offer", sdp: 1, room: "a room" }],
  [{ type: 1, sdp: "v=0", candidate: "", room: "a room" }],
  [{ type: "offer", sdp: "v=0", candidate: "", room: "" }],
  [{ type: "offer", sdp: "v=0", candidate: "", room: "x".repeat(10_000) }],
  [{ type: "offer", sdp: "v=0", candidate: "", room: null }],
  [{ type: "offer", sdp: "v=0", candidate: "", room: ["a room"] }],
  [{ type: "offer", sdp: "v=0", candidate: "", label: "zero", id: 0, room: "\n" }],
  [{ type: "offer", sdp: deep, candidate: deep, room: "" }],
  [JSON.parse('{"__proto__": {"room": "a room", "sdp": "v=0"}, "constructor": {"prototype": {"room": "a room"}}}')],
  [{ a: { b: [1, { c: [null, [{}]] }] } }, [[]], null, 7],
  [1, 2, 3],
  [Buffer.from([1, 2, 3])],
  [new Uint8Array([1]).buffer],
  [{ room: Buffer.from("a room") }],
  [{ type: "offer", sdp: Buffer.from("v=0"), candidate: Buffer.from(""), room: Buffer.from("a room") }],
  [Buffer.alloc(0), [Buffer.alloc(5)], "text"],
  ["__proto__"],
  ["constructor"],
  ["hasOwnProperty"],
];

const isTooDeep = ([first]) => first?.sdp === deep;

/** Room names that are good though they look odd. */
const ODD_ROOMS = ["__proto__", "constructor", "hasOwnProperty"];
const isBadName = (text) => text === "" || [...text].length > 128 || /[\u0000-\u001f\u007f-\u009f]/u.test(text);
const isBroken = (text) => /\p{Surrogate}/u.test(text);

/** What must be answered to a socket in no room. */
function expected(event, args) {
  const [first] = args;
  if (event === "ipaddr") return "ok";
  if (event === "message") return args.length === 0 || isTooDeep(args) ? "bad_payload" : "not_in_room";
  if (event === "offer" || event === "answer" || event === "candidate") {
    const form = event === "candidate" ? "candidate" : "sdp";
    if (args.length !== 1 || first === null || typeof first !== "object" || typeof first.room !== "string") return "bad_payload";
    if (typeof first.type === "number" || typeof first[form] === "number" || !Object.hasOwn(first, form)) return "bad_payload";
    // Which of its faults is named is the server's choice.
    return ["bad_room", "bad_payload"];
  }
  if (event === "bye" && (first === undefined || first === null || Number.isNaN(first))) return "ok";
  if (typeof first !== "string") return "bad_payload";
  // JSON can carry half a character, but no Unicode text can.
  if (isBroken(first)) return ["bad_payload", "bad_room"];
  if (isBadName(first)) return "bad_room";
  return event === "create or join" ? "ok" : "not_in_room";
}

const EVENTS = ["create or join", "message", "ready", "offer", "answer", "candidate", "bye", "ipaddr"];

for (const kind of [NEW, OLD, POLLING, { version: "2.5", transport: "polling" }, { version: "3.1", transport: "upgrade" }]) {
  test(`junk in every event, from ${kind.version} over ${kind.transport}: answered clearly, heard by nobody`, async (t) => {
    const witnesses = await pair(t, server.url, `a room of witnesses (${kind.version} ${kind.transport})`, NEW);
    const innocent = await connect(t, server.url, NEW);
    assert.equal((await innocent.join("a room")).outcome, "created");
    const peer = await connect(t, server.url, kind);
    let said = 0;
    for (const event of EVENTS) {
      for (const args of JUNK) {
        const about = `${event} ${JSON.stringify(args)?.slice(0, 120)}`;
        const codes = expected(event, args);
        witnesses[said % 2].emit("message", said);
        said += 1;

        const answer = await peer.ask(event, ...args);
        if (codes === "ok") assert.equal(answer.ok, true, about);
        else assertRefused(answer, codes, about);

        peer.emit(event, ...args);
        if (codes !== "ok") assertRejected(await peer.next("rejected"), event, codes, about);
      }
      // What is not refused has answers of its own; the next answer proves that they are all there.
      assertRefused(await peer.ask("no such event"), "unknown_event");
      const allowed = event === "create or join" ? ODD_ROOMS.flatMap((room) => [room, room]) : [];
      assert.deepEqual(peer.story.filter(([name]) => name !== "ipaddr").map(([, room]) => room), allowed, event);
      peer.story.length = 0;
      if (event === "create or join") assert.deepEqual(await peer.ask("bye"), { ok: true });
    }
    assert.ok(peer.socket.connected);
    witnesses[0].emit("message", "marker");
    witnesses[1].emit("message", "marker");
    for (const [index, witness] of witnesses.entries()) {
      const own = Array.from({ length: said }, (_, number) => number).filter((number) => number % 2 !== index);
      await witness.storyThat("the marker", (story) => story.at(-1)?.[1] === "marker");
      assert.deepEqual(witness.story, [...own, "marker"].map((words) => ["message", words]));
    }
    assertRefused(await innocent.ask("message", "nobody?"), "no_peer");
    assert.deepEqual(innocent.story, []);
    assert.deepEqual(await innocent.ask("bye"), { ok: true });
    assert.equal(await server.metric("duet_panics_total"), 0);
  });
}

test("junk between two peers arrives as it was sent, and hurts neither", async (t) => {
  const [first, second] = await pair(t, server.url, "two who talk junk", NEW, OLD);
  for (const args of JUNK.filter((junk) => junk.length > 0)) {
    if (isTooDeep(args)) {
      await refused(first, "message", args, "bad_payload");
      continue;
    }
    first.emit("message", ...args);
    // As JSON has it.
    const sent = args.map((value) => (value === undefined || Number.isNaN(value) ? null : comparable(value)));
    assert.deepEqual(await second.next("message"), sent);
  }
  assert.deepEqual(await second.ask("message", "marker"), { ok: true });
  assert.deepEqual(await first.next("message"), ["marker"]);
  assert.deepEqual([first.story, second.story], [[], []]);
});
