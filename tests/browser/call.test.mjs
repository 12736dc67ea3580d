/** The call itself: seeing, hearing, leaving, coming back, and what each side is told of the other. */

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { SERVER_GONE, call, hears, joinRoom, keep, person, received, sees, startBrowser, startServer, status, until } from "./support.mjs";

const { url } = await startServer({ after });
const browser = await startBrowser({ after }, { flags: ["--auto-select-desktop-capture-source=Entire screen"] });

const visible = (page, selector) => until(`${selector} is in sight`, () => page.isVisible(selector));
const hidden = (page, selector) => until(`${selector} is out of sight`, async () => !(await page.isVisible(selector)));

test("two people see and hear each other, and neither hears themselves", async (t) => {
  const { first, second } = await call(t, browser, url, "two-people");
  await Promise.all([hears(first), hears(second)]);
  for (const page of [first, second]) {
    assert.equal(await page.textContent("#people-text"), "You and one other person");
    assert.equal(await page.evaluate(() => document.getElementById("self-video").muted), true);
    assert.equal(await page.evaluate(() => document.getElementById("remote-video").muted), false);
    // One connection a side: nobody had to start over.
    assert.equal(await page.evaluate(() => window.connections.length), 1);
  }
  await keep(first, "call-desk-light");
});

test("reloading either tab brings the call back by itself", async (t) => {
  const { first, second } = await call(t, browser, url, "reload");
  await first.reload();
  await Promise.all([sees(first), sees(second)]);
  await second.reload();
  await Promise.all([sees(first), sees(second)]);
});

test("a muted microphone stays muted over a reload, and the other knows", async (t) => {
  const { first, second } = await call(t, browser, url, "reload-muted");
  await first.click("#control-mic");
  await visible(second, "#remote-muted");
  await first.reload();
  await sees(second);
  await visible(second, "#remote-muted");
  assert.equal(await first.getAttribute("#control-mic", "aria-label"), "Unmute");
});

test("a third person is told the room is full", async (t) => {
  const { first } = await call(t, browser, url, "third");
  const third = await person(t, browser);
  await joinRoom(third, url, "third");
  await status(third, "The room is full");
  assert.equal(await third.textContent("#card-title"), "This room is full");
  assert.equal(await third.getAttribute("#card-actions button", "data-action"), "wait");
  await sees(first);
});

test("hanging up gives the camera back, tells the other, and can be undone", async (t) => {
  const { first, second } = await call(t, browser, url, "hang-up");
  const track = await first.evaluateHandle(() => document.getElementById("self-video").srcObject.getVideoTracks()[0]);
  await first.click("#control-hang-up");
  await visible(first, "#word");
  assert.equal(await track.evaluate(({ readyState }) => readyState), "ended");
  assert.equal(await first.textContent("#word-title"), "You left the call");
  await status(second, "The other person left");
  assert.equal(await second.textContent("#people-text"), "Only you are here");
  await visible(second, "#card-copy");
  await keep(first, "ended-desk-light");
  await keep(second, "left-desk-light");

  await first.click('[data-action="enter"]');
  await Promise.all([sees(first), sees(second)]);
});

test("having hung up, a reload asks before it joins again", async (t) => {
  const page = await person(t, browser);
  await joinRoom(page, url, "no-return");
  await status(page, "Waiting for the other person");
  await page.click("#control-hang-up");
  await visible(page, "#word");
  await page.reload();
  await visible(page, "#lobby-join");
});

// A page that is closed cannot be told from one that is loaded again, so its seat is kept for a while.
for (const [what, end] of [
  ["closed", (page) => page.close({ runBeforeUnload: false })],
  ["crashed", async (page) => void (await page.context().newCDPSession(page)).send("Page.crash").catch(() => {})],
]) {
  test(`a tab that is ${what} is waited for, and then told to have left`, async (t) => {
    const hasty = await startServer(t, { DUET_SEATS__GRACE: "3s" });
    const { first, second } = await call(t, browser, hasty.url, what, { tolerate: SERVER_GONE });
    await end(second);
    await status(first, /coming back|reconnecting/);
    await status(first, "The other person left");
  });
}

test("muting and turning the camera off is shown to the other, and undone", async (t) => {
  const { first, second } = await call(t, browser, url, "muting");
  await hidden(second, "#remote-muted");

  await first.click("#control-mic");
  await visible(second, "#remote-muted");
  await first.click("#control-mic");
  await hidden(second, "#remote-muted");

  const track = await first.evaluateHandle(() => document.getElementById("self-video").srcObject.getVideoTracks()[0]);
  await first.click("#control-cam");
  await visible(second, "#remote-blank");
  assert.equal(await track.evaluate(({ readyState }) => readyState), "ended", "the camera's light is still on");
  assert.equal(await first.isVisible("#self-video"), false);
  await keep(second, "camera-off-desk-light");
  await first.click("#control-cam");
  await hidden(second, "#remote-blank");
  await sees(second);
});

