/**
 * A seat in a room of a duet server, kept through whatever happens to the connection below it.
 *
 * Owns the Socket.IO connection, the token of the seat, the count of what was heard, and what could not be sent yet. A page
 * that is loaded again, a lost network and a node that ended cost the seat only if its time of grace is over. It must never
 * decide what a message means, and never take back a seat that another connection took: that is for a person to ask for.
 * Invariant: nothing that the server acknowledged is sent again; with a window of 1, the order is the order of `send`.
 *
 * Works with socket.io-client 2.x, 3.x and 4.x, handed in as `io`. Types and words: `duet.d.ts`, docs/CLIENT.md.
 */

/** An answer that takes longer than this is treated as lost. */
const ANSWER_MS = 8000;

/** A connection that is asked whether it still stands has this long to answer. */
const CHECK_MS = 3000;

/** From a lost connection to the first try to get it back, and the longest pause between two. */
const RECONNECT_MS = Object.freeze({ first: 500, last: 5000 });

/** A server that closes a connection on purpose wants us elsewhere or later; all its clients at once would not help. */
const KICKED_MS = Object.freeze({ least: 300, spread: 1200 });

/** Refused requests that may succeed are repeated, ever more slowly. */
const RETRY_MS = Object.freeze({ first: 250, last: 8000 });

/** Whoever took a seat back is told of the other peer within this time, if there is one. */
const ALONE_MS = 3000;

/** What a client keeps that could not be sent yet. */
const KEEP = 256;

export class DuetRoom {
  #name;
  #options;
  #storage;
  #key;
  /** @type {Map<string, Set<Function>>} */
  #listeners = new Map();
  /** @type {any} */
  #socket = null;
  #state = "idle";
  /** @type {string | null} */
  #token = null;
  /**
   * How far the other peer was heard by the last connection that had the seat: the server sends the rest when it is told.
   * @type {{ id: string, peers: number, messages: number } | null}
   */
  #heard = null;
  /** The same of the present connection, whether it is known to have the seat or not. */
  #count = { peers: 0, messages: 0 };
  #counts = false;
  /** @type {string | null} */
  #id = null;
  /** @type {any[]} */
  #iceServers = [];
  #wait = false;
  #seated = false;
  /** There was a seat before, since `join`. */
  #known = false;
  /** @type {"unknown" | "none" | "here" | "away"} */
  #peer = "unknown";
  /** Answers to what was asked on an earlier connection, or before it was asked again, are not heard. */
  #asked = 0;
  #refusals = 0;
  #drainMs = 0;
  #checkedAt = -Infinity;
  /** @type {Record<string, ReturnType<typeof setTimeout> | undefined>} */
  #timers = {};

  /** @type {{ args: unknown[], settle: (answer: any) => void, sent: boolean, last: boolean }[]} */
  #queue = [];
  #inFlight = 0;
  #line = 0;
  #hesitant = false;
  #pauses = 0;
  #watching = false;

  /**
   * @param {string} name
   * @param {any} options
   */
  constructor(name, options) {
    if (typeof options?.io !== "function") throw new TypeError("io: the function of socket.io-client is missing");
    this.#name = name;
    this.#options = { answerMs: ANSWER_MS, keep: KEEP, window: 1, ...options };
    this.#storage = "storage" in options ? options.storage : sessionStore();
    this.#key = `duet.seat:${name}`;
    this.#token = this.#read(this.#key);
    this.#heard = this.#token === null ? null : counted(this.#read(`${this.#key}:heard`));
  }

  get name() {
    return this.#name;
  }

  get state() {
    return this.#state;
  }

  get id() {
    return this.#id;
  }

  get iceServers() {
    return this.#iceServers;
  }

  /** Messages that are not acknowledged yet. */
  get pending() {
    return this.#queue.length;
  }

  /** @param {string} event @param {Function} listener */
  on(event, listener) {
    const all = this.#listeners.get(event) ?? new Set();
    this.#listeners.set(event, all.add(listener));
    return () => void all.delete(listener);
  }

  /** @param {string} event @param {Function} listener */
  off(event, listener) {
    this.#listeners.get(event)?.delete(listener);
  }

