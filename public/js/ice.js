/**
 * How long the servers that help two browsers to reach each other can be used: their credentials end.
 *
 * Owns the form of such credentials on this side. A call that is relayed goes on when they end; a new start of it, which a
 * change of networks asks for, does not.
 */

/** Also what a clock far off makes of any expiry: asking again so often does no harm. */
export const SOON_MS = 10_000;

/** Where nothing says when they end. */
export const LATE_MS = 30 * 60_000;

/**
 * In how many milliseconds fresh ones are to be asked for: when half of their time is over. `null`: they do not end.
 * @param {RTCIceServer[]} servers
 * @param {number} now milliseconds since 1970
 * @returns {number | null}
 */
export function freshIn(servers, now) {
  const waits = servers.flatMap(({ username }) => {
    if (username === undefined) return [];
    // `EXPIRY:USER`, in seconds since 1970, as servers with a shared secret take it (draft-uberti-behave-turn-rest-00).
    const expiry = /^(\d+):/.exec(username)?.[1];
    return [expiry === undefined ? LATE_MS : (Number(expiry) * 1000 - now) / 2];
  });
  return waits.length === 0 ? null : Math.min(LATE_MS, Math.max(SOON_MS, Math.min(...waits)));
}