test("who joins without camera can turn it on during the call", async (t) => {
  const first = await person(t, browser);
  await first.goto(`${url}/camera-later`);
  await first.click("#lobby-cam");
  await first.click("#lobby-join");
  const second = await person(t, browser);
  await joinRoom(second, url, "camera-later");
  await sees(first);
  await visible(second, "#remote-blank");
  await first.click("#control-cam");
  await sees(second);
  await hidden(second, "#remote-blank");
  assert.equal(await second.evaluate(() => window.connections.length), 1);
});

test("a screen is shared, unmirrored, and the camera comes back afterwards", async (t) => {
  const { first, second } = await call(t, browser, url, "screen");
  // A drawn canvas stands in for the screen: what a machine without one would give depends on its system.
  await first.evaluate(() => {
    navigator.mediaDevices.getDisplayMedia = async () => {
      const canvas = Object.assign(document.createElement("canvas"), { width: 1600, height: 500 });
      const pen = canvas.getContext("2d");
      let shade = 0;
      setInterval(() => {
        pen.fillStyle = `hsl(${(shade += 7)} 60% 50%)`;
        pen.fillRect(0, 0, 1600, 500);
      }, 50);
      return canvas.captureStream(20);
    };
  });
  const ratio = () => second.evaluate(() => {
    const { videoWidth, videoHeight } = document.getElementById("remote-video");
    return videoWidth / videoHeight;
  });
  const isMirrored = () => first.evaluate(() => document.getElementById("self-video").classList.contains("mirrored"));

  await first.click("#control-screen");
  await visible(second, "#remote-screen");
  await until("the screen's shape arrives", async () => Math.abs((await ratio()) - 3.2) < 0.1);
  assert.equal(await isMirrored(), false);
  assert.equal(await second.evaluate(() => document.getElementById("remote-video").classList.contains("whole")), true);
  assert.equal(await first.getAttribute("#control-screen", "aria-label"), "Stop sharing");
  await keep(second, "screen-desk-light");

  await first.click("#control-screen");
  await hidden(second, "#remote-screen");
  await until("the camera's shape is back", async () => (await ratio()) < 2);
  assert.equal(await isMirrored(), true);
  await sees(second);
});

test("offers that cross leave both sides connected", async (t) => {
  const { first, second } = await call(t, browser, url, "glare");
  for (let round = 0; round < 5; round++) {
    await Promise.all([first, second].map((page) => page.evaluate(() => window.connections[0].restartIce())));
    for (const page of [first, second]) {
      await until("negotiation settles", () =>
        page.evaluate(() => window.connections[0].signalingState === "stable" && window.connections[0].connectionState === "connected"),
      );
    }
  }
  await Promise.all([sees(first), sees(second)]);
  assert.equal(await first.evaluate(() => window.connections.length), 1);
  assert.equal(await second.evaluate(() => window.connections.length), 1);
});

test("a message of an earlier connection changes nothing", async (t) => {
  const first = await person(t, browser);
  const second = await person(t, browser);
  // Every packet the first page sends is kept, its offer among them, to be sent once more when it is stale.
  await first.addInitScript(() => {
    const send = WebSocket.prototype.send;
    window.sent = [];
    WebSocket.prototype.send = function (data) {
      window.socket = this;
      if (typeof data === "string" && data.includes('"message"')) window.sent.push(data);
      return send.call(this, data);
    };
  });
  await joinRoom(first, url, "stale");
  await status(first, "Waiting for the other person");
  await joinRoom(second, url, "stale");
  await Promise.all([sees(first), sees(second)]);
  const stale = await first.evaluate(() => window.sent);
  assert.ok(stale.some((packet) => packet.includes('"offer"')), "no offer was kept");

  await first.reload();
  await Promise.all([sees(first), sees(second)]);
  const remoteBefore = await second.evaluate(() => window.connections.at(-1).remoteDescription.sdp);
  await first.evaluate((packets) => packets.forEach((packet) => window.socket.send(packet)), stale);
  // An offer made now arrives after them: once its answer is back, all of them were dealt with.
  await first.evaluate(() => window.connections.at(-1).restartIce());
  const ufrag = (sdp) => /a=ice-ufrag:(\S+)/.exec(sdp)[1];
  await until("the new offer is taken", async () => {
    const now = await second.evaluate(() => window.connections.at(-1).remoteDescription.sdp);
    const offered = await first.evaluate(() => window.connections.at(-1).localDescription.sdp);
    return ufrag(now) !== ufrag(remoteBefore) && ufrag(now) === ufrag(offered);
  });
  await Promise.all([sees(first), sees(second)]);
  assert.equal(await second.evaluate(() => window.connections.length), 2);
});

test("devices can be changed during the call", async (t) => {
  const { first, second } = await call(t, browser, url, "devices");
  await first.click("#control-settings");
  const options = await until("cameras are listed", async () => {
    const found = await first.$$eval("#device-camera option", (all) => all.map(({ value }) => value));
    return found.length > 0 && found[0] !== "" ? found : null;
  });
  const before = await received(second, "video", "framesDecoded");
  await first.evaluate((id) => {
    const select = document.getElementById("device-camera");
    select.value = id;
    select.dispatchEvent(new Event("change"));
  }, options.at(-1));
  await first.keyboard.press("Escape");
  await until("pictures go on", async () => (await received(second, "video", "framesDecoded")) > before + 10);
  assert.equal(await first.isVisible("#self-video"), true);
});
