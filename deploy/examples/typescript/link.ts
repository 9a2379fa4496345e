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
  /** Aborted when the task is to stop. Pass it on to what takes long, or look at it from time to time. */
  readonly stopped: AbortSignal;
  readonly assignment;
  readonly workingDir: string;
  private readonly key;

  constructor(private readonly link: Link, message: RunTask, stop: AbortController) {
    this.assignment = message.assignment!;
    this.workingDir = message.workingDir;
    this.stopped = stop.signal;
    this.key = { taskId: this.assignment.taskId, claim: this.assignment.claim };
  }

  progress(code: string, message: string, done: number, total?: number) {
    this.link.send({ progress: { ...this.key, progress: { code, message, done, total } } });
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
    this.link.send({ ended: { ...this.key, outcome: await this.outcome(handler) } });
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

/** One stream, from its hello to its end. */
class Link {
  welcomed = false;
  private readonly stops = new Map<string, AbortController>();
  private readonly running = new Set<Promise<void>>();
  private readonly replies = new Map<string, (reply: CallReply) => void>();
  private calls = 0;
  private lease?: NodeJS.Timeout;
  private until = 0; // the end of the lease

  constructor(private readonly stream: Stream, private readonly handlers: Handlers) {
    stream.on("error", () => {}); // follow tells of it; what comes later is of no use
  }

  send(message: WorkRequest) {
    this.stream.write(message);
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
      if (welcome) {
        this.welcomed = true;
        this.hold(welcome.lease!);
        console.log(`worker ${welcome.worker} is ready`);
      } else if (lease) {
        this.hold(lease.validFor!);
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

  /** Ends the stream when no other lease comes in time. The last eighth of it is for stopping the tasks. */
  private hold(lease: Duration) {
    clearTimeout(this.lease);
    const milliseconds = Number(lease.seconds) * 1e3 + lease.nanos / 1e6;
    this.until = performance.now() + milliseconds;
    this.lease = setTimeout(() => this.stream.cancel(), (milliseconds * 7) / 8);
  }

  /** Stops all tasks. They failed with the stream, and what they had reserved may be another's by now. */
  async end() {
    clearTimeout(this.lease);
    this.stream.cancel();
    for (const stop of this.stops.values()) stop.abort();
    for (const resolve of this.replies.values()) resolve({ error: "the stream has ended" });
    const patience = Math.min(5000, Math.max(0, this.until - performance.now()));
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
