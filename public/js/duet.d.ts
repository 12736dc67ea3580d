/** Types of `duet.js`: see docs/CLIENT.md. */

/** What `DuetRoom` needs of a Socket.IO client; those of socket.io-client 2.x, 3.x and 4.x have it. */
export type Io = (...args: any[]) => any;

/** Where the token of a seat is kept, and how much was heard there; `sessionStorage` is one. */
export interface SeatStorage {
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
  removeItem(key: string): void;
}

export interface DuetRoomOptions {
  /** The function `io` of socket.io-client. */
  io: Io;
  /** Address of the server; without it, the one the page came from. */
  url?: string;
  /** Further options for `io`. */
  socket?: Record<string, unknown>;
  /** Default: `sessionStorage`, where there is one. `null`: the seat is kept for as long as this object lives. */
  storage?: SeatStorage | null;
  /**
   * Messages on their way at a time. 1 (the default): strictly in order. With more, those that were on their way when one
   * was refused may reach the other peer before it.
   */
  window?: number;
  /** Messages that are kept at most until they are acknowledged. Default 256. */
  keep?: number;
  /** Until an answer to a join counts as lost, in milliseconds. Default 8000. */
  answerMs?: number;
}

export type DuetState =
  /** `join` was not called yet. */
  | "idle"
  /** On the way to the server, for the first time. */
  | "connecting"
  /** Connected; a seat was asked for, or it is not told yet who else is there. */
  | "joining"
  /** Seated; nobody else is there. */
  | "alone"
  /** Both are there. */
  | "together"
  /** The other peer was lost; its seat is kept. */
  | "apart"
  /** The room is full, and this side is let in when somebody leaves. */
  | "waiting"
  /** Not let in; see the event `refused`. */
  | "refused"
  /** The connection was lost; the seat is taken back by itself. */
  | "reconnecting"
  /** Another connection took the seat back. */
  | "superseded"
  /** `leave` was called. */
  | "ended";

export interface IceServer {
  urls: string | string[];
  username?: string;
  credential?: string;
}

/** How a seat came about. `iceServers`: as the server gave them; `null`: it did not. */
export interface Seated {
  id: string | null;
  iceServers: IceServer[] | null;
}

export interface Refused {
  ok: false;
  /** One of the server's codes, or `discarded`, `too_many_kept`, `ended`, `timeout`. */
  code: string;
  message: string;
  retryable: boolean;
}

/** `kept`: the server has it for a peer that is away. */
export type Answer = { ok: true; kept?: boolean } | Refused;

export interface DuetEvents {
  /** On any change of `state`. */
  state(state: DuetState): void;
  /** There is a connection to the server; a seat is asked for. */
  connected(): void;
  /** The connection to the server was lost. The next one is on its way. */
  disconnected(detail: { reason: string }): void;
  /** An attempt to connect failed. The next one is on its way. */
  unreachable(): void;

  /** The first in the room. */
  created(detail: Seated): void;
  /** The second in the room. */
  joined(detail: Seated): void;
  /** The seat was taken back. */
  resumed(detail: Seated): void;
  /** The room is full; `created` or `joined` follows when somebody leaves. */
  waiting(): void;
  /** `retryInMs` is `null` where only the caller can do something: `wait()`, `join()`, another room. */
  refused(detail: { code: string; message: string; retryable: boolean; retryInMs: number | null }): void;

  /** Both are there for the first time, beside this seat. */
  "peer-joined"(detail: {}): void;
  /** The other peer was lost without a word; its seat is kept for so long. */
  "peer-reconnecting"(detail: { id: string | null; graceMs: number }): void;
  /** The other peer took its seat back. It may be the same page or one that was loaded again. */
  "peer-resumed"(detail: { id: string | null; was: string | null }): void;
  /** The other peer is gone. `reason`: one of `bye`, or `gone` if it left while this side was away. */
  "peer-left"(detail: { id: string | null; reason: string }): void;
  /**
   * Both are there, for the first time or again: begin, or go on. `last`: this side came last. It is `true` on one side
   * and `false` on the other.
   */
  ready(detail: { last: boolean }): void;
  /** From the other peer, with the arguments of its `send`. */
  message(...args: any[]): void;

  /** Another connection, of a duplicated tab perhaps, took the seat. Nothing more happens until `takeBack()`. */
  superseded(): void;
  /** The operator closed the room, or put this peer out. The state is `ended`. */
  "put-out"(): void;
  /** `leave` was called. */
  ended(): void;
}

export class DuetRoom {
  constructor(name: string, options: DuetRoomOptions);

  readonly name: string;
  readonly state: DuetState;
  /** This peer's id on its present connection. */
  readonly id: string | null;
  /** The newest the server gave. */
  readonly iceServers: IceServer[];
  /** Messages that are not acknowledged yet. */
  readonly pending: number;

  /** Returns a function that undoes it. */
  on<E extends keyof DuetEvents>(event: E, listener: DuetEvents[E]): () => void;
  off<E extends keyof DuetEvents>(event: E, listener: DuetEvents[E]): void;

  /** Asks for a seat: one's own, if there is a token of it. `wait`: in a full room, until somebody leaves. */
  join(options?: { wait?: boolean }): void;
  /** The same with `wait`, after `refused` with the code `full`. */
  wait(): void;
  /** After `superseded`: has the seat back, from the connection that took it. */
  takeBack(): void;
  /** Does not wait for the next attempt, if there is one to come. */
  retryNow(): void;
  /** Gives the seat up at once, and forgets its token. */
  leave(): void;

  /**
   * Hands `args` to the other peer. What cannot be sent now, or is refused for a reason that passes, is kept while the other
   * peer's seat is, and sent in order. What was on its way when the connection broke may arrive twice; what was acknowledged
   * does not, and is not lost either when the other peer uses this library and comes back. Never rejects.
   */
  send(...args: unknown[]): Promise<Answer>;
  /**
   * Gives up messages that are kept, and tells how many they were. What is on its way is not sent again, should it be refused or the
   * connection break: then its answer is `discarded` as well.
   */
  discard(which?: (args: unknown[]) => boolean): number;
  /**
   * Asks whether the connection stands, and for fresh ICE servers; where no answer comes in time, it is replaced. Done by itself
   * when the device comes back to a network, or the page into sight. `null`: no answer.
   */
  check(options?: { timeoutMs?: number }): Promise<({ ok: true; iceServers?: IceServer[] } & Record<string, unknown>) | Refused | null>;
}
