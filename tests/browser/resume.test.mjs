/**
 * A call is not lost: not by a reload, a closed lid, another network, a node that was killed; and whoever has no part in it
 * waits. Nobody clicks anything for it. Needs servers of its own (DUET_BIN). Prints how long each took.
 */

import assert from "node:assert/strict";
import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join as pathJoin } from "node:path";
import { after, test } from "node:test";
import { setTimeout as pass } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { startLine } from "../clients/support/line.mjs";
import {
  PHONE,
  SERVER_GONE,
  call as callIn,
  fitsItsScreen,
  hears,
  joinRoom,
  keep,
  person as personIn,
  readable,
  received,
  sees,
  startBrowser,
  startBrowserWithLid,
  startCoturn,
  startRedis,
  startServer,
  status,
  until,
} from "./support.mjs";

const skip = process.env.DUET_BIN ? false : "DUET_BIN is not set";
const browser = skip ? null : await startBrowser({ after });

const ROOT = fileURLToPath(new URL("../../", import.meta.url));

// Every server here ends with its test, and before the pages do.
const tolerate = SERVER_GONE;
const person = (t, ofBrowser = browser) => personIn(t, ofBrowser, { tolerate });
const call = (t, url, room) => callIn(t, browser, url, room, { tolerate });

const connections = (...pages) => Promise.all(pages.map((page) => page.evaluate(() => window.connections.length)));

/** Both see and hear each other; tells how long ago `since` was. */
async function whole(t, what, since, ...pages) {
  await Promise.all(pages.map(sees));
  t.diagnostic(`${what}: seen on both sides after ${Math.round(performance.now() - since)} ms`);
  await Promise.all(pages.map(hears));
}

/** Pictures of this moment, on a desk and on a telephone, which have to fit and be readable. */
async function look(page, name) {
  const desk = page.viewportSize();
  for (const [size, viewport] of [["desk", desk], ["phone", PHONE]]) {
    await page.setViewportSize(viewport);
    await fitsItsScreen(page);
    await readable(page);
    await keep(page, `${name}-${size}-light`);
  }
  await page.setViewportSize(desk);
}

/** Keeps all that the chip says. */
function listen(page) {
  return page.evaluate(() => {
    window.chips = [];
    const chip = document.getElementById("chip-text");
    new MutationObserver(() => window.chips.push(chip.textContent)).observe(chip, { childList: true, characterData: true, subtree: true });
  });
}

test("a reload: the seat is kept for who had it, whoever waits, and the call is back", { skip }, async (t) => {
  const { url } = await startServer(t);
  const { first, second } = await call(t, url, "reload");
  const third = await person(t);
  await joinRoom(third, url, "reload");
  await status(third, "The room is full");
  await third.click('#card-actions [data-action="wait"]');
  await status(third, "Waiting for a seat");
  await listen(first);
  for (const page of [second, first, second]) {
    const since = performance.now();
    await page.reload();
    await whole(t, "reloaded", since, first, second);
  }
  assert.equal(await third.textContent("#chip-text"), "Waiting for a seat");
  // It is a fresh connection, as the reloaded page had none to go on with.
  assert.deepEqual(await connections(first, second), [2, 1]);
});

test("both reload at once", { skip }, async (t) => {
  const { url } = await startServer(t);
  const { first, second } = await call(t, url, "reload-both");
  const since = performance.now();
  await Promise.all([first.reload(), second.reload()]);
  await whole(t, "both reloaded", since, first, second);
});

test("a page that stays away is waited for, with its last picture", { skip }, async (t) => {
  const { url } = await startServer(t, { DUET_SEATS__GRACE: "10s" });
  const { first, second } = await call(t, url, "returning");
  const since = performance.now();
  await second.goto("about:blank");
  await status(first, "The other person is coming back");
  t.diagnostic(`told after ${Math.round(performance.now() - since)} ms`);
  assert.equal(await first.isVisible("#remote-video"), true);
  assert.equal(await first.textContent("#card-title"), "The other person is coming back…");
  await look(first, "returning");
  await second.goto(`${url}/returning`);
  await whole(t, "came back", since, first, second);
});

