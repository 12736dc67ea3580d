/**
 * The call as plain data: `step(state, event)` answers with the next state and the effects to carry out.
 *
 * Owns every decision about joining, pairing, losing and finding each other again. It must never touch the DOM, a socket,
 * a clock or chance: timers come in as events, random values inside events, and everything to be done goes out as an effect.
 *
 * How two pages agree on one connection. The peer the server seats second is polite and says hello first, because only
 * then are both seated for certain; the first answers. A hello carries a value made up for this pairing and the id of the
 * connection the sender still has, if media flows on it. Same id on both sides: the connection is kept, only the
 * signaling was gone. Otherwise both open a fresh one, whose id is made of both values, so that no message of an earlier
 * pairing can be taken for one of this.
 */

/**
 * @typedef {"created" | "joined"} Outcome
 * @typedef {"home" | "badRoom" | "lobby" | "call" | "ended"} Screen
 *
 * @typedef {object} Pairing
 * @property {boolean} polite      yields when both offer at once
 * @property {string} nonce        made up by this side for this pairing
 * @property {string | null} keep  the connection this side told the other it could go on with
 * @property {boolean} settled     both have said hello
 *
 * @typedef {object} State
 * @property {Screen} screen
 * @property {string} room
 * @property {"off" | "connecting" | "up" | "lost" | "unreachable" | "noClient"} server
 * @property {"none" | "asking" | "seated" | "full" | "deferred" | "refused"} seat
 * @property {string | null} refusal  the server's code while `seat` is `deferred` or `refused`
 * @property {number} attempt         refusals in a row
 * @property {boolean} retrying       another attempt is planned
 * @property {"unknown" | "absent" | "left" | "connecting" | "connected" | "interrupted" | "failed"} peer
 * @property {boolean} away           the other is gone for the server, but media still flows
 * @property {boolean} slow           connecting has taken longer than people expect
 * @property {Pairing | null} pairing
 * @property {string | null} call     id of the connection that exists now
 *
 * @typedef {{ type: "open", room: string }
 *   | { type: "openHome" }
 *   | { type: "openBad" }
 *   | { type: "enter" }
 *   | { type: "leave" }
 *   | { type: "tryNow" }
 *   | { type: "restart" }
 *   | { type: "retryDue" }
 *   | { type: "slow", call: string }
 *   | { type: "clientMissing" }
 *   | { type: "serverUp" }
 *   | { type: "serverDown" }
 *   | { type: "serverUnreachable" }
 *   | { type: "seated", outcome: Outcome, nonce: string }
 *   | { type: "refused", code: string, retryable: boolean }
 *   | { type: "peerCame", nonce: string }
 *   | { type: "hello", hello: { nonce: string, to?: string, keep: string | null }, nonce: string }
 *   | { type: "peerLeft", reason: string }
 *   | { type: "link", call: string, link: "connecting" | "connected" | "interrupted" | "failed" | "gone" }} Event
 *
 * @typedef {{ do: "connect" } | { do: "connectNow" } | { do: "disconnect" } | { do: "ask" } | { do: "sayBye", room: string }
 *   | { do: "sayHello", hello: { nonce: string, to?: string, keep: string | null } }
 *   | { do: "openPeer", call: string, polite: boolean }
 *   | { do: "keepPeer", polite: boolean }
 *   | { do: "closePeer", farewell: boolean }
 *   | { do: "retryIn", ms: number } | { do: "cancelRetry" }
 *   | { do: "remember", room: string } | { do: "forget", room: string }
 *   | { do: "startMedia" } | { do: "stopMedia" }} Effect
 */

/** A full room is asked again for some 30 s: right after a reload the server may still believe in the old connection. */
export const FULL_RETRY_MS = Object.freeze([1000, 2000, 3000, 4000, 5000, 7000, 8000]);

/** Other refusals that may pass are asked again for as long as the page stays, ever more slowly. */
const DEFERRED_RETRY_MS = Object.freeze([1000, 2000, 4000, 8000, 10000]);

/** A peer that said it goes is gone; for any other reason of `bye` it may well be on its way back. */
const FINAL_REASON = "left";

/** @returns {State} */
export function initial() {
  return {
    screen: "home",
    room: "",
    server: "off",
    seat: "none",
    refusal: null,
    attempt: 0,
    retrying: false,
    peer: "unknown",
    away: false,
    slow: false,
    pairing: null,
    call: null,
  };
}

/**
 * @param {State} state
 * @param {Event} event
 * @returns {{ state: State, effects: Effect[] }}
 */
