/**
 * The official clients, each as a peer whose every received event is kept in order.
 */

import assert from "node:assert/strict";
import { createRequire } from "node:module";

import { PATIENCE_MS, within } from "./waiting.mjs";

const require = createRequire(import.meta.url);

export const VERSIONS = ["1.7", "2.0", "2.5", "3.1", "4.8"];
export const TRANSPORTS = ["websocket", "polling", "upgrade"];

/** Every version over every transport. */
export const KINDS = VERSIONS.flatMap((version) => TRANSPORTS.map((transport) => ({ version, transport })));

const OFFERED = {
  websocket: ["websocket"],
  polling: ["polling"],
  upgrade: ["polling", "websocket"],
};

/** The function `io` of a version's library. */
export function library(version) {
  return require(`client-${version}`);
}

export function kindName({ version, transport }) {
  return `${version} over ${transport}`;
}

/** Whether a version speaks Engine.IO 3, as 1.x and 2.x do. */
export function isOld(version) {
  return version.startsWith("1") || version.startsWith("2");
}

export class Peer {
  /** Everything received and not asked for by `next` yet, `log` left out. */
  story = [];
  logs = [];
  #waiting = [];

  /** A peer that starts to connect now. */
  constructor(url, { version, transport }, options = {}) {
    this.version = version;
    this.transport = transport;
    this.socket = library(version)(url, {
      transports: OFFERED[transport],
      forceNew: true,
      reconnection: false,
      ...options,
    });
    this.connected = new Promise((resolve, reject) => {
      this.socket.once("connect", resolve);
      this.socket.once("connect_error", (error) => reject(new Error(`${this}: ${error?.message ?? error}`, { cause: error })));
    });
    // A failure to connect is reported by whoever waits for the connection.
    this.connected.catch(() => {});
    this.disconnected = new Promise((resolve) => this.socket.once("disconnect", resolve));
    this.upgraded = new Promise((resolve) => this.socket.io.engine.once("upgrade", resolve));
    this.upgrading = new Promise((resolve) => this.socket.io.engine.once("upgrading", resolve));

    const handle = this.socket.onevent;
    this.socket.onevent = (packet) => {
      this.#received(packet.data);
      return handle.call(this.socket, packet);
    };
  }

  toString() {
    return kindName(this);
  }

  get id() {
    // Clients up to 2.x put the namespace in front of other ids than the root's; all agree here.
    return this.socket.id;
  }

  /** What really carries its packets now. */
  get carrier() {
    return this.socket.io.engine.transport.name;
  }

  emit(...event) {
    this.socket.emit(...event);
  }

  /** Emits, and waits for the acknowledgement. */
  ask(...event) {
    const answer = new Promise((resolve) => this.socket.emit(...event, (...args) => resolve(args)));
    return within(`${this}: the acknowledgement of ${JSON.stringify(event)?.slice(0, 200)}`, answer, () => this.#told()).then((args) => {
      assert.equal(args.length, 1, "an acknowledgement is one object");
      return args[0];
    });
  }

  /** Waits for the next event, which must be this one; answers its arguments. */
  async next(name, patience = PATIENCE_MS) {
    const [got, ...args] = await this.#take(name, patience);
    assert.equal(got, name, `${this}: got ${JSON.stringify([got, ...args])?.slice(0, 300)}`);
    return args;
  }

  /** Waits until the story so far satisfies `condition`, and answers it. */
  storyThat(what, condition, patience = PATIENCE_MS) {
    return within(
      `${this}: ${what}`,
      new Promise((resolve) => {
        const look = () => {
          if (!condition(this.story)) return false;
          resolve(this.story);
          return true;
        };
        if (!look()) this.#waiting.push(look);
      }),
      () => this.#told(),
      patience,
    );
  }

  /** Joins, and answers the role and the id that were told; the event must come before the acknowledgement. */
  async join(room) {
    const answer = await this.ask("create or join", room);
    assert.equal(answer.ok, true, `${this}: ${JSON.stringify(answer)}`);
    assert.deepEqual(await this.next(answer.outcome), [room, answer.id]);
    return answer;
  }

  close() {
    this.socket.disconnect();
    // A client that was never connected keeps trying to open its transport otherwise.
    this.socket.io.engine?.close();
  }

  #received([name, ...args]) {
    if (name === "log") {
      this.logs.push(args);
      return;
    }
    this.story.push([name, ...args.map(comparable)]);
    this.#waiting = this.#waiting.filter((look) => !look());
  }

  async #take(what, patience) {
    await this.storyThat(`“${what}”`, (story) => story.length > 0, patience);
    return this.story.shift();
  }

  #told() {
    return `(connected: ${this.socket.connected}; received ${this.story.length}, the last of them: ${JSON.stringify(this.story.slice(-3)).slice(-500)})`;
  }
}

/** What a client hears of its refusal. */
export function refusal(peer) {
  const name = isOld(peer.version) ? "error" : "connect_error";
  return within(`${peer}: its refusal`, new Promise((resolve) => peer.socket.once(name, resolve)));
}

/** A connected peer, really upgraded if it is to upgrade; ends with `t`. */
export async function connect(t, url, kind, options) {
  const peer = new Peer(url, kind, options);
  t.after(() => peer.close());
  await within(`${peer}: connecting`, peer.connected);
  if (kind.transport === "upgrade") await within(`${peer}: upgrading`, peer.upgraded);
  return peer;
}

/** Two connected peers, seated in one room, both told `ready`. */
export async function pair(t, url, room, firstKind, secondKind = firstKind) {
  const [first, second] = await Promise.all([connect(t, url, firstKind), connect(t, url, secondKind)]);
  await seat(first, second, room);
  return [first, second];
}

/** Seats two connected peers in one room. */
export async function seat(first, second, room) {
  assert.equal((await first.join(room)).outcome, "created");
  assert.equal((await second.join(room)).outcome, "joined");
  assert.deepEqual(await first.next("join"), [room]);
  assert.deepEqual(await Promise.all([first.next("ready"), second.next("ready")]), [[room], [room]]);
}

/**
 * A value in a form in which binary is equal however the libraries hand it over (Buffer, ArrayBuffer, view).
 * Binary that became something else stays unequal.
 */
export function comparable(value) {
  if (value instanceof ArrayBuffer) return { bytes: Buffer.from(value).toString("hex") };
  if (ArrayBuffer.isView(value)) return { bytes: Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString("hex") };
  if (Array.isArray(value)) return value.map(comparable);
  if (value !== null && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, comparable(inner)]));
  }
  return value;
}
