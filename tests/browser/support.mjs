/**
 * What every test here stands on: a server, browsers, and waiting for conditions.
 *
 * Owns starting and ending of both. Never waits for a length of time: what a test needs is asked for until it is so.
 */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { cp, mkdir, mkdtemp, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { createSocket } from "node:dgram";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join as pathJoin } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

/** How long anything may take before it counts as not happening. */
const PATIENCE_MS = 20_000;

const PUBLIC = fileURLToPath(new URL("../../public/", import.meta.url));
const COTURN = fileURLToPath(new URL("../../deploy/coturn/", import.meta.url));

const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--disable-features=WebRtcHideLocalIpsWithMdns",
];
const FAKE_DEVICES = ["--use-fake-device-for-media-stream=fps=10", "--use-fake-ui-for-media-stream"];

export const PHONE = Object.freeze({ width: 390, height: 844 });
export const PHONE_LYING = Object.freeze({ width: 844, height: 390 });
export const DESK = Object.freeze({ width: 1280, height: 800 });

/** Asks `condition` until it holds, and says what was awaited if it never does. */
export async function until(what, condition) {
  const deadline = Date.now() + PATIENCE_MS;
  let last;
  while (Date.now() < deadline) {
    try {
      last = await condition();
      if (last) return last;
    } catch (error) {
      last = error;
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  assert.fail(`${what}: not within ${PATIENCE_MS} ms (last: ${last})`);
}

/** A server of this test's own where DUET_BIN names a binary, else the one DUET_URL names. */
export async function startServer(t, settings = {}) {
  if (!process.env.DUET_BIN) {
    assert.ok(process.env.DUET_URL, "set DUET_BIN (path of the server) or DUET_URL (address of a running one)");
    return { url: process.env.DUET_URL.replace(/\/$/, ""), own: false };
  }
  const port = await freePort();
  const server = { url: `http://127.0.0.1:${port}`, own: true, port };
  let child;

  server.start = async () => {
    // The server refuses settings it does not know, and these two are meant for the tests.
    const { DUET_BIN, DUET_URL, ...env } = process.env;
    child = spawn(DUET_BIN, [], {
      env: { ...env, ...settings, DUET_SERVER__LISTEN: `127.0.0.1:${port}`, DUET_ADMIN__LISTEN: "127.0.0.1:0" },
      stdio: ["ignore", "ignore", "inherit"],
    });
    await until("the server answers, or ended", async () => child.exitCode !== null || (await fetch(server.url)).ok);
    assert.equal(child.exitCode, null, "the server did not start");
  };
  server.stop = async (signal = "SIGTERM") => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, "exit");
    child.kill(signal);
    await ended;
  };

  t.after(() => server.stop("SIGKILL"));
  await server.start();
  return server;
}

/** coturn as it is deployed, but on loopback. Its port is taken by nobody else: who answers names its realm. */
export async function startCoturn(t, secret) {
  const home = await mkdtemp(pathJoin(tmpdir(), "duet-coturn-"));
  await writeFile(pathJoin(home, "secret"), `${secret}\n`);
  const port = await freePortOfBoth();
  const realm = `duet-${process.pid}-${port}`;
  const flags = ["--listening-ip", "127.0.0.1", "--listening-port", port, "--relay-ip", "127.0.0.1", "--allow-loopback-peers", "--verbose"];
  const env = {
    ...process.env,
    TURN_CONFIG: pathJoin(COTURN, "turnserver.conf"),
    TURN_SECRET_FILE: "secret",
    TURN_WORK: ".",
    TURN_REALM: realm,
    // Where two peers that both use the relay meet.
    TURN_PEERS: "127.0.0.1",
  };
  const child = spawn("sh", [pathJoin(COTURN, "start.sh"), ...flags.map(String)], { cwd: home, env, stdio: ["ignore", "pipe", "pipe"] });
  const coturn = { url: `turn:127.0.0.1:${port}`, log: "" };
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (text) => (coturn.log += text));
  t.after(async () => {
    const ended = once(child, "exit");
    if (child.exitCode === null && child.signalCode === null && child.kill("SIGKILL")) await ended;
    await rm(home, { recursive: true, force: true });
  });
  await once(child, "spawn");
  await until("coturn answers, or ended", async () => child.exitCode !== null || (await answersAs(port, realm)));
  assert.equal(child.exitCode, null, `coturn did not start:\n${coturn.log}`);
  return coturn;
}

