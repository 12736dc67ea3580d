/** How the page looks and is handled: languages, sizes, light and dark, keyboard, links, the QR code. */

import assert from "node:assert/strict";
import { after, test } from "node:test";
import jsQR from "jsqr";
import {
  DESK,
  PHONE,
  PHONE_LYING,
  call,
  fitsItsScreen,
  joinRoom,
  keep,
  pageModule,
  person,
  readable,
  sees,
  startBrowser,
  startServer,
  status,
  until,
} from "./support.mjs";

const { url } = await startServer({ after });
const browser = await startBrowser({ after });
const { LANGUAGES } = await pageModule({ after }, "i18n.js");
const SMALL = Object.freeze({ width: 320, height: 568 });

const focused = (page) => page.evaluate(() => document.activeElement?.id || document.activeElement?.dataset?.action || document.activeElement?.tagName);

for (const [locale, code, html] of [["en-GB", "en", "en"], ["es-MX", "es", "es"], ["zh-TW", "zh", "zh-Hans"], ["ko-KR", "ko", "ko"]]) {
  test(`speaks ${code} to a browser that asks for ${locale}`, async (t) => {
    const { words } = LANGUAGES.find((language) => language.code === code);
    const page = await person(t, browser, { locale, viewport: PHONE, colorScheme: "dark" });
    const fitsEverywhere = async (name) => {
      for (const [size, viewport] of Object.entries({ phone: PHONE, small: SMALL, lying: PHONE_LYING, desk: DESK })) {
        await page.setViewportSize(viewport);
        await fitsItsScreen(page);
        if (size === "phone" || size === "desk") await keep(page, `${name}-${code}-${size}-dark`);
      }
      await page.setViewportSize(PHONE);
    };

    await page.goto(url);
    assert.equal(await page.getAttribute("html", "lang"), html);
    assert.equal(await page.textContent("#home-title"), words["home.title"]);
    const empty = await page.$$eval("[data-t]", (all) => all.filter((node) => node.textContent.trim() === "").map((node) => node.dataset.t));
    assert.deepEqual(empty, []);
    await fitsEverywhere("home");

    await page.goto(`${url}/amber-river-falcon-${code}`);
    await until("the lobby speaks", async () => (await page.textContent("#lobby-title")) === words["lobby.title"]);
    await fitsEverywhere("lobby");

    await page.click("#lobby-join");
    await status(page, words["status.waiting"]);
    assert.equal(await page.textContent("#card-title"), words["card.waiting.title"]);
    assert.equal(await page.getAttribute("#control-mic", "aria-label"), words["control.mute"]);
    await fitsEverywhere("waiting");

    await page.click("#control-settings");
    await fitsEverywhere("settings");
    await page.keyboard.press("Escape");
    await page.click("#control-invite");
    assert.equal(await page.textContent("#invite-title"), words["invite.title"]);
    await fitsEverywhere("invite");
    await page.keyboard.press("Escape");

    await page.click("#control-hang-up");
    assert.equal(await page.textContent("#word-title"), words["ended.title"]);
    await fitsEverywhere("ended");
  });
}

test("a language can be chosen, by link or by menu, and is kept", async (t) => {
  const page = await person(t, browser);
  await page.goto(`${url}/?lang=ko`);
  assert.equal(await page.getAttribute("html", "lang"), "ko");
  await page.selectOption("#language-top", "es");
  assert.equal(await page.getAttribute("html", "lang"), "es");
  await page.goto(url);
  assert.equal(await page.getAttribute("html", "lang"), "es");
  assert.equal(await page.inputValue("#language-top"), "es");
});

/** Shows `page` in every size, light and dark, and has each look checked. */
async function inEveryLook(page, check) {
  for (const [size, viewport] of Object.entries({ desk: DESK, phone: PHONE, lying: PHONE_LYING })) {
    await page.setViewportSize(viewport);
    for (const colorScheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme });
      await check(`${size}-${colorScheme}`, size, viewport);
    }
  }
}

