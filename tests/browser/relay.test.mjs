/** Calls that may only go through a relay: a real coturn, with the credentials that the server gives. Needs DUET_BIN and coturn. */

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { SERVER_GONE, call, hears, received, sees, startBrowser, startCoturn, startServer, until } from "./support.mjs";

const skip = process.env.DUET_BIN ? false : "DUET_BIN is not set";
const SECRET = "north-of-the-river";
const browser = skip ? null : await startBrowser({ after });

async function startAll(t, settings = {}) {
  const coturn = await startCoturn(t, SECRET);
  const { url } = await startServer(t, { DUET_ICE__TURN: coturn.url, DUET_ICE__SECRET: SECRET, ...settings });
  return { coturn, url };
}

/** The kinds of both ends of the way that the newest connection has chosen. */
const way = (page) =>
  page.evaluate(async () => {
    const stats = await window.connections.at(-1).getStats();
    const lines = [...stats.values()];
    const { selectedCandidatePairId } = lines.find(({ type }) => type === "transport");
    const pair = stats.get(selectedCandidatePairId);
    return [pair.localCandidateId, pair.remoteCandidateId].map((id) => stats.get(id).candidateType);
  });

const username = (page) =>
  page.evaluate(() => window.connections.at(-1).getConfiguration().iceServers.find(({ username }) => username).username);

/** The usernames, of the user in this one, by which coturn has given relays. */
function allocations(coturn, username) {
  const user = username.split(":")[1];
  return new Set(coturn.log.match(new RegExp(`\\d+:${user}(?=>.*ALLOCATE processed, success)`, "g")));
}

test("two people who may only use a relay see and hear each other", { skip }, async (t) => {
  const { coturn, url } = await startAll(t);
  const { first, second } = await call(t, browser, url, "relayed?relay", { tolerate: SERVER_GONE });
  await Promise.all([hears(first), hears(second)]);
  for (const page of [first, second]) {
    assert.deepEqual(await way(page), ["relay", "relay"]);
    const user = await username(page);
    await until("coturn has relayed for this user", () => allocations(coturn, user).size > 0);
  }
});

test("people who can reach each other do without the relay", { skip }, async (t) => {
  const { url } = await startAll(t);
  const { first, second } = await call(t, browser, url, "direct", { tolerate: SERVER_GONE });
  for (const page of [first, second]) assert.ok(!(await way(page)).includes("relay"), await way(page));
});

test("a call that outlives its credentials gets others, and a new start goes through the relay", { skip }, async (t) => {
  const { coturn, url } = await startAll(t, { DUET_ICE__LIFETIME: "15s" });
  const { first, second } = await call(t, browser, url, "long?relay", { tolerate: SERVER_GONE });
  const before = await Promise.all([first, second].map(username));
  const expired = (name) => Number(name.split(":")[0]) * 1000 < Date.now();
  await until("the first credentials have ended", () => before.every(expired));
  // What is relayed already goes on.
  await Promise.all([sees(first), sees(second)]);
  for (const [n, page] of [first, second].entries()) {
    await until("there are others", async () => (await username(page)) !== before[n]);
  }
  // Offered by one side: the other's relay is new all the same.
  await first.evaluate(() => window.connections[0].restartIce());
  for (const [n, page] of [first, second].entries()) {
    await until("coturn has taken the others", () => allocations(coturn, before[n]).size > 1);
    const decoded = await received(page, "video", "framesDecoded");
    await until("pictures go on", async () => (await received(page, "video", "framesDecoded")) > decoded + 5);
    assert.deepEqual(await way(page), ["relay", "relay"]);
    assert.equal(await page.evaluate(() => window.connections.length), 1);
  }
});

test("a call that broke takes fresh credentials before it starts anew", { skip }, async (t) => {
  const { coturn, url } = await startAll(t);
  const { first, second } = await call(t, browser, url, "broken?relay", { tolerate: SERVER_GONE });
  const before = await username(first);
  const since = Date.now();
  await until("credentials would be others", () => Date.now() > since + 1000);
  await first.evaluate(() => {
    const [pc] = window.connections;
    Object.defineProperty(pc, "iceConnectionState", { value: "failed", configurable: true });
    pc.dispatchEvent(new Event("iceconnectionstatechange"));
    delete pc.iceConnectionState;
  });
  await until("coturn has taken the others", () => allocations(coturn, before).size > 1);
  await Promise.all([sees(first), sees(second)]);
  assert.deepEqual(await way(first), ["relay", "relay"]);
});
