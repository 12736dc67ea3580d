/**
 * Camera, microphone, speaker and screen: the only module that knows `navigator.mediaDevices`.
 *
 * Owns every local track and why one is missing. It must never throw at its caller: a device that cannot be had is a reason
 * to show, not an end of the call. Invariant: a camera that is off is released, so its light is off too.
 */

/**
 * @typedef {"none" | "blocked" | "busy" | "insecure" | "unsupported" | null} Trouble
 *
 * @typedef {object} Media
 * @property {MediaStreamTrack | null} audio
 * @property {MediaStreamTrack | null} camera
 * @property {MediaStreamTrack | null} screen
 * @property {boolean} mic      the person wants to be heard
 * @property {boolean} cam      the person wants to be seen
 * @property {Trouble} micTrouble
 * @property {Trouble} camTrouble
 * @property {boolean} starting
 *
 * @typedef {{ audioinput: MediaDeviceInfo[], videoinput: MediaDeviceInfo[], audiooutput: MediaDeviceInfo[] }} Devices
 */

const CAMERA = { width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { ideal: 30 }, facingMode: "user" };
const MICROPHONE = { echoCancellation: true, noiseSuppression: true, autoGainControl: true };

/**
 * @param {object} options
 * @param {{ mic: boolean, cam: boolean }} options.wanted
 * @param {{ camera: string | null, microphone: string | null }} options.chosen  device ids of last time
 * @param {(media: Media) => void} options.onChange
 */
