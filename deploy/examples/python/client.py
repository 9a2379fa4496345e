#!/usr/bin/env python3
"""A Sluice client in Python. `client.py --help` lists its commands, each of which is one function."""

import argparse
import json
import sys

import grpc

from protos import answering, connect, dispatcher, dispatching, status, task


def state(one):
    return task.State.Name(one.state)[len("STATE_"):].lower()


def dispatch(channel, name, kwargs):
    """Hands in a task and prints its id. When this returns, the task is stored and has its place."""
    spec = task.TaskSpec(name=name, kwargs_json=kwargs)
    reply = dispatching.DispatcherServiceStub(channel).Dispatch(dispatcher.DispatchRequest(task=spec))
    print(reply.task.id)


def watch(channel, id):
    """Prints each state of a task until it is final."""
    for reply in answering.StatusServiceStub(channel).WatchTask(status.WatchTaskRequest(task_id=id)):
        print(state(reply.task), flush=True)


def cancel(channel, id):
    """Asks a task to stop, and prints its state after that."""
    print(state(dispatching.DispatcherServiceStub(channel).Cancel(dispatcher.CancelRequest(task_id=id)).task))


def wait(channel, id):
    """Waits until a task is final. Prints how far its parts came, and its result; exits with 1 if it did not complete."""
    stub, done = answering.StatusServiceStub(channel), False
    while not done:  # one call waits for a minute at most
        done = stub.WaitTasks(status.WaitTasksRequest(task_ids=[id])).done
    got = stub.GetTask(status.GetTaskRequest(task_id=id))
    for part in got.report.progress:
        print(f"{part.message}: {part.done} of {part.total}")
    if state(got.task) != "completed":
        error = got.task.error
        sys.exit(f"{state(got.task)}: {error.description or error.reason} {error.code}".strip())
    print(json.dumps(json.loads(got.task.result_json or "null")))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Speaks with Sluice.")
    parser.add_argument("--addr", default="127.0.0.1:24820", help="where Sluice answers gRPC (default: %(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    for command in dispatch, watch, cancel, wait:
        sub = commands.add_parser(command.__name__, description=command.__doc__, help=command.__doc__.split(".")[0])
        sub.set_defaults(command=command)
        if command is dispatch:
            sub.add_argument("name", help="what is to be run, for example py.count")
            sub.add_argument("kwargs", nargs="?", default="{}", help="its arguments, a JSON object")
        else:
            sub.add_argument("id", help="id of the task")
    options = vars(parser.parse_args())
    command, addr = options.pop("command"), options.pop("addr")
    try:
        with connect(addr) as channel:
            command(channel, **options)
    except grpc.RpcError as e:
        sys.exit(f"{e.code().name}: {e.details()}")
