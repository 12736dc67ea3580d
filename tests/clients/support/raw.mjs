/** Bytes on a socket, for what no official client can be made to send. */

import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { request } from "node:http";
import { connect } from "node:net";

import { within } from "./waiting.mjs";

/** The request that opens a WebSocket. */
export function opening(server, eio, more = "") {
  return Buffer.from(
    `GET /socket.io/?EIO=${eio}&transport=websocket${more} HTTP/1.1\r\nHost: 127.0.0.1:${server.port}\r\n` +
      "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
      `Sec-WebSocket-Key: ${randomBytes(16).toString("base64")}\r\n\r\n`,
  );
}

/** A client's frame with one text in it (RFC 6455, section 5.2), masked with zeros. */
export function frame(text, opcode = 1) {
  const payload = Buffer.from(text);
  const length = payload.length;
  if (length > 65_535) throw new Error("no test needs a frame this long");
  const head = length < 126 ? [0x80 | length] : [0x80 | 126, length >> 8, length & 255];
  return Buffer.concat([Buffer.from([0x80 | opcode, ...head, 0, 0, 0, 0]), payload]);
}

/** One TCP connection that keeps the texts of the frames it is sent. */
export class RawSocket {
  texts = [];
  #bytes = Buffer.alloc(0);
  #open = false;
  #news = () => {};

  constructor(t, server) {
    this.tcp = connect({ host: "127.0.0.1", port: server.port, noDelay: true });
    t.after(() => this.tcp.destroy());
    this.closed = once(this.tcp, "close");
    this.tcp.on("error", () => {});
    this.tcp.on("data", (chunk) => {
      this.#bytes = Buffer.concat([this.#bytes, chunk]);
      this.#read();
      this.#news();
    });
  }

  /** Writes all of it at once. */
  write(...buffers) {
    this.tcp.write(Buffer.concat(buffers));
  }

  /** Waits until the texts satisfy `condition`. */
  textsThat(what, condition) {
    return within(
      `a raw socket: ${what}`,
      new Promise((resolve) => {
        this.#news = () => condition(this.texts) && resolve(this.texts);
        this.#news();
      }),
      () => JSON.stringify(this.texts).slice(0, 500),
    );
  }

  #read() {
    if (!this.#open) {
      const end = this.#bytes.indexOf("\r\n\r\n");
      if (end < 0) return;
      this.status = Number(this.#bytes.toString("latin1").split(" ")[1]);
      this.#open = this.status === 101;
      this.#bytes = this.#bytes.subarray(end + 4);
    }
    while (this.#open && this.#bytes.length >= 2) {
      let length = this.#bytes[1] & 127;
      let head = 2;
      if (length === 126) [length, head] = [this.#bytes.length < 4 ? Infinity : this.#bytes.readUInt16BE(2), 4];
      else if (length === 127) [length, head] = [this.#bytes.length < 10 ? Infinity : Number(this.#bytes.readBigUInt64BE(2)), 10];
      if (this.#bytes.length < head + length) return;
      if ((this.#bytes[0] & 15) === 1) this.texts.push(this.#bytes.toString("utf8", head, head + length));
      this.#bytes = this.#bytes.subarray(head + length);
    }
  }
}

/** One HTTP request on a connection of its own. */
export async function http(server, path, { method = "GET", headers = {}, body } = {}) {
  const sent = request({ host: "127.0.0.1", port: server.port, path, method, headers, agent: false }).end(body);
  const [response] = await within(`${method} ${path}`, once(sent, "response"));
  const chunks = [];
  for await (const chunk of response) chunks.push(chunk);
  return { status: response.statusCode, headers: response.headers, text: Buffer.concat(chunks).toString("utf8") };
}
