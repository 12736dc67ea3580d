/** The parts of the page that need no page: words, names, codes, and the state machine. */

import assert from "node:assert/strict";
import { test } from "node:test";
import jsQR from "jsqr";
import { pageModule, pageSource } from "./support.mjs";

test("every language has every sentence, with the same placeholders", async (t) => {
  const { LANGUAGES } = await pageModule(t, "i18n.js");
  assert.deepEqual(LANGUAGES.map(({ code }) => code).sort(), ["en", "es", "ko", "zh"]);
  const [english, ...others] = LANGUAGES;
  const placeholders = (sentence) => (sentence.match(/\{\w+\}/g) ?? []).sort();
  for (const { code, words } of others) {
    assert.deepEqual(Object.keys(words), Object.keys(english.words), `keys of ${code}`);
    for (const [key, sentence] of Object.entries(words)) {
      assert.ok(sentence.trim() !== "", `${code} ${key} is empty`);
      assert.deepEqual(placeholders(sentence), placeholders(english.words[key]), `placeholders of ${code} ${key}`);
    }
  }
});

test("no sentence of another language is left in English", async (t) => {
  const { LANGUAGES } = await pageModule(t, "i18n.js");
  const [english, ...others] = LANGUAGES;
  const same = new Set(["page.title", "page.titleRoom", "control.withKey"]);
  for (const { code, words } of others) {
    for (const [key, sentence] of Object.entries(words)) {
      if (!same.has(key)) assert.notEqual(sentence, english.words[key], `${code} ${key}`);
    }
  }
});

test("no sentence stands there that the page never says", async (t) => {
  const { LANGUAGES } = await pageModule(t, "i18n.js");
  const source = await pageSource();
  // These are put together from a name: each family is walked by another test, or by the reasons listed in `media.js`.
  const composed = /^(status|card|action)\.|^trouble\.(cam|mic|both)\.(none|blocked|busy)$/;
  const silent = Object.keys(LANGUAGES[0].words).filter((key) => !composed.test(key) && !source.includes(`"${key}"`));
  assert.deepEqual(silent, []);
});

test("the first language a browser asks for that there is", async (t) => {
  const { choose, translator } = await pageModule(t, "i18n.js");
  const chosen = (...wishes) => choose(wishes).code;
  assert.equal(chosen("es-419", "en"), "es");
  assert.equal(chosen("fr-FR", "ko-KR", "en"), "ko");
  assert.equal(chosen("zh-Hant-TW"), "zh");
  assert.equal(chosen("zh_CN"), "zh");
  assert.equal(chosen("fr"), "en");
  assert.equal(chosen(null, undefined, "", "es"), "es");
  assert.throws(() => translator(choose(["en"]))("no.such.key"), /no.such.key/);
});

test("every state has words, and every word-only state a way on", async (t) => {
  const { describe } = await pageModule(t, "status.js");
  const { initial } = await pageModule(t, "state.js");
  const { LANGUAGES } = await pageModule(t, "i18n.js");
  const { words } = LANGUAGES[0];
  const seen = new Set();
  for (const server of ["off", "connecting", "up", "lost", "unreachable", "noClient"])
    for (const seat of ["none", "asking", "seated", "full", "waiting", "deferred", "refused"])
      for (const peer of ["unknown", "absent", "left", "connecting", "connected", "interrupted", "failed"])
        for (const [away, slow, returning] of [[true, true, false], [false, false, false], [false, true, false], [false, false, true]])
          for (const refusal of [null, "full", "draining", "bad_room", "unavailable"]) {
            const told = describe({ ...initial(), screen: "call", server, seat, peer, away, slow, returning, refusal });
            seen.add(told.chip);
            assert.ok(words[told.chip], told.chip);
            if (told.title === null) continue;
            assert.ok(words[told.title], told.title);
            assert.ok(words[told.text], told.text);
            assert.ok(told.actions.length > 0, `${told.title} offers nothing`);
            for (const action of told.actions) assert.ok(words[`action.${action}`], action);
          }
  const all = Object.keys(words).filter((key) => key.startsWith("status."));
  assert.deepEqual([...seen].sort(), all.sort());
});