test("a lid closed for 8 s: the same connection goes on", { skip }, async (t) => {
  const { url } = await startServer(t, { DUET_TIMEOUTS__PING_INTERVAL: "2s", DUET_TIMEOUTS__PING_TIMEOUT: "2s" });
  const laptop = await startBrowserWithLid(t);
  const first = await person(t);
  await joinRoom(first, url, "lid");
  await status(first, "Waiting for the other person");
  const second = await person(t, laptop.browser);
  await joinRoom(second, url, "lid");
  await Promise.all([sees(first), sees(second)]);

  const closed = performance.now();
  await laptop.close();
  await status(first, "The other person is coming back");
  t.diagnostic(`told after ${Math.round(performance.now() - closed)} ms`);
  await pass(Math.max(0, 8000 - (performance.now() - closed)));
  await laptop.open();
  await whole(t, "opened", performance.now(), first, second);
  assert.deepEqual(await connections(first, second), [1, 1]);
});

test("a network that holds everything back for 8 s, unnoticed by the server: media goes on", { skip }, async (t) => {
  const server = await startServer(t);
  const line = await startLine(t, server.port);
  const first = await person(t);
  await joinRoom(first, server.url, "held");
  await status(first, "Waiting for the other person");
  const second = await person(t);
  await joinRoom(second, line.url, "held");
  await Promise.all([sees(first), sees(second)]);
  line.hold();
  const before = await received(first, "video", "framesDecoded");
  await pass(8000);
  assert.ok((await received(first, "video", "framesDecoded")) > before + 20, "media stopped");
  // What was held stays dead, as on another network; the page learns of it by asking.
  line.mendForNew();
  const since = performance.now();
  await listen(second);
  await second.evaluate(() => window.dispatchEvent(new Event("online")));
  await until("the seat was taken back", () => second.evaluate(() => window.chips.length > 0 && window.chips.at(-1) === "Connected"));
  await whole(t, "online again", since, first, second);
  assert.deepEqual(await connections(first, second), [1, 1]);
});

test("another network: every connection drops, media too; ICE starts anew on the same call", { skip }, async (t) => {
  const secret = "north-of-the-river";
  const coturn = await startCoturn(t, secret);
  // Media goes by TCP through the same line, so that it breaks with it, and comes back on new candidates only.
  const relay = await startLine(t, Number(coturn.url.split(":").at(-1)));
  const server = await startServer(t, { DUET_ICE__TURN: `turn:127.0.0.1:${relay.port}?transport=tcp`, DUET_ICE__SECRET: secret });
  const line = await startLine(t, server.port);
  const { first, second } = await call(t, line.url, "switch?relay");
  for (const lines of [[line, relay], [relay]]) {
    await Promise.all([listen(first), listen(second)]);
    const since = performance.now();
    for (const one of lines) one.cut();
    await until("the break is told of", () => first.evaluate(() => window.chips.length > 0));
    const what = lines.length === 2 ? "signaling and media cut" : "media cut";
    await until("it is over", async () => {
      const now = await Promise.all([first, second].map((page) => page.textContent("#chip-text")));
      return now.every((text) => text === "Connected");
    });
    await whole(t, what, since, first, second);
    t.diagnostic(`${what}: ${JSON.stringify(await first.evaluate(() => window.chips))}`);
  }
  assert.deepEqual(await connections(first, second), [1, 1]);
});

for (const [what, apart] of [["that both are on", false], ["that one of them is on", true]]) {
  test(`a node ${what} is killed: the picture never stops, and the call is one again`, { skip }, async (t) => {
    const redis = await startRedis(t);
    const nodes = [await startServer(t, { DUET_REDIS__URL: redis }), await startServer(t, { DUET_REDIS__URL: redis })];
    const line = await startLine(t, nodes[0].port, nodes[1].port);
    const first = await person(t);
    await joinRoom(first, line.url, "killed");
    await status(first, "Waiting for the other person");
    const second = await person(t);
    await joinRoom(second, apart ? nodes[1].url : line.url, "killed");
    await Promise.all([sees(first), sees(second)]);
    await listen(first);

    const since = performance.now();
    await nodes[0].stop("SIGKILL");
    await until("the seat was taken back", () => first.evaluate(() => window.chips.length > 0 && window.chips.at(-1) === "Connected"));
    await whole(t, "node killed", since, first, second);
    assert.deepEqual(await connections(first, second), [1, 1]);

    // What goes through the server reaches the other again, and a page loaded again finds its seat.
    await first.evaluate(() => window.connections[0].restartIce());
    await Promise.all([sees(first), sees(second)]);
    const reloaded = performance.now();
    await first.reload();
    await whole(t, "then reloaded", reloaded, first, second);
  });
}

