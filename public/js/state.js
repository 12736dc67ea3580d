/**
 * The call as plain data: `step(state, event)` answers with the next state and the effects to carry out.
 *
 * Owns every decision about joining, pairing, losing and finding each other again. It must never touch the DOM, a socket,
 * a clock or chance: timers come in as events, random values inside events, and everything to be done goes out as an effect.
 *
 * How two pages agree on one connection. The peer that came last, or came back last, is polite and says hello first, because
 * only then are both seated for certain; the other answers. A hello carries a value made up for this pairing and the id of
 * the connection the sender still has, if media ever flowed on it. Same id on both sides: the connection is kept, as only
 * the signaling was gone, or the network changed, and it is for the connection to start anew where it broke. A page that was
 * loaded again has none. Otherwise both open a fresh one, whose id is made of both values, so that no message of an earlier
 * pairing can be taken for one of this.
 */

/**
 * @typedef {"created" | "joined" | "resumed"} Outcome
 * @typedef {"home" | "badRoom" | "lobby" | "call" | "ended" | "superseded"} Screen
 *
 * @typedef {object} Pairing
 * @property {boolean} polite      yields when both offer at once
 * @property {string} nonce        made up by this side for this pairing
 * @property {string | null} keep  the connection this side told the other it could go on with
 * @property {string | null} heard the value that the other made up; null: it has not said hello yet
 *
 * @typedef {object} State
 * @property {Screen} screen
 * @property {string} room
 * @property {"off" | "connecting" | "up" | "lost" | "unreachable" | "noClient"} server
 * @property {"none" | "asking" | "seated" | "full" | "waiting" | "deferred" | "refused"} seat
 * @property {string | null} refusal  the server's code while `seat` is `deferred` or `refused`
 * @property {"unknown" | "absent" | "left" | "connecting" | "connected" | "interrupted" | "failed"} peer
 * @property {boolean} away           the other is gone for the server, but media still flows
 * @property {boolean} returning      the other was lost for the server, which keeps its seat
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
 *   | { type: "wait" }
 *   | { type: "restart", nonce: string }
 *   | { type: "slow", call: string }
 *   | { type: "clientMissing" }
 *   | { type: "serverUp" }
 *   | { type: "serverDown" }
 *   | { type: "serverUnreachable" }
 *   | { type: "seated", outcome: Outcome }
 *   | { type: "refused", code: string, again: boolean }
 *   | { type: "waiting" }
 *   | { type: "superseded" }
 *   | { type: "met", last: boolean, nonce: string }
 *   | { type: "hello", hello: { nonce: string, to?: string, keep: string | null }, nonce: string }
 *   | { type: "peerLost" }
 *   | { type: "peerLeft", reason: string }
 *   | { type: "link", call: string, link: "connecting" | "connected" | "interrupted" | "failed" | "gone" }} Event
 *
 * @typedef {{ do: "connect" } | { do: "retryNow" } | { do: "wait" } | { do: "check" } | { do: "giveUpSeat" }
 *   | { do: "sayHello", hello: { nonce: string, to?: string, keep: string | null } }
 *   | { do: "openPeer", call: string, polite: boolean }
 *   | { do: "keepPeer", polite: boolean }
 *   | { do: "closePeer", farewell: boolean }
 *   | { do: "remember", room: string } | { do: "forget", room: string }
 *   | { do: "startMedia" } | { do: "stopMedia" }} Effect
 */

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
    peer: "unknown",
    away: false,
    returning: false,
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
      if (state.screen !== "lobby" && state.screen !== "ended" && state.screen !== "superseded") return same(state);
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
      return { state: { ...state, server: "up", seat: "asking", refusal: null, pairing: null }, effects: [] };

    case "serverDown": {
      const peer = state.call === null && state.peer === "connecting" ? "unknown" : state.peer;
      return { state: { ...state, server: "lost", seat: "none", pairing: null, peer, returning: false }, effects: [] };
    }

    case "serverUnreachable":
      if (state.server === "up") return same(state);
      return { state: { ...state, server: "unreachable" }, effects: [] };

    case "tryNow":
      if (state.server !== "up") {
        return { state: { ...state, server: "connecting" }, effects: [{ do: "retryNow" }] };
      }
      return state.seat === "deferred" ? { state, effects: [{ do: "retryNow" }] } : same(state);

    case "wait":
      if (state.seat !== "full") return same(state);
      return { state: { ...state, seat: "asking" }, effects: [{ do: "wait" }] };

    case "restart":
      return restarted(state, event.nonce);

    case "seated":
      return seated(state, event.outcome);

    case "refused":
      return refused(state, event.code, event.again);

    case "waiting":
      return { state: { ...state, seat: "waiting", refusal: null }, effects: [] };

    case "superseded":
      return {
        state: { ...initial(), screen: "superseded", room: state.room },
        effects: [{ do: "closePeer", farewell: false }, { do: "forget", room: state.room }, { do: "stopMedia" }],
      };

    case "met": {
      const met = paired({ ...state, seat: "seated", refusal: null }, event.last, event.nonce);
      return { state: met, effects: event.last ? [helloOf(met)] : [] };
    }

    case "peerLost":
      return { state: { ...state, pairing: null, returning: true }, effects: [] };

    case "hello":
      return greeted(state, event.hello, event.nonce);

    case "peerLeft":
      if (flows(state) && event.reason !== FINAL_REASON) {
        return { state: { ...state, pairing: null, away: true, returning: false }, effects: [] };
      }
      return gone({ ...state, pairing: null, returning: false });

    case "link":
      return linked(state, event.call, event.link);

    case "slow":
      if (state.call !== event.call || state.peer !== "connecting") return same(state);
      return { state: { ...state, slow: true }, effects: [] };

    default:
      return same(state);
  }
}

