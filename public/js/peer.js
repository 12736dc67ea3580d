/**
 * One connection to the other person, from its first offer to its end: the only module that knows RTCPeerConnection.
 *
 * Owns negotiation, and starting ICE anew where media is lost. Both sides may offer at any time; when offers cross, the
 * impolite side ignores the other's and the polite one takes its own back. The impolite side starts anew; the polite one only
 * if that does not happen. It must never outlive its call: after `close()` it neither sends nor reports anything.
 * Invariant: one audio and one video line, laid out by the impolite side, so that turning something on later changes a
 * direction at most.
 */

/**
 * @typedef {"audio" | "video"} Kind
 * @typedef {{ audio: MediaStreamTrack | null, video: MediaStreamTrack | null }} Tracks
 * @typedef {{ mic: boolean, cam: boolean, screen: boolean }} Shows  what a side is sending
 *
 * @typedef {object} Options
 * @property {boolean} polite
 * @property {RTCIceServer[]} iceServers
 * @property {boolean} relayOnly  never reach the other directly
 * @property {Tracks} tracks
 * @property {Shows} shows
 * @property {(message: object) => void} send
 * @property {() => boolean} heard  whether what is sent reaches the other now
 * @property {() => Promise<void>} freshen  sees to it that `setServers` was told of servers that can be used now
 * @property {(stream: MediaStream) => void} onStream
 * @property {(shows: Shows) => void} onShows
 * @property {(link: "connecting" | "connected" | "interrupted" | "failed" | "gone") => void} onLink
 */

/** A break often heals by itself within this time; the polite side gives the other that much more to act. */
const HEALS_MS = 2000;
const YIELDS_MS = 4000;

/** From one new start to the next. When all were in vain it is for a person to go on. */
const AGAIN_MS = Object.freeze([4000, 6000, 8000, 10000, 12000]);

