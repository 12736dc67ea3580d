// The lesson's server on several nodes, the obvious way: what `loadtest bench cluster` measures duet against.
//
// Socket.IO's own Redis adapter carries `to(room)` from node to node. Rooms are counted across the nodes in Redis: a set of
// peers for each room, asked and filled by one script, so that two is two here as well. Leaner than most: no polling, no
// compression, no client library, none of the lesson's `log` events.
//
// Environment: PORT (0 takes any free one), REDIS_URL. Prints `listening PORT` once it serves.

import { createServer } from "node:http";
import { createAdapter } from "@socket.io/redis-adapter";
import { createClient } from "redis";
import { Server } from "socket.io";

// KEYS[1]: the room's peers. ARGV[1]: who asks. Returns how many sit there then, or 3 if there is no seat.
const SEAT = `
  if redis.call("SCARD", KEYS[1]) >= 2 then return 3 end
  redis.call("SADD", KEYS[1], ARGV[1])
  return redis.call("SCARD", KEYS[1])`;

const publisher = createClient({ url: process.env.REDIS_URL });
const subscriber = publisher.duplicate();
for (const client of [publisher, subscriber]) {
  client.on("error", (error) => console.error(error));
  await client.connect();
}
const seat = await publisher.scriptLoad(SEAT);
const peersOf = (room) => `room:${room}`;

const http = createServer();
const io = new Server(http, {
  adapter: createAdapter(publisher, subscriber),
  transports: ["websocket"],
  perMessageDeflate: false,
  serveClient: false,
});

io.on("connection", (socket) => {
  socket.on("message", (message) => {
    if (socket.data.room !== undefined) socket.to(socket.data.room).emit("message", message);
  });

  socket.on("create or join", async (room) => {
    const seated = await publisher.evalSha(seat, { keys: [peersOf(room)], arguments: [socket.id] });
    if (seated > 2) {
      socket.emit("full", room);
      return;
    }
    socket.data.room = room;
    if (!socket.connected) {
      await leave(socket);
    } else if (seated === 1) {
      socket.join(room);
      socket.emit("created", room, socket.id);
    } else {
      io.to(room).emit("join", room);
      socket.join(room);
      socket.emit("joined", room, socket.id);
      io.to(room).emit("ready", room);
    }
  });

  socket.on("disconnect", () => leave(socket));
});

async function leave(socket) {
  if (socket.data.room !== undefined) await publisher.sRem(peersOf(socket.data.room), socket.id);
}

// The adapter does not wait for its subscriptions. What follows them on the same connection does.
await subscriber.ping();
http.listen(Number(process.env.PORT ?? 0), "127.0.0.1", () => console.log(`listening ${http.address().port}`));

// Nobody is told: the benchmark is over.
process.on("SIGTERM", () => process.exit());
