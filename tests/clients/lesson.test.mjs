/** The lesson's pages against this server, with every generation of the library. */

import assert from "node:assert/strict";
import { after, describe, test } from "node:test";

import { codelabPage, conferencePage, oldPage, videoPage } from "./support/lesson.mjs";
import { VERSIONS, connect, library } from "./support/peer.mjs";
import { startServer } from "./support/server.mjs";
import { until } from "./support/waiting.mjs";

const server = await startServer({ after }, { DUET_COMPAT__IPADDR: "203.0.113.7, 203.0.113.8" });

for (const version of VERSIONS) {
  describe(`with the library of ${version}`, () => {
    /** Opens a page in a tab of its own. */
    function open(t, page, more) {
      const lines = [];
      const here = () => library(version)(server.url, { forceNew: true, reconnection: false });
      const io = Object.assign(here, { connect: here });
      const opened = page({ io, console: { log: (...line) => lines.push(line) }, ...more });
      t.after(() => opened.socket.disconnect());
      return Object.assign(opened, { lines });
    }

    test("English and Korean: the initiator, the second, and the third who finds the room full", async (t) => {
      const room = t.name + version;
      const first = open(t, codelabPage, { room });
      await until("created", () => first.isInitiator === true);
      const second = open(t, codelabPage, { room });
      await until("joined", () => second.isInitiator === false);
      const third = open(t, codelabPage, { room });
      await until("full", () => third.lines.some(([line]) => line === `${room} is full`));
      assert.equal(third.isInitiator, undefined);
      assert.deepEqual([first.clientId, second.clientId], [first.socket.id, second.socket.id]);

      first.socket.emit("ipaddr");
      await until("both addresses", () => first.lines.filter(([line]) => line.startsWith("the server is at")).length === 2);
      assert.deepEqual(first.lines, [
        [`asking to join ${room}`],
        ["Message from server:", `Received request to create or join room ${room}`],
        ["Message from server:", `Room ${room} now has 0 client(s)`],
        ["Message from server:", `Client ID ${first.clientId} created room ${room}`],
        ["the server is at 203.0.113.7"],
        ["the server is at 203.0.113.8"],
      ]);
      assert.deepEqual(second.lines.slice(1), [
        ["Message from server:", `Received request to create or join room ${room}`],
        ["Message from server:", `Room ${room} now has 1 client(s)`],
        ["Message from server:", `Client ID ${second.clientId} joined room ${room}`],
      ]);
      assert.deepEqual(third.lines.slice(1), [
        ["Message from server:", `Received request to create or join room ${room}`],
        ["Message from server:", `Room ${room} now has 2 client(s)`],
        [`${room} is full`],
      ]);
    });

    test("English and Korean: without a room nothing is asked for", async (t) => {
      const page = open(t, codelabPage, { room: "" });
      await until("connected", () => page.socket.connected);
      page.socket.emit("ipaddr");
      await until("an address", () => page.lines.length === 2);
      assert.equal(page.isInitiator, undefined);
    });

    test("Chinese: a call of messages, hung up, and both seats free again", async (t) => {
      const room = t.name + version;
      const first = open(t, videoPage, { room });
      await until("created", () => first.isInitiator);
      const second = open(t, videoPage, { room });
      await until("the last candidate", () => first.heard.length === 3);
      assert.deepEqual(first.heard, [
        "got user media",
        { type: "answer", sdp: "v=0\r\no=answer" },
        { type: "candidate", label: 0, id: "audio", candidate: "candidate:1" },
      ]);
      assert.deepEqual(second.heard, [{ type: "offer", sdp: "v=0\r\no=offer" }]);
      assert.ok(second.lines.some((line) => line[1] === "Client said: " && line[2] === "got user media"));
      second.hangUp();
      await until("hung up", () => !first.isStarted);
      second.leave();
      await new Promise((resolve) => first.socket.once("bye", resolve));
      first.leave();
      const later = await connect(t, server.url, { version, transport: "websocket" });
      await until("the room is empty", async () => {
        const { outcome } = await later.ask("create or join", room);
        if (outcome !== "created") await later.ask("bye", room);
        return outcome === "created";
      });
    });

    test("Spanish, the older server: created, join, joined, full, and messages to the other only", async (t) => {
      const room = t.name + version;
      const first = open(t, oldPage, { room });
      await until("created", () => first.told.length === 1);
      const second = open(t, oldPage, { room });
      await until("joined", () => second.told.length === 1);
      const third = open(t, oldPage, { room });
      await until("full", () => third.told.length === 1);
      second.say("¿qué tal?");
      await until("the message", () => first.told.length === 3);
      first.say({ type: "offer" });
      await until("the answer", () => second.told.length === 2);
      third.say("hola");
      await new Promise((resolve) => third.socket.once("rejected", resolve));
      assert.deepEqual(first.told, [["created", room], ["join", room], ["message", "¿qué tal?"]]);
      assert.deepEqual(second.told, [["joined", room], ["message", { type: "offer" }]]);
      assert.deepEqual(third.told, [["full", room]]);
    });

    test("Spanish, the conference: it comes about when the second peer has its camera, later than the room is complete", async (t) => {
      const room = t.name + version;
      const first = open(t, conferencePage, { room, camera: Promise.resolve() });
      await until("created", () => first.isCaller);
      let giveCamera;
      const second = open(t, conferencePage, { room, camera: new Promise((resolve) => (giveCamera = resolve)) });
      const offer = [["offer", { type: "offer", sdp: "v=0\r\n" }], ["candidate", 0, `candidate of ${first.socket.id}`]];
      await until("the first offer", () => second.told.length === 3);
      assert.deepEqual(second.told, [["ready"], ...offer]);
      giveCamera();
      await until("the answer", () => first.told.length === 4);
      assert.deepEqual(first.told, [
        ["ready"],
        ["ready"],
        ["answer", { type: "answer", sdp: "v=0\r\n" }],
        ["candidate", 0, `candidate of ${second.socket.id}`],
      ]);
      assert.deepEqual(second.told, [["ready"], ...offer, ...offer]);
    });
  });
}
