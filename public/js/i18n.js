/**
 * Which language the page speaks, and its sentences.
 *
 * Owns the choice among the languages there are and the filling in of placeholders. It must never touch the document: the
 * view puts the words where they belong. An unknown key is a mistake in the page and is thrown.
 */

import en from "./locales/en.js";
import es from "./locales/es.js";
import ko from "./locales/ko.js";
import zh from "./locales/zh.js";

/** Code as asked for, `html` as a document declares it, name as its speakers write it. */
export const LANGUAGES = Object.freeze([
  { code: "en", html: "en", name: "English", words: en },
  { code: "es", html: "es", name: "Español", words: es },
  { code: "zh", html: "zh-Hans", name: "简体中文", words: zh },
  { code: "ko", html: "ko", name: "한국어", words: ko },
]);

/**
 * The first wish that can be met; English if none can.
 * @param {readonly (string | null | undefined)[]} wishes  language tags, dearest first
 */
export function choose(wishes) {
  for (const wish of wishes) {
    const primary = wish?.toLowerCase().split(/[-_]/)[0];
    const found = LANGUAGES.find(({ code }) => code === primary);
    if (found) return found;
  }
  return LANGUAGES[0];
}

/**
 * @param {(typeof LANGUAGES)[number]} language
 * @returns {(key: string, values?: Record<string, string | number>) => string}
 */
export function translator({ code, words }) {
  return (key, values = {}) => {
    const sentence = /** @type {Record<string, string>} */ (words)[key];
    if (sentence === undefined) throw new Error(`no words for ${key} in ${code}`);
    return sentence.replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
  };
}
