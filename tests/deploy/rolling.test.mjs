/** Every node restarted, one after the other, under pairs that talk all the time: nothing that was acknowledged is lost. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { kindName, library } from "../clients/support/peer.mjs";
import { until } from "../clients/support/waiting.mjs";
import { cluster, haproxy } from "./support.mjs";

const PAIRS = 24;
const EVERY_MS = 50;
/** From the last message that arrived to the next one that does. */
const BACK_WITHIN_MS = 5000;

const KINDS = [
  { version: "4.8", transport: "websocket" },
  { version: "4.8", transport: "polling" },
  { version: "2.5", transport: "websocket" },
  { version: "4.8", transport: "upgrade" },
];
const OFFERED = { websocket: ["websocket"], polling: ["polling"], upgrade: ["polling", "websocket"] };

/** A client as a product has one: it comes back by itself, takes its seat again, and goes on. */
class Talker {
  sent = 0;
  /** The numbers of its messages that were acknowledged `ok`, and when. */
  acknowledged = [];
  /** What its peer said. */
  heard = [];
  refusals = new Map();
  drained = 0;
  seated = false;

  constructor(url, kind, room, namesRoom) {
    Object.assign(this, { kind, room });
    this.socket = library(kind.version)(url, {
      transports: OFFERED[kind.transport],
      forceNew: true,
      query: namesRoom ? { room } : {},
    });
    this.socket.on("connect", () => this.#join());
    this.socket.on("disconnect", (reason) => {
      this.seated = false;
      if (reason === "io server disconnect") this.socket.connect();
    });
    this.socket.on("message", (n) => this.heard.push(n));
    this.socket.on("draining", ({ delay_ms: delay }) => {
      assert.ok(Number.isInteger(delay) && delay >= 0);
      this.drained++;
    });
    this.timer = setInterval(() => this.#speak(), EVERY_MS);
  }

  #join() {
    const { id } = this.socket;
    this.socket.emit("create or join", this.room, (answer) => {
      if (answer.ok) this.seated = true;
      else if (this.socket.connected && this.socket.id === id) setTimeout(() => this.#join(), 100);
    });
  }

  #speak() {
    if (!this.socket.connected || !this.seated) return;
    const n = this.sent++;
    this.socket.emit("message", n, (answer) => {
      if (answer.ok) this.acknowledged.push({ n, at: performance.now() });
      else this.refusals.set(answer.code, (this.refusals.get(answer.code) ?? 0) + 1);
    });
  }

  /** The longest time without an acknowledged message, between `from` and `to`. */
  longestSilence(from, to) {
    const times = [from, ...this.acknowledged.map(({ at }) => at).filter((at) => at > from && at < to), to];
    return Math.max(...times.slice(1).map((at, index) => at - times[index]));
  }

  hush() {
    clearInterval(this.timer);
  }

  close() {
    this.hush();
    this.socket.io.reconnection(false);
    this.socket.disconnect();
  }
}

test("all nodes are restarted under load", async (t) => {
  const service = await cluster(t, { settings: { DUET_TIMEOUTS__DRAIN: "8s" } });
  const balancer = await haproxy(t, service);
  const pairs = Array.from({ length: PAIRS }, (_, n) => {
    const kind = KINDS[n % KINDS.length];
    const room = `room ${n}`;
    // Half of them meet on one node, half do not.
    return [0, 1].map(() => new Talker(balancer.url, kind, room, n % 8 < 4));
  });
  const talkers = pairs.flat();
  t.after(() => talkers.forEach((talker) => talker.close()));
  const allTalk = () => {
    const counts = talkers.map(({ acknowledged }) => acknowledged.length);
    return until("everybody is heard", () => talkers.every(({ acknowledged }, n) => acknowledged.length > counts[n] + 5));
  };
  await allTalk();
  const begun = performance.now();

  for (const node of service.nodes) {
    const took = await node.terminate();
    assert.ok(took < 9000, `ended within its time, not after ${took} ms`);
    t.diagnostic(`a node drained and ended in ${(took / 1000).toFixed(1)} s`);
    node.start();
    await until("it is ready again", () => node.isReady());
    await until("the balancer uses it again", async () => (await balancer.up()).length === service.nodes.length);
    await allTalk();
  }

  const ended = performance.now();
  talkers.forEach((talker) => talker.hush());
  const all = () => pairs.flatMap(([a, b]) => [[a, b], [b, a]]);
  await until("what was acknowledged has arrived", () =>
    all().every(([from, to]) => (from.acknowledged.at(-1)?.n ?? -1) <= (to.heard.at(-1) ?? -1)),
  );
  const silences = [];
  for (const [from, to] of all()) {
    const heard = new Set(to.heard);
    const lost = from.acknowledged.filter(({ n }) => !heard.has(n)).map(({ n }) => n);
    assert.deepEqual(lost, [], `${kindName(from.kind)}: acknowledged and lost`);
    assert.ok(to.heard.every((n, index) => index === 0 || n > to.heard[index - 1]), "each once, in order");
    silences.push(from.longestSilence(begun, ended));
  }
  silences.sort((a, b) => a - b);
  const at = (share) => Math.round(silences[Math.floor((silences.length - 1) * share)]);
  t.diagnostic(`longest silence of each peer, ms: p50 ${at(0.5)}, p90 ${at(0.9)}, most ${at(1)}`);
  assert.ok(at(1) < BACK_WITHIN_MS, `every pair talks again within ${BACK_WITHIN_MS} ms, not ${at(1)}`);
  assert.ok(talkers.every(({ drained }) => drained > 0), "everybody was told of a drain");
  const known = new Set(["no_peer", "not_in_room", "unavailable", "draining", "peer_too_slow"]);
  for (const { refusals } of talkers) for (const code of refusals.keys()) assert.ok(known.has(code), code);
});
