/** How pages use the client library, for the compiler alone: `types.test.mjs` has it checked. */

import { io } from "client-4.8";
import { DuetRoom, type Answer, type DuetState } from "../../../public/js/duet.js";

const room = new DuetRoom("room", { io, url: "http://localhost:8080", storage: null, window: 4, socket: { auth: { token: "…" } } });

room.on("ready", async ({ last }) => {
  const first: boolean = !last;
  const answer: Answer = await room.send({ first }, new Uint8Array(3));
  if (!answer.ok && answer.retryable) console.log(answer.code, answer.message);
});
room.on("message", ({ description, candidate }) => console.log(description, candidate));
room.on("refused", ({ code, retryInMs }) => {
  if (code === "full") room.wait();
  else if (retryInMs !== null) console.log(retryInMs.toFixed());
});
room.on("resumed", ({ id, iceServers }) => console.log(id, new RTCPeerConnection({ iceServers: iceServers ?? [] })));
room.on("peer-reconnecting", ({ graceMs }) => console.log(graceMs.toFixed()));
const undo: () => void = room.on("superseded", () => room.takeBack());
room.join({ wait: true });
const state: DuetState = room.state;
if (state === "together") console.log(room.pending, room.discard(([what]) => what === "stale"));
room.check().then((answer) => answer?.ok && console.log(answer.iceServers));
undo();

// @ts-expect-error: there is no room without a client
new DuetRoom("room", {});
// @ts-expect-error: no such event
room.on("peer-vanished", () => {});
// @ts-expect-error: no such state
if (room.state === "lost") room.leave();
// @ts-expect-error: only the server says so
room.id = "1";
