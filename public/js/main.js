/**
 * Wires the parts: what happens anywhere becomes an event of the state machine, and its effects are carried out here.
 *
 * Owns the address bar, the timers and the one current connection. It must decide nothing that `state.js` could.
 */

import { choose, translator } from "./i18n.js";
import { SOON_MS, freshIn } from "./ice.js";
import { createMedia, mayShowCamera } from "./media.js";
import { createPeer } from "./peer.js";
import { isRoomName, madeUpRoom, pathOf, roomInAddress } from "./rooms.js";
import { createSignaling } from "./signaling.js";
import { initial, step } from "./state.js";
import { describe } from "./status.js";
import { browser, tab } from "./store.js";
import { createView } from "./view.js";

/** Longer than a connection takes on any network on which it will succeed. */
const SLOW_MS = 15000;

/** How long the server has to answer: when there is time, and when something broke and it may be gone as well. */
const ANSWER_MS = 8000;
const SUSPECT_MS = 3000;

let state = initial();
let language = choose([new URLSearchParams(location.search).get("lang"), browser.get("language"), ...navigator.languages]);
let t = translator(language);
let shortcuts = browser.get("shortcuts") !== "off";
let speaker = browser.get("speaker") ?? "";
let autoAsk = false;
/** `?relay` behind the address shows whether the relays work. */
const relayOnly = new URLSearchParams(location.search).has("relay");
/** @type {RTCIceServer[]} */
let iceServers = [];
/** @type {ReturnType<typeof setTimeout> | undefined} */
let freshTimer;
/** @type {ReturnType<typeof createPeer> | null} */
let peer = null;
/** @type {MediaStream | null} */
let remote = null;
/** @type {import("./peer.js").Shows | null} */
let remoteShows = null;
/** @type {ReturnType<typeof setTimeout> | undefined} */
let slowTimer;
/** @type {WakeLockSentinel | null} */
let wakeLock = null;

const view = createView(act);

const media = createMedia({
  wanted: { mic: tab.get("mic") !== "off", cam: tab.get("cam") !== "off" },
  chosen: { camera: browser.get("camera"), microphone: browser.get("microphone") },
  onChange: mediaChanged,
});

const signaling = createSignaling({
  onUp: () => happened({ type: "serverUp" }),
  onDown: () => happened({ type: "serverDown" }),
  onUnreachable: () => happened({ type: "serverUnreachable" }),
  onClientMissing: () => happened({ type: "clientMissing" }),
  onSeated: (outcome) => happened({ type: "seated", outcome }),
  onServers: takeServers,
  onRefused: (code, again) => happened({ type: "refused", code, again }),
  onWaiting: () => happened({ type: "waiting" }),
  onSuperseded: () => happened({ type: "superseded" }),
  onMet: (last) => happened({ type: "met", last, nonce: madeUpNonce() }),
  onPeerLost: () => happened({ type: "peerLost" }),
  onPeerLeft: (reason) => happened({ type: "peerLeft", reason }),
  onPutOut: () => happened({ type: "leave" }),
  onMessage: received,
});

if (speaker !== "") view.setSpeaker(speaker);
openAddress();
window.addEventListener("popstate", openAddress);
// Without a farewell: whether the page is loaded again, and takes its seat back, cannot be known here.
window.addEventListener("pagehide", () => peer?.close({ farewell: false }));
// The system takes the lock away from a page that is out of sight.
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible" && state.screen === "call") void stayAwake();
});
window.addEventListener("pageshow", ({ persisted }) => {
  if (persisted) location.reload();
});

/** @param {import("./state.js").Event} event */
function happened(event) {
  const next = step(state, event);
  state = next.state;
  for (const effect of next.effects) perform(effect);
  render();
}

