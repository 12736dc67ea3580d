/**
 * What the pages of the lesson say and listen to, in each of its versions. A page gets `io`, as the library's script
 * defines it, and the room its user types.
 */

/** The page of the English and the Korean version: asks at once, before it is connected and before it listens. */
export function codelabPage({ io, room, console }) {
  const page = { isInitiator: undefined };
  const socket = (page.socket = io.connect());
  if (room !== "") {
    console.log("asking to join " + room);
    socket.emit("create or join", room);
  }
  socket.on("created", (name, clientId) => {
    page.isInitiator = true;
    page.clientId = clientId;
  });
  socket.on("full", (name) => console.log(`${name} is full`));
  socket.on("ipaddr", (address) => console.log(`the server is at ${address}`));
  socket.on("joined", (name, clientId) => {
    page.isInitiator = false;
    page.clientId = clientId;
  });
  socket.on("log", (array) => console.log.apply(console, array));
  return page;
}

/** The page with two videos of the Chinese version: everything of the call is a `message`, and leaving is one too. */
export function videoPage({ io, room, console }) {
  const page = { isInitiator: false, isChannelReady: false, isStarted: false, heard: [] };
  const socket = (page.socket = io.connect());
  const sendMessage = (message) => socket.emit("message", message);
  socket.emit("create or join", room);
  socket.on("created", () => (page.isInitiator = true));
  socket.on("full", (name) => console.log(`${name} is full`));
  socket.on("join", () => (page.isChannelReady = true));
  socket.on("joined", () => {
    page.isChannelReady = true;
    sendMessage("got user media");
  });
  socket.on("log", (array) => console.log.apply(console, array));
  socket.on("message", (message) => {
    page.heard.push(message);
    if (message === "got user media") {
      if (page.isInitiator && page.isChannelReady && !page.isStarted) {
        page.isStarted = true;
        sendMessage({ type: "offer", sdp: "v=0\r\no=offer" });
      }
    } else if (message.type === "offer") {
      page.isStarted = true;
      sendMessage({ type: "answer", sdp: "v=0\r\no=answer" });
      sendMessage({ type: "candidate", label: 0, id: "audio", candidate: "candidate:1" });
    } else if (message === "bye" && page.isStarted) {
      page.isStarted = false;
      page.isInitiator = false;
    }
  });
  page.hangUp = () => sendMessage("bye");
  page.leave = () => socket.emit("bye");
  return page;
}

/** What a page written for the older server of the Spanish version listens to: no ids, no `ready`. */
export function oldPage({ io, room }) {
  const page = { told: [] };
  const socket = (page.socket = io.connect());
  socket.emit("create or join", room);
  for (const event of ["created", "join", "joined", "full"]) socket.on(event, (name) => page.told.push([event, name]));
  socket.on("message", (message) => page.told.push(["message", message]));
  page.say = (message) => socket.emit("message", message);
  return page;
}

/**
 * The signaling of the Spanish conference page; `camera` settles when the user has given the camera. The caller makes an
 * offer on each `ready`; who is called without a camera fails in the middle of the offer and answers nothing.
 */
export function conferencePage({ io, room, camera }) {
  const page = { isCaller: undefined, hasStream: false, told: [] };
  const socket = (page.socket = io());
  const onIceCandidate = () =>
    socket.emit("candidate", { type: "candidate", label: 0, id: "0", candidate: `candidate of ${socket.id}`, room });
  const withCamera = (then) => camera.then(() => {
    page.hasStream = true;
    then();
  });
  socket.emit("create or join", room);
  socket.on("created", () => withCamera(() => (page.isCaller = true)));
  socket.on("joined", () => withCamera(() => socket.emit("ready", room)));
  socket.on("ready", () => {
    page.told.push(["ready"]);
    if (!page.isCaller) return;
    socket.emit("offer", { type: "offer", sdp: { type: "offer", sdp: "v=0\r\n" }, room });
    onIceCandidate();
  });
  socket.on("offer", (event) => {
    page.told.push(["offer", event]);
    if (page.isCaller || !page.hasStream) return;
    socket.emit("answer", { type: "answer", sdp: { type: "answer", sdp: "v=0\r\n" }, room });
    onIceCandidate();
  });
  socket.on("answer", (event) => page.told.push(["answer", event]));
  socket.on("candidate", (event) => page.told.push(["candidate", event.label, event.candidate]));
  return page;
}