/** Asks for a relay without credentials (RFC 8656, section 7.2): the refusal names the realm. */
async function answersAs(port, realm) {
  const socket = createSocket("udp4");
  try {
    const heard = once(socket, "message", { signal: AbortSignal.timeout(200) });
    const transaction = "0123456789abcdef01234567";
    socket.send(Buffer.from(`000300082112a442${transaction}0019000411000000`, "hex"), port, "127.0.0.1");
    return (await heard)[0].includes(realm);
  } catch {
    return false;
  } finally {
    socket.close();
  }
}

async function freePort() {
  const listener = createServer().listen(0, "127.0.0.1");
  await once(listener, "listening");
  const { port } = listener.address();
  listener.close();
  await once(listener, "close");
  return port;
}

/** One that is free for TCP and for UDP: coturn takes both. */
async function freePortOfBoth() {
  for (;;) {
    const port = await freePort();
    const socket = createSocket("udp4").bind(port, "127.0.0.1");
    const free = await Promise.race([once(socket, "listening").then(() => true), once(socket, "error").then(() => false)]).catch(() => false);
    socket.close();
    if (free) return port;
  }
}

/** A Redis of this test's own, which keeps nothing. */
export async function startRedis(t) {
  const port = await freePort();
  const child = spawn("redis-server", ["--port", String(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"], { stdio: ["ignore", "pipe", "inherit"] });
  t.after(async () => {
    const ended = once(child, "exit");
    if (child.exitCode === null && child.kill("SIGKILL")) await ended;
  });
  let said = "";
  child.stdout.on("data", (text) => (said += text));
  await until("Redis answers, or ended", () => child.exitCode !== null || said.includes("Ready to accept connections"));
  assert.equal(child.exitCode, null, `Redis did not start:\n${said}`);
  return `redis://127.0.0.1:${port}`;
}

/** One browser; every person in a test is a context of it, with storage of their own. */
export async function startBrowser(t, { devices = true, flags = [] } = {}) {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    headless: true,
    args: [...FLAGS, ...(devices ? FAKE_DEVICES : []), ...flags],
  });
  t.after(() => browser.close());
  return browser;
}

/** A browser that can be stopped in the middle of whatever it does, as the closed lid of a laptop does. */
export async function startBrowserWithLid(t) {
  const server = await chromium.launchServer({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    headless: true,
    args: [...FLAGS, ...FAKE_DEVICES],
  });
  const { pid } = server.process();
  const browser = await chromium.connect(server.wsEndpoint());
  const lid = async (signal) => {
    for (const one of await withDescendants(pid)) {
      try {
        process.kill(one, signal);
      } catch {
        // It ended meanwhile.
      }
    }
  };
  t.after(async () => {
    await lid("SIGCONT");
    await browser.close();
    await server.close();
  });
  return { browser, close: () => lid("SIGSTOP"), open: () => lid("SIGCONT") };
}

async function withDescendants(root) {
  const children = new Map();
  for (const name of await readdir("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    // Behind the last bracket: the state, then the parent (proc(5)).
    const stat = await readFile(`/proc/${name}/stat`, "utf8").catch(() => "");
    const parent = Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]);
    children.set(parent, [...(children.get(parent) ?? []), Number(name)]);
  }
  const all = [root];
  for (const one of all) all.push(...(children.get(one) ?? []));
  return all;
}

/**
 * A person: a page of their own, whose every complaint is kept. `person.complaints` is checked when the test ends, so a
 * violated policy, an uncaught error or an error on the console fails it.
 */
