// A Sluice client in TypeScript. `node dist/client.js --help` lists its commands, each of which is one function.

import { parseArgs } from "node:util";
import type { ServiceError } from "@grpc/grpc-js";
import { dispatcherAt, statusAt } from "./protos.js";
import type { Task__Output as Task } from "./types/sluice/task/v1/Task.js";

const { values, positionals } = parseArgs({
  options: { addr: { type: "string", default: "127.0.0.1:24820" }, help: { type: "boolean", default: false } },
  allowPositionals: true,
});
const dispatcher = dispatcherAt(values.addr!), tasks = statusAt(values.addr!);

/** Makes a promise of a call that has one answer. */
function ask<Q, A>(call: (request: Q, done: (error: ServiceError | null, answer?: A) => void) => unknown, request: Q): Promise<A> {
  return new Promise((resolve, reject) => call(request, (error, answer) => (error ? reject(error) : resolve(answer!))));
}

const state = (task: Task) => task.state.slice("STATE_".length).toLowerCase();

/** Hands in a task and prints its id. When this returns, the task is stored and has its place. */
async function dispatch(name = "", kwargsJson = "{}") {
  const reply = await ask(dispatcher.dispatch.bind(dispatcher), { task: { name, kwargsJson } });
  console.log(reply.task!.id);
}

/** Prints each state of a task until it is final. */
async function watch(taskId = "") {
  for await (const { task } of tasks.watchTask({ taskId })) console.log(state(task));
}

/** Asks a task to stop, and prints its state after that. */
async function cancel(taskId = "") {
  const reply = await ask(dispatcher.cancel.bind(dispatcher), { taskId });
  console.log(state(reply.task!));
}

/** Waits until a task is final. Prints how far its parts came, and its result; exits with 1 if it did not complete. */
async function wait(taskId = "") {
  while (!(await ask(tasks.waitTasks.bind(tasks), { taskIds: [taskId] })).done); // one call waits for a minute at most
  const { task, report } = await ask(tasks.getTask.bind(tasks), { taskId });
  for (const part of report?.progress ?? []) console.log(`${part.message}: ${part.done} of ${part.total}`);
  if (state(task!) === "completed") {
    console.log(task!.resultJson || "null");
  } else {
    const { description, reason, code } = task!.error!;
    console.error(`${state(task!)}: ${description || reason} ${code}`.trim());
    process.exitCode = 1;
  }
}

const usage = `usage: node dist/client.js [--addr HOST:PORT] COMMAND

  dispatch NAME [KWARGS]   hands in a task, with a JSON object as its arguments, and prints its id
  watch ID                 prints each state of a task until it is final
  cancel ID                asks a task to stop
  wait ID                  waits until a task is final, and prints its result`;
const [name = "", ...args] = positionals;
const command = new Map(Object.entries({ dispatch, watch, cancel, wait })).get(name);
if (values.help || !command || args.length === 0) {
  console.log(usage);
  process.exit(values.help ? 0 : 2);
}
try {
  await command(...args);
} catch (e) {
  console.error((e as Error).message);
  process.exitCode = 1;
}
dispatcher.close();
tasks.close();