export function createMedia({ wanted, chosen, onChange }) {
  const devices = navigator.mediaDevices;
  /** @type {Media} */
  let media = {
    audio: null,
    camera: null,
    screen: null,
    ...wanted,
    micTrouble: null,
    camTrouble: null,
    starting: false,
  };
  const ids = { ...chosen };
  // Whoever asked last is right: an answer of the browser to an earlier question is thrown away.
  let generation = 0;

  if (!devices?.getUserMedia) {
    const why = window.isSecureContext ? "unsupported" : "insecure";
    media = { ...media, micTrouble: why, camTrouble: why };
  }

  /** @param {Partial<Media>} change */
  function update(change) {
    media = { ...media, ...change };
    onChange(media);
  }

  /** Takes what is wanted and not there yet. */
  async function start() {
    if (!devices?.getUserMedia) return onChange(media);
    const asked = ++generation;
    const needs = { audio: media.mic && !media.audio, video: media.cam && !media.camera };
    if (!needs.audio && !needs.video) return onChange(media);

    update({ starting: true, micTrouble: needs.audio ? null : media.micTrouble, camTrouble: needs.video ? null : media.camTrouble });
    const found = await take(needs);
    if (asked !== generation) return found.tracks.forEach((track) => track.stop());

    for (const track of found.tracks) watch(track);
    const audio = found.tracks.find((track) => track.kind === "audio");
    const camera = found.tracks.find((track) => track.kind === "video");
    update({
      starting: false,
      audio: audio ?? media.audio,
      camera: camera ?? media.camera,
      micTrouble: needs.audio ? found.micTrouble : media.micTrouble,
      camTrouble: needs.video ? found.camTrouble : media.camTrouble,
    });
  }

  /** @param {{ audio: boolean, video: boolean }} needs */
  async function take(needs) {
    const present = await kindsPresent();
    /** @type {{ tracks: MediaStreamTrack[], micTrouble: Trouble, camTrouble: Trouble }} */
    const found = {
      tracks: [],
      micTrouble: needs.audio && !present.audio ? "none" : null,
      camTrouble: needs.video && !present.video ? "none" : null,
    };
    const audio = needs.audio && present.audio;
    const video = needs.video && present.video;
    if (!audio && !video) return found;

    try {
      found.tracks = await request(audio, video);
      return found;
    } catch (error) {
      const why = troubleOf(error);
      if (!audio || !video) {
        if (audio) found.micTrouble = why;
        else found.camTrouble = why;
        return found;
      }
      // One of the two may still be had. Where a person has just said no to both, they must not be asked again.
      const open = { audio: why !== "blocked" || (await isGranted("microphone")), video: why !== "blocked" || (await isGranted("camera")) };
      found.micTrouble = found.camTrouble = why;
      if (open.audio) {
        try {
          found.tracks.push(...(await request(true, false)));
          found.micTrouble = null;
        } catch (alone) {
          found.micTrouble = troubleOf(alone);
        }
      }
      if (open.video) {
        try {
          found.tracks.push(...(await request(false, true)));
          found.camTrouble = null;
        } catch (alone) {
          found.camTrouble = troubleOf(alone);
        }
      }
      return found;
    }
  }

  /** @param {boolean} audio @param {boolean} video */
  async function request(audio, video) {
    const stream = await devices.getUserMedia({
      audio: audio && { ...MICROPHONE, ...(ids.microphone ? { deviceId: ids.microphone } : {}) },
      video: video && (ids.camera ? { ...CAMERA, facingMode: undefined, deviceId: ids.camera } : CAMERA),
    });
    return stream.getTracks();
  }

  /** A device that is pulled out ends its track. @param {MediaStreamTrack} track */
  function watch(track) {
    track.onended = () => {
      if (track === media.audio) update({ audio: null, micTrouble: "none" });
      if (track === media.camera) update({ camera: null, camTrouble: "none" });
    };
  }

  /** Remembers a wish without taking anything yet. @param {{ mic?: boolean, cam?: boolean }} wish */
  function intend(wish) {
    update(wish);
  }

  /** @param {boolean} on */
  async function setMic(on) {
    if (media.audio) media.audio.enabled = on;
    update({ mic: on });
    if (on) await start();
  }

  /** @param {boolean} on */
  async function setCam(on) {
    if (on) {
      update({ cam: true });
      return start();
    }
    generation++;
    release(media.camera);
    update({ cam: false, camera: null, starting: false });
  }

  /** @param {"camera" | "microphone"} which @param {string} id */
  async function choose(which, id) {
    ids[which] = id;
    if (which === "camera") {
      release(media.camera);
      update({ camera: null, cam: true });
    } else {
      release(media.audio);
      update({ audio: null, mic: true });
    }
    await start();
  }

  /** @returns {Promise<boolean>} false where the person changed their mind */
  async function shareScreen() {
    try {
      const stream = await devices.getDisplayMedia({ video: { frameRate: { ideal: 15, max: 30 } }, audio: false });
      const [screen] = stream.getVideoTracks();
      screen.contentHint = "detail";
      screen.onended = () => media.screen === screen && update({ screen: null });
      update({ screen });
      return true;
    } catch {
      return false;
    }
  }

  function stopScreen() {
    release(media.screen);
    update({ screen: null });
  }

  function stop() {
    generation++;
    for (const track of [media.audio, media.camera, media.screen]) release(track);
    update({ audio: null, camera: null, screen: null, starting: false });
  }

  /** @returns {Promise<Devices>} */
  async function list() {
    /** @type {Devices} */
    const found = { audioinput: [], videoinput: [], audiooutput: [] };
    // Before permission is given, browsers list nameless stand-ins that cannot be chosen.
    for (const device of (await devices?.enumerateDevices?.().catch(() => [])) ?? []) {
      if (device.deviceId !== "") found[device.kind].push(device);
    }
    return found;
  }

  devices?.addEventListener?.("devicechange", () => onChange(media));

  return {
    get now() {
      return media;
    },
    start,
    stop,
    intend,
    setMic,
    setCam,
    choose,
    shareScreen,
    stopScreen,
    list,
    canShareScreen: typeof devices?.getDisplayMedia === "function",
  };

  async function kindsPresent() {
    const all = await devices.enumerateDevices().catch(() => null);
    if (all === null) return { audio: true, video: true };
    return {
      audio: all.some(({ kind }) => kind === "audioinput"),
      video: all.some(({ kind }) => kind === "videoinput"),
    };
  }
}

/** Whether the camera could be shown without a question. @returns {Promise<boolean>} */
export async function mayShowCamera() {
  return Boolean(navigator.mediaDevices?.getUserMedia) && isGranted("camera");
}

/** @param {"camera" | "microphone"} name */
async function isGranted(name) {
  try {
    const { state } = await navigator.permissions.query({ name: /** @type {any} */ (name) });
    return state === "granted";
  } catch {
    return false;
  }
}

/** @param {MediaStreamTrack | null} track */
function release(track) {
  if (!track) return;
  track.onended = null;
  track.stop();
}

/** @param {unknown} error @returns {Trouble} */
function troubleOf(error) {
  switch (error instanceof Error || error instanceof DOMException ? error.name : "") {
    case "NotAllowedError":
    case "SecurityError":
      return "blocked";
    case "NotFoundError":
    case "OverconstrainedError":
      return "none";
    default:
      return "busy";
  }
}
