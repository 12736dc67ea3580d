/** Waiting for conditions, never for a length of time. */

import assert from "node:assert/strict";

/** How long anything may take before it counts as not happening. */
export const PATIENCE_MS = 20_000;

/** Asks `condition` until it holds, and says what was awaited if it never does. */
export async function until(what, condition, patience = PATIENCE_MS) {
  const deadline = Date.now() + patience;
  for (;;) {
    const answer = await condition();
    if (answer) return answer;
    if (Date.now() > deadline) assert.fail(`${what}: not within ${patience} ms`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** `promise`, or a failure that says what did not happen. `told` adds what is known by then. */
export async function within(what, promise, told = () => "", patience = PATIENCE_MS) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new assert.AssertionError({ message: `${what}: not within ${patience} ms ${told()}` })), patience);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
