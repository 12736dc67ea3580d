/** Every version over every transport: the whole life of a call's signaling. */

import assert from "node:assert/strict";
import { after, test } from "node:test";

import { KINDS, connect, kindName, seat } from "./support/peer.mjs";
import { startServer } from "./support/server.mjs";

const server = await startServer({ after });

for (const kind of KINDS) {
  test(`${kindName(kind)}: a call from the first join to the last bye`, async (t) => {
    const room = `call of ${kindName(kind)}`;
    const [first, second, third] = await Promise.all([1, 2, 3].map(() => connect(t, server.url, kind)));
    for (const peer of [first, second, third]) {
      assert.equal(peer.carrier, kind.transport === "polling" ? "polling" : "websocket");
    }

    await seat(first, second, room);

    third.emit("create or join", room);
    assert.deepEqual(await third.next("full"), [room]);
    const refused = await third.ask("create or join", room);
    assert.equal(refused.ok, false);
    assert.equal(refused.code, "full");
    assert.deepEqual(await third.next("full"), [room]);

    assert.deepEqual(await first.ask("ready", room), { ok: true });
    assert.deepEqual(await second.next("ready"), [room]);

    const description = { type: "offer", sdp: "v=0\r\n" };
    assert.deepEqual(await first.ask("offer", { type: "offer", sdp: description, room }), { ok: true });
    assert.deepEqual(await second.next("offer"), [description]);
    second.emit("answer", { type: "answer", sdp: "v=0\r\na=é\r\n", room });
    assert.deepEqual(await first.next("answer"), ["v=0\r\na=é\r\n"]);
    const candidate = { type: "candidate", label: 0, id: "0", candidate: "candidate:1 1 udp 1 192.0.2.1 9 typ host", room };
    first.emit("candidate", candidate);
    assert.deepEqual(await second.next("candidate"), [candidate]);
    second.emit("message", "bye", { and: ["thanks"] });
    assert.deepEqual(await first.next("message"), ["bye", { and: ["thanks"] }]);

    third.emit("offer", { type: "offer", sdp: "v=0", room });
    const [rejected] = await third.next("rejected");
    assert.deepEqual({ ...rejected, message: typeof rejected.message }, {
      event: "offer",
      code: "not_in_room",
      message: "string",
      retryable: false,
    });

    assert.deepEqual(await first.ask("bye", room), { ok: true });
    assert.deepEqual(await second.next("bye"), [room, { id: first.id, reason: "left" }]);

    const lonely = await second.ask("message", "anybody?");
    assert.equal(lonely.code, "no_peer");
    assert.equal((await third.join(room)).outcome, "joined");
    assert.deepEqual(await second.next("join"), [room]);
    assert.deepEqual(await second.next("ready"), [room]);
    assert.deepEqual(await third.next("ready"), [room]);

    const { id } = second;
  second.socket.disconnect();
    assert.deepEqual(await third.next("bye"), [room, { id, reason: "disconnected" }]);
    assert.deepEqual([first.story, second.story, third.story], [[], [], []]);
  });
}
