// How a worker speaks with Sluice: what README.md tells about the protocol, as code. To have a worker of your own, take this
// file and protos.ts as they are, and write something like worker.ts.

import { setTimeout as sleep } from "node:timers/promises";
import { status, type ClientDuplexStream, type ServiceError } from "@grpc/grpc-js";
import { executorAt } from "./protos.js";
import type { Duration__Output as Duration } from "./types/google/protobuf/Duration.js";
import type { CallReply } from "./types/sluice/executor/v1/CallReply.js";
import type { RunTask__Output as RunTask } from "./types/sluice/executor/v1/RunTask.js";
import type { WorkRequest } from "./types/sluice/executor/v1/WorkRequest.js";
import type { WorkResponse__Output as WorkResponse } from "./types/sluice/executor/v1/WorkResponse.js";
import type { Outcome } from "./types/sluice/task/v1/Outcome.js";

type Stream = ClientDuplexStream<WorkRequest, WorkResponse>;

/** A handler gets the named arguments of its task and the others, and returns its result. */
export type Handler = (run: Run, kwargs: any, ...args: any[]) => unknown;
export type Handlers = Record<string, Handler>;

/** An error that was written for whoever may see the task. The text of any other may be withheld from them. */
export class Failure extends Error {
  constructor(text: string, readonly code = "") {
    super(text);
  }
}

/** One task, as its handler sees it. */
export class Run {
  readonly assignment;
  readonly workingDir: string;
  private readonly key;

  constructor(private readonly link: Link, message: RunTask, private readonly stop: AbortController) {
    this.assignment = message.assignment!;
    this.workingDir = message.workingDir;
    this.key = { taskId: this.assignment.taskId, claim: this.assignment.claim };
  }

  /**
   * Aborted when the task is to stop. Pass it on to what takes long, or look at it from time to time: whoever does so also finds
   * out that the lease has run out, before a timer tells it, if the process was stopped (SIGSTOP) meanwhile.
   */
  get stopped(): AbortSignal {
    this.link.over();
    return this.stop.signal;
  }

  progress(code: string, message: string, done: number, total?: number) {
    this.link.send({ progress: { ...this.key, progress: { code, message, done, total } } });
  }

  /** Says what this run has added, since it began, to the progress of the task's group, if it is in one. */
  groupProgress(code: string, message: string, done: number, total = 0) {
    if (this.assignment.groupId) this.link.send({ groupProgress: { ...this.key, progress: { code, message, done, total } } });
  }

  log(line: string) {
    const text = line + "\n";
    for (let i = 0; i < text.length; i += 16_000) { // one message may have 64 KiB, and a character four bytes
      this.link.send({ log: { ...this.key, text: text.slice(i, i + 16_000) } });
    }
  }

  /** Hands in a child task and returns its id. */
  async dispatch(name: string, kwargs: unknown): Promise<string> {
    const reply = await this.link.ask({ taskId: this.key.taskId, dispatch: { name, kwargsJson: JSON.stringify(kwargs) } });
    if (reply.error) throw new Error(`dispatch ${name}: ${reply.error}`);
    return reply.madeId!;
  }

  /** Runs the handler and reports how it ended. */
  async perform(handler: Handler) {
    this.link.send({ started: this.key });
    const outcome = await this.outcome(handler);
    if (!this.link.over()) this.link.send({ ended: { ...this.key, outcome } }); // else it has failed by now
  }

  private async outcome(handler: Handler): Promise<Outcome> {
    try {
      const { argsJson, kwargsJson } = this.assignment;
      const result = await handler(this, JSON.parse(kwargsJson || "{}"), ...JSON.parse(argsJson || "[]"));
      return { state: "STATE_COMPLETED", resultJson: JSON.stringify(result ?? null) };
    } catch (e) {
      const error = e instanceof Error ? e : new Error(String(e));
      if (error.name === "AbortError") return { state: "STATE_CANCELED", error: { reason: "Canceled on request." } };
      const code = e instanceof Failure ? e.code : "";
      return { state: "STATE_FAILED", error: { description: error.message, traceback: error.stack, code }, safe: e instanceof Failure };
    }
  }
}

const second = 1_000_000_000n;
const nanoseconds = (duration: Duration) => BigInt(duration.seconds) * second + BigInt(duration.nanos);
const millisecondsTo = (time: bigint) => Math.max(0, Number(time - process.hrtime.bigint()) / 1e6);

/** One stream, from its hello to its end. */
class Link {
  welcomed = false;
  private readonly stops = new Map<string, AbortController>();
  private readonly running = new Set<Promise<void>>();
  private readonly replies = new Map<string, (reply: CallReply) => void>();
  private calls = 0;
  private timer?: NodeJS.Timeout;
  private sameClock?: boolean;
  // Of the lease, in nanoseconds: how long it is, when it ends, and when to stop the tasks.
  private length = 0n;
  private until = 0n;
  private lastCall?: bigint;

