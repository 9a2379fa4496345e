"""Runs pulp-cli again and again, as its users do, without the half second that Python takes each time to import it.

Each line of the input is a JSON object: "args" for one run, "dir" where it runs, and "out" and "err", the files that it writes.
Each run is a process of its own, forked from this one, which has imported everything and run nothing. For each, one line says its
process id, in the order of the input, and one, when it has ended, its process id and exit code.
"""

import json
import os
import select
import sys

import pulp_cli
import pulp_glue.common.openapi  # noqa: F401
import pulpcore.cli.common  # noqa: F401
import pulpcore.cli.core  # noqa: F401


def run(what):
    for path, fd in ((what["out"], 1), (what["err"], 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), fd)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(what["dir"])
    sys.argv = ["pulp"] + what["args"]
    pulp_cli.main()


def fork(line):
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        run(json.loads(line))
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main():
    rest, children = b"", set()
    while True:
        if select.select([0], [], [], 0.02)[0]:
            more = os.read(0, 65536)
            if not more:
                return
            *lines, rest = (rest + more).split(b"\n")
            for line in lines:
                pid = fork(line)
                children.add(pid)
                print(pid, flush=True)
        for pid in list(children):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                children.remove(pid)
                print(pid, os.waitstatus_to_exitcode(status), flush=True)


main()
