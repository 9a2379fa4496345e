// Dispatches a task and reads it until it has ended, with nothing but types that were generated from the OpenAPI document. It takes
// the address of a Sluice, and prints the state and the result of the task.
import createClient from "openapi-fetch";

import type { components, paths } from "./sluice.js";

type Task = components["schemas"]["TaskResponse"];

const [address] = process.argv.slice(2);
const { SLUICE_USER, SLUICE_PASSWORD } = process.env;

const client = createClient<paths>({
  baseUrl: address,
  headers: { Authorization: `Basic ${btoa(`${SLUICE_USER}:${SLUICE_PASSWORD}`)}` },
});

async function dispatch(): Promise<string> {
  const { data, error, response } = await client.POST("/pulp/api/v3/tasks/", {
    body: { name: "test.echo", kwargs: { text: "hello from TypeScript" } },
  });
  if (!data) {
    throw new Error(`dispatch a task: ${response.status}: ${JSON.stringify(error)}`);
  }
  return data.task.split("/").at(-2) ?? "";
}

async function read(id: string): Promise<Task> {
  const { data, error, response } = await client.GET("/pulp/api/v3/tasks/{pulp_id}/", { params: { path: { pulp_id: id } } });
  if (!data) {
    throw new Error(`read the task: ${response.status}: ${JSON.stringify(error)}`);
  }
  return data;
}

const id = await dispatch();
let task = await read(id);
while (!task.finished_at) {
  await new Promise((resolve) => setTimeout(resolve, 100)); // an example keeps to plain reading; tasks_wait would wait
  task = await read(id);
}
console.log(task.state, JSON.stringify(task.result));
