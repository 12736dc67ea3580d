/**
 * Several nodes as they are deployed: a redis-server, nodes of one port on addresses of their own, a name server that knows
 * them, and a balancer in front, with the files of deploy/. All on loopback, all ended with the test.
 */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { chmod, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { request } from "node:http";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { until } from "../clients/support/waiting.mjs";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const BINARY = process.env.DUET_BIN ?? join(ROOT, "target/release/duet");
// The server refuses settings it does not know, and this one is meant for the tests.
const { DUET_BIN, ...ENVIRONMENT } = process.env;

// A run that is broken off leaves nothing behind.
const running = new Set();
const killAll = () => running.forEach((child) => child.kill(fatal(child)));
// nginx's workers outlive a master that is killed.
const fatal = (child) => (child.spawnfile === "nginx" ? "SIGTERM" : "SIGKILL");
process.once("exit", killAll);
for (const [signal, number] of [["SIGTERM", 15], ["SIGINT", 2]]) {
  process.once(signal, () => {
    killAll();
    process.exit(128 + number);
  });
}

/** A process that ends with the test. */
function start(t, command, args, environment = {}) {
  const child = spawn(command, args, {
    env: { ...ENVIRONMENT, ...environment },
    stdio: ["ignore", "pipe", "pipe"],
  });
  running.add(child);
  // Hooks of a whole file run when nothing else keeps it going.
  for (const handle of [child, child.stdout, child.stderr]) handle.unref();
  const process = { child, said: "", ended: once(child, "exit") };
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk) => (process.said += chunk));
  child.once("exit", () => running.delete(child));
  child.once("error", (error) => (process.said += error.message));
  t.after(() => end(process));
  return process;
}

export function runs({ child }) {
  return child.exitCode === null && child.signalCode === null && child.pid !== undefined;
}

async function end(process) {
  if (!runs(process)) return;
  await stop(process, fatal(process.child));
}

async function stop({ child, ended }, signal) {
  child.ref();
  child.kill(signal);
  return (await ended)[0];
}

export async function get(host, port, path, headers = {}) {
  const sent = request({ host, port, path, headers, agent: false, timeout: 2000 }).end();
  sent.once("timeout", () => sent.destroy(new Error("no answer")));
  const [response] = await once(sent, "response");
  response.setEncoding("utf8");
  let text = "";
  for await (const chunk of response) text += chunk;
  return { status: response.statusCode, headers: response.headers, text };
}

async function isFree(host, port) {
  const listener = createServer().listen(port, host);
  return new Promise((done) => {
    listener.once("error", () => done(false));
    listener.once("listening", () => listener.close(() => done(true)));
  });
}

/** Ports below those that the kernel gives to clients, free on every one of these addresses. */
async function freePorts(hosts, count) {
  const found = [];
  for (let port = 20_000 + (process.pid % 1000) * 10; found.length < count; port++) {
    const free = await Promise.all(hosts.map((host) => isFree(host, port)));
    if (free.every(Boolean)) found.push(port);
  }
  return found;
}

async function directory(t) {
  const path = await mkdtemp(join(tmpdir(), "duet-deploy-"));
  // A server that is started by root gives its rights away.
  await chmod(path, 0o777);
  t.after(() => rm(path, { recursive: true, force: true }));
  return path;
}

/** One node, which may be ended and started again. */
class Node {
  constructor(t, host, ports, settings) {
    Object.assign(this, { t, host, ports, settings });
  }

  start() {
    this.process = start(this.t, BINARY, [], {
      DUET_SERVER__LISTEN: `${this.host}:${this.ports.public}`,
      DUET_ADMIN__LISTEN: `${this.host}:${this.ports.admin}`,
      DUET_LOG__LEVEL: "info",
      DUET_LOG__FORMAT: "text",
      ...this.settings,
    });
  }

  async isReady() {
    assert.ok(runs(this.process), `the node did not start: ${this.process.said}`);
    return (await get(this.host, this.ports.admin, "/readyz").catch(() => ({}))).status === 200;
  }

  /** The value of a metric, of all its series that have `labels` in their names. */
  async metric(name, labels = "") {
    const { text } = await get(this.host, this.ports.admin, "/metrics");
    const lines = text.split("\n").filter((line) => line.startsWith(`${name} `) || line.startsWith(`${name}{`));
    assert.notEqual(lines.length, 0, `no metric ${name}`);
    return lines
      .filter((line) => line.includes(labels))
      .reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" ") + 1)), 0);
  }

  /** Ends it as an orchestrator does, and tells how long that took, in ms. */
  async terminate() {
    const since = performance.now();
    const status = await stop(this.process, "SIGTERM");
    assert.equal(status, 0, this.process.said);
    return performance.now() - since;
  }

  async kill() {
    await stop(this.process, "SIGKILL");
  }
}