/** @param {import("./state.js").Effect} effect */
function perform(effect) {
  switch (effect.do) {
    case "connect":
      void signaling.connect(state.room);
      return;
    case "retryNow":
      signaling.retryNow(state.room);
      return;
    case "wait":
      signaling.wait();
      return;
    case "check":
      void signaling.check(SUSPECT_MS);
      return;
    case "giveUpSeat":
      signaling.giveUpSeat();
      return;
    case "sayHello":
      signaling.greet(effect.hello);
      return;
    case "openPeer":
      openPeer(effect.call, effect.polite);
      return;
    case "keepPeer":
      peer?.resume(effect.polite);
      return;
    case "closePeer":
      closePeer(effect.farewell);
      return;
    case "remember":
      tab.set(`joined:${effect.room}`, "yes");
      void stayAwake();
      return;
    case "forget":
      tab.set(`joined:${effect.room}`, null);
      void wakeLock?.release().catch(() => {});
      wakeLock = null;
      return;
    case "startMedia":
      void media.start();
      return;
    case "stopMedia":
      media.stop();
  }
}

/** @param {RTCIceServer[] | null | undefined} servers */
function takeServers(servers) {
  iceServers = Array.isArray(servers) ? servers : [];
  peer?.setServers(iceServers);
  freshenIn(freshIn(iceServers, Date.now()));
}

/** @param {number | null} ms */
function freshenIn(ms) {
  clearTimeout(freshTimer);
  if (ms !== null) freshTimer = setTimeout(() => void freshen(), ms);
}

/** Asking for a seat that one has changes nothing, and its answer has servers that can be used now. */
async function freshen() {
  const { room } = state;
  // Who is to be seated again is told of them then.
  if (state.seat !== "seated" || freshIn(iceServers, Date.now()) === null) return;
  const answer = await signaling.check(ANSWER_MS);
  if (state.room !== room || state.seat !== "seated") return;
  if (answer?.ok) takeServers(answer.iceServers);
  else freshenIn(SOON_MS);
}

/** @param {any} message */
function received(message) {
  if (message.hello) happened({ type: "hello", hello: message.hello, nonce: madeUpNonce() });
  else if (state.call !== null && message.call === state.call) void peer?.receive(message);
}

/** @param {string} call @param {boolean} polite */
function openPeer(call, polite) {
  clearTimeout(slowTimer);
  slowTimer = setTimeout(() => happened({ type: "slow", call }), SLOW_MS);
  peer = createPeer({
    polite,
    iceServers,
    relayOnly,
    freshen,
    tracks: tracks(),
    shows: shows(),
    send: (message) => signaling.send({ call, ...message }),
    heard: () => signaling.together,
    onStream(stream) {
      remote = stream;
      render();
    },
    onShows(now) {
      remoteShows = now;
      render();
    },
    onLink: (link) => happened({ type: "link", call, link }),
  });
}

/** @param {boolean} farewell */
function closePeer(farewell) {
  clearTimeout(slowTimer);
  peer?.close({ farewell });
  peer = null;
  remote = null;
  remoteShows = null;
}

/** What a person did, as the view tells it. @param {string} name @param {any} [value] */
function act(name, value) {
  switch (name) {
    case "enter":
    case "leave":
    case "tryNow":
    case "wait":
      return happened({ type: name });
    case "takeBack":
      return happened({ type: "enter" });
    case "restart":
      return happened({ type: name, nonce: madeUpNonce() });
    case "home":
      return goTo("/");
    case "newRoom":
      return goTo(pathOf(madeUpRoom()));
    case "openNamed":
      return openNamed(value);
    case "preview":
    case "again":
      return void media.start();
    case "mic":
      return void toggleMic();
    case "cam":
      return void toggleCam();
    case "screen":
      return media.now.screen ? media.stopScreen() : void media.shareScreen();
    case "device":
      return void chooseDevice(value.which, value.id);
    case "listDevices":
      return void listDevices();
    case "language":
      return chooseLanguage(value);
    case "shortcuts":
      shortcuts = value;
      browser.set("shortcuts", value ? null : "off");
      return render();
  }
}

/** @param {string} path */
function goTo(path) {
  history.pushState(null, "", path);
  openAddress();
}