test("fresh servers are asked for in time, and where no clock can be trusted, now and then", async (t) => {
  const { SOON_MS, LATE_MS, freshIn } = await pageModule(t, "ice.js");
  const now = 1_700_000_000_000;
  const ends = (seconds) => [{ urls: ["stun:a"] }, { urls: ["turn:a"], username: `${now / 1000 + seconds}:duet-1`, credential: "c" }];
  assert.equal(freshIn(ends(600), now), 300_000);
  assert.equal(freshIn([...ends(6000), ...ends(600)], now), 300_000, "the first that ends");
  assert.equal(freshIn(ends(6 * 3600), now), LATE_MS);
  assert.equal(freshIn(ends(4), now), SOON_MS);
  assert.equal(freshIn(ends(-86_400), now), SOON_MS);
  assert.equal(freshIn([{ urls: "turn:a", username: "somebody", credential: "c" }], now), LATE_MS);
  assert.equal(freshIn([{ urls: "stun:a" }], now), null);
  assert.equal(freshIn([], now), null);
});

test("made-up room names are valid, readable and hard to guess", async (t) => {
  const { madeUpRoom, isRoomName, pathOf } = await pageModule(t, "rooms.js");
  const { WORDS } = await pageModule(t, "words.js");
  assert.equal(new Set(WORDS).size, WORDS.length, "a word stands twice");
  assert.ok(WORDS.every((word) => /^[a-z]{3,9}$/.test(word)));
  assert.ok(3 * Math.log2(WORDS.length) + Math.log2(10_000) >= 40, "fewer than 40 bits");
  const names = new Set(Array.from({ length: 500 }, () => madeUpRoom()));
  assert.equal(names.size, 500);
  for (const name of names) {
    assert.match(name, /^[a-z]+-[a-z]+-[a-z]+-\d{4}$/);
    assert.ok(isRoomName(name));
    assert.equal(pathOf(name), `/${name}`);
  }
  assert.equal(madeUpRoom((below) => below - 1), `${WORDS.at(-1)}-${WORDS.at(-1)}-${WORDS.at(-1)}-9999`);
});

test("any room name survives the way into an address and back", async (t) => {
  const { pathOf, roomInAddress } = await pageModule(t, "rooms.js");
  const names = ["a", "Café del mar", "방 하나", "房间", "socket.io", "favicon.ico", "manifest.webmanifest", ".", "..", "a/b", "css", "js", "ICONS",
    "?", "#x", "100%", "a+b", "__proto__", "index.html", "-", "x".repeat(128), "😀".repeat(128)];
  for (const name of names) {
    const { pathname, search } = new URL(pathOf(name), "https://example.org");
    assert.deepEqual(roomInAddress({ pathname, search }), { room: name }, name);
  }
  for (const taken of ["socket.io", "ice-servers", "css", "JS", "..", "favicon.ico"]) assert.match(pathOf(taken), /^\/\?room=/);
});

test("a name that cannot be a room is told apart from no name", async (t) => {
  const { isRoomName, roomInAddress } = await pageModule(t, "rooms.js");
  assert.equal(roomInAddress({ pathname: "/", search: "" }), null);
  for (const [pathname, search] of [["/%E0%A4%A", ""], ["/a%00b", ""], [`/${"x".repeat(129)}`, ""], ["/", "?room="], ["/", "?room=%0A"]]) {
    assert.deepEqual(roomInAddress({ pathname, search }), { room: null }, pathname + search);
  }
  assert.equal(isRoomName("\u{1F600}".repeat(128)), true);
  assert.equal(isRoomName("\u{1F600}".repeat(129)), false);
  assert.equal(isRoomName("\u0085"), false);
  assert.equal(isRoomName("\uD800"), false);
});

