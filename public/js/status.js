/**
 * Says how the call goes: which words belong to a state, and which ways on it offers.
 *
 * Owns the choice, not the words (see `locales/`) and not how they look (see `view.js`). Pure, like `state.js`.
 * Invariant: a state in which a person cannot simply go on talking or waiting names at least one action.
 */

/**
 * @typedef {"tryNow" | "wait" | "restart" | "newRoom" | "leave" | "enter" | "takeBack" | "home"} Action
 *
 * @typedef {object} Status
 * @property {string} chip            key of the short line that is always in sight and read aloud
 * @property {"calm" | "busy" | "good" | "bad"} tone
 * @property {string | null} title    key of the card's heading; null when the call itself fills the stage
 * @property {string | null} text
 * @property {Action[]} actions       the first is the one to offer most clearly
 * @property {boolean} invite         show how to bring the other person in
 * @property {boolean} over           the card lies over a picture that is still wanted
 */

/** @param {import("./state.js").State} state @returns {Status} */
export function describe(state) {
  if (state.peer === "connected") {
    if (state.away || state.returning) return line("status.away", "busy");
    if (state.server !== "up" || state.seat !== "seated") return line("status.connectedAlone", "busy");
    return line("status.connected", "good");
  }
  if (state.peer === "interrupted") {
    // With the server gone as well, it is this side's network.
    if (state.server === "lost" || state.server === "unreachable") return card("cut", "busy", ["tryNow", "leave"], { over: true });
    if (state.returning) return card("returning", "busy", ["leave"], { over: true });
    return card("interrupted", "busy", ["restart", "leave"], { over: true });
  }

  switch (state.server) {
    case "noClient":
      return card("noClient", "bad", ["home"]);
    case "unreachable":
      return card("unreachable", "bad", ["tryNow", "leave"]);
    case "lost":
      return card("serverLost", "busy", ["tryNow", "leave"]);
    case "off":
    case "connecting":
      return card("reaching", "busy", ["leave"]);
    case "up":
  }

  switch (state.seat) {
    case "full":
      return card("full", "bad", ["wait", "newRoom", "leave"]);
    case "waiting":
      return card("queued", "busy", ["newRoom", "leave"]);
    case "deferred":
      return card(state.refusal === "draining" ? "draining" : "busy", "busy", ["tryNow", "leave"]);
    case "refused":
      return card(state.refusal === "bad_room" ? "badRoom" : "refused", "bad", ["newRoom", "home"]);
    case "none":
    case "asking":
      return card("joining", "busy", ["leave"]);
    case "seated":
  }

  if (state.returning) return card("returning", "busy", ["leave"]);

  switch (state.peer) {
    case "failed":
      return card("failed", "bad", ["restart", "leave"]);
    case "connecting":
      return state.slow
        ? card("slow", "busy", ["restart", "leave"])
        : card("connecting", "busy", ["leave"]);
    case "left":
      return card("left", "calm", ["leave"], { invite: true });
    default:
      return card("waiting", "calm", ["leave"], { invite: true });
  }
}

/** @param {string} chip @param {Status["tone"]} tone @returns {Status} */
function line(chip, tone) {
  return { chip, tone, title: null, text: null, actions: [], invite: false, over: false };
}

/**
 * @param {string} name
 * @param {Status["tone"]} tone
 * @param {Action[]} actions
 * @param {{ invite?: boolean, over?: boolean }} [options]
 * @returns {Status}
 */
function card(name, tone, actions, { invite = false, over = false } = {}) {
  return {
    chip: `status.${name}`,
    tone,
    title: `card.${name}.title`,
    text: `card.${name}.text`,
    actions,
    invite,
    over,
  };
}
