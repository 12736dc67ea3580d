/** Connections: namespaces that are not there, clients that come back, files and origins. */

import assert from "node:assert/strict";
import { after, describe, test } from "node:test";

import { KINDS, VERSIONS, connect, isOld, kindName, library } from "./support/peer.mjs";
import { http } from "./support/raw.mjs";
import { startServer } from "./support/server.mjs";
import { until, within } from "./support/waiting.mjs";

const server = await startServer({ after });

describe("a namespace that is not there", () => {
  for (const kind of KINDS) {
    test(`${kindName(kind)}: a connect error and no more`, async (t) => {
      const peer = await connect(t, server.url, kind);
      const other = peer.socket.io.socket("/admin");
      let connected = false;
      other.on("connect", () => (connected = true));
      other.emit("create or join", t.name);
      const error = await within(
        "the connect error",
        new Promise((resolve) => other.once(isOld(kind.version) ? "error" : "connect_error", resolve)),
      );
      assert.match(String(error?.message ?? error), /invalid namespace/i);
      // The namespace that is there goes on, and nothing said to the other one counts.
      assert.equal((await peer.join(t.name)).outcome, "created");
      assert.equal(connected, false);
      assert.deepEqual(peer.story, []);
    });
  }
});

describe("a client that comes back", () => {
  for (const kind of KINDS) {
    test(`${kindName(kind)}: its old seat is free when it joins again`, async (t) => {
      const peer = await connect(t, server.url, kind, { reconnection: true, reconnectionDelay: 1, randomizationFactor: 0 });
      const other = await connect(t, server.url, { version: "4.8", transport: "websocket" });
      await other.join(t.name);
      for (let round = 0; round < 3; round += 1) {
        assert.equal((await peer.join(t.name)).outcome, "joined");
        assert.deepEqual(await peer.next("ready"), [t.name]);
        const { id } = peer;
        assert.deepEqual([await other.next("join"), await other.next("ready")], [[t.name], [t.name]]);
        const back = new Promise((resolve) => peer.socket.once("connect", resolve));
        peer.socket.io.engine.close();
        await within("it is back", back);
        assert.notEqual(peer.id, id);
        // A connection that is closed may end a moment after the next one began.
        await until("the seat is free", async () => {
          const answer = await peer.ask("create or join", t.name);
          if (!answer.ok) assert.deepEqual(await peer.next("full"), [t.name]);
          return answer.ok;
        });
        assert.deepEqual(await other.next("bye"), [t.name, { id, reason: "disconnected" }]);
        assert.deepEqual([await other.next("join"), await other.next("ready")], [[t.name], [t.name]]);
        assert.deepEqual(await peer.next("joined"), [t.name, peer.id]);
        assert.deepEqual(await peer.next("ready"), [t.name]);
        assert.deepEqual(await peer.ask("bye"), { ok: true });
        assert.deepEqual(await other.next("bye"), [t.name, { id: peer.id, reason: "left" }]);
      }
    });
  }
});

describe("the client library", () => {
  const kinds = {
    "socket.io.js": /^application\/javascript/,
    "socket.io.min.js": /^application\/javascript/,
    "socket.io.esm.min.js": /^application\/javascript/,
    "socket.io.js.map": /^application\/json/,
    "socket.io.min.js.map": /^application\/json/,
    "socket.io.esm.min.js.map": /^application\/json/,
  };
  for (const [name, kind] of Object.entries(kinds)) {
    test(`/socket.io/${name} is served, and only once to a browser that keeps it`, async () => {
      const { status, headers, text } = await http(server, `/socket.io/${name}`);
      assert.equal(status, 200);
      assert.match(headers["content-type"], kind);
      assert.equal(headers["access-control-allow-origin"], "*");
      assert.ok(headers.etag);
      if (name.endsWith(".map")) {
        assert.equal(JSON.parse(text).version, 3);
      } else {
        assert.ok(text.includes(`//# sourceMappingURL=${name}.map`));
        assert.match(text, /Socket\.IO v4\./);
      }
      const again = await http(server, `/socket.io/${name}`, { headers: { "if-none-match": headers.etag } });
      assert.deepEqual([again.status, again.text], [304, ""]);
    });
  }

  test("the served library gives a page the function that the lesson calls", async () => {
    const { text } = await http(server, "/socket.io/socket.io.js");
    const page = {};
    // Without `module` and `define`, as a script tag loads it.
    new Function("globalThis", "self", "module", "define", text).call(page, page, page);
    assert.equal(typeof page.io, "function");
    assert.equal(typeof page.io.connect, "function");
  });

  test("other files there are not found", async () => {
    for (const name of ["socket.io.msgpack.min.js", "x", "..%2f..%2fetc%2fpasswd", "socket.io.js%00"]) {
      assert.equal((await http(server, `/socket.io/${name}`)).status, 404, name);
    }
  });
});

describe("a page of another origin", () => {
  const origin = "http://elsewhere.example:3000";

  for (const eio of [3, 4]) {
    test(`Engine.IO ${eio}: may poll, with credentials as old clients send them`, async () => {
      const path = `/socket.io/?EIO=${eio}&transport=polling`;
      const opened = await http(server, path, { headers: { origin, cookie: "a=b" } });
      assert.equal(opened.status, 200);
      assertAllowed(opened, origin);
      const session = `${path}&sid=${/"sid":"([^"]+)"/.exec(opened.text)[1]}`;
      const asked = await http(server, session, {
        method: "OPTIONS",
        headers: { origin, "access-control-request-method": "POST", "access-control-request-headers": "content-type" },
      });
      assert.ok(asked.status === 200 || asked.status === 204);
      assertAllowed(asked, origin);
      assert.match(asked.headers["access-control-allow-methods"], /POST/);
      assert.match(asked.headers["access-control-allow-headers"], /content-type/i);
      const body = eio === 4 ? "40" : "1:2";
      const posted = await http(server, session, { method: "POST", body, headers: { origin, "content-type": "text/plain;charset=UTF-8" } });
      assert.deepEqual([posted.status, posted.text], [200, "ok"]);
      assertAllowed(posted, origin);
      const polled = await http(server, session, { headers: { origin } });
      assert.equal(polled.status, 200);
      assertAllowed(polled, origin);
    });
  }

  function assertAllowed({ headers }, asked) {
    assert.equal(headers["access-control-allow-origin"], asked);
    assert.equal(headers["access-control-allow-credentials"], "true");
    assert.match(headers.vary, /origin/i);
  }

  for (const kind of KINDS.filter(({ version }) => !isOld(version))) {
    test(`${kindName(kind)}: connects with an Origin header`, async (t) => {
      const peer = await connect(t, server.url, kind, { extraHeaders: { Origin: origin }, withCredentials: true });
      assert.equal((await peer.join(t.name)).outcome, "created");
    });
  }

  for (const version of VERSIONS.filter(isOld)) {
    test(`${version} connects by a bare io() to the address of the page`, async (t) => {
      // What `io()` makes of the page's address in a browser.
      globalThis.location = { protocol: "http:", hostname: "127.0.0.1", host: `127.0.0.1:${server.port}`, port: server.port };
      t.after(() => delete globalThis.location);
      const socket = library(version).connect({ forceNew: true, reconnection: false });
      t.after(() => socket.disconnect());
      await within("connecting", new Promise((resolve) => socket.once("connect", resolve)));
    });
  }
});