test("a QR code says what was put in, at every size up to the largest", async (t) => {
  const { encode } = await pageModule(t, "qr.js");
  const sizes = new Set();
  const texts = [14, 26, 42, 62, 84, 106, 122, 152, 180, 213, 251, 287, 600, 1400, 2331].map((length) =>
    "https://example.org/".repeat(120).slice(0, length),
  );
  for (const text of [...texts, "https://example.org/방-하나-房间-Café"]) {
    const { size, dark } = encode(text);
    sizes.add((size - 17) / 4);
    const scale = 4;
    const side = (size + 8) * scale;
    const pixels = new Uint8ClampedArray(side * side * 4).fill(255);
    for (let y = 0; y < side; y++) {
      for (let x = 0; x < side; x++) {
        const [column, row] = [Math.floor(x / scale) - 4, Math.floor(y / scale) - 4];
        if (column >= 0 && row >= 0 && column < size && row < size && dark(column, row)) pixels.fill(0, (y * side + x) * 4, (y * side + x) * 4 + 3);
      }
    }
    assert.equal((jsQR.default ?? jsQR)(pixels, side, side)?.data, text);
  }
  for (let version = 1; version <= 12; version++) assert.ok(sizes.has(version), `version ${version} was not tried`);
  assert.ok(sizes.has(40));
  assert.throws(() => encode("x".repeat(2332)), RangeError);
});

/** Plays events into a fresh call and collects what is to be done. */
async function story(t, ...events) {
  const { initial, step } = await pageModule(t, "state.js");
  let state = initial();
  const done = [];
  for (const event of [{ type: "open", room: "r" }, { type: "enter" }, { type: "serverUp" }, ...events]) {
    const next = step(state, event);
    state = next.state;
    done.push(...next.effects);
  }
  return { state, done, names: done.map((effect) => effect.do), after: (event) => step(state, event) };
}

/** The story from that state on. */
async function after(t, state) {
  const { step } = await pageModule(t, "state.js");
  return { state, after: (event) => step(state, event) };
}

const first = [
  { type: "seated", outcome: "created" },
  { type: "met", last: false, nonce: "b" },
  { type: "hello", hello: { nonce: "c", keep: null }, nonce: "x" },
];
const connected = [...first, { type: "link", call: "b.c", link: "connected" }];
const second = [{ type: "seated", outcome: "joined" }, { type: "met", last: true, nonce: "c" }];
const lost = [{ type: "serverDown" }, { type: "serverUp" }];

test("both sides name the connection alike, and only the second is polite", async (t) => {
  const one = await story(t, ...first);
  const two = await story(t, ...second, { type: "hello", hello: { nonce: "b", to: "c", keep: null }, nonce: "y" });
  assert.deepEqual(one.done.at(-2), { do: "sayHello", hello: { nonce: "b", to: "c", keep: null } });
  assert.deepEqual(one.done.at(-1), { do: "openPeer", call: "b.c", polite: false });
  assert.deepEqual(two.done.at(-2), { do: "sayHello", hello: { nonce: "c", keep: null } });
  assert.deepEqual(two.done.at(-1), { do: "openPeer", call: "b.c", polite: true });
});

test("two that both say hello first agree on whose is answered", async (t) => {
  const late = await story(t, ...second);
  // The other's value is the lesser: it is answered, and the own hello forgotten.
  assert.deepEqual(late.after({ type: "hello", hello: { nonce: "b", keep: null }, nonce: "y" }).effects, [
    { do: "sayHello", hello: { nonce: "y", to: "b", keep: null } },
    { do: "openPeer", call: "y.b", polite: false },
  ]);
  // The other's is the greater: it will answer.
  assert.deepEqual(late.after({ type: "hello", hello: { nonce: "d", keep: null }, nonce: "y" }).effects, []);
});

test("a hello said twice is answered once, and one said anew begins anew", async (t) => {
  const call = await story(t, ...connected);
  assert.deepEqual(call.after({ type: "hello", hello: { nonce: "c", keep: null }, nonce: "x" }).effects, []);
  assert.deepEqual(call.after({ type: "hello", hello: { nonce: "e", keep: null }, nonce: "x" }).effects, [
    { do: "sayHello", hello: { nonce: "x", to: "e", keep: "b.c" } },
    { do: "closePeer", farewell: false },
    { do: "openPeer", call: "x.e", polite: false },
  ]);
});