test("a call fits a desk and a telephone, upright and lying, light and dark", async (t) => {
  const { first, second } = await call(t, browser, url, "fits");
  await first.click("#control-mic");
  await until("the mute is shown", () => second.isVisible("#remote-muted"));
  await inEveryLook(second, async (look, size, { width, height }) => {
    await fitsItsScreen(second);
    await keep(second, `call-${look}`);
    const boxes = await second.evaluate(() =>
      Object.fromEntries(
        ["remote", "self", "controls", "control-hang-up", "control-mic"].map((id) => [id, document.getElementById(id).getBoundingClientRect().toJSON()]),
      ),
    );
    const share = (boxes.remote.width * boxes.remote.height) / (width * height);
    if (size === "desk") assert.ok(share > 0.7, `the other's picture has ${share} of the screen`);
    else assert.equal(share, 1, "the other's picture fills a telephone");
    for (const [id, box] of Object.entries(boxes)) {
      assert.ok(box.left >= 0 && box.top >= 0 && box.right <= width && box.bottom <= height, `${id} is on the screen`);
    }
    for (const id of ["control-hang-up", "control-mic"]) {
      assert.ok(boxes[id].width >= 44 && boxes[id].height >= 44, `${id} is large enough for a thumb`);
    }
    assert.ok(boxes.self.right <= boxes.controls.left || boxes.self.bottom <= boxes.controls.top, "the own picture leaves the controls free");
    if (size === "phone") assert.ok(boxes.controls.top > height * 0.75, "the controls are at the thumb");
  });
  await sees(second);
});

test("words can be read on every screen, in every size, light and dark", async (t) => {
  const page = await person(t, browser);
  const look = (name) =>
    inEveryLook(page, async (suffix) => {
      await readable(page);
      await fitsItsScreen(page);
      await keep(page, `${name}-${suffix}`);
    });
  await page.goto(url);
  await page.waitForSelector("#home-start");
  await look("home");
  await page.click("#home-start");
  await page.waitForSelector("#lobby-join");
  await look("lobby");
  await page.click("#lobby-join");
  await status(page, "Waiting for the other person");
  await look("waiting");
  for (const dialog of ["invite", "settings"]) {
    await page.click(`#control-${dialog}`);
    await look(dialog);
    await page.keyboard.press("Escape");
  }
  await page.click("#control-hang-up");
  await page.waitForSelector("#word-title");
  await look("ended");
  await page.goto(`${url}/?room=%07`);
  await until("the bad link is told", async () => (await page.textContent("#word-title")) === "This link does not name a room");
  await look("bad-room");
});

