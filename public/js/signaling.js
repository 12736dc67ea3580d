/**
 * The way to the server: loads the client libraries, and tells in the words of `state.js` what becomes of the seat.
 *
 * Owns the page's one `DuetRoom`, which keeps the seat. It must never decide what a message means for the call; it reports,
 * and sends what it is told to.
 */

import { DuetRoom } from "./duet.js";

const CLIENT_LIBRARY = "/socket.io/socket.io.esm.min.js";

/** Candidates come in bursts, and what names its connection may overtake. */
const WINDOW = 16;

/** From a client library that could not be loaded to the next try. */
const LOAD_AGAIN_MS = 3000;

/**
 * @typedef {object} Listeners
 * @property {() => void} onUp
 * @property {() => void} onDown
 * @property {() => void} onUnreachable
 * @property {() => void} onClientMissing
 * @property {(outcome: "created" | "joined" | "resumed") => void} onSeated
 * @property {(iceServers: RTCIceServer[] | null) => void} onServers
 * @property {(code: string, again: boolean) => void} onRefused
 * @property {() => void} onWaiting
 * @property {() => void} onSuperseded
 * @property {(last: boolean) => void} onMet
 * @property {() => void} onPeerLost
 * @property {(reason: string) => void} onPeerLeft
 * @property {() => void} onPutOut
 * @property {(message: any) => void} onMessage
 */

/** @param {Listeners} listeners */
export function createSignaling(listeners) {
  /** @type {DuetRoom | null} */
  let room = null;
  /** Changes when what was wanted is not wanted any more. */
  let wish = 0;
  let failures = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let comeback;

  /** @param {string} name */
  async function connect(name) {
    const wished = ++wish;
    let io;
    try {
      // A browser may remember that a module could not be loaded, so another try needs another address.
      ({ io } = await import(failures === 0 ? CLIENT_LIBRARY : `${CLIENT_LIBRARY}?again=${failures}`));
    } catch {
      failures++;
      if (wished !== wish) return;
      if (await isMissing()) listeners.onClientMissing();
      else {
        listeners.onUnreachable();
        comeback = setTimeout(() => wished === wish && connect(name), LOAD_AGAIN_MS);
      }
      return;
    }
    if (wished === wish) listen(name, io);
  }

  /** @param {string} name @param {any} io */
  function listen(name, io) {
    const mine = new DuetRoom(name, { io, window: WINDOW });
    room = mine;
    let waited = false;
    // Who was let in after waiting is told of no servers, and has to ask before the call begins.
    let ready = Promise.resolve();
    mine.on("connected", listeners.onUp);
    mine.on("disconnected", listeners.onDown);
    mine.on("unreachable", listeners.onUnreachable);
    for (const outcome of /** @type {const} */ (["created", "joined", "resumed"])) {
      mine.on(outcome, ({ iceServers }) => {
        listeners.onServers(iceServers);
        listeners.onSeated(outcome);
        if (!waited) return;
        waited = false;
        ready = mine.check().then((answer) => {
          if (room === mine && answer?.ok) listeners.onServers(answer.iceServers ?? null);
        });
      });
    }
    mine.on("refused", ({ code, retryInMs }) => listeners.onRefused(code, retryInMs !== null));
    mine.on("waiting", () => {
      waited = true;
      listeners.onWaiting();
    });
    mine.on("superseded", listeners.onSuperseded);
    mine.on("put-out", listeners.onPutOut);
    mine.on("ready", ({ last }) => {
      if (!last) return listeners.onMet(false);
      void ready.then(() => room === mine && mine.state === "together" && listeners.onMet(true));
    });
    mine.on("peer-reconnecting", listeners.onPeerLost);
    mine.on("peer-left", ({ reason }) => listeners.onPeerLeft(reason));
    mine.on("message", (message) => {
      if (message !== null && typeof message === "object") listeners.onMessage(message);
    });
    mine.join();
  }

  return {
    connect,

    /** @param {string} name */
    retryNow(name) {
      clearTimeout(comeback);
      if (room) room.retryNow();
      else void connect(name);
    },

    wait() {
      room?.wait();
    },

    giveUpSeat() {
      wish++;
      clearTimeout(comeback);
      room?.leave();
      room = null;
    },

    /** The answer has servers that can be used now; null: none came in time, and the connection is replaced. @param {number} timeoutMs */
    async check(timeoutMs) {
      return (await room?.check({ timeoutMs })) ?? null;
    },

    /** Whether the other can be told something now. */
    get together() {
      return room?.state === "together";
    },

    /** @param {object} message */
    send(message) {
      void room?.send(message);
    },

    /** Only the newest counts: an earlier one that still waits would begin what is over. @param {object} hello */
    greet(hello) {
      room?.discard(([message]) => /** @type {any} */ (message).hello !== undefined);
      void room?.send({ hello });
    },
  };
}

/** Whether the server answers but has no client library to give. */
async function isMissing() {
  try {
    return !(await fetch(CLIENT_LIBRARY, { cache: "no-store" })).ok;
  } catch {
    return false;
  }
}