export async function person(t, browser, { tolerate = [], initScript, ...options } = {}) {
  const context = await browser.newContext({ viewport: DESK, locale: "en-US", colorScheme: "light", ...options });
  await context.addInitScript(() => {
    // Keeps every connection the page makes, so that its statistics can be read from outside.
    const Real = window.RTCPeerConnection;
    window.connections = [];
    if (Real) {
      window.RTCPeerConnection = class extends Real {
        constructor(...args) {
          super(...args);
          window.connections.push(this);
        }
      };
    }
    window.violations = [];
    document.addEventListener("securitypolicyviolation", ({ violatedDirective, blockedURI }) =>
      window.violations.push(`${violatedDirective} ${blockedURI}`),
    );
  });
  if (initScript) await context.addInitScript(initScript);
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  const complaints = [];
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) complaints.push(`${message.text()} ${message.location().url}`);
  });

  t.after(async () => {
    if (!page.isClosed()) complaints.push(...(await page.evaluate(() => window.violations).catch(() => [])));
    await context.close();
    const unexpected = complaints.filter((line) => !tolerate.some((pattern) => pattern.test(line)));
    assert.deepEqual(unexpected, [], "the browser complained");
  });
  return page;
}

/** What a browser says about a server that is gone. */
export const SERVER_GONE = [/ERR_CONNECTION_REFUSED/, /WebSocket connection to .* failed/, /ERR_CONNECTION_RESET/, /ERR_EMPTY_RESPONSE/];

export async function joinRoom(page, url, room) {
  await page.goto(`${url}/${room}`);
  await page.click("#lobby-join");
}

/** Two people in one room who see each other. */
export async function call(t, browser, url, room, options = {}) {
  const { first: ofFirst, second: ofSecond, ...ofBoth } = options;
  const first = await person(t, browser, { ...ofBoth, ...ofFirst });
  await joinRoom(first, url, room);
  await status(first, "Waiting for the other person");
  const second = await person(t, browser, { ...ofBoth, ...ofSecond });
  await joinRoom(second, url, room);
  await Promise.all([sees(first), sees(second)]);
  return { first, second };
}

export async function status(page, text) {
  await until(`the status says “${text}”`, async () => {
    const now = await page.textContent("#chip-text");
    return text instanceof RegExp ? text.test(now) : now === text;
  });
}

/** The picture of the other is there, moves, and comes from frames that were decoded just now. */
export async function sees(page) {
  await status(page, "Connected");
  const before = await picture(page);
  await until("the other's picture plays", async () => {
    const now = await picture(page);
    return now.width > 0 && !now.paused && now.time > before.time && now.decoded > before.decoded;
  });
}

/** Sound arrives as well. */
export async function hears(page) {
  const before = await received(page, "audio", "packetsReceived");
  await until("sound arrives", async () => (await received(page, "audio", "packetsReceived")) > before);
}

async function picture(page) {
  const shown = await page.evaluate(() => {
    const video = document.getElementById("remote-video");
    return { width: video.videoWidth, time: video.currentTime, paused: video.paused };
  });
  return { ...shown, decoded: await received(page, "video", "framesDecoded") };
}

/** A figure of what the newest connection receives. */
export async function received(page, kind, figure) {
  return page.evaluate(
    async ([wantedKind, name]) => {
      let most = 0;
      for (const line of (await window.connections.at(-1)?.getStats())?.values() ?? []) {
        if (line.type === "inbound-rtp" && line.kind === wantedKind) most = Math.max(most, line[name] ?? 0);
      }
      return most;
    },
    [kind, figure],
  );
}

/** Keeps a picture for a person to look at, where SCREENSHOTS names a directory. */
export async function keep(page, name) {
  if (!process.env.SCREENSHOTS) return;
  await mkdir(process.env.SCREENSHOTS, { recursive: true });
  await page.screenshot({ path: `${process.env.SCREENSHOTS}/${name}.png` });
}

