"""A Sluice worker for tests. Its one task writes into a file that it starts, that it lives, and that it ends, for as long as
it may. The first argument is the folder of the example that this is a variation of, the second where Sluice answers."""

import sys

sys.path.insert(0, sys.argv[1])
from link import Canceled, serve  # noqa: E402


def note(run, path, lines):
    def say(what):
        with open(path, "a") as file:
            file.write(f"{what} {run.assignment.task_id} {run.assignment.claim}\n")

    say("start")
    for _ in range(lines):
        if run.stopped.wait(0.02):
            raise Canceled
        say("alive")
    say("end")


serve({"e2e.note": note}, addr=sys.argv[2], name="noting", slots=2)
