/** A line to a server that can be cut, held and led elsewhere. */

import { once } from "node:events";
import { connect, createServer } from "node:net";

/** A line to the first of `ports` that takes connections; it ends with `t`. */
export async function startLine(t, ...ports) {
  const pairs = new Set();
  let held = false;
  let down = false;

  const listener = createServer({ pauseOnConnect: true }, (client) => {
    client.on("error", () => {});
    if (down) return client.destroy();
    const pair = { client, server: null };
    pairs.add(pair);
    client.once("close", () => {
      pairs.delete(pair);
      pair.server?.destroy();
    });
    reach(pair, ports);
  });

  function reach(pair, [port, ...others]) {
    const server = connect({ host: "127.0.0.1", port, noDelay: true });
    server.on("error", () => {
      if (!server.connecting && server === pair.server) return pair.client.destroy();
      if (others.length > 0 && pair.client.readable) reach(pair, others);
      else pair.client.destroy();
    });
    server.once("connect", () => {
      pair.server = server;
      if (pair.client.destroyed) return server.destroy();
      server.once("close", () => pair.client.destroy());
      pair.client.setNoDelay(true);
      pair.client.on("data", (bytes) => server.write(bytes));
      server.on("data", (bytes) => pair.client.write(bytes));
      if (held) server.pause();
      else pair.client.resume();
    });
  }

  function each(act) {
    for (const { client, server } of pairs) for (const end of [client, server]) if (end) act(end);
  }

  listener.listen(0, "127.0.0.1");
  await once(listener, "listening");
  const { port } = listener.address();
  t.after(() => {
    each((end) => end.destroy());
    listener.close();
  });

  return {
    port,
    url: `http://127.0.0.1:${port}`,

    /** Every connection there is breaks; new ones are taken. */
    cut: () => each((end) => end.destroy()),

    /** As `cut`, and nothing new is taken until `mend`. */
    break() {
      down = true;
      each((end) => end.destroy());
    },

    /** Nothing gets through in either direction, and nobody is told. */
    hold() {
      held = true;
      each((end) => end.pause());
    },

    /** New connections get through, and what was held goes on. */
    mend() {
      held = down = false;
      each((end) => end.resume());
    },

    /** New connections get through; those that were held stay dead. */
    mendForNew() {
      held = down = false;
    },
  };
}
