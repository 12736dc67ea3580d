/**
 * Room names: where they stand in an address, which are allowed, and how a new one is made up.
 *
 * Owns the rule of the server (1 to 128 code points, no control characters) on this side, so that a bad name is told
 * before anything is asked. Never changes a name it is given: two people must land in the same room.
 */

import { WORDS } from "./words.js";

export const MAX_LENGTH = 128;

/** Names that read well as a path; any other could collide with a file of the server or be folded by a proxy. */
const PLAIN = /^[\p{L}\p{N}_~-][\p{L}\p{N}\p{M}_~ !-]*$/u;

/** First path segments that are something else than a room. */
const TAKEN = new Set(["socket", "ice-servers", "css", "js", "icons", "favicon", "manifest", "robots"]);

/** @param {string} name */
export function isRoomName(name) {
  const length = [...name].length;
  return length >= 1 && length <= MAX_LENGTH && !/[\p{Cc}\p{Cs}]/u.test(name);
}

/**
 * What an address asks for. `null`: no room at all; `{ room: null }`: a name that cannot be one.
 * @param {{ pathname: string, search: string }} address
 * @returns {{ room: string | null } | null}
 */
export function roomInAddress({ pathname, search }) {
  const asked = new URLSearchParams(search).get("room");
  if (asked !== null) return { room: isRoomName(asked) ? asked : null };
  const path = pathname.slice(1);
  if (path === "" || path === "index.html") return null;
  try {
    const room = decodeURIComponent(path);
    return { room: isRoomName(room) ? room : null };
  } catch {
    return { room: null };
  }
}

/** The path (and query) that opens a room, to be put after an origin. @param {string} room */
export function pathOf(room) {
  return PLAIN.test(room) && !TAKEN.has(room.toLowerCase())
    ? `/${encodeURIComponent(room)}`
    : `/?room=${encodeURIComponent(room)}`;
}

/**
 * Three words and four digits: 40 bits and more, yet easily said over a telephone.
 * @param {(below: number) => number} [pick] a whole number from 0 up to, not including, `below`
 */
export function madeUpRoom(pick = randomBelow) {
  const words = [1, 2, 3].map(() => WORDS[pick(WORDS.length)]);
  return [...words, String(pick(10000)).padStart(4, "0")].join("-");
}

/** @param {number} below */
function randomBelow(below) {
  const range = 2 ** 32;
  const cell = new Uint32Array(1);
  // Values past the last whole multiple would make small numbers likelier.
  do crypto.getRandomValues(cell);
  while (cell[0] >= range - (range % below));
  return cell[0] % below;
}
