/** Every client with every other in one room: what one sends is what the other gets, both ways. */

import assert from "node:assert/strict";
import { after, test } from "node:test";

import { KINDS, comparable, connect, kindName, seat } from "./support/peer.mjs";
import { startServer } from "./support/server.mjs";

const bytes = (length, from = 0) => Buffer.from(Array.from({ length }, (_, index) => (index * 7 + from) & 255));

/** The arguments of one `message` each. */
const PAYLOADS = [
  ["got user media"],
  [""],
  [null],
  [0],
  [-1.5e-7],
  [true],
  [false],
  [[]],
  [{}],
  ["1", 2, { three: 3 }, [4], null, ""],
  [{ type: "offer", sdp: "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\n" }],
  [{ a: { b: { c: [{ d: [[[{ e: "deep" }]]] }] } } }],
  ["123456789012345678901234567890123456789.000000000000000001"],
  ["é", "ñandú", "ÿ\u0080"],
  ["通話 한국어 日本語"],
  ["😀👩‍👩‍👧‍👦 🇪🇸", { "键😀": ["значение"] }],
  ["\u2028 and \u2029"],
  ["\0 \u0001 \u001e \u001f \u007f"],
  ["\ud800", "x\udc00y", "\udfff\ud800"],
  ['quote " backslash \\ slash / \\u0041'],
  ["2:40", "42[\"message\",1]", "1:6"],
  // What would be read as a whole character if somebody decoded UTF-8 once too often.
  ["Ã©", "â‚¬", "ð\u009f\u0098\u0080"],
  [bytes(1)],
  [bytes(256)],
  [Buffer.alloc(0)],
  [bytes(3), bytes(70, 128), "between", bytes(3)],
  [{ file: { name: "报告😀.bin", parts: [bytes(10), { more: bytes(20, 200) }] } }, "é"],
  [new Uint8Array(bytes(5)).buffer],
  ["é".repeat(20_000) + "😀".repeat(10_000)],
];

const server = await startServer({ after });

/** One of each kind, on each side of the rooms. */
async function side(t) {
  return Promise.all(KINDS.map((kind) => connect(t, server.url, kind)));
}

async function exchange(from, to) {
  for (const payload of PAYLOADS) from.emit("message", ...payload);
  for (const payload of PAYLOADS) {
    const got = await to.next("message");
    assert.deepEqual(got, payload.map(comparable), `${from} to ${to}: ${JSON.stringify(payload).slice(0, 200)}`);
  }
}

test("each client talks with each other, both ways, whatever they say", async (t) => {
  const [lefts, rights] = await Promise.all([side(t), side(t)]);
  for (let distance = 0; distance < KINDS.length; distance += 1) {
    const faults = [];
    await Promise.all(
      lefts.map(async (left, index) => {
        const right = rights[(index + distance) % KINDS.length];
        const room = `${kindName(left)} with ${kindName(right)}`;
        try {
          await seat(left, right, room);
          await Promise.all([exchange(left, right), exchange(right, left)]);
          assert.deepEqual(await right.ask("bye", room), { ok: true });
          assert.deepEqual(await left.next("bye"), [room, { id: right.id, reason: "left" }]);
          assert.deepEqual(await left.ask("bye"), { ok: true });
          assert.deepEqual([left.story, right.story], [[], []]);
        } catch (error) {
          faults.push(error.message.slice(0, 600));
        }
      }),
    );
    assert.deepEqual(faults, []);
  }
});
