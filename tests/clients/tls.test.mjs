/** Every version over every transport, over TLS: a call's signaling from the first join to the last bye. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";

import { KINDS, Peer, connect, kindName, refusal, seat } from "./support/peer.mjs";
import { startServer } from "./support/server.mjs";

const directory = mkdtempSync(join(tmpdir(), "duet-tls-"));
after(() => rmSync(directory, { recursive: true }));
const [certificate, key] = ["server.crt", "server.key"].map((name) => join(directory, name));
execFileSync("openssl", [
  ..."req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost".split(" "),
  ...["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
], { stdio: "ignore" });
const secure = { DUET_TLS__CERT_FILE: certificate, DUET_TLS__KEY_FILE: key };
const secret = { DUET_ADMISSION__JWT_SECRET: "a secret of at least thirty-two bytes" };
const [url, guarded] = (await Promise.all([secure, { ...secure, ...secret }].map((settings) => startServer({ after }, settings))))
  .map(({ port }) => `https://127.0.0.1:${port}`);

// The certificate is of the test's own making; what is tried here is the transport.
const options = { rejectUnauthorized: false };

for (const kind of KINDS) {
  test(`${kindName(kind)}: a call over TLS`, async (t) => {
    const room = `secure call of ${kindName(kind)}`;
    const [first, second] = await Promise.all([1, 2].map(() => connect(t, url, kind, options)));
    assert.equal(first.carrier, kind.transport === "polling" ? "polling" : "websocket");
    await seat(first, second, room);
    const large = "x".repeat(100_000);
    assert.deepEqual(await first.ask("message", { large }), { ok: true });
    assert.deepEqual(await second.next("message"), [{ large }]);
    for (let n = 0; n < 20; n += 1) second.emit("message", n);
    for (let n = 0; n < 20; n += 1) assert.deepEqual(await first.next("message"), [n]);
    assert.deepEqual(await first.ask("bye", room), { ok: true });
    assert.deepEqual(await second.next("bye"), [room, { id: first.id, reason: "left" }]);
  });
}

for (const kind of KINDS) {
  test(`${kindName(kind)}: who is refused over TLS hears the code`, async (t) => {
    const peer = new Peer(guarded, kind, options);
    t.after(() => peer.socket.disconnect());
    assert.equal((await refusal(peer)).data.code, "unauthorized");
  });
}
