/**
 * The page itself: the only module that knows the DOM.
 *
 * Owns elements, focus and dialogs. It shows what it is given and reports what a person does; it must never decide how the
 * call goes on. Nothing that came over the network is ever taken as markup: text only through `textContent`.
 */

/**
 * @typedef {import("./peer.js").Shows} Shows
 *
 * @typedef {object} Model
 * @property {import("./state.js").State} state
 * @property {import("./status.js").Status} status
 * @property {import("./media.js").Media} media
 * @property {boolean} noWebrtc
 * @property {boolean} autoAsk        the browser will not ask on joining, or has been asked
 * @property {boolean} canShareScreen
 * @property {MediaStream | null} remote
 * @property {Shows | null} remoteShows  null: not told yet
 * @property {string} link            address of this room
 * @property {boolean} shortcuts
 * @property {string} speaker         chosen output, "" for the default
 * @property {(typeof import("./i18n.js").LANGUAGES)[number]} language
 * @property {(key: string, values?: Record<string, string | number>) => string} t
 *
 * @typedef {(name: string, value?: any) => void} Report
 */

import { LANGUAGES } from "./i18n.js";
import { toPath } from "./qr.js";

const COPIED_MS = 2500;
const TOAST_MS = 4000;

/** Sides may go so that a picture fills the stage, but no more than this share of its height: that is where faces are. */
const MOST_CROPPED = 0.3;