/** Nothing sticks out sideways, and no text is cut off inside a button or a heading. */
export async function fitsItsScreen(page) {
  const faults = await page.evaluate(() => {
    const found = [];
    const { clientWidth, scrollWidth } = document.documentElement;
    if (scrollWidth > clientWidth) found.push(`page is ${scrollWidth} wide in ${clientWidth}`);
    for (const node of document.querySelectorAll("button, h1, h2, p, label, select, dialog")) {
      if (node.closest("noscript") || node.matches(".unseen, #toast")) continue;
      const box = node.getBoundingClientRect();
      if (box.width === 0 || box.height === 0) continue;
      if (box.left < -0.5 || box.right > clientWidth + 0.5) found.push(`${node.id || node.tagName} leaves the screen`);
      if (node.matches("button") && node.scrollWidth > node.clientWidth + 1 && !node.matches("[data-tip]")) {
        found.push(`${node.id || node.textContent} is cut off`);
      }
    }
    return found;
  });
  assert.deepEqual(faults, []);
}

/** A module of the page, loaded into this process. It is copied first, as only a package file tells Node what it is. */
export async function pageModule(t, path) {
  const home = await mkdtemp(pathJoin(tmpdir(), "duet-page-"));
  t.after(() => rm(home, { recursive: true, force: true }));
  await cp(pathJoin(PUBLIC, "js"), home, { recursive: true });
  await writeFile(pathJoin(home, "package.json"), '{"type":"module"}');
  return import(pathToFileURL(pathJoin(home, path)).href);
}

/**
 * Every word in sight stands out from its ground by 4.5 to 1, or by 3 where it is large. Words that lie on a picture are
 * left out: their ground is no colour.
 */
export async function readable(page) {
  const faults = await page.evaluate(() => {
    const parse = (colour) => {
      const [r, g, b, a = 1] = colour.match(/[\d.]+/g).map(Number);
      // What was mixed is told in parts of one.
      const most = colour.startsWith("color(srgb") ? 255 : 1;
      return { r: r * most, g: g * most, b: b * most, a };
    };
    const over = (top, ground) => ({
      r: top.r * top.a + ground.r * (1 - top.a),
      g: top.g * top.a + ground.g * (1 - top.a),
      b: top.b * top.a + ground.b * (1 - top.a),
      a: 1,
    });
    const groundOf = (node) => {
      if (!node) return { r: 255, g: 255, b: 255, a: 1 };
      const own = parse(getComputedStyle(node).backgroundColor);
      return own.a === 1 ? own : over(own, groundOf(node.parentElement));
    };
    const brightness = ({ r, g, b }) => {
      const [x, y, z] = [r, g, b].map((part) => (part <= 10.31 ? part / 3294.6 : ((part / 255 + 0.055) / 1.055) ** 2.4));
      return 0.2126 * x + 0.7152 * y + 0.0722 * z;
    };
    const found = [];
    const scope = document.querySelector("dialog[open]") ?? document.body;
    for (const node of scope.querySelectorAll("*")) {
      const says = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim() !== "") || node.matches("input, select");
      const box = node.getBoundingClientRect();
      if (!says || box.width <= 1 || node.closest("noscript, option, svg, script")) continue;
      if (!node.checkVisibility({ visibilityProperty: true }) || node.matches("#call-room")) continue;
      const style = getComputedStyle(node);
      const ground = groundOf(node);
      const [light, dark] = [brightness(over(parse(style.color), ground)), brightness(ground)].sort((a, b) => b - a);
      const contrast = (light + 0.05) / (dark + 0.05);
      const size = parseFloat(style.fontSize);
      const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
      if (contrast < (large ? 3 : 4.5)) found.push(`${node.id || node.textContent.trim().slice(0, 30)}: ${contrast.toFixed(2)}`);
    }
    return found;
  });
  assert.deepEqual(faults, []);
}

/** All of the page's own text but its languages, for questions about what it uses. */
export async function pageSource() {
  const scripts = (await readdir(pathJoin(PUBLIC, "js"))).filter((name) => name.endsWith(".js")).map((name) => pathJoin("js", name));
  const texts = ["index.html", ...scripts].map((name) => readFile(pathJoin(PUBLIC, name), "utf8"));
  return (await Promise.all(texts)).join("\n");
}