/** @param {Options} options */
export function createPeer(options) {
  const { send, heard, freshen, onStream, onShows, onLink } = options;
  const pc = new RTCPeerConnection(configuration(options.iceServers));
  const localStream = new MediaStream();
  const remoteStream = new MediaStream();
  /** @type {Tracks} */
  const tracks = { ...options.tracks };
  let shows = options.shows;
  let polite = options.polite;
  let closed = false;
  let makingOffer = false;
  let ignoringOffer = false;
  let settingAnswer = false;
  let wasConnected = false;
  let starts = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let startTimer;
  /** @type {RTCDataChannel | null} */
  let channel = null;
  /** @type {Partial<Record<Kind, RTCRtpTransceiver>>} */
  const lines = {};

  pc.onnegotiationneeded = async () => {
    try {
      makingOffer = true;
      await pc.setLocalDescription();
      if (!closed) send({ description: pc.localDescription });
    } catch (error) {
      if (!closed) console.warn("offer", error);
    } finally {
      makingOffer = false;
    }
  };
  pc.onicecandidate = ({ candidate }) => {
    if (!closed) send({ candidate });
  };
  pc.oniceconnectionstatechange = () => {
    const now = pc.iceConnectionState;
    if (now === "connected" || now === "completed") {
      clearTimeout(startTimer);
      starts = 0;
    }
    if (now === "disconnected" && starts === 0) startIn(HEALS_MS);
    if (now === "failed") startIn(0);
  };
  pc.onconnectionstatechange = () => {
    if (closed) return;
    if (pc.connectionState === "connecting") onLink("connecting");
    if (pc.connectionState === "connected") {
      wasConnected = true;
      onLink("connected");
    }
    if (pc.connectionState === "disconnected") onLink("interrupted");
    // A call that stood is started anew, which is told of as a break until all of that was in vain.
    if (pc.connectionState === "failed") onLink(wasConnected && starts < AGAIN_MS.length ? "interrupted" : "failed");
  };
  pc.ontrack = ({ track }) => {
    remoteStream.addTrack(track);
    onStream(remoteStream);
  };

  if (!polite) {
    openChannel();
    for (const kind of /** @type {Kind[]} */ (["audio", "video"])) {
      const track = tracks[kind];
      lines[kind] = pc.addTransceiver(track ?? kind, {
        direction: track ? "sendrecv" : "recvonly",
        streams: [localStream],
      });
    }
  }

  /** @param {number} ms */
  function startIn(ms) {
    clearTimeout(startTimer);
    startTimer = setTimeout(() => void startAnew(), ms + (polite ? YIELDS_MS : 0));
  }

  async function startAnew() {
    // An offer that cannot be heard helps nobody: `resume` starts anew when it can.
    if (closed || !heard()) return;
    if (starts > 0 && (pc.iceConnectionState === "connected" || pc.iceConnectionState === "completed")) return;
    const again = AGAIN_MS[starts++];
    if (again === undefined) return onLink("failed");
    startIn(again);
    // A relay refuses a new start with credentials that have expired.
    await freshen();
    if (!closed) pc.restartIce();
  }

  /** @param {RTCIceServer[]} iceServers @returns {RTCConfiguration} */
  function configuration(iceServers) {
    return { iceServers, iceTransportPolicy: options.relayOnly ? "relay" : "all" };
  }

  /** The polite side puts its tracks on the lines the first offer laid out. */
  function takeLines() {
    for (const line of pc.getTransceivers()) {
      const kind = /** @type {Kind} */ (line.receiver.track.kind);
      if (lines[kind]) continue;
      lines[kind] = line;
      line.sender.setStreams?.(localStream);
      place(kind);
    }
    if (!channel) openChannel();
  }

  /** A line that has sent once stays open: silence is cheaper than negotiating. @param {Kind} kind */
  function place(kind) {
    const line = lines[kind];
    if (!line) return;
    line.sender.replaceTrack(tracks[kind]).catch(() => {});
    if (tracks[kind] && line.direction !== "sendrecv") line.direction = "sendrecv";
  }

  function openChannel() {
    channel = pc.createDataChannel("shows", { negotiated: true, id: 0 });
    channel.onopen = tell;
    channel.onmessage = ({ data }) => {
      const word = parse(data);
      if (closed || word === null) return;
      if (word.bye === true) onLink("gone");
      else onShows({ mic: word.mic === true, cam: word.cam === true, screen: word.screen === true });
    };
    channel.onclose = () => {
      if (!closed) onLink("interrupted");
    };
  }

  function tell() {
    if (channel?.readyState === "open") channel.send(JSON.stringify(shows));
  }

  /** @param {{ description?: RTCSessionDescriptionInit, candidate?: RTCIceCandidateInit | null }} message */
  async function receive({ description, candidate }) {
    if (closed) return;
    try {
      if (description) await receiveDescription(description);
      else if (candidate !== undefined) await receiveCandidate(candidate);
    } catch (error) {
      if (!closed) console.warn("negotiation", error);
    }
  }

  /** @param {RTCSessionDescriptionInit} description */
  async function receiveDescription(description) {
    // While an answer is being set, an offer finds the connection as good as stable.
    const ready = !makingOffer && (pc.signalingState === "stable" || settingAnswer);
    const collides = description.type === "offer" && !ready;
    ignoringOffer = !polite && collides;
    if (ignoringOffer) return;
    // An answer to an offer that was taken back, or asked for twice, has nothing to answer any more.
    if (description.type === "answer" && (settingAnswer || pc.signalingState !== "have-local-offer")) return;

    settingAnswer = description.type === "answer";
    await pc.setRemoteDescription(description).finally(() => (settingAnswer = false));
    if (description.type !== "offer" || closed) return;
    takeLines();
    await pc.setLocalDescription();
    if (!closed) send({ description: pc.localDescription });
  }

  /** @param {RTCIceCandidateInit | null} candidate */
  async function receiveCandidate(candidate) {
    try {
      await pc.addIceCandidate(candidate ?? undefined);
    } catch (error) {
      if (!ignoringOffer) throw error;
    }
  }

  return {
    receive,

    /** @param {Kind} kind @param {MediaStreamTrack | null} track */
    setTrack(kind, track) {
      if (tracks[kind] === track) return;
      tracks[kind] = track;
      place(kind);
    },

    /** What the next start takes, on whichever side it begins; what is connected stays so. @param {RTCIceServer[]} iceServers */
    setServers(iceServers) {
      // Not every browser has it.
      if (!closed) pc.setConfiguration?.(configuration(iceServers));
    },

    /** @param {Shows} now */
    setShows(now) {
      shows = now;
      tell();
    },

    /**
     * Goes on after the way to the server was gone: roles may have changed, and an offer may have been lost.
     * @param {boolean} nowPolite
     */
    resume(nowPolite) {
      polite = nowPolite;
      if (pc.signalingState === "have-local-offer") send({ description: pc.localDescription });
      starts = 0;
      clearTimeout(startTimer);
      const now = pc.iceConnectionState;
      if (now !== "connected" && now !== "completed") startIn(0);
    },

    /** @param {{ farewell: boolean }} how  `farewell` tells the other side at once that this is meant */
    close({ farewell }) {
      if (closed) return;
      if (farewell && channel?.readyState === "open") channel.send(JSON.stringify({ bye: true }));
      closed = true;
      clearTimeout(startTimer);
      pc.close();
    },
  };
}

/** @param {unknown} data @returns {Record<string, unknown> | null} */
function parse(data) {
  try {
    const word = JSON.parse(String(data));
    return word !== null && typeof word === "object" ? word : null;
  } catch {
    return null;
  }
}
