/**
 * The way to the server: the only module that knows Socket.IO.
 *
 * Owns the socket and its reconnecting. It must never decide what a message means for the call; it reports, in the words of
 * `state.js`, and sends what it is told to.
 */

const CLIENT_LIBRARY = "/socket.io/socket.io.esm.min.js";

/** An answer that takes longer than this is treated as lost. */
const ANSWER_MS = 8000;

/** From a lost connection to the first try to get it back. */
const RECONNECT_MS = 500;

/** A server that closes a connection on purpose wants us elsewhere or later; all its clients at once would not help. */
const KICKED_MS = Object.freeze({ least: 300, spread: 1200 });

/**
 * @typedef {{ ok: true, outcome: "created" | "joined", room: string, id: string, iceServers?: RTCIceServer[] }
 *   | { ok: false, code: string, message: string, retryable: boolean }} JoinAnswer
 *
 * @typedef {object} Listeners
 * @property {() => void} onUp
 * @property {() => void} onDown
 * @property {() => void} onUnreachable
 * @property {() => void} onClientMissing
 * @property {() => void} onPeerCame
 * @property {(reason: string) => void} onPeerLeft
 * @property {() => void} onPutOut
 * @property {(message: any) => void} onMessage
 */

/** @param {Listeners} listeners */
export function createSignaling(listeners) {
  /** @type {any} */
  let socket = null;
  let wanted = false;
  let failures = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let comeback;

  /** @param {string} room The room to be asked for: balancers take both peers of one to the same node. */
  async function connect(room) {
    wanted = true;
    let io;
    try {
      // A browser may remember that a module could not be loaded, so another try needs another address.
      ({ io } = await import(failures === 0 ? CLIENT_LIBRARY : `${CLIENT_LIBRARY}?again=${failures}`));
    } catch {
      failures++;
      if (!wanted) return;
      if (await isMissing()) listeners.onClientMissing();
      else {
        listeners.onUnreachable();
        comeback = setTimeout(() => wanted && connect(room), 3000);
      }
      return;
    }
    if (!wanted || socket) return;

    socket = io({
      query: { room },
      transports: ["websocket", "polling"],
      tryAllTransports: true,
      reconnectionDelay: RECONNECT_MS,
      reconnectionDelayMax: 5000,
      timeout: 8000,
      forceNew: true,
    });
    socket.on("connect", () => {
      socket.io.reconnectionDelay(RECONNECT_MS);
      listeners.onUp();
    });
    // The node is about to close this connection; another is there, but not for all at once.
    socket.on("draining", (/** @type {any} */ when) => {
      if (Number.isFinite(when?.delay_ms)) socket.io.reconnectionDelay(Math.max(RECONNECT_MS, when.delay_ms));
    });
    socket.on("connect_error", () => {
      listeners.onUnreachable();
      // A refusal in words, unlike a broken line, ends Socket.IO's own attempts.
      if (socket && !socket.active) comeLater();
    });
    socket.on("disconnect", (/** @type {string} */ reason) => {
      if (!wanted) return;
      listeners.onDown();
      if (reason === "io server disconnect") comeLater();
    });
    socket.on("join", () => listeners.onPeerCame());
    // The operator closed the room, or put this page out: to come back at once would undo it.
    socket.on("rejected", (/** @type {any} */ refusal) => {
      if (refusal?.code === "closed") listeners.onPutOut();
    });
    socket.on("bye", (/** @type {string} */ _room, /** @type {any} */ why) => {
      if (why?.id !== undefined && why.id === socket?.id) return listeners.onPutOut();
      listeners.onPeerLeft(typeof why?.reason === "string" ? why.reason : "");
    });
    socket.on("message", (/** @type {any} */ message) => {
      if (message !== null && typeof message === "object") listeners.onMessage(message);
    });
  }

  function comeLater() {
    clearTimeout(comeback);
    comeback = setTimeout(() => socket?.connect(), KICKED_MS.least + Math.random() * KICKED_MS.spread);
  }

  /** @param {string} room */
  function connectNow(room) {
    clearTimeout(comeback);
    if (!socket) return connect(room);
    // Socket.IO's own timer may be seconds away; a fresh start is the only way past it.
    socket.disconnect();
    socket.connect();
  }

  function disconnect() {
    wanted = false;
    clearTimeout(comeback);
    socket?.disconnect();
    socket = null;
  }

  /** @param {string} room @returns {Promise<JoinAnswer | null>} null: no answer, because the connection went first */
  async function ask(room) {
    const asked = socket;
    try {
      return await asked.timeout(ANSWER_MS).emitWithAck("create or join", room);
    } catch {
      if (asked !== socket || !asked?.connected) return null;
      return { ok: false, code: "timeout", message: "no answer", retryable: true };
    }
  }

  /** Nothing is kept for later: what was true before a reconnect need not be true after it. @param {object} message */
  function send(message) {
    if (socket?.connected) socket.emit("message", message);
  }

  /** @param {string} room */
  function sayBye(room) {
    if (socket?.connected) socket.emit("bye", room);
  }

  return { connect, connectNow, disconnect, ask, send, sayBye };
}

/** Whether the server answers but has no client library to give. */
async function isMissing() {
  try {
    return !(await fetch(CLIENT_LIBRARY, { cache: "no-store" })).ok;
  } catch {
    return false;
  }
}