test("starting over asks the other for a fresh connection, and gives no seat up", async (t) => {
  const call = await story(t, ...connected, { type: "link", call: "b.c", link: "failed" }, { type: "restart", nonce: "n" });
  assert.deepEqual(call.done.slice(-2), [{ do: "closePeer", farewell: false }, { do: "sayHello", hello: { nonce: "n", keep: null } }]);
  assert.ok(!call.names.includes("giveUpSeat"));
  const { state, effects } = call.after({ type: "hello", hello: { nonce: "m", to: "n", keep: "b.c" }, nonce: "x" });
  assert.deepEqual(effects, [{ do: "openPeer", call: "m.n", polite: true }]);
  assert.equal(state.peer, "connecting");
});

test("a hello that answers another pairing is not heard", async (t) => {
  const two = await story(t, ...second);
  assert.deepEqual(two.after({ type: "hello", hello: { nonce: "b", to: "old", keep: null }, nonce: "y" }).effects, []);
  const one = await story(t, ...first);
  assert.deepEqual(one.after({ type: "hello", hello: { nonce: "d", to: "b", keep: null }, nonce: "y" }).effects, []);
});

test("a hello of an earlier pairing that comes late stops nobody from agreeing", async (t) => {
  for (const [late, fresh] of [["a", "c"], ["z", "c"]]) {
    // One said hello once, and has answered a later connection since. The other is loaded again.
    const joined = (nonce) => [{ type: "seated", outcome: "joined" }, { type: "met", last: true, nonce }];
    const one = await story(t, ...joined(late), { type: "met", last: false, nonce: "b" });
    const two = await story(t, ...joined(fresh));
    const pages = { one: { page: one, to: "two" }, two: { page: two, to: "one" } };
    const calls = {};
    const way = [
      { from: "two", hello: { nonce: fresh, keep: null } },
      { from: "one", hello: { nonce: late, keep: null } },
    ];
    for (let made = 0; way.length > 0 && made < 50; made++) {
      const { from, hello } = way.shift();
      const { to } = pages[from];
      const next = pages[to].page.after({ type: "hello", hello, nonce: `${to}${made}` });
      pages[to].page = await after(t, next.state);
      for (const effect of next.effects) {
        if (effect.do === "sayHello") way.push({ from: to, hello: effect.hello });
        if (effect.do === "openPeer") calls[to] = effect;
      }
    }
    assert.deepEqual(way, [], "they never stop");
    assert.equal(calls.one?.call, calls.two?.call, `${late}, ${fresh}`);
    assert.notEqual(calls.one?.polite, calls.two?.polite);
  }
});

for (const outcome of ["joined", "resumed"]) {
  test(`losing the server keeps the picture, and coming back (${outcome}) keeps the connection`, async (t) => {
    const back = await story(
      t,
      ...connected,
      ...lost,
      { type: "seated", outcome },
      { type: "met", last: true, nonce: "d" },
      { type: "hello", hello: { nonce: "e", to: "d", keep: "b.c" }, nonce: "x" },
    );
    assert.ok(!back.names.includes("closePeer"));
    assert.deepEqual(back.done.at(-1), { do: "keepPeer", polite: true });
    assert.equal(back.state.peer, "connected");
  });
}

test("a connection that broke together with the server is kept as well, for it to start anew", async (t) => {
  const back = await story(
    t,
    ...connected,
    { type: "link", call: "b.c", link: "interrupted" },
    ...lost,
    { type: "seated", outcome: "resumed" },
    { type: "met", last: true, nonce: "d" },
    { type: "hello", hello: { nonce: "e", to: "d", keep: "b.c" }, nonce: "x" },
  );
  assert.deepEqual(back.done.find((effect) => effect.do === "check"), { do: "check" });
  assert.deepEqual(back.done.at(-2), { do: "sayHello", hello: { nonce: "d", keep: "b.c" } });
  assert.deepEqual(back.done.at(-1), { do: "keepPeer", polite: true });
});

test("a connection only one side still has is replaced on both", async (t) => {
  const back = await story(
    t,
    ...connected,
    ...lost,
    { type: "seated", outcome: "resumed" },
    { type: "met", last: true, nonce: "d" },
    { type: "hello", hello: { nonce: "e", to: "d", keep: null }, nonce: "x" },
  );
  assert.deepEqual(back.done.slice(-2), [
    { do: "closePeer", farewell: false },
    { do: "openPeer", call: "e.d", polite: true },
  ]);
});

