// A Sluice worker with four tasks. How it speaks with Sluice is in link.ts. `node dist/worker.js --help` says how to start it.

import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { Failure, Run, serve } from "./link.js";

/** Counts to n and pauses that many seconds each time. */
async function count(run: Run, { n = 10, pause = 0 }) {
  run.log(`counting to ${n}`);
  for (let done = 1; done <= n; done++) {
    await sleep(pause * 1000, undefined, { signal: run.stopped }); // throws when the task is to stop
    run.progress("count", "Counting", done, n);
    run.groupProgress("count", "Counting together", done, n);
  }
  return { counted: n };
}

function fail(_: Run, { text = "There is no paper." }) {
  throw new Failure(text, "NO_PAPER");
}

/** Does nothing. A handler that takes long has to look whether it was stopped. */
async function wait(run: Run, { seconds = 3600 }) {
  run.log("waiting");
  await sleep(seconds * 1000, undefined, { signal: run.stopped });
}

/** Hands in a task, which becomes its child. */
async function parent(run: Run, { name = "ts.count", ...kwargs }) {
  return { child: await run.dispatch(name, kwargs) };
}

const { values } = parseArgs({
  options: {
    addr: { type: "string", default: "127.0.0.1:24820" },
    name: { type: "string", default: "" },
    slots: { type: "string", default: "4" },
    help: { type: "boolean", default: false },
  },
});
if (values.help) {
  console.log(`usage: node dist/worker.js [--addr HOST:PORT] [--name NAME] [--slots N]

Runs the tasks ts.count, ts.fail, ts.wait and ts.parent for Sluice.

  --addr   where Sluice answers gRPC (default: 127.0.0.1:24820)
  --name   name of the worker (default: it is given one)
  --slots  how many tasks at once (default: 4)`);
  process.exit();
}
const handlers = { "ts.count": count, "ts.fail": fail, "ts.wait": wait, "ts.parent": parent };
await serve(handlers, { addr: values.addr!, name: values.name!, slots: Number(values.slots) });
