/** What is missing is said, and the call goes on as far as it can: devices, permission, https, WebRTC, the client library. */

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { joinRoom, keep, person, received, sees, startBrowser, startServer, status, until } from "./support.mjs";

const server = await startServer({ after });
const { url } = server;
const browser = await startBrowser({ after });

/** One person without camera and microphone, one with: the first receives, the second hears why nothing comes back. */
async function oneSided(t, lackingBrowser, room, text, { lackingUrl = url, ...options } = {}) {
  for (const order of ["lacking first", "lacking second"]) {
    await t.test(order, async (part) => {
      const name = `${room}-${order.replace(" ", "-")}`;
      const lacking = await person(part, lackingBrowser, options);
      const other = await person(part, browser);
      if (order === "lacking first") {
        await joinRoom(lacking, lackingUrl, name);
        await status(lacking, "Waiting for the other person");
        await joinRoom(other, url, name);
      } else {
        await joinRoom(other, url, name);
        await status(other, "Waiting for the other person");
        await joinRoom(lacking, lackingUrl, name);
      }
      await Promise.all([sees(lacking), status(other, "Connected")]);
      await until("the reason is told", async () => text.test(await lacking.textContent("#trouble-text")));
      assert.equal(await lacking.isVisible("#trouble"), true);
      await until("the other is told that no picture comes", () => other.isVisible("#remote-blank"));
      await until("the other is told that no sound comes", () => other.isVisible("#remote-muted"));
      assert.equal(await received(other, "video", "framesDecoded"), 0);
      if (order === "lacking second") await keep(lacking, `${room}-desk-light`);

      await lacking.click("#trouble-dismiss");
      await until("the notice can be closed", async () => !(await lacking.isVisible("#trouble")));
      await sees(lacking);
    });
  }
}

test("without any device the call goes on, receiving", async (t) => {
  const bare = await startBrowser(t, { devices: false });
  await oneSided(t, bare, "no-device", /^No camera and no microphone were found\./);
});

test("with camera and microphone blocked the call goes on, receiving", async (t) => {
  const strict = await startBrowser(t, {
    devices: false,
    flags: ["--use-fake-device-for-media-stream", "--deny-permission-prompts"],
  });
  await oneSided(t, strict, "blocked", /^Camera and microphone are blocked\./);
});

test("on an insecure origin the lobby says why, and the call goes on, receiving", async (t) => {
  const insecureUrl = url.replace("127.0.0.1", "duet.test");
  assert.notEqual(insecureUrl, url, "this test needs the server at 127.0.0.1");
  const plain = await startBrowser(t, { flags: ["--host-resolver-rules=MAP duet.test 127.0.0.1"] });
  // A header that is for secure origins only is left out of account by the browser, and it says so.
  const tolerate = [/Cross-Origin-Opener-Policy header has been ignored/];
  await t.test("lobby", async (part) => {
    const page = await person(part, plain, { tolerate });
    await page.goto(`${insecureUrl}/insecure-lobby`);
    await until("the reason is told", () => page.isVisible("#lobby-trouble"));
    assert.match(await page.textContent("#lobby-trouble-text"), /only over https:\/\/ or on localhost/);
    assert.equal(await page.isVisible("#lobby-again"), false);
    await keep(page, "insecure-lobby-desk-light");
    await page.click("#lobby-join");
    await status(page, "Waiting for the other person");
    await page.click("#card-copy");
    await until("the link can be copied all the same", async () => (await page.textContent("#card-copy")) === "Link copied");
  });
  await oneSided(t, plain, "insecure", /only over https:\/\/ or on localhost/, { lackingUrl: insecureUrl, tolerate });
});

test("a camera that is missing alone does not take the microphone along", async (t) => {
  const page = await person(t, browser);
  await page.addInitScript(() => {
    const real = MediaDevices.prototype.getUserMedia;
    MediaDevices.prototype.getUserMedia = function (wish) {
      if (wish.video) return Promise.reject(new DOMException("none", "NotFoundError"));
      return real.call(this, wish);
    };
  });
  await joinRoom(page, url, "only-microphone");
  await until("the camera is missed", async () => /^No camera was found\./.test(await page.textContent("#trouble-text")));
  assert.equal(await page.getAttribute("#control-mic", "aria-label"), "Mute");
  assert.equal(await page.getAttribute("#control-cam", "aria-label"), "Turn camera on");
});

test("a browser without WebRTC is told so instead of being led into a room", async (t) => {
  const page = await person(t, browser);
  await page.addInitScript(() => delete window.RTCPeerConnection);
  await page.goto(`${url}/no-webrtc`);
  await until("it is told", async () => (await page.textContent("#word-title")) === "This browser cannot make calls");
  assert.equal(await page.isVisible("#lobby"), false);
  await keep(page, "no-webrtc-desk-light");
});

test("a server without the client library is told of plainly", async (t) => {
  const page = await person(t, browser, { tolerate: [/404/] });
  await page.route("**/socket.io/socket.io.esm.min.js*", (route) => route.fulfill({ status: 404, body: "not built in" }));
  await joinRoom(page, url, "no-client");
  await status(page, "A part of this page is missing");
  assert.match(await page.textContent("#card-text"), /built without its Socket\.IO client library/);
  assert.equal(await page.getAttribute("#card-actions button", "data-action"), "home");
  await keep(page, "no-client-desk-light");
});

test("an autoplay ban is met with a picture and a button for the sound", async (t) => {
  const first = await person(t, browser);
  await first.addInitScript(() => {
    const real = HTMLMediaElement.prototype.play;
    let gesture = false;
    addEventListener("click", ({ target }) => (gesture ||= target.closest("#sound") !== null), { capture: true });
    HTMLMediaElement.prototype.play = function () {
      const allowed = this.muted || this.id !== "remote-video" || gesture;
      return allowed ? real.call(this) : Promise.reject(new DOMException("a gesture first", "NotAllowedError"));
    };
    // The element's own autoplay would get around the ban that is played here.
    document.addEventListener("DOMContentLoaded", () => document.getElementById("remote-video").removeAttribute("autoplay"));
  });
  await joinRoom(first, url, "autoplay");
  await status(first, "Waiting for the other person");
  const second = await person(t, browser);
  await joinRoom(second, url, "autoplay");
  await sees(first);
  await first.click("#sound");
  assert.equal(await first.evaluate(() => document.getElementById("remote-video").muted), false);
  await until("the button goes", async () => !(await first.isVisible("#sound")));
  await sees(first);
});