test("a peer that was lost is waited for with its picture, and let go when its seat is", async (t) => {
  const { describe } = await pageModule(t, "status.js");
  const away = await story(t, ...connected, { type: "peerLost" });
  assert.equal(describe(away.state).chip, "status.away", "media still flows");
  const broken = away.after({ type: "link", call: "b.c", link: "interrupted" });
  assert.equal(describe(broken.state).chip, "status.returning");
  assert.equal(describe(broken.state).over, true);
  const { step } = await pageModule(t, "state.js");
  const left = step(broken.state, { type: "peerLeft", reason: "disconnected" });
  assert.deepEqual([left.state.peer, left.effects], ["left", [{ do: "closePeer", farewell: false }]]);
  const back = step(broken.state, { type: "met", last: false, nonce: "f" });
  assert.deepEqual([back.state.returning, back.state.call, back.effects], [false, "b.c", []]);
});

test("a seat that another tab took is not fought for: everything is let go but the seat", async (t) => {
  const call = await story(t, ...connected, { type: "superseded" });
  assert.equal(call.state.screen, "superseded");
  assert.deepEqual(call.names.slice(-3), ["closePeer", "forget", "stopMedia"]);
  assert.deepEqual(call.done.at(-3), { do: "closePeer", farewell: false });
  assert.deepEqual(call.after({ type: "serverUp" }).effects, []);
  assert.deepEqual(call.after({ type: "enter" }).effects.map((effect) => effect.do), ["remember", "startMedia", "connect"]);
});

test("bye ends the connection when it was meant, and waits while media flows when it was not", async (t) => {
  const meant = await story(t, ...connected, { type: "peerLeft", reason: "left" });
  assert.equal(meant.state.peer, "left");
  assert.equal(meant.names.at(-1), "closePeer");

  const cut = await story(t, ...connected, { type: "peerLeft", reason: "disconnected" });
  assert.equal(cut.state.peer, "connected");
  assert.equal(cut.state.away, true);
  const { state, effects } = cut.after({ type: "link", call: "b.c", link: "interrupted" });
  assert.equal(state.peer, "left");
  assert.deepEqual(effects, [{ do: "closePeer", farewell: false }]);
});

test("news of a connection that was replaced is not heard", async (t) => {
  const call = await story(t, ...connected);
  assert.deepEqual(call.after({ type: "link", call: "old", link: "gone" }).state, call.state);
});

test("a full room is waited for when a person says so, and by itself only from within the call", async (t) => {
  const full = await story(t, { type: "refused", code: "full", again: false });
  assert.equal(full.state.seat, "full");
  assert.ok(!full.names.includes("wait"));
  assert.deepEqual(full.after({ type: "wait" }).effects, [{ do: "wait" }]);
  const back = await story(t, ...connected, ...lost, { type: "refused", code: "full", again: false });
  assert.equal(back.names.at(-1), "wait");
  assert.ok(!back.names.includes("closePeer"));
  assert.equal(back.state.peer, "connected");
});

test("a refusal that may pass can be hurried; any other is final", async (t) => {
  const patient = await story(t, { type: "refused", code: "draining", again: true });
  assert.equal(patient.state.seat, "deferred");
  assert.deepEqual(patient.after({ type: "tryNow" }).effects, [{ do: "retryNow" }]);
  const refused = await story(t, { type: "refused", code: "bad_room", again: false });
  assert.equal(refused.state.seat, "refused");
  assert.deepEqual(refused.after({ type: "tryNow" }).effects, []);
});

test("leaving lets go of everything that was held", async (t) => {
  const left = await story(t, ...connected, { type: "leave" });
  assert.deepEqual(left.names.slice(-4), ["closePeer", "giveUpSeat", "forget", "stopMedia"]);
  assert.equal(left.state.screen, "ended");
  assert.equal(left.after({ type: "serverUp" }).state.screen, "ended");
});