test("everything is done by keyboard alone", async (t) => {
  const page = await person(t, browser);
  const shown = () =>
    page.evaluate(() => {
      const { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement);
      return document.activeElement.tagName === "H1" || (outlineStyle !== "none" && parseFloat(outlineWidth) >= 2);
    });
  const tabTo = async (id) => {
    for (let presses = 0; presses < 15; presses++) {
      if ((await focused(page)) === id) return assert.ok(await shown(), `focus on ${id} cannot be seen`);
      await page.keyboard.press("Tab");
    }
    assert.fail(`${id} is out of reach`);
  };

  await page.goto(url);
  await page.waitForSelector("#home-start");
  await tabTo("home-start");
  await page.keyboard.press("Enter");
  await until("Join has the focus", async () => (await focused(page)) === "lobby-join");
  assert.ok(await shown());
  await page.keyboard.press("Enter");
  await status(page, "Waiting for the other person");
  await until("the microphone is there", async () => (await page.getAttribute("#control-mic", "aria-label")) === "Mute");

  await page.keyboard.press("m");
  await until("M mutes", async () => (await page.getAttribute("#control-mic", "aria-label")) === "Unmute");
  assert.equal(await page.textContent("#toast"), "You are muted");
  await page.keyboard.press("v");
  await until("V turns the camera off", async () => (await page.getAttribute("#control-cam", "aria-label")) === "Turn camera on");
  assert.equal(await page.getAttribute("#control-mic", "aria-keyshortcuts"), "m");

  await page.keyboard.press("i");
  await until("I opens the invitation", () => page.isVisible("#invite"));
  assert.equal(await page.evaluate(() => document.querySelector("#invite").contains(document.activeElement)), true);
  await page.keyboard.press("Escape");
  await until("Escape closes it", async () => !(await page.isVisible("#invite")));

  await tabTo("control-settings");
  await page.keyboard.press("Enter");
  await until("settings open", () => page.isVisible("#settings"));
  await tabTo("shortcuts");
  await page.keyboard.press("Space");
  await page.keyboard.press("Escape");
  assert.equal(await focused(page), "control-settings");
  await page.keyboard.press("v");
  await page.keyboard.press("Tab");
  assert.equal(await focused(page), "control-hang-up");
  assert.equal(await page.getAttribute("#control-cam", "aria-label"), "Turn camera on", "shortcuts are off");
  assert.equal(await page.getAttribute("#control-mic", "aria-keyshortcuts"), null);

  await page.keyboard.press("Enter");
  await until("the call is left", async () => (await focused(page)) === "word-title");
  await tabTo("enter");
  await page.keyboard.press("Enter");
  await status(page, "Waiting for the other person");
});

test("what happens is read aloud, and every control has a name", async (t) => {
  const page = await person(t, browser);
  await joinRoom(page, url, "aloud");
  await status(page, "Waiting for the other person");
  assert.equal(await page.getAttribute("#chip-text", "aria-live"), "polite");
  const nameless = await page.$$eval("button, select, input, video, [role=group], dialog", (all) =>
    all
      .filter((node) => {
        const labelled = node.getAttribute("aria-labelledby");
        const name = node.getAttribute("aria-label") || node.labels?.[0]?.textContent || node.textContent || (labelled && document.getElementById(labelled)?.textContent);
        return !name?.trim();
      })
      .map(({ id }) => id),
  );
  assert.deepEqual(nameless, []);
});

test("who asks for less motion gets none", async (t) => {
  const page = await person(t, browser, { reducedMotion: "reduce" });
  await page.goto(url);
  await page.waitForSelector("#home-start");
  assert.equal(await page.evaluate(() => document.getAnimations().length), 0);
  const lively = await person(t, browser, { reducedMotion: "no-preference" });
  await lively.goto(url);
  await until("others see it breathe", () => lively.evaluate(() => document.getAnimations().length > 0));
});

test("the QR code on the screen is the link of the room, and what is copied", async (t) => {
  const page = await person(t, browser, { permissions: ["clipboard-read", "clipboard-write"] });
  await page.goto(url);
  await page.click("#home-start");
  await page.click("#lobby-join");
  await status(page, "Waiting for the other person");
  assert.equal(await page.inputValue("#card-link"), page.url());

  await page.click("#card-qr");
  const { side, pixels } = await page.evaluate(async () => {
    const image = document.getElementById("qr-image").cloneNode(true);
    const side = 300;
    image.setAttribute("width", side);
    image.setAttribute("height", side);
    const picture = new Image();
    picture.src = URL.createObjectURL(new Blob([new XMLSerializer().serializeToString(image)], { type: "image/svg+xml" }));
    await picture.decode();
    const canvas = Object.assign(document.createElement("canvas"), { width: side, height: side });
    const pen = canvas.getContext("2d");
    pen.drawImage(picture, 0, 0, side, side);
    return { side, pixels: [...pen.getImageData(0, 0, side, side).data] };
  });
  assert.equal((jsQR.default ?? jsQR)(Uint8ClampedArray.from(pixels), side, side)?.data, page.url());

  await page.click("#invite-copy");
  await until("copying is confirmed", async () => (await page.textContent("#invite-copy")) === "Link copied");
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), page.url());

});