test("a duplicated tab has the call, and the first can have it back", { skip }, async (t) => {
  const { url } = await startServer(t);
  const { first, second } = await call(t, url, "twin");
  const track = await second.evaluateHandle(() => document.getElementById("self-video").srcObject.getVideoTracks()[0]);
  const since = performance.now();
  // Opened by the page, it begins with a copy of its storage, as a duplicate does.
  const [twin] = await Promise.all([second.waitForEvent("popup"), second.evaluate(() => void window.open(location.href))]);
  await until("the first tab is told", async () => (await second.textContent("#word-title")) === "The call goes on in another tab");
  await whole(t, "duplicated", since, first, twin);
  assert.equal(await track.evaluate(({ readyState }) => readyState), "ended", "the camera's light is still on");
  await look(second, "superseded");
  // It does not come back by itself, not even loaded again.
  await second.reload();
  await until("it asks first", () => second.isVisible("#lobby-join"));
  await Promise.all([sees(first), sees(twin)]);

  await second.click("#lobby-join");
  await until("the copy is told", async () => (await twin.textContent("#word-title")) === "The call goes on in another tab");
  await Promise.all([sees(first), sees(second)]);
  const back = performance.now();
  await twin.click('[data-action="takeBack"]');
  await whole(t, "taken back", back, first, twin);
});

test("a full room is waited for, and entered without a hand being moved", { skip }, async (t) => {
  const { url } = await startServer(t);
  const { first, second } = await call(t, url, "wait");
  const third = await person(t);
  await joinRoom(third, url, "wait");
  await status(third, "The room is full");
  await look(third, "full");
  await third.click('#card-actions [data-action="wait"]');
  await status(third, "Waiting for a seat");
  assert.equal(await third.textContent("#card-title"), "Waiting for a seat…");
  await look(third, "queued");
  const since = performance.now();
  await second.click("#control-hang-up");
  await whole(t, "let in", since, first, third);
  // The seat that was waited for is as good as any.
  const reloaded = performance.now();
  await third.reload();
  await whole(t, "then reloaded", reloaded, first, third);
});

test("hanging up gives the seat to the next at once", { skip }, async (t) => {
  const { url } = await startServer(t);
  const { first, second } = await call(t, url, "leave");
  await second.click("#control-hang-up");
  await status(first, "The other person left");
  const third = await person(t);
  await joinRoom(third, url, "leave");
  await Promise.all([sees(first), sees(third)]);
  assert.equal(await second.evaluate(() => Object.keys(sessionStorage).filter((key) => key.includes("seat")).length), 0);
});

test("the document's own page has a connection, and another after a reload", { skip }, async (t) => {
  const home = await mkdtemp(pathJoin(tmpdir(), "duet-example-"));
  t.after(() => rm(home, { recursive: true, force: true }));
  const [, example] = /```js\n(.*?)```/s.exec(await readFile(pathJoin(ROOT, "docs/CLIENT.md"), "utf8"));
  await mkdir(pathJoin(home, "js"));
  await cp(pathJoin(ROOT, "public/js/duet.js"), pathJoin(home, "js/duet.js"));
  await writeFile(pathJoin(home, "js/example.js"), example);
  await writeFile(
    pathJoin(home, "index.html"),
    '<!doctype html><title>.</title><link rel="icon" href="data:,"><script type="module" src="/js/example.js"></script>',
  );
  const { url } = await startServer(t, { DUET_PAGE__DIRECTORY: home });
  const first = await person(t);
  await first.goto(url);
  const second = await person(t);
  await second.goto(url);
  const connected = (page) => until("they are connected", () => page.evaluate(() => window.connections.at(-1)?.connectionState === "connected"));
  await Promise.all([first, second].map(connected));
  for (const page of [first, second]) {
    const before = await Promise.all([first, second].map((one) => one.evaluate(() => window.connections.length)));
    await page.reload();
    await until("the other has a fresh one", async () => {
      const other = page === first ? second : first;
      return (await other.evaluate(() => window.connections.length)) > before[page === first ? 1 : 0];
    });
    await Promise.all([first, second].map(connected));
  }
});
