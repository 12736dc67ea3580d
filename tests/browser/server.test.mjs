/** The way to the server breaks and heals; the server refuses, drains, and is gone. Needs a server of its own (DUET_BIN). */

import assert from "node:assert/strict";
import { test } from "node:test";
import { SERVER_GONE, call, joinRoom, keep, person, received, sees, startBrowser, startServer, status, until } from "./support.mjs";

const skip = process.env.DUET_BIN ? false : "DUET_BIN is not set";

test("the server is killed and started again: the picture never stops, and the call is one again", { skip }, async (t) => {
  const server = await startServer(t);
  const browser = await startBrowser(t);
  const { first, second } = await call(t, browser, server.url, "restart", { tolerate: SERVER_GONE });

  await server.stop("SIGKILL");
  for (const page of [first, second]) {
    await status(page, "Connected. Restoring the way to the server");
    const before = await received(page, "video", "framesDecoded");
    await until("pictures go on without a server", async () => (await received(page, "video", "framesDecoded")) > before + 5);
  }
  await keep(first, "server-lost-in-call-desk-light");

  await server.start();
  await Promise.all([sees(first), sees(second)]);
  // Neither side had to open a second connection, nor lost its picture on the way.
  for (const page of [first, second]) assert.equal(await page.evaluate(() => window.connections.length), 1);

  // They are paired again: what goes through the server reaches the other.
  await Promise.all([first, second].map((page) => page.evaluate(() => window.connections[0].restartIce())));
  await Promise.all([sees(first), sees(second)]);
  await first.click("#control-hang-up");
  await status(second, "The other person left");
});

test("waiting alone, a lost server is told of and comes back by itself", { skip }, async (t) => {
  const server = await startServer(t);
  const browser = await startBrowser(t);
  const page = await person(t, browser, { tolerate: SERVER_GONE });
  await joinRoom(page, server.url, "alone");
  await status(page, "Waiting for the other person");

  await server.stop("SIGKILL");
  await status(page, "Server out of reach. Trying again");
  assert.equal(await page.getAttribute("#card-actions button", "data-action"), "tryNow");
  await keep(page, "unreachable-desk-light");

  await server.start();
  await page.click('#card-actions [data-action="tryNow"]').catch(() => {});
  await status(page, "Waiting for the other person");
  const other = await person(t, browser);
  await joinRoom(other, server.url, "alone");
  await Promise.all([sees(page), sees(other)]);
});

test("one side alone loses the server: it comes back to the same connection", { skip }, async (t) => {
  const server = await startServer(t);
  const browser = await startBrowser(t);
  const { first, second } = await call(t, browser, server.url, "blip", {
    tolerate: SERVER_GONE,
    first: {
      initScript: () => {
        const Real = window.WebSocket;
        window.WebSocket = class extends Real {
          constructor(...args) {
            super(...args);
            window.line = this;
          }
        };
      },
    },
  });
  const connections = () => Promise.all([first, second].map((page) => page.evaluate(() => window.connections.length)));
  await first.evaluate(() => {
    window.chips = [];
    const chip = document.getElementById("chip-text");
    new MutationObserver(() => window.chips.push(chip.textContent)).observe(chip, { childList: true, characterData: true, subtree: true });
    window.line.close();
  });
  await until("the break is told of, and its end", () =>
    first.evaluate(() => window.chips.includes("Connected. Restoring the way to the server") && window.chips.at(-1) === "Connected"),
  );
  await Promise.all([sees(first), sees(second)]);
  assert.deepEqual(await connections(), [1, 1]);

  // Still one pair for the server, in their new roles: hanging up reaches the other.
  await second.click("#control-hang-up");
  await status(first, "The other person left");
});

test("a refusal that may pass is told of and asked again; one that may not offers another room", { skip }, async (t) => {
  const server = await startServer(t);
  const browser = await startBrowser(t);
  const refusing = (code, retryable) => `
    export const io = () => {
      const heard = {};
      setTimeout(() => heard.connect());
      return {
        active: true,
        connected: true,
        io: { reconnectionDelay: () => {} },
        on: (name, act) => (heard[name] = act),
        emit: (event, ...args) => args.at(-1)({ ok: false, code: "${code}", message: "", retryable: ${retryable} }),
        disconnect: () => {},
      };
    };`;
  for (const [code, retryable, said, action] of [
    ["draining", true, "The server restarts. Trying again", "tryNow"],
    ["unavailable", true, "The server is busy. Trying again", "tryNow"],
    ["too_many_rooms", false, "The server said no", "newRoom"],
    ["bad_room", false, "Not a room name", "newRoom"],
  ]) {
    const page = await person(t, browser);
    await page.route("**/socket.io/socket.io.esm.min.js", (route) =>
      route.fulfill({ contentType: "text/javascript", body: refusing(code, retryable) }),
    );
    await joinRoom(page, server.url, `refused-${code}`);
    await status(page, said);
    assert.equal(await page.getAttribute("#card-actions button", "data-action"), action);
    await keep(page, `refused-${code}-desk-light`);
  }
});
