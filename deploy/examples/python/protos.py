"""The protos of Sluice, loaded as they are: nothing is generated, nothing has to be kept up to date."""

import sys
from pathlib import Path

import grpc

sys.path.append(str(Path(__file__).resolve().parents[3] / "proto"))

task = grpc.protos("sluice/task/v1/task.proto")
work = grpc.protos("sluice/executor/v1/worker.proto")
executor = grpc.services("sluice/executor/v1/executor_service.proto")
dispatcher, dispatching = grpc.protos_and_services("sluice/dispatcher/v1/dispatcher_service.proto")
status, answering = grpc.protos_and_services("sluice/status/v1/status_service.proto")


def connect(address):
    """A channel to host:port, which connects with the first call. Sluice is near: no proxy, and no long pauses."""
    return grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0), ("grpc.max_reconnect_backoff_ms", 5000)])