  /** Asks for a seat: the own one, if there is a token of it. @param {{ wait?: boolean }} [options] */
  join({ wait = false } = {}) {
    this.#wait = wait;
    if (this.#socket?.connected) {
      if (this.#state === "refused") this.#ask();
      return;
    }
    if (this.#socket) {
      if (this.#state === "refused") this.#become("connecting");
      return this.retryNow();
    }
    this.#watch(true);
    this.#connect();
  }

  /** In a room that is full: asks to be let in when somebody leaves. */
  wait() {
    this.join({ wait: true });
  }

  /** After `superseded`: has the seat back, from the connection that took it. */
  takeBack() {
    this.join({ wait: this.#wait });
  }

  /** Does not wait for the next attempt, if there is one to come. */
  retryNow() {
    const socket = this.#socket;
    if (!socket) return;
    if (socket.connected) {
      if (this.#timers.ask !== undefined && !this.#seated && this.#state !== "waiting") this.#ask();
      return;
    }
    // Socket.IO's own timer may be seconds away; a fresh start is the only way past it.
    this.#stop("comeback");
    socket.disconnect();
    socket.connect();
  }

  /** Gives the seat up, and forgets its token. */
  leave() {
    const socket = this.#socket;
    this.#store(null);
    this.#shut();
    if (socket?.connected) socket.emit("bye", this.#name);
    socket?.disconnect();
    this.#drop("ended");
    if (this.#state === "idle" || this.#state === "ended") return;
    this.#become("ended");
    this.#emit("ended");
  }

  /**
   * Hands `args` to the other peer, now or when it is back. Never throws, never rejects.
   * @param {...unknown} args
   * @returns {Promise<any>}
   */
  send(...args) {
    if (!this.#socket || this.#state === "refused" || this.#state === "waiting") return told("not_in_room", false);
    if (this.#peer === "none") return told("no_peer", true);
    if (this.#queue.length >= this.#options.keep) return told("too_many_kept", true);
    return new Promise((settle) => {
      this.#queue.push({ args, settle, sent: false, last: false });
      this.#pump();
    });
  }

  /** Gives up what waits to be sent; what is on its way is not sent again. @param {(args: unknown[]) => boolean} [which] */
  discard(which = () => true) {
    const chosen = this.#queue.filter(({ args }) => which(args));
    for (const entry of chosen) entry.last = true;
    return this.#giveUp();
  }

  /** What is not on its way, and is not to be sent again. */
  #giveUp() {
    const gone = this.#queue.filter(({ sent, last }) => last && !sent);
    this.#queue = this.#queue.filter((entry) => !gone.includes(entry));
    for (const { settle } of gone) settle(refusal("discarded", false));
    return gone.length;
  }

  /**
   * Asks for the seat that one has, which changes nothing: the answer has fresh credentials, and shows that the connection
   * stands. One that does not answer is replaced by another.
   * @returns {Promise<any>} null: no answer
   */
  check({ timeoutMs = CHECK_MS } = {}) {
    const socket = this.#socket;
    if (!socket?.connected) {
      this.retryNow();
      return Promise.resolve(null);
    }
    if (!this.#seated) return Promise.resolve(null);
    return new Promise((resolve) => {
      const line = this.#line;
      const timer = setTimeout(() => {
        resolve(null);
        // Closed without a word, as if it had broken: the server keeps the seat.
        if (this.#line === line && socket.connected) socket.io.engine.close();
      }, timeoutMs);
      socket.emit("create or join", this.#name, {}, (/** @type {any} */ answer) => {
        clearTimeout(timer);
        if (this.#line !== line || !this.#seated) return resolve(null);
        if (answer?.ok && (answer.resume ?? null) !== this.#token) this.#seat(answer);
        else if (answer?.ok) this.#take(answer);
        resolve(answer);
      });
    });
  }

  #connect() {
    const { io, url, socket: more = {} } = this.#options;
    this.#become("connecting");
    const options = {
      // Balancers take both peers of a room to the same node.
      query: { room: this.#name },
      transports: ["websocket", "polling"],
      tryAllTransports: true,
      reconnectionDelay: RECONNECT_MS.first,
      reconnectionDelayMax: RECONNECT_MS.last,
      timeout: this.#options.answerMs,
      forceNew: true,
      ...more,
    };
    const socket = url === undefined ? io(options) : io(url, options);
    this.#socket = socket;
    const on = (/** @type {string} */ event, /** @type {(...args: any[]) => void} */ act) =>
      socket.on(event, (/** @type {any[]} */ ...args) => socket === this.#socket && act(...args));
    const inRoom = (/** @type {string} */ event, /** @type {(what: any, more: any) => void} */ act) =>
      on(event, (room, what, more) => room === this.#name && act(what, more));

    on("connect", () => {
      this.#count = { peers: 0, messages: 0 };
      this.#counts = false;
      socket.io.reconnectionDelay(RECONNECT_MS.first);
      this.#drainMs = 0;
      this.#refusals = 0;
      this.#emit("connected");
      this.#ask();
    });
    on("disconnect", (reason) => this.#lost(reason));
    // A refusal in words, unlike a broken line, ends Socket.IO's own attempts.
    const turnedAway = (/** @type {any} */ why) => {
      if (why?.retryable === false) {
        // Clients 3.x would try again all the same.
        socket.disconnect();
        return this.#refused(why);
      }
      this.#emit("unreachable");
      this.#comeLater();
    };
    on("connect_error", (error) => {
      if (socket.active === false || error?.data !== undefined) turnedAway(error.data);
      else this.#emit("unreachable");
    });
    // The same, as clients 2.x tell it.
    on("error", (error) => !socket.connected && turnedAway(error?.data));
    // The node is about to close this connection; another is there, but not for all at once.
    on("draining", (when) => {
      if (!Number.isFinite(when?.delay_ms)) return;
      this.#drainMs = when.delay_ms;
      socket.io.reconnectionDelay(Math.max(RECONNECT_MS.first, when.delay_ms));
    });
    on("rejected", (why) => {
      // The operator closed the room, or put this peer out: to come back at once would undo it.
      if (why?.code === "closed") return this.#putOut();
      if (why?.event !== "create or join") return;
      if (why.code === "superseded") this.#superseded();
      else if (this.#state === "waiting") this.#refused(why);
    });
    // Who waited is told of a seat by an event; anybody else by the answer.
    for (const outcome of ["created", "joined"]) {
      inRoom(outcome, (id, told) => {
        if (this.#state === "waiting") this.#seat({ ...told, outcome, id });
      });
    }
    inRoom("join", () => {
      this.#another(true);
      this.#met("peer-joined", {}, false);
    });
    inRoom("ready", () => {
      if (this.#seated && this.#peer === "unknown") this.#met("peer-joined", {}, true);
    });
    inRoom("peer reconnecting", (told) => {
      if (!this.#seated) return;
      this.#stop("alone");
      this.#peer = "away";
      this.#become("apart");
      this.#emit("peer-reconnecting", { id: told?.id ?? null, graceMs: told?.grace_ms ?? 0 });
    });
    inRoom("peer resumed", (told) => {
      this.#another(true);
      this.#met("peer-resumed", { id: told?.id ?? null, was: told?.was ?? null }, false);
    });
    inRoom("bye", (told) => {
      if (told?.id !== undefined && told.id === socket.id) return this.#putOut();
      if (this.#seated) this.#parted(told?.id ?? null, typeof told?.reason === "string" ? told.reason : "");
    });
    on("message", (...args) => {
      this.#another();
      this.#emit("message", ...args);
    });
    for (const event of ["offer", "answer", "candidate"]) on(event, () => this.#another());
  }

  #ask() {
    this.#stop("ask");
    const socket = this.#socket;
    const asked = ++this.#asked;
    this.#become("joining");
    const heard = (/** @type {any} */ answer) => {
      if (asked !== this.#asked || socket !== this.#socket) return;
      this.#stop("ask");
      if (!answer?.ok) return this.#refused(answer ?? {});
      if (answer.outcome !== "waiting") return this.#seat(answer);
      this.#refusals = 0;
      this.#become("waiting");
      this.#emit("waiting");
    };
    /** @type {{ heard: object | true, resume?: string, wait?: boolean }} */
    const options = { heard: this.#heard ?? true };
    if (this.#token !== null) options.resume = this.#token;
    if (this.#wait) options.wait = true;
    socket.emit("create or join", this.#name, options, heard);
    this.#start("ask", this.#options.answerMs, () => heard(refusal("timeout", true)));
  }

  /** @param {any} answer */
  #seat(answer) {
    this.#stop("ask");
    this.#asked++;
    this.#refusals = 0;
    this.#wait = false;
    this.#seated = true;
    this.#take(answer);
    const { outcome } = answer;
    // What was meant for somebody beside an earlier seat is not for whoever is there now.
    if (outcome === "created" || (outcome === "joined" && this.#known)) this.#drop("no_peer");
    this.#known = true;
    this.#peer = outcome === "created" ? "none" : "unknown";
    this.#become(outcome === "created" ? "alone" : "joining");
    this.#emit(outcome, { id: this.#id, iceServers: answer.iceServers ?? null });
    if (outcome !== "resumed") return;
    this.#start("alone", ALONE_MS, () => {
      if (this.#seated && this.#peer === "unknown") this.#parted(null, "gone");
    });
  }

  /** What an answer tells of the seat. @param {any} answer */
  #take({ id, resume, iceServers }) {
    this.#id = id ?? null;
    if (Array.isArray(iceServers)) this.#iceServers = iceServers;
    this.#store(typeof resume === "string" ? resume : null);
    // An answer may have been given up that was one: what came since counts.
    this.#counts = true;
    this.#hear();
  }

  /** @param {boolean} [peer] whether it is another peer, or the same again, that is heard from now on */
  #another(peer = false) {
    const { peers, messages } = this.#count;
    this.#count = peer ? { peers: peers + 1, messages: 0 } : { peers, messages: messages + 1 };
    this.#hear();
  }

  #hear() {
    if (!this.#counts || this.#id === null) return;
    this.#heard = { id: this.#id, ...this.#count };
    // A page that is loaded again has to know.
    if (this.#token !== null) this.#write(`${this.#key}:heard`, JSON.stringify(this.#heard));
  }

  /** @param {any} why */
  #refused(why) {
    this.#seated = false;
    const retryable = why.retryable === true;
    const comes = retryable && why.code !== "full";
    const retryInMs = comes ? pause(this.#refusals++) : null;
    this.#become("refused");
    if (!comes) this.#drop("not_in_room");
    else this.#start("ask", /** @type {number} */ (retryInMs), () => this.#ask());
    this.#emit("refused", { code: String(why.code ?? ""), message: String(why.message ?? ""), retryable, retryInMs });
  }

  /** @param {string} event @param {object} detail @param {boolean} last */
  #met(event, detail, last) {
    if (!this.#seated) return;
    this.#stop("alone");
    this.#peer = "here";
    this.#become("together");
    this.#emit(event, detail);
    this.#emit("ready", { last });
    this.#pauses = 0;
    this.#stop("pump");
    this.#pump();
  }

  /** @param {string | null} id @param {string} reason */
  #parted(id, reason) {
    this.#stop("alone");
    this.#peer = "none";
    this.#drop("no_peer");
    this.#become("alone");
    this.#emit("peer-left", { id, reason });
  }

  #superseded() {
    const socket = this.#socket;
    this.#shut();
    socket.disconnect();
    this.#drop("superseded");
    this.#become("superseded");
    this.#emit("superseded");
  }

  #putOut() {
    this.leave();
    this.#emit("put-out");
  }

  /** @param {string} reason */
  #lost(reason) {
    for (const timer of ["ask", "alone", "pump"]) this.#stop(timer);
    this.#asked++;
    this.#line++;
    this.#inFlight = 0;
    this.#seated = false;
    if (this.#peer !== "none") this.#peer = "unknown";
    for (const entry of this.#queue) entry.sent = false;
    this.#giveUp();
    this.#become("reconnecting");
    this.#emit("disconnected", { reason });
    if (reason === "io server disconnect") this.#comeLater();
  }

  #comeLater() {
    const ms = Math.max(this.#drainMs, KICKED_MS.least + Math.random() * KICKED_MS.spread);
    this.#start("comeback", ms, () => this.#socket?.connect());
  }

  /** Nothing comes in from this connection any more, and nothing goes on by itself. */
  #shut() {
    this.#socket = null;
    for (const timer of Object.keys(this.#timers)) this.#stop(timer);
    this.#asked++;
    this.#line++;
    this.#inFlight = 0;
    this.#seated = false;
    this.#known = false;
    this.#peer = "unknown";
    this.#watch(false);
  }

  #pump() {
    if (!this.#seated || this.#peer !== "here" || this.#timers.pump !== undefined) return;
    // After a refusal one at a time, until one is taken.
    const most = this.#hesitant ? 1 : this.#options.window;
    for (const entry of this.#queue) {
      if (this.#inFlight >= most) return;
      if (entry.sent) continue;
      entry.sent = true;
      this.#inFlight++;
      const line = this.#line;
      this.#socket.emit("message", ...entry.args, (/** @type {any} */ answer) => {
        if (line === this.#line) this.#answered(entry, answer);
      });
    }
  }

  /** @param {{ args: unknown[], settle: (answer: any) => void, sent: boolean, last: boolean }} entry @param {any} answer */
  #answered(entry, answer) {
    this.#inFlight--;
    if (!answer?.ok && answer?.retryable && this.#queue.includes(entry)) {
      entry.sent = false;
      this.#giveUp();
      this.#hesitant = true;
      // What was sent after it is waited for, so that it goes first.
      if (this.#inFlight === 0) this.#start("pump", pause(this.#pauses++), () => this.#pump());
      return;
    }
    this.#queue = this.#queue.filter((other) => other !== entry);
    entry.settle(answer);
    if (answer?.ok) {
      this.#pauses = 0;
      if (this.#inFlight === 0) this.#hesitant = false;
    }
    this.#pump();
  }

  /** @param {string} code */
  #drop(code) {
    const gone = this.#queue;
    this.#queue = [];
    this.#hesitant = false;
    for (const { settle } of gone) settle(refusal(code, false));
  }

  /** A device that comes back to life, or to a network, learns of its broken connections late. @param {boolean} on */
  #watch(on) {
    const where = /** @type {any} */ (globalThis);
    if (this.#watching === on || typeof where.addEventListener !== "function") return;
    this.#watching = on;
    const act = on ? "addEventListener" : "removeEventListener";
    where[act]("online", this.#awake);
    where.document?.[act]("visibilitychange", this.#awake);
    where.navigator?.connection?.[act]?.("change", this.#awake);
  }

  #awake = (/** @type {any} */ { type }) => {
    const now = Date.now();
    const hidden = type === "visibilitychange" && /** @type {any} */ (globalThis).document.visibilityState === "hidden";
    if (hidden || now - this.#checkedAt < CHECK_MS) return;
    this.#checkedAt = now;
    void this.check();
  };

  /** @param {string} timer @param {number} ms @param {() => void} act */
  #start(timer, ms, act) {
    this.#stop(timer);
    this.#timers[timer] = setTimeout(() => {
      this.#timers[timer] = undefined;
      act();
    }, ms);
  }

  /** @param {string} timer */
  #stop(timer) {
    clearTimeout(this.#timers[timer]);
    this.#timers[timer] = undefined;
  }

  /** @param {string | null} token */
  #store(token) {
    this.#token = token;
    this.#write(this.#key, token);
    if (token !== null) return;
    this.#heard = null;
    this.#write(`${this.#key}:heard`, null);
  }

  /** @param {string} key */
  #read(key) {
    try {
      return this.#storage?.getItem(key) ?? null;
    } catch {
      return null;
    }
  }

  /** @param {string} key @param {string | null} value */
  #write(key, value) {
    try {
      if (value === null) this.#storage?.removeItem(key);
      else this.#storage?.setItem(key, value);
    } catch {
      // The seat then lives as long as this page, and what was written before is no more true.
      if (value !== null) this.#write(key, null);
    }
  }

  /** @param {string} state */
  #become(state) {
    if (state === this.#state) return;
    this.#state = state;
    this.#emit("state", state);
  }

  /** @param {string} event @param {...any} args */
  #emit(event, ...args) {
    for (const listener of [...(this.#listeners.get(event) ?? [])]) {
      try {
        listener(...args);
      } catch (error) {
        // A listener's mistake is its page's, and must not break the seat.
        setTimeout(() => {
          throw error;
        });
      }
    }
  }
}

/** @param {number} nth */
function pause(nth) {
  return Math.min(RETRY_MS.last, RETRY_MS.first * 2 ** nth) * (0.75 + Math.random() / 2);
}

/** @param {string} code @param {boolean} retryable */
function refusal(code, retryable) {
  return { ok: false, code, message: "", retryable };
}

/** @param {string} code @param {boolean} retryable */
function told(code, retryable) {
  return Promise.resolve(refusal(code, retryable));
}

/** What was kept in words, if it is what it was. @param {string | null} text */
function counted(text) {
  try {
    const { id, peers, messages } = JSON.parse(text ?? "null") ?? {};
    const isCount = (/** @type {unknown} */ n, /** @type {number} */ most) => Number.isSafeInteger(n) && Number(n) >= 0 && Number(n) <= most;
    return typeof id === "string" && isCount(peers, 2 ** 32 - 1) && isCount(messages, Number.MAX_SAFE_INTEGER)
      ? { id, peers, messages }
      : null;
  } catch {
    return null;
  }
}

/** A browser may forbid even to look at it. */
function sessionStore() {
  try {
    return globalThis.sessionStorage ?? null;
  } catch {
    return null;
  }
}