/** @param {Report} report */
export function createView(report) {
  const el = (/** @type {string} */ id) => /** @type {any} */ (document.getElementById(id));
  /** @type {Model | null} */
  let shown = null;
  let spoken = "";
  let dismissed = "";
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let toastTimer;

  wire();

  /** @param {Model} model */
  function render(model) {
    const before = shown;
    shown = model;
    if (before?.language !== model.language) speak(model);
    showScreen(model, before);
    if (model.state.screen === "lobby") renderLobby(model);
    if (model.state.screen === "call") renderCall(model);
    renderTrouble(model);
    renderInvite(model);
    el("shortcuts").checked = model.shortcuts;
  }

  /** @param {Model} model */
  function speak({ t, language }) {
    document.documentElement.lang = language.html;
    for (const node of document.querySelectorAll("[data-t]")) node.textContent = t(/** @type {any} */ (node).dataset.t);
    for (const node of document.querySelectorAll("[data-t-label]")) {
      node.setAttribute("aria-label", t(/** @type {any} */ (node).dataset.tLabel));
    }
    for (const node of document.querySelectorAll("[data-t-placeholder]")) {
      node.setAttribute("placeholder", t(/** @type {any} */ (node).dataset.tPlaceholder));
    }
    document.querySelector("meta[name=description]")?.setAttribute("content", t("page.tagline"));
    for (const select of [el("language"), el("language-top")]) select.value = language.code;
    el("home-bad").textContent = "";
  }

  /** @param {Model} model @param {Model | null} before */
  function showScreen(model, before) {
    const { state, t, noWebrtc } = model;
    const wordless = state.screen === "home" || state.screen === "badRoom";
    const screen = noWebrtc && !wordless ? "noWebrtc" : state.screen;
    const words = ["badRoom", "ended", "superseded", "noWebrtc"].includes(screen);
    const section = words ? "word" : screen;
    for (const id of ["home", "lobby", "word", "call"]) el(id).hidden = id !== section;
    el("top").hidden = section === "call";
    document.title = state.room === "" ? t("page.title") : t("page.titleRoom", { room: state.room });

    if (screen === "badRoom") word(t("badRoom.title"), t("badRoom.text"), ["newRoom", "home"]);
    if (screen === "ended") word(t("ended.title"), t("ended.text"), ["enter", "home"]);
    if (screen === "superseded") word(t("superseded.title"), t("superseded.text"), ["takeBack", "home"]);
    if (screen === "noWebrtc") word(t("trouble.noWebrtc.title"), t("trouble.noWebrtc.text"), []);

    const moved = document.body.dataset.screen !== screen;
    document.body.dataset.screen = screen;
    if (!moved) return;
    closeDialogs();
    // On the very first screen the reader starts at the top, as on any page.
    const first = /** @type {Record<string, string>} */ ({ lobby: "lobby-join", call: "call-room" });
    if (before) el(first[screen] ?? `${section}-title`).focus();
    window.scrollTo(0, 0);
  }

  /** @param {string} title @param {string} text @param {import("./status.js").Action[]} actions */
  function word(title, text, actions) {
    setText(el("word-title"), title);
    setText(el("word-text"), text);
    setActions(el("word-actions"), actions);
  }

  /** @param {Model} model */
  function renderLobby({ state, media, autoAsk, t }) {
    setText(el("lobby-room"), state.room);
    setStream(el("lobby-video"), media.camera);
    el("lobby-video").hidden = !media.camera;
    el("lobby-blank").hidden = Boolean(media.camera);
    setText(
      el("lobby-blank-text"),
      media.starting ? t("lobby.starting") : media.camTrouble === null && media.cam && !autoAsk ? "" : t("lobby.camOff"),
    );
    el("lobby-preview").hidden = media.starting || !media.cam || media.camTrouble !== null;
    el("lobby-ask").hidden = autoAsk || media.camTrouble !== null || !(media.cam || media.mic);
    toggle(el("lobby-mic"), media.mic && media.micTrouble === null, "mic", media.mic ? "control.mute" : "control.unmute", "M");
    toggle(el("lobby-cam"), media.cam && media.camTrouble === null, "cam", media.cam ? "control.camOff" : "control.camOn", "V");
    label(el("lobby-settings"), t("control.settings"));
  }

  /** @param {Model} model */
  function renderCall(model) {
    const { state, status, media, remote, remoteShows, canShareScreen, t } = model;
    setText(el("call-room"), state.room);
    el("chip").dataset.tone = status.tone;
    setText(el("chip-text"), t(status.chip));

    const together = ["connecting", "connected", "interrupted", "failed"].includes(state.peer);
    // Whoever has no seat knows of nobody.
    el("people").hidden = ["full", "waiting", "refused", "deferred"].includes(state.seat) && !together;
    setText(el("people-text"), t(together ? "people.two" : "people.one"));

    const video = el("remote-video");
    setStream(video, remote);
    const inCall = status.title === null || status.over;
    el("stage").dataset.alone = String(!inCall);
    el("stage").dataset.broken = String(status.over);
    el("remote").hidden = !inCall;
    const blank = remote === null || (remoteShows !== null && !remoteShows.cam && !remoteShows.screen);
    el("remote-blank").hidden = !blank;
    el("remote-muted").hidden = remoteShows === null || remoteShows.mic;
    el("remote-screen").hidden = !remoteShows?.screen;
    fit(video, Boolean(remoteShows?.screen));
    if (!remote) el("sound").hidden = true;

    renderCard(model);

    const own = media.screen ?? media.camera;
    setStream(el("self-video"), own);
    el("self-video").classList.toggle("mirrored", media.screen === null);
    el("self-video").hidden = own === null;
    el("self-blank").hidden = own !== null;
    el("self-muted").hidden = media.mic && media.audio !== null;
    el("self-screen").hidden = media.screen === null;

    toggle(el("control-mic"), media.mic && media.audio !== null, "mic", media.mic && media.audio ? "control.mute" : "control.unmute", "M");
    toggle(el("control-cam"), media.cam && media.camera !== null, "cam", media.cam && media.camera ? "control.camOff" : "control.camOn", "V");
    el("control-screen").hidden = !canShareScreen;
    el("control-screen").classList.toggle("on", media.screen !== null);
    label(el("control-screen"), t(media.screen ? "control.unshare" : "control.share"), "S");
    label(el("control-invite"), t("control.invite"), "I");
    label(el("control-settings"), t("control.settings"));
    label(el("control-hang-up"), t("control.hangUp"));
  }

  /** @param {Model} model */
  function renderCard({ status, t }) {
    const card = el("card");
    const held = card.contains(document.activeElement);
    card.hidden = status.title === null;
    card.dataset.tone = status.tone;
    card.classList.toggle("over", status.over);
    if (status.title !== null && status.text !== null) {
      setText(el("card-title"), t(status.title));
      setText(el("card-text"), t(status.text));
      el("card-spinner").hidden = status.tone !== "busy";
      el("card-invite").hidden = !status.invite;
      // Waiting can be left with the red button; the card is for what is particular to the moment.
      setActions(el("card-actions"), status.actions.filter((action) => action !== "leave"));
    }
    // Whoever stood on a button that has gone must not be thrown back to the top of the page.
    if (held && (document.activeElement === document.body || card.hidden)) el("call-room").focus();
  }

  /** @param {Model} model */
  function renderTrouble({ state, media, t }) {
    const key = troubleKey(media);
    const text = key === null || media.starting ? "" : t(key);
    const hopeless = key === "trouble.insecure" || key === "trouble.unsupported";
    const place = state.screen === "lobby" ? "lobby-trouble" : "trouble";
    if (text === "") dismissed = "";
    for (const id of ["lobby-trouble", "trouble"]) {
      const visible = id === place && text !== "" && (id === "lobby-trouble" || dismissed !== key);
      el(id).hidden = !visible;
      if (visible) setText(el(`${id}-text`), text);
      el(`${id === "trouble" ? "trouble" : "lobby"}-again`).hidden = hopeless;
    }
    el("trouble").dataset.key = key ?? "";
  }

  /** @param {Model} model */
  function renderInvite({ link }) {
    for (const id of ["card-link", "invite-link"]) if (el(id).value !== link) el(id).value = link;
    const canShare = typeof navigator.share === "function";
    el("card-share").hidden = el("invite-share").hidden = !canShare;
    if (el("invite").open) drawQr(link);
  }

  /** @param {string} link */
  function drawQr(link) {
    const image = el("qr-image");
    if (image.dataset.link === link) return;
    image.dataset.link = link;
    const { side, path } = toPath(link);
    image.setAttribute("viewBox", `0 0 ${side} ${side}`);
    image.querySelector("path").setAttribute("d", path);
  }

  /** @param {HTMLElement} button @param {boolean} on @param {"mic" | "cam"} icon @param {string} key @param {string} shortcut */
  function toggle(button, on, icon, key, shortcut) {
    button.classList.toggle("off", !on);
    button.querySelector("use")?.setAttribute("href", on ? `#i-${icon}` : `#i-${icon}-off`);
    label(button, model().t(key), shortcut);
  }

  /** @param {HTMLElement} button @param {string} text @param {string} [shortcut] */
  function label(button, text, shortcut) {
    const hint = shortcut && model().shortcuts ? model().t("control.withKey", { label: text, key: shortcut }) : text;
    button.setAttribute("aria-label", text);
    button.dataset.tip = hint;
    if (shortcut && model().shortcuts) button.setAttribute("aria-keyshortcuts", shortcut.toLowerCase());
    else button.removeAttribute("aria-keyshortcuts");
  }

  /** @param {HTMLElement} row @param {import("./status.js").Action[]} actions */
  function setActions(row, actions) {
    const key = actions.join(" ");
    if (row.dataset.actions !== key) {
      row.dataset.actions = key;
      row.replaceChildren(
        ...actions.map((action, i) => {
          const button = document.createElement("button");
          button.type = "button";
          button.dataset.action = action;
          if (i === 0) button.className = "primary";
          button.addEventListener("click", () => report(action));
          return button;
        }),
      );
    }
    for (const button of row.children) setText(button, model().t(`action.${/** @type {any} */ (button).dataset.action}`));
    row.hidden = actions.length === 0;
  }

  /** Live regions speak on every change, so nothing is written that is there already. @param {Element} node @param {string} text */
  function setText(node, text) {
    if (node.textContent !== text) node.textContent = text;
  }

  /** @param {HTMLVideoElement} video @param {MediaStream | MediaStreamTrack | null} source */
  function setStream(video, source) {
    const current = /** @type {MediaStream | null} */ (video.srcObject);
    if (source === null) {
      if (current) video.srcObject = null;
    } else if (source instanceof MediaStream) {
      if (current === source) return;
      video.srcObject = source;
      play(video);
    } else if (current?.getVideoTracks()[0] !== source) {
      video.srcObject = new MediaStream([source]);
      play(video);
    }
  }

  /** @param {HTMLVideoElement} video */
  async function play(video) {
    try {
      await video.play();
    } catch (error) {
      if (/** @type {Error} */ (error).name !== "NotAllowedError" || video !== el("remote-video")) return;
      // Sound needs a gesture in this browser: show the picture, and ask for one.
      video.muted = true;
      el("sound").hidden = false;
      await video.play().catch(() => {});
    }
  }

  /** @param {HTMLVideoElement} video @param {boolean} whole */
  function fit(video, whole) {
    const { videoWidth, videoHeight, clientWidth, clientHeight } = video;
    if (!videoWidth || !clientWidth || !clientHeight) return;
    const cropped = 1 - videoWidth / videoHeight / (clientWidth / clientHeight);
    video.classList.toggle("whole", whole || cropped > MOST_CROPPED);
  }

  /** @param {string} id */
  async function copy(id) {
    const field = el(id.replace("copy", "link"));
    const { t } = model();
    let done = false;
    try {
      await navigator.clipboard.writeText(field.value);
      done = true;
    } catch {
      // The clipboard is for secure pages only; the old way needs a selection.
      field.focus();
      field.select();
      done = document.execCommand("copy");
    }
    if (!done) return toast(t("invite.copyFailed"));
    const button = el(id);
    button.focus();
    button.textContent = t("invite.copied");
    toast(t("invite.copied"));
    setTimeout(() => (button.textContent = model().t("invite.copy")), COPIED_MS);
  }

  async function share() {
    try {
      await navigator.share({ title: "duet", text: model().t("invite.shareText"), url: model().link });
    } catch {
      // Closing the sheet is an answer, too.
    }
  }

  /** Said aloud and shown for a moment. @param {string} text */
  function toast(text) {
    clearTimeout(toastTimer);
    el("toast").textContent = text;
    toastTimer = setTimeout(() => (el("toast").textContent = ""), TOAST_MS);
  }

  /** @param {"invite" | "settings"} id */
  function openDialog(id) {
    if (document.querySelector("dialog[open]")) return;
    el(id).showModal();
    if (id === "invite") drawQr(model().link);
    if (id === "settings") report("listDevices");
  }

  function closeDialogs() {
    for (const dialog of document.querySelectorAll("dialog")) dialog.close();
  }

  /**
   * @param {import("./media.js").Devices} devices
   * @param {{ camera: string, microphone: string }} current
   */
  function renderDevices(devices, current) {
    const { t, speaker } = model();
    const fill = (/** @type {HTMLSelectElement} */ select, /** @type {MediaDeviceInfo[]} */ list, /** @type {string} */ chosen) => {
      const options = list.map(({ deviceId, label: name }, i) => new Option(name || t("settings.unnamed", { number: i + 1 }), deviceId));
      select.disabled = options.length === 0;
      select.replaceChildren(...(options.length > 0 ? options : [new Option(t("settings.none"), "")]));
      if (list.some(({ deviceId }) => deviceId === chosen)) select.value = chosen;
    };
    fill(el("device-camera"), devices.videoinput, current.camera);
    fill(el("device-microphone"), devices.audioinput, current.microphone);
    const canChoose = "setSinkId" in HTMLMediaElement.prototype && devices.audiooutput.length > 0;
    el("speaker-field").hidden = !canChoose;
    if (canChoose) fill(el("device-speaker"), devices.audiooutput, speaker);
    el("device-note").hidden = devices.videoinput.length + devices.audioinput.length > 0;
  }

  /** @param {string} id */
  function setSpeaker(id) {
    el("remote-video").setSinkId?.(id).catch(() => {});
  }

  function wire() {
    for (const select of [el("language"), el("language-top")]) {
      for (const { code, name, html } of LANGUAGES) {
        const option = new Option(name, code);
        option.lang = html;
        select.append(option);
      }
      select.addEventListener("change", () => report("language", select.value));
    }

    const clicks = /** @type {Record<string, () => void>} */ ({
      "home-start": () => report("newRoom"),
      "lobby-join": () => report("enter"),
      "lobby-back": () => report("home"),
      "lobby-preview": () => report("preview"),
      "lobby-again": () => report("again"),
      "lobby-mic": () => report("mic"),
      "lobby-cam": () => report("cam"),
      "lobby-settings": () => openDialog("settings"),
      "control-mic": () => report("mic"),
      "control-cam": () => report("cam"),
      "control-screen": () => report("screen"),
      "control-invite": () => openDialog("invite"),
      "control-settings": () => openDialog("settings"),
      "control-hang-up": () => report("leave"),
      "card-copy": () => copy("card-copy"),
      "invite-copy": () => copy("invite-copy"),
      "card-share": share,
      "invite-share": share,
      "card-qr": () => openDialog("invite"),
      "trouble-again": () => report("again"),
      "trouble-dismiss": () => {
        dismissed = el("trouble").dataset.key;
        el("trouble").hidden = true;
        el("call-room").focus();
      },
      sound: () => {
        el("remote-video").muted = false;
        el("sound").hidden = true;
        play(el("remote-video"));
      },
    });
    for (const [id, act] of Object.entries(clicks)) el(id).addEventListener("click", act);

    el("brand").addEventListener("click", (/** @type {MouseEvent} */ event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      report("home");
    });
    el("home-form").addEventListener("submit", (/** @type {SubmitEvent} */ event) => {
      event.preventDefault();
      report("openNamed", el("home-room").value);
    });
    el("home-room").addEventListener("input", () => setText(el("home-bad"), ""));
    for (const which of ["camera", "microphone", "speaker"]) {
      const select = el(`device-${which}`);
      select.addEventListener("change", () => report("device", { which, id: select.value }));
    }
    el("shortcuts").addEventListener("change", () => report("shortcuts", el("shortcuts").checked));

    for (const dialog of document.querySelectorAll("dialog")) {
      dialog.querySelector("[data-close]")?.addEventListener("click", () => dialog.close());
      // A click beside the dialog lands on the dialog element itself, its backdrop.
      dialog.addEventListener("click", (event) => event.target === dialog && !within(event, dialog) && dialog.close());
    }
    for (const field of [el("card-link"), el("invite-link")]) field.addEventListener("focus", () => field.select());

    document.addEventListener("keydown", (event) => {
      const typing = event.target instanceof HTMLElement && event.target.closest("input:not([type=checkbox]), select, textarea, dialog");
      if (typing || event.ctrlKey || event.metaKey || event.altKey || event.repeat || !shown?.shortcuts) return;
      const screen = document.body.dataset.screen;
      const key = event.key.toLowerCase();
      if (screen !== "call" && screen !== "lobby") return;
      if (key === "m") report("mic");
      else if (key === "v") report("cam");
      else if (key === "s" && screen === "call" && shown.canShareScreen) report("screen");
      else if (key === "i" && screen === "call") openDialog("invite");
      else return;
      event.preventDefault();
    });

    const video = el("remote-video");
    const refit = () => fit(video, Boolean(shown?.remoteShows?.screen));
    video.addEventListener("resize", refit);
    new ResizeObserver(refit).observe(video);
    // A picture that was paused by the system, as when a telephone call came in, is not resumed by every browser.
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState === "visible" && video.srcObject && video.paused) play(video);
    });
  }

  function model() {
    return /** @type {Model} */ (shown);
  }

  return {
    render,
    renderDevices,
    setSpeaker,
    toast,

    get settingsOpen() {
      return el("settings").open;
    },

    /** The name typed on the first screen cannot be a room. @param {string} text */
    refuseName(text) {
      setText(el("home-bad"), text);
      el("home-room").focus();
    },

    /** Says a change of one's own microphone or camera to those who do not see it. @param {string} text */
    say(text) {
      if (spoken === text) el("toast").textContent = "";
      spoken = text;
      toast(text);
    },
  };
}

/** @param {import("./media.js").Media} media */
function troubleKey({ micTrouble, camTrouble }) {
  for (const general of /** @type {const} */ (["insecure", "unsupported"])) {
    if (camTrouble === general || micTrouble === general) return `trouble.${general}`;
  }
  if (camTrouble !== null && camTrouble === micTrouble) return `trouble.both.${camTrouble}`;
  // Not being heard ends a conversation; not being seen does not.
  if (micTrouble !== null) return `trouble.mic.${micTrouble}`;
  return camTrouble === null ? null : `trouble.cam.${camTrouble}`;
}

/** @param {MouseEvent} event @param {Element} element */
function within({ clientX, clientY }, element) {
  const { left, right, top, bottom } = element.getBoundingClientRect();
  return clientX >= left && clientX <= right && clientY >= top && clientY <= bottom;
}