test("the system's share sheet is offered where there is one", async (t) => {
  const page = await person(t, browser);
  await page.addInitScript(() => {
    navigator.share = async (what) => (window.shared = what);
  });
  await joinRoom(page, url, "share-sheet");
  await status(page, "Waiting for the other person");
  await page.click("#card-share");
  assert.equal((await page.evaluate(() => window.shared)).url, `${url}/share-sheet`);
});

test("names of any kind are opened from the start page, and bad ones told of there", async (t) => {
  const page = await person(t, browser);
  for (const [typed, room, path] of [
    ["team", "team", "/team"],
    ["  방 하나 ", "방 하나", `/${encodeURIComponent("방 하나")}`],
    ["socket.io", "socket.io", "/?room=socket.io"],
    ["..", "..", "/?room=.."],
    ["a/b", "a/b", "/?room=a%2Fb"],
  ]) {
    await page.goto(url);
    await page.fill("#home-room", typed);
    await page.keyboard.press("Enter");
    await until(`${typed} opens`, async () => (await page.isVisible("#lobby")) && (await page.textContent("#lobby-room")) === room);
    assert.equal(page.url(), url + path);
    await page.reload();
    await until(`${typed} opens again`, async () => (await page.isVisible("#lobby")) && (await page.textContent("#lobby-room")) === room);
  }
  await page.goto(url);
  for (const bad of ["", "   ", "x".repeat(129)]) {
    await page.fill("#home-room", bad);
    await page.click('#home-form button[type="submit"]');
    assert.match(await page.textContent("#home-bad"), /1 to 128 characters/);
    assert.equal(await focused(page), "home-room");
    assert.equal(await page.isVisible("#home"), true);
  }
});

test("a room with an odd name connects like any other", async (t) => {
  const { pathOf } = await pageModule(t, "rooms.js");
  await call(t, browser, url, pathOf("😀 방/房间 __proto__").slice(1));
});

test("a bad link is told of, with a way on", async (t) => {
  const page = await person(t, browser);
  await page.goto(`${url}/?room=${"x".repeat(129)}`);
  await until("it is told", async () => (await page.textContent("#word-title")) === "This link does not name a room");
  await page.click('[data-action="newRoom"]');
  await until("a new room opens", async () => /^[a-z]+-[a-z]+-[a-z]+-\d{4}$/.test(await page.textContent("#lobby-room")));
});

test("going back leaves the call, and forward asks before joining", async (t) => {
  const page = await person(t, browser);
  await page.goto(url);
  await page.click("#home-start");
  await page.click("#lobby-join");
  await status(page, "Waiting for the other person");
  await page.goBack();
  await until("the start page is back", () => page.isVisible("#home"));
  await page.goForward();
  await until("the lobby is back", () => page.isVisible("#lobby-join"));
});

test("nothing on the page is loaded from anywhere else", async (t) => {
  const page = await person(t, browser);
  const foreign = [];
  page.on("request", (request) => {
    if (!/^(data|blob):/.test(request.url()) && new URL(request.url()).host !== new URL(url).host) foreign.push(request.url());
  });
  await joinRoom(page, url, "own-host");
  await status(page, "Waiting for the other person");
  assert.deepEqual(foreign, []);
});

test("the page runs under a policy that allows nothing it does not need", async (t) => {
  const page = await person(t, browser);
  const policy = (await page.goto(`${url}/policy`)).headers()["content-security-policy"];
  assert.match(policy, /default-src 'none'/);
  assert.doesNotMatch(policy, /unsafe|\*/);
});

test("a name that looks like markup stays a name", async (t) => {
  const page = await person(t, browser);
  const name = "<img src=x onerror=document.title='taken'>";
  await page.goto(`${url}/?room=${encodeURIComponent(name)}`);
  await page.click("#lobby-join");
  await status(page, "Waiting for the other person");
  assert.equal(await page.textContent("#call-room"), name);
  assert.equal(await page.evaluate(() => document.querySelectorAll("#call-room *").length), 0);
});
