/** The page through the balancer: two people talk, and still do when every node has been restarted under them. */

import { test } from "node:test";

import { call, hears, sees, startBrowser } from "../browser/support.mjs";
import { until } from "../clients/support/waiting.mjs";
import { cluster, haproxy } from "./support.mjs";

test("two people talk through the balancer, and a rolling restart does not part them", async (t) => {
  const service = await cluster(t, { settings: { DUET_TIMEOUTS__DRAIN: "4s" } });
  const balancer = await haproxy(t, service);
  const browser = await startBrowser(t);
  const { first, second } = await call(t, browser, balancer.url, "through-the-balancer", {
    // A node that goes closes its connections: the browser says so on the console.
    tolerate: [/WebSocket connection to .* failed/, /Failed to load resource/],
  });
  await Promise.all([hears(first), hears(second)]);
  for (const node of service.nodes) {
    await node.terminate();
    await Promise.all([sees(first), sees(second)]);
    node.start();
    await until("it is ready again", () => node.isReady());
    await until("the balancer uses it again", async () => (await balancer.up()).length === service.nodes.length);
  }
  await Promise.all([sees(first), sees(second), hears(first), hears(second)]);
});