export function step(state, event) {
  switch (event.type) {
    case "open":
      return moved(state, { ...initial(), screen: "lobby", room: event.room });
    case "openHome":
      return moved(state, initial());
    case "openBad":
      return moved(state, { ...initial(), screen: "badRoom" });
    case "enter":
      if (state.screen !== "lobby" && state.screen !== "ended") return same(state);
      return {
        state: { ...initial(), screen: "call", room: state.room, server: "connecting" },
        effects: [{ do: "remember", room: state.room }, { do: "startMedia" }, { do: "connect" }],
      };
    case "leave":
      if (state.screen !== "call") return same(state);
      return moved(state, { ...initial(), screen: "ended", room: state.room });
    default:
      return state.screen === "call" ? inCall(state, event) : same(state);
  }
}

/**
 * @param {State} state
 * @param {Event} event
 * @returns {{ state: State, effects: Effect[] }}
 */
function inCall(state, event) {
  switch (event.type) {
    case "clientMissing":
      return { state: { ...state, server: "noClient" }, effects: [] };

    case "serverUp":
      return {
        state: { ...state, server: "up", seat: "asking", refusal: null, pairing: null },
        effects: [{ do: "cancelRetry" }, { do: "ask" }],
      };

    case "serverDown": {
      const peer = state.call === null && state.peer === "connecting" ? "unknown" : state.peer;
      return {
        state: { ...state, server: "lost", seat: "none", retrying: false, pairing: null, peer },
        effects: [{ do: "cancelRetry" }],
      };
    }

    case "serverUnreachable":
      if (state.server === "up") return same(state);
      return { state: { ...state, server: "unreachable" }, effects: [] };

    case "tryNow":
      if (state.server !== "up") {
        return { state: { ...state, server: "connecting" }, effects: [{ do: "connectNow" }] };
      }
      if (state.seat === "seated" || state.seat === "asking") return same(state);
      return {
        state: { ...state, seat: "asking", attempt: 0, retrying: false },
        effects: [{ do: "cancelRetry" }, { do: "ask" }],
      };

    case "retryDue":
      if (state.server !== "up" || !state.retrying) return same(state);
      return { state: { ...state, seat: "asking", retrying: false }, effects: [{ do: "ask" }] };

    case "restart":
      // Leaving and coming back makes the server pair both anew, which opens a fresh connection on either side.
      return {
        state: { ...state, seat: "asking", peer: "connecting", pairing: null, call: null, away: false, slow: false },
        effects: [{ do: "closePeer", farewell: false }, { do: "sayBye", room: state.room }, { do: "ask" }],
      };

    case "seated":
      return seated(state, event.outcome, event.nonce);

    case "refused":
      return refused(state, event.code, event.retryable);

    case "peerCame":
      return {
        state: { ...paired(state, false, event.nonce), seat: "seated", refusal: null, attempt: 0 },
        effects: [],
      };

    case "hello":
      return greeted(state, event.hello, event.nonce);

    case "peerLeft":
      // Without a pairing this is the echo of a parting both already know about.
      if (flows(state) && event.reason !== FINAL_REASON) {
        return { state: { ...state, pairing: null, away: true }, effects: [] };
      }
      return gone({ ...state, pairing: null });

    case "link":
      return linked(state, event.call, event.link);

    case "slow":
      if (state.call !== event.call || state.peer !== "connecting") return same(state);
      return { state: { ...state, slow: true }, effects: [] };

    default:
      return same(state);
  }
}

/** @param {State} state @param {Outcome} outcome @param {string} nonce */
function seated(state, outcome, nonce) {
  // The answer to a repeated question, or one overtaken by `join`: the pairing that exists already is the truth.
  if (state.seat === "seated") return same(state);
  const next = { ...state, seat: /** @type {const} */ ("seated"), refusal: null, attempt: 0, retrying: false };
  if (outcome === "created") {
    if (flows(next)) return { state: { ...next, away: true }, effects: [] };
    const peer = next.peer === "left" || next.call !== null ? "left" : "absent";
    /** @type {Effect[]} */
    const effects = next.call === null ? [] : [{ do: "closePeer", farewell: false }];
    return { state: { ...next, peer: /** @type {State["peer"]} */ (peer), call: null, away: false }, effects };
  }
  const met = paired(next, true, nonce);
  return { state: met, effects: [helloOf(met)] };
}

