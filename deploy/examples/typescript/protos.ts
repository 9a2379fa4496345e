// The protos of Sluice, loaded as they are. `npm run build` makes types of them, so the compiler knows every field.

import { fileURLToPath } from "node:url";
import { credentials, loadPackageDefinition } from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import type { ProtoGrpcType as Dispatcher } from "./types/dispatcher_service.js";
import type { ProtoGrpcType as Executor } from "./types/executor_service.js";
import type { ProtoGrpcType as Status } from "./types/status_service.js";

const proto = fileURLToPath(new URL("../../../../proto", import.meta.url)); // seen from dist
const files = ["dispatcher/v1/dispatcher_service", "executor/v1/executor_service", "status/v1/status_service"];
const definition = loadSync(
  files.map((file) => `sluice/${file}.proto`),
  { includeDirs: [proto], longs: String, enums: String, defaults: true, oneofs: true },
);
const { sluice } = loadPackageDefinition(definition) as unknown as Dispatcher & Executor & Status;

// Sluice is near: no proxy, and no long pauses between attempts to connect.
const options = { "grpc.enable_http_proxy": 0, "grpc.max_reconnect_backoff_ms": 5000 };

/** Makes clients of the services. They connect with the first call. */
export const dispatcherAt = (addr: string) => new sluice.dispatcher.v1.DispatcherService(addr, credentials.createInsecure(), options);
export const executorAt = (addr: string) => new sluice.executor.v1.ExecutorService(addr, credentials.createInsecure(), options);
export const statusAt = (addr: string) => new sluice.status.v1.StatusService(addr, credentials.createInsecure(), options);
