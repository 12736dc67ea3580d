/** Three nodes behind each balancer of deploy/balancer: every client, every transport, the room's node, the client's address. */

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { after, describe, test } from "node:test";

import { KINDS, connect, kindName, pair, seat } from "../clients/support/peer.mjs";
import { until } from "../clients/support/waiting.mjs";
import { cluster, get, haproxy, nginx } from "./support.mjs";

const NEW = { version: "4.8", transport: "websocket" };
const ROOMS = 60;

const { redis, nodes, ...ports } = await cluster({ after });
const balancers = {
  haproxy: await haproxy({ after }, { nodes, ...ports }),
  nginx: await nginx({ after }, { nodes, ...ports }),
};

const total = async (name, labels) =>
  (await Promise.all(nodes.map((node) => node.metric(name, labels)))).reduce((sum, value) => sum + value, 0);

/** How many of the messages of `ROOMS` pairs stayed within one node. */
async function localShare(t, url, options) {
  const count = async () => ({
    local: await total("duet_relays_total", 'scope="local"'),
    remote: await total("duet_relays_total", 'scope="remote"'),
  });
  const earlier = await count();
  for (let n = 0; n < ROOMS; n++) {
    const room = `${t.name} ${n}`;
    const [first, second] = [await connect(t, url, NEW, options(room)), await connect(t, url, NEW, options(room))];
    await seat(first, second, room);
    assert.deepEqual(await first.ask("message", n), { ok: true });
    assert.deepEqual(await second.next("message"), [n]);
    first.close();
    second.close();
  }
  const later = await count();
  const [local, remote] = [later.local - earlier.local, later.remote - earlier.remote];
  assert.equal(local + remote, ROOMS);
  return local / ROOMS;
}

for (const [name, balancer] of Object.entries(balancers)) {
  describe(name, () => {
    for (const kind of KINDS) {
      test(`${kindName(kind)} talks through it, in order, both ways`, async (t) => {
        const [first, second] = await pair(t, balancer.url, t.name, kind);
        for (const [from, to] of [[first, second], [second, first]]) {
          for (let n = 0; n < 50; n++) from.emit("message", n, "x".repeat(n * 20));
          for (let n = 0; n < 50; n++) assert.deepEqual(await to.next("message"), [n, "x".repeat(n * 20)]);
        }
        assert.deepEqual(await first.ask("message", "last"), { ok: true });
        second.close();
        await first.next("bye");
      });
    }

    test("peers that name their room meet on one node", async (t) => {
      const share = await localShare(t, balancer.url, (room) => ({ query: { room } }));
      t.diagnostic(`${name}: ${Math.round(share * 100)} % of the messages stay within a node`);
      assert.equal(share, 1);
    });

    test("the page and the client library come through it", async () => {
      const page = await get("127.0.0.1", balancer.port, "/some-room");
      assert.equal(page.status, 200);
      assert.match(page.text, /<html/);
      assert.equal((await get("127.0.0.1", balancer.port, "/socket.io/socket.io.js")).status, 200);
      // What is for the operator is not for everybody.
      for (const path of ["/metrics", "/readyz"]) {
        assert.doesNotMatch((await get("127.0.0.1", balancer.port, path)).text, /duet_|"ready"/);
      }
    });
  });
}

test("haproxy spreads peers that name no room", async (t) => {
  const share = await localShare(t, balancers.haproxy.url, () => ({}));
  t.diagnostic(`without a room in the query, ${Math.round(share * 100)} % of the messages stay within a node`);
  assert.ok(share < 0.9, `round robin puts few pairs on one node, not ${share}`);
});

for (const [name, start] of Object.entries({ haproxy, nginx })) {
  test(`${name} hands the client's address on, and nobody else's`, async (t) => {
    const host = `127.0.${10 + (process.pid % 200)}.200`;
    const servers = [];
    for (const port of [ports.publicPort, ports.adminPort]) {
      const server = createServer((request, response) => response.end(JSON.stringify(request.headers))).listen(port, host);
      await once(server, "listening");
      servers.push(server);
    }
    t.after(() => servers.forEach((server) => server.close()));
    // nginx's file names three nodes.
    const stubs = name === "nginx" ? [{ host }, { host }, { host }] : [{ host }];
    const balancer = await start(t, { nodes: stubs, ...ports });
    const answer = await get("127.0.0.1", balancer.port, "/", { "x-forwarded-for": "203.0.113.9" });
    assert.equal(JSON.parse(answer.text)["x-forwarded-for"], "127.0.0.1");
  });
}

test("haproxy serves the page also while Redis is gone", async () => {
  const { haproxy: balancer } = balancers;
  redis.child.kill("SIGSTOP");
  try {
    await until("no node gets sessions", async () => (await balancer.up()).length === 0);
    assert.equal((await get("127.0.0.1", balancer.port, "/some-room")).status, 200);
    assert.equal((await get("127.0.0.1", balancer.port, "/socket.io/socket.io.js")).status, 200);
    assert.equal((await get("127.0.0.1", balancer.port, "/socket.io/?EIO=4&transport=polling")).status, 503);
  } finally {
    redis.child.kill("SIGCONT");
  }
  await until("every node is used again", async () => (await balancer.up()).length === nodes.length);
});

test("haproxy goes round a node that is killed, and uses it again when it is back", async (t) => {
  const balancer = balancers.haproxy;
  const [victim] = nodes;
  await victim.kill();
  // Before the balancer knows, and after.
  for (const known of [false, true]) {
    if (known) await until("it is noticed", async () => !(await balancer.up()).includes(victim.host));
    for (let n = 0; n < 9; n++) await pair(t, balancer.url, `${t.name} ${known} ${n}`, NEW);
  }
  victim.start();
  await until("it is ready", () => victim.isReady());
  await until("it is used again", async () => (await balancer.up()).includes(victim.host), 40_000);
});
