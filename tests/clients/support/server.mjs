/**
 * The server under test. Owns starting and ending it; every test file runs its own, on free loopback ports.
 */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { request } from "node:http";
import { createServer } from "node:net";
import { fileURLToPath } from "node:url";

import { until } from "./waiting.mjs";

const BINARY = process.env.DUET_BIN ?? fileURLToPath(new URL("../../../target/release/duet", import.meta.url));

/** Starts a server that ends with the test or suite `t`; `settings` are further environment variables. */
export async function startServer(t, settings = {}) {
  const [port, adminPort] = await Promise.all([freePort(), freePort()]);
  // The server refuses settings it does not know, and this one is meant for the tests.
  const { DUET_BIN, ...environment } = process.env;
  const child = spawn(BINARY, [], {
    env: {
      ...environment,
      DUET_SERVER__LISTEN: `127.0.0.1:${port}`,
      DUET_ADMIN__LISTEN: `127.0.0.1:${adminPort}`,
      DUET_LOG__LEVEL: "warn",
      // Many a test says more at once than a client should.
      DUET_LIMITS__EVENTS: "0",
      ...settings,
    },
    stdio: ["ignore", "ignore", "pipe"],
  });
  let said = "";
  child.stderr.on("data", (chunk) => (said += chunk));
  const ended = once(child, "exit");
  // A run that is broken off leaves no server behind.
  for (const [signal, number] of [["SIGTERM", 15], ["SIGINT", 2]]) {
    process.once(signal, () => {
      child.kill("SIGKILL");
      process.exit(128 + number);
    });
  }
  process.once("exit", () => child.kill("SIGKILL"));

  const server = {
    url: `http://127.0.0.1:${port}`,
    port,
    pid: child.pid,

    /** The value of a metric, of all its labels together. */
    async metric(name) {
      const { text } = await get(adminPort, "/metrics");
      const values = text.split("\n").filter((line) => line.startsWith(`${name} `) || line.startsWith(`${name}{`));
      assert.notEqual(values.length, 0, `no metric ${name}`);
      return values.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" ") + 1)), 0);
    },

    signal(name) {
      child.kill(name);
    },

    /** The exit status, once it has ended. */
    ended,
  };

  t.after(async () => {
    if (child.exitCode === null && child.signalCode === null) {
      const panics = await server.metric("duet_panics_total");
      child.kill("SIGKILL");
      await ended;
      assert.equal(panics, 0, `the server panicked: ${said}`);
    }
    assert.ok(!said.includes("panicked"), said);
  });

  await until("the server is ready, or ended", async () => {
    assert.ok(child.exitCode === null && child.signalCode === null, `the server did not start: ${said}`);
    return (await get(adminPort, "/readyz").catch(() => ({}))).status === 200;
  });
  return server;
}

async function freePort() {
  const listener = createServer().listen(0, "127.0.0.1");
  await once(listener, "listening");
  const { port } = listener.address();
  listener.close();
  await once(listener, "close");
  return port;
}

// Not `fetch`: its kept-alive connections would outlive a test's server.
async function get(port, path) {
  const sent = request({ host: "127.0.0.1", port, path, agent: false }).end();
  const [response] = await once(sent, "response");
  response.setEncoding("utf8");
  let text = "";
  for await (const chunk of response) text += chunk;
  return { status: response.statusCode, text };
}
