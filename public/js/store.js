/**
 * What the page remembers: for this tab, the rooms joined and whether microphone and camera are on; for this browser,
 * devices, language and shortcuts. Owns the key names. A browser that forbids storing must not break the call.
 */

/** @param {"localStorage" | "sessionStorage"} where */
function shelf(where) {
  return {
    /** @param {string} key @returns {string | null} */
    get(key) {
      try {
        return window[where].getItem(`duet.${key}`);
      } catch {
        return null;
      }
    },
    /** @param {string} key @param {string | null} value */
    set(key, value) {
      try {
        if (value === null) window[where].removeItem(`duet.${key}`);
        else window[where].setItem(`duet.${key}`, value);
      } catch {
        // Nothing is lost but comfort.
      }
    },
  };
}

export const browser = shelf("localStorage");
export const tab = shelf("sessionStorage");