  constructor(private readonly stream: Stream, private readonly handlers: Handlers) {
    stream.on("error", () => {}); // follow tells of it; what comes later is of no use
  }

  /** Sends a message, unless the lease has run out: then whoever wants to say something is to stop. */
  send(message: WorkRequest) {
    if (this.over()) throw new DOMException("The lease has run out.", "AbortError");
    this.stream.write(message);
  }

  /** Whether the lease has run out. Then the tasks are to stop, and the stream ends. */
  over(): boolean {
    if (this.lastCall === undefined || process.hrtime.bigint() < this.lastCall) return false;
    for (const stop of this.stops.values()) stop.abort();
    this.stream.cancel();
    return true;
  }

  ask(call: WorkRequest["call"]): Promise<CallReply> {
    const id = String(++this.calls);
    this.send({ call: { ...call, id } });
    return new Promise((resolve) => this.replies.set(id, resolve));
  }

  /** Does what it is told until the stream ends. */
  async follow() {
    for await (const message of this.stream as AsyncIterable<WorkResponse>) {
      const { welcome, lease, run, stop, reply, refusal } = message;
      if (this.over()) continue; // whatever it is, it came too late; the stream ends
      if (welcome) {
        this.welcomed = true;
        this.length = nanoseconds(welcome.lease!);
        this.hold(this.length);
        console.log(`worker ${welcome.worker} is ready`);
      } else if (lease) {
        this.hold(nanoseconds(lease.validFor!), BigInt(lease.endsAtMonotonic));
      } else if (run) {
        this.start(run);
      } else if (stop) {
        this.stops.get(`${stop.taskId} ${stop.claim}`)?.abort(); // it may have ended meanwhile
      } else if (reply) {
        this.replies.get(reply.id)?.(reply);
        this.replies.delete(reply.id);
      } else if (refusal) {
        console.error(`task ${refusal.taskId}: ${refusal.reason}`);
      }
    }
  }

  private start(message: RunTask) {
    const { taskId, claim, name } = message.assignment!;
    const key = `${taskId} ${claim}`, stop = new AbortController();
    this.stops.set(key, stop);
    const running = new Run(this, message, stop).perform(this.handlers[name]!).finally(() => {
      this.stops.delete(key);
      this.running.delete(running);
    });
    this.running.add(running);
  }

  /**
   * Takes a lease, of nanoseconds from now, which ends at a time of Sluice's machine. Ends the stream when no other lease comes
   * before the last eighth of it, which is for stopping the tasks.
   */
  private hold(validFor: bigint, endsAt = 0n) {
    const ends = process.hrtime.bigint() + validFor;
    if (endsAt && this.sameClock === undefined) {
      // On the same machine it is the same clock: then endsAt is right even if we were stopped and read it late.
      this.sameClock = endsAt > ends - second && endsAt < ends + second;
    }
    this.until = this.sameClock ? endsAt : ends;
    this.lastCall = this.until - this.length / 8n;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.over(), millisecondsTo(this.lastCall) + 1);
  }

  /** Stops all tasks. They failed with the stream, and what they had reserved may be another's by now. */
  async end() {
    clearTimeout(this.timer);
    this.stream.cancel();
    for (const stop of this.stops.values()) stop.abort();
    for (const resolve of this.replies.values()) resolve({ error: "the stream has ended" });
    const patience = Math.min(5000, millisecondsTo(this.until));
    await Promise.race([Promise.all(this.running), sleep(patience)]);
    if (this.running.size > 0) {
      console.error("a task does not stop, so its process does");
      process.exit(1); // nothing else ends a promise
    }
  }
}

/** Runs tasks for ever. */
export async function serve(handlers: Handlers, options: { addr: string; name?: string; slots?: number }): Promise<never> {
  const { addr, name = "", slots = 1 } = options;
  const hello = { name, slots, pid: process.pid, handlers: Object.keys(handlers).map((name) => ({ name })) };
  const executor = executorAt(addr);
  for (let pause = 100; ; ) {
    const link = new Link(executor.work(), handlers);
    link.send({ hello });
    try {
      await link.follow();
      console.error("the stream has ended");
    } catch (e) {
      const { code, message } = e as ServiceError;
      const refused = !link.welcomed && (code === status.INVALID_ARGUMENT || code === status.UNIMPLEMENTED);
      console.error(`the stream has ended: ${message}`);
      if (refused) process.exit(1); // trying again would not make it right
    } finally {
      await link.end();
    }
    pause = link.welcomed ? 100 : Math.min(pause * 2, 10_000);
    await sleep(pause * (0.5 + Math.random() / 2));
  }
}
