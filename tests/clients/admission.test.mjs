/** Tokens, brought by every version over every transport; made, and the webhook's questions checked, by the document's own code. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { after, test } from "node:test";

import { KINDS, Peer, connect, isOld, kindName, refusal, seat } from "./support/peer.mjs";
import { RawSocket, frame, opening } from "./support/raw.mjs";
import { startServer } from "./support/server.mjs";
import { within } from "./support/waiting.mjs";

const SECRET = "a secret of at least thirty-two bytes";
const HOOK_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const DOCUMENT = readFileSync(new URL("../../docs/ADMISSION.md", import.meta.url), "utf8");

/** The code blocks of the document in that language, those alone that hold `word`. */
function code(language, word) {
  const blocks = [...DOCUMENT.matchAll(/```(\w+)\n(.*?)```/gs)].filter(([, of, text]) => of === language && text.includes(word));
  assert.equal(blocks.length, 1, `${language}: ${word}`);
  return blocks[0][2];
}

/** What the document's code exports, without the lines that only show it. */
async function documented(name) {
  const text = code("js", `function ${name}(`).replace(/^console\.log.*$/gm, "");
  return (await import(`data:text/javascript,${encodeURIComponent(`${text}\nexport { ${name} };`)}`))[name];
}

const token = await documented("token");
const isGenuine = await documented("isGenuine");

const server = await startServer({ after }, { DUET_ADMISSION__JWT_SECRET: SECRET });

/** How a version brings a token. */
function bringing(version, token) {
  return isOld(version) ? { query: { token } } : { auth: { token } };
}

for (const kind of KINDS) {
  test(`${kindName(kind)}: with a token that holds there is a call, with another a code`, async (t) => {
    const room = `call of ${kindName(kind)}`;
    const good = bringing(kind.version, token(SECRET, "alice", [room]));
    await seat(await connect(t, server.url, kind, good), await connect(t, server.url, kind, good), room);

    for (const [bad, expected] of [
      [token(SECRET, "alice", [room], -3600), "token_expired"],
      [token(`${SECRET}!`, "mallory", [room]), "unauthorized"],
    ]) {
      const peer = new Peer(server.url, kind, bringing(kind.version, bad));
      t.after(() => peer.socket.disconnect());
      const { message, data } = await refusal(peer);
      assert.deepEqual(data, { code: expected, retryable: false });
      assert.match(message, /^the token/);
    }
  });
}

test("who is refused is told so and not heard, and may bring another token", async (t) => {
  const rooms = ["hasty"];
  const connecting = (secret) => frame(`40${JSON.stringify({ token: token(secret, "alice", rooms) })}`);
  const join = frame(`42["create or join","hasty"]`);
  const told = (raw) => raw.texts.filter((text) => /^4(?!2\["log")/.test(text)).join(" ");

  const refused = new RawSocket(t, server);
  refused.write(opening(server, 4), connecting(`${SECRET}!`), join);
  await within("the end", refused.closed);
  assert.match(told(refused), /^44{.*"code":"unauthorized",[^{]*$/);

  const persistent = new RawSocket(t, server);
  persistent.write(opening(server, 4), connecting(`${SECRET}!`));
  await persistent.textsThat("the refusal", (texts) => texts.some((text) => text.startsWith("44")));
  persistent.write(connecting(SECRET), join);
  await persistent.textsThat("the room", (texts) => texts.some((text) => text.includes('"created"')));
  assert.match(told(persistent), /^44{.*"code":"unauthorized",[^ ]* 40{[^ ]* 42\["created","hasty",[^ ]*$/);
});

test("a token made by the document's Python is as good as one made by its JavaScript", async (t) => {
  const made = execFileSync("python3", ["-c", code("python", "def token(")], {
    env: { ...process.env, DUET_ADMISSION__JWT_SECRET: SECRET },
    encoding: "utf8",
  }).trim();
  const peer = await connect(t, server.url, { version: "4.8", transport: "websocket" }, { auth: { token: made } });
  assert.equal((await peer.ask("create or join", "team-1")).ok, true);
  assert.equal((await peer.ask("create or join", "bar")).code, "forbidden");
});

test("the webhook's questions are genuine by the document's own check, and by no other secret", async (t) => {
  const asked = [];
  const hook = createServer(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    asked.push({ headers: request.headers, body: Buffer.concat(chunks) });
    response.end(JSON.stringify({ allow: false, reason: "this call begins at noon" }));
  }).listen(0, "127.0.0.1");
  await once(hook, "listening");
  t.after(() => hook.close() && hook.closeAllConnections());
  const { url } = await startServer(t, {
    DUET_ADMISSION__WEBHOOK_URL: `http://127.0.0.1:${hook.address().port}/join`,
    DUET_ADMISSION__WEBHOOK_SECRET: HOOK_SECRET,
  });
  const peer = await connect(t, url, { version: "4.8", transport: "websocket" });
  const { code, message } = await peer.ask("create or join", "foo");
  assert.deepEqual([code, message], ["forbidden", "this call begins at noon"]);
  const [{ headers, body }] = asked;
  assert.equal(isGenuine(headers, body, HOOK_SECRET), true);
  assert.equal(isGenuine(headers, Buffer.concat([body, Buffer.from(" ")]), HOOK_SECRET), false);
  assert.equal(isGenuine({ ...headers, "webhook-timestamp": "1600000000" }, body, HOOK_SECRET), false);
  assert.equal(isGenuine(headers, body, HOOK_SECRET.replace("M", "N")), false);
  assert.equal(JSON.parse(body).room, "foo");
});