/** @param {State} state @param {string} code @param {boolean} retryable @returns {{ state: State, effects: Effect[] }} */
function refused(state, code, retryable) {
  if (state.seat === "seated") return same(state);
  const full = code === "full";
  if (!full && !retryable) {
    return { state: { ...state, seat: "refused", refusal: code, retrying: false }, effects: [] };
  }
  const last = FULL_RETRY_MS.length - 1;
  // Who is still in the call is seated by rights: the server only has not noticed yet that its old connection is gone.
  const ms = full
    ? FULL_RETRY_MS[flows(state) ? Math.min(state.attempt, last) : state.attempt]
    : DEFERRED_RETRY_MS[Math.min(state.attempt, DEFERRED_RETRY_MS.length - 1)];
  return {
    state: {
      ...state,
      seat: full ? "full" : "deferred",
      refusal: code,
      attempt: state.attempt + 1,
      retrying: ms !== undefined,
    },
    effects: ms === undefined ? [] : [{ do: "retryIn", ms }],
  };
}

/** @param {State} state @param {{ nonce: string, to?: string, keep: string | null }} hello @param {string} nonce */
function greeted(state, hello, nonce) {
  // A first peer that has not heard `join` yet still has to answer, or the second would wait for ever.
  const met = state.pairing === null ? paired(state, false, nonce) : state;
  const mine = /** @type {Pairing} */ (met.pairing);
  if (mine.settled) return same(state);
  if (mine.polite && hello.to !== mine.nonce) return same(state);
  if (!mine.polite && hello.to !== undefined) return same(state);

  /** @type {Effect[]} */
  const effects = mine.polite ? [] : [helloOf(met, hello.nonce)];
  const settled = { ...mine, settled: true };
  if (mine.keep !== null && mine.keep === hello.keep) {
    return {
      state: { ...met, pairing: settled, away: false },
      effects: [...effects, { do: /** @type {const} */ ("keepPeer"), polite: mine.polite }],
    };
  }
  const [first, second] = mine.polite ? [hello.nonce, mine.nonce] : [mine.nonce, hello.nonce];
  const call = `${first}.${second}`;
  if (met.call !== null) effects.push({ do: "closePeer", farewell: false });
  effects.push({ do: "openPeer", call, polite: mine.polite });
  return {
    state: { ...met, pairing: settled, call, peer: /** @type {const} */ ("connecting"), away: false, slow: false },
    effects,
  };
}

/**
 * @param {State} state
 * @param {string} call
 * @param {"connecting" | "connected" | "interrupted" | "failed" | "gone"} link
 * @returns {{ state: State, effects: Effect[] }}
 */
function linked(state, call, link) {
  if (state.call !== call) return same(state);
  switch (link) {
    case "connecting":
      return same(state);
    case "connected":
      return { state: { ...state, peer: "connected", slow: false }, effects: [] };
    case "interrupted":
      if (state.away) return gone(state);
      return state.peer === "connected" ? { state: { ...state, peer: "interrupted" }, effects: [] } : same(state);
    case "failed":
      return state.away ? gone(state) : { state: { ...state, peer: "failed" }, effects: [] };
    case "gone":
      return gone({ ...state, pairing: null });
  }
}

/** @param {State} state @param {boolean} polite @param {string} nonce @returns {State} */
function paired(state, polite, nonce) {
  const keep = flows(state) ? state.call : null;
  return {
    ...state,
    peer: keep === null ? "connecting" : state.peer,
    pairing: { polite, nonce, keep, settled: false },
    slow: false,
  };
}

/** @param {State} state @param {string} [to] @returns {Effect} */
function helloOf(state, to) {
  const { nonce, keep } = /** @type {Pairing} */ (state.pairing);
  return { do: "sayHello", hello: to === undefined ? { nonce, keep } : { nonce, to, keep } };
}

/** The other is not here any more; this side stays seated and waits. @param {State} state @returns {{ state: State, effects: Effect[] }} */
function gone(state) {
  const alone = state.peer === "absent" || state.peer === "unknown";
  return {
    state: { ...state, peer: alone ? state.peer : "left", call: null, away: false, slow: false },
    effects: state.call === null ? [] : [{ do: "closePeer", farewell: false }],
  };
}

/** A screen is left for another: whatever the old one held is let go. @param {State} from @param {State} to @returns {{ state: State, effects: Effect[] }} */
function moved(from, to) {
  /** @type {Effect[]} */
  const effects = [];
  if (from.screen === "call") {
    effects.push(
      { do: "cancelRetry" },
      { do: "closePeer", farewell: true },
      { do: "sayBye", room: from.room },
      { do: "disconnect" },
      { do: "forget", room: from.room },
    );
  }
  if (from.screen === "call" || from.screen === "lobby") effects.push({ do: "stopMedia" });
  return { state: to, effects };
}

/** @param {State} state */
function flows(state) {
  return state.call !== null && state.peer === "connected";
}

/** @param {State} state @returns {{ state: State, effects: Effect[] }} */
function same(state) {
  return { state, effects: [] };
}
