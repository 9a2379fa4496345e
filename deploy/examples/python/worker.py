#!/usr/bin/env python3
"""A Sluice worker with four tasks. How it speaks with Sluice is in link.py. `worker.py --help` says how to start it."""

import argparse

from link import Canceled, Failure, serve


def count(run, n=10, pause=0.0):
    """Counts to n and pauses that many seconds each time."""
    run.log(f"counting to {n}")
    for done in range(1, n + 1):
        if run.stopped.wait(pause):
            raise Canceled
        run.progress("count", "Counting", done, n)
        run.group_progress("count", "Counting together", done, n)
    return {"counted": n}


def fail(run, text="There is no paper."):
    raise Failure(text, code="NO_PAPER")


def wait(run, seconds=3600):
    """Does nothing. A handler that takes long has to look whether it was stopped."""
    run.log("waiting")
    if run.stopped.wait(seconds):
        raise Canceled


def parent(run, name="py.count", **kwargs):
    """Hands in a task, which becomes its child."""
    return {"child": run.dispatch(name, **kwargs)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Runs the tasks py.count, py.fail, py.wait and py.parent for Sluice.")
    parser.add_argument("--addr", default="127.0.0.1:24820", help="where Sluice answers gRPC (default: %(default)s)")
    parser.add_argument("--name", default="", help="name of the worker (default: it is given one)")
    parser.add_argument("--slots", type=int, default=4, help="how many tasks at once (default: %(default)s)")
    options = parser.parse_args()
    try:
        serve({"py.count": count, "py.fail": fail, "py.wait": wait, "py.parent": parent}, **vars(options))
    except KeyboardInterrupt:
        pass