/** A name server that knows one thing: the addresses of the nodes (RFC 1035). */
async function nameServer(t, addresses) {
  const socket = createSocket("udp4");
  socket.on("message", (query, from) => {
    const end = query.indexOf(0, 12) + 5;
    const asksForA = query.readUInt16BE(end - 4) === 1;
    const records = (asksForA ? addresses() : []).map((address) =>
      Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, ...address.split(".").map(Number)]),
    );
    const head = Buffer.from(query.subarray(0, 12));
    head.writeUInt16BE(0x8180, 2);
    head.writeUInt16BE(records.length, 6);
    head.writeUInt32BE(0, 8);
    socket.send(Buffer.concat([head, query.subarray(12, end), ...records]), from.port, from.address);
  });
  socket.bind(0, "127.0.0.1");
  await once(socket, "listening");
  socket.unref();
  t.after(() => socket.close());
  return `127.0.0.1:${socket.address().port}`;
}

/** `count` nodes that share a Redis, ready. */
export async function cluster(t, { count = 3, settings = {} } = {}) {
  const net = 10 + (process.pid % 200);
  const hosts = Array.from({ length: count }, (_, n) => `127.0.${net}.${n + 2}`);
  const [redisPort, publicPort, adminPort] = await freePorts(["127.0.0.1", ...hosts], 3);
  const redis = start(t, "redis-server", [
    ...["--bind", "127.0.0.1", "--port", String(redisPort), "--save", "", "--appendonly", "no"],
    ...["--dir", await directory(t)],
  ]);
  await until("Redis answers", () => {
    assert.ok(runs(redis), redis.said);
    return redis.said.includes("Ready to accept connections");
  });
  const nodes = hosts.map(
    (host) =>
      new Node(t, host, { public: publicPort, admin: adminPort }, {
        DUET_CONFIG: join(ROOT, "config/cluster.toml"),
        DUET_REDIS__URL: `redis://127.0.0.1:${redisPort}`,
        // A short lease: on an empty Redis, nodes wait for one before they seat anybody.
        DUET_CLUSTER__LEASE: "3s",
        DUET_CLUSTER__RENEW: "500ms",
        // All clients of a test come from one address, through balancers that say so.
        DUET_SERVER__TRUSTED_PROXIES: "127.0.0.0/8",
        DUET_LIMITS__HANDSHAKES: "0",
        DUET_LIMITS__JOINS: "0",
        ...settings,
      }),
  );
  for (const node of nodes) node.start();
  await until("every node is ready", async () => (await Promise.all(nodes.map((node) => node.isReady()))).every(Boolean));
  return { redis, nodes, publicPort, adminPort };
}

/** HAProxy in front of the nodes, as deploy/balancer/haproxy.cfg has it. */
export async function haproxy(t, { nodes, publicPort, adminPort }) {
  const dns = await nameServer(t, () => nodes.map(({ host }) => host));
  const [port, stats] = await freePorts(["127.0.0.1"], 2);
  const process = start(t, "haproxy", ["-f", join(ROOT, "deploy/balancer/haproxy.cfg")], {
    DUET_BIND: `127.0.0.1:${port}`,
    DUET_STATS: `127.0.0.1:${stats}`,
    DUET_NODES: `duet-nodes:${publicPort}`,
    DUET_ADMIN_PORT: String(adminPort),
    DUET_DNS: dns,
    DUET_MAXCONN: "4000",
  });
  const balancer = {
    url: `http://127.0.0.1:${port}`,
    port,
    stats,
    process,
    /** The nodes that get new sessions, by address. */
    async up() {
      const { text } = await get("127.0.0.1", stats, "/;csv");
      const [names, ...lines] = text.replace("# ", "").trim().split("\n").map((line) => line.split(","));
      const column = (line, name) => line[names.indexOf(name)];
      return lines
        .filter((line) => column(line, "pxname") === "nodes" && /^node\d/.test(column(line, "svname")))
        .filter((line) => column(line, "status").startsWith("UP"))
        .map((line) => column(line, "addr").split(":")[0]);
    },
  };
  await until("the balancer sees every node", async () => {
    assert.ok(runs(process), `haproxy: ${process.said}`);
    return (await balancer.up().catch(() => [])).length === nodes.length;
  });
  return balancer;
}

/** nginx in front of the nodes, as deploy/balancer/nginx.conf has it, but for addresses. */
export async function nginx(t, { nodes, publicPort }) {
  const [port] = await freePorts(["127.0.0.1"], 1);
  const at = await directory(t);
  let text = await readFile(join(ROOT, "deploy/balancer/nginx.conf"), "utf8");
  const replace = (from, to) => {
    assert.ok(text.includes(from), `nginx.conf has no ${from}`);
    text = text.replaceAll(from, to);
  };
  nodes.forEach(({ host }, n) => replace(`server node${n + 1}:8080`, `server ${host}:${publicPort}`));
  replace("listen 8080", `listen 127.0.0.1:${port}`);
  replace("/tmp/nginx", join(at, "nginx"));
  await writeFile(join(at, "nginx.conf"), text);
  const process = start(t, "nginx", ["-c", join(at, "nginx.conf"), "-e", "stderr", "-g", "daemon off;"]);
  await until("nginx answers", async () => {
    assert.ok(runs(process), `nginx: ${process.said}`);
    return (await get("127.0.0.1", port, "/").catch(() => ({}))).status === 200;
  });
  return { url: `http://127.0.0.1:${port}`, port, process };
}