/** @param {string} typed */
function openNamed(typed) {
  // Two keyboards may write the same letter differently; a name that was typed is brought to one form.
  const room = typed.trim().normalize("NFC");
  if (!isRoomName(room)) return view.refuseName(t("home.bad"));
  goTo(pathOf(room));
}

function openAddress() {
  const address = roomInAddress(location);
  if (address === null) return happened({ type: "openHome" });
  if (address.room === null) return happened({ type: "openBad" });
  const { room } = address;
  if (state.room === room && state.screen !== "home") return;
  happened({ type: "open", room });
  if (lacksWebrtc()) return;
  if (tab.get(`joined:${room}`)) happened({ type: "enter" });
  else void previewIfAllowed();
}

/** Where the browser would not ask anyway, the camera shows at once. */
async function previewIfAllowed() {
  autoAsk = await mayShowCamera();
  if (state.screen !== "lobby") return;
  if (autoAsk) await media.start();
  render();
}

async function toggleMic() {
  const { mic, audio, micTrouble } = media.now;
  const on = !(mic && (inLobby() ? micTrouble === null : audio !== null));
  tab.set("mic", on ? null : "off");
  if (on && asksFirst()) return media.intend({ mic: true });
  await media.setMic(on);
  if (state.screen === "call") view.say(t(shows().mic ? "people.unmuted" : "people.youMuted"));
}

async function toggleCam() {
  const { cam, camera, camTrouble } = media.now;
  const on = !(cam && (inLobby() ? camTrouble === null : camera !== null));
  tab.set("cam", on ? null : "off");
  if (on && asksFirst()) return media.intend({ cam: true });
  await media.setCam(on);
  if (state.screen === "call") view.say(t(shows().cam ? "people.youCamOn" : "lobby.camOff"));
}

/** In the lobby a wish is noted, and nothing taken before the person joins or asks for a preview. */
function asksFirst() {
  const { audio, camera, micTrouble, camTrouble } = media.now;
  return inLobby() && !autoAsk && !audio && !camera && !micTrouble && !camTrouble;
}

function inLobby() {
  return state.screen === "lobby";
}

/** @param {"camera" | "microphone" | "speaker"} which @param {string} id */
async function chooseDevice(which, id) {
  browser.set(which, id);
  if (which === "speaker") {
    speaker = id;
    view.setSpeaker(id);
  } else {
    await media.choose(which, id);
  }
}

async function listDevices() {
  view.renderDevices(await media.list(), {
    camera: media.now.camera?.getSettings().deviceId ?? "",
    microphone: media.now.audio?.getSettings().deviceId ?? "",
  });
}

/** @param {string} code */
function chooseLanguage(code) {
  language = choose([code]);
  t = translator(language);
  browser.set("language", language.code);
  render();
  if (view.settingsOpen) void listDevices();
}

function mediaChanged() {
  const now = tracks();
  peer?.setTrack("audio", now.audio);
  peer?.setTrack("video", now.video);
  peer?.setShows(shows());
  render();
  if (view.settingsOpen) void listDevices();
}

/** @returns {import("./peer.js").Tracks} */
function tracks() {
  const { audio, camera, screen } = media.now;
  return { audio, video: screen ?? camera };
}

/** @returns {import("./peer.js").Shows} */
function shows() {
  const { audio, mic, camera, screen } = media.now;
  return { mic: mic && audio !== null, cam: camera !== null, screen: screen !== null };
}

/** A telephone that falls asleep ends the call. */
async function stayAwake() {
  wakeLock = (await navigator.wakeLock?.request("screen").catch(() => null)) ?? null;
}

function lacksWebrtc() {
  return typeof RTCPeerConnection !== "function";
}

function madeUpNonce() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function render() {
  view.render({
    state,
    status: describe(state),
    media: media.now,
    noWebrtc: lacksWebrtc(),
    autoAsk,
    canShareScreen: media.canShareScreen,
    remote,
    remoteShows,
    link: location.origin + pathOf(state.room),
    shortcuts,
    speaker,
    language,
    t,
  });
}