/** @param {State} state @param {Outcome} outcome @returns {{ state: State, effects: Effect[] }} */
function seated(state, outcome) {
  const next = { ...state, seat: /** @type {const} */ ("seated"), refusal: null, returning: false };
  if (outcome !== "created") {
    // Who else is there is told next.
    const peer = outcome === "joined" && next.peer === "unknown" ? /** @type {const} */ ("connecting") : next.peer;
    return { state: { ...next, peer }, effects: [] };
  }
  if (flows(next)) return { state: { ...next, away: true }, effects: [] };
  const peer = next.peer === "left" || next.call !== null ? "left" : "absent";
  /** @type {Effect[]} */
  const effects = next.call === null ? [] : [{ do: "closePeer", farewell: false }];
  return { state: { ...next, peer, call: null, away: false }, effects };
}

/** @param {State} state @param {string} code @param {boolean} again  it is asked again by itself @returns {{ state: State, effects: Effect[] }} */
function refused(state, code, again) {
  if (again) return { state: { ...state, seat: "deferred", refusal: code }, effects: [] };
  // It may have been said at the door, to a connection that never was.
  if (code !== "full") return { state: { ...state, server: "up", seat: "refused", refusal: code }, effects: [] };
  // Who is still in the call means to stay in it.
  return { state: { ...state, seat: "full", refusal: code }, effects: flows(state) ? [{ do: "wait" }] : [] };
}

/** A fresh connection, on which both agree as if this side had just come. @param {State} state @param {string} nonce @returns {{ state: State, effects: Effect[] }} */
function restarted(state, nonce) {
  /** @type {Effect[]} */
  const effects = [{ do: "closePeer", farewell: false }];
  const fresh = { ...state, peer: /** @type {const} */ ("connecting"), pairing: null, call: null, away: false, slow: false };
  if (state.server !== "up" || state.seat !== "seated" || state.returning) return { state: fresh, effects };
  const met = paired(fresh, true, nonce);
  return { state: met, effects: [...effects, helloOf(met)] };
}

/** @param {State} state @param {{ nonce: string, to?: string, keep: string | null }} hello @param {string} nonce @returns {{ state: State, effects: Effect[] }} */
function greeted(state, hello, nonce) {
  const before = state.pairing;
  let met = state;
  if (hello.to === undefined) {
    if (before?.heard === hello.nonce) return same(state);
    // Both began: the one whose value is the lesser is answered.
    if (before?.polite && before.heard === null && before.nonce < hello.nonce) return same(state);
    // A first peer that has not heard of the second yet still has to answer, or the second would wait for ever.
    if (!before || before.polite || before.heard !== null) met = paired(state, false, nonce);
  } else if (before && !before.polite && before.heard !== null && hello.to !== before.nonce) {
    // A hello of an earlier pairing came late, and the other left what was agreed on since for it: both begin anew.
    met = paired(state, true, nonce);
    return { state: met, effects: [helloOf(met)] };
  } else if (!before?.polite || before.heard !== null || hello.to !== before.nonce) {
    return same(state);
  }

  const mine = /** @type {Pairing} */ (met.pairing);
  /** @type {Effect[]} */
  const effects = mine.polite ? [] : [helloOf(met, hello.nonce)];
  const pairing = { ...mine, heard: hello.nonce };
  if (mine.keep !== null && mine.keep === hello.keep) {
    return { state: { ...met, pairing, away: false }, effects: [...effects, { do: "keepPeer", polite: mine.polite }] };
  }
  const [first, second] = mine.polite ? [hello.nonce, mine.nonce] : [mine.nonce, hello.nonce];
  const call = `${first}.${second}`;
  if (met.call !== null) effects.push({ do: "closePeer", farewell: false });
  effects.push({ do: "openPeer", call, polite: mine.polite });
  return { state: { ...met, pairing, call, peer: "connecting", away: false, slow: false }, effects };
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
      if (state.peer !== "connected") return same(state);
      // What broke the line to the other may have broken the one to the server, which notices later.
      return { state: { ...state, peer: "interrupted" }, effects: [{ do: "check" }] };
    case "failed":
      return state.away ? gone(state) : { state: { ...state, peer: "failed" }, effects: [] };
    case "gone":
      return gone({ ...state, pairing: null, returning: false });
  }
}

/** @param {State} state @param {boolean} polite @param {string} nonce @returns {State} */
function paired(state, polite, nonce) {
  const keep = state.peer === "connected" || state.peer === "interrupted" ? state.call : null;
  return {
    ...state,
    peer: keep === null ? "connecting" : state.peer,
    pairing: { polite, nonce, keep, heard: null },
    away: false,
    returning: false,
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
      { do: "closePeer", farewell: true },
      { do: "giveUpSeat" },
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
