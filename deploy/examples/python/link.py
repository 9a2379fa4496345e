"""How a worker speaks with Sluice: what README.md tells about the protocol, as code. To have a worker of your own, take this
file and protos.py as they are, and write something like worker.py."""

import itertools
import json
import os
import queue
import random
import sys
import threading
import time
import traceback

import grpc

from protos import connect, executor, work

try:  # only who wants spans of his handlers has these
    from opentelemetry import context as traces, propagate
except ImportError:
    traces = None


class Canceled(Exception):
    """For handlers to raise when they were asked to stop and did."""


class Failure(Exception):
    """An error that was written for whoever may see the task. The text of any other may be withheld from them."""

    def __init__(self, text, code=""):
        super().__init__(text)
        self.code = code


class Stopped(threading.Event):
    """Set when a task is to stop: it was asked to, or the lease has run out, which nobody needs to have noticed."""

    def __init__(self, link):
        super().__init__()
        self.link = link

    def is_set(self):
        return super().is_set() or self.link.over()

    def wait(self, timeout=None):
        super().wait(timeout)
        return self.is_set()


class Run:
    """One task, as its handler sees it."""

    def __init__(self, link, message):
        self.link, self.assignment, self.working_dir = link, message.assignment, message.working_dir
        self.key = self.assignment.task_id, self.assignment.claim
        self.stopped = Stopped(link)

    def say(self, kind, **fields):
        self.link.send(**{kind: dict(task_id=self.key[0], claim=self.key[1], **fields)})

    def progress(self, code, text, done, total=None):
        self.say("progress", progress=dict(code=code, message=text, done=done, total=total))

    def group_progress(self, code, text, done, total=0):
        """Says what this run has added, since it began, to the progress of the task's group, if it is in one."""
        if self.assignment.group_id:
            self.say("group_progress", progress=dict(code=code, message=text, done=done, total=total))

    def log(self, line):
        for i in range(0, len(line) + 1, 16000):  # one message may have 64 KiB, and a character four bytes
            self.say("log", text=(line + "\n")[i : i + 16000])

    def dispatch(self, name, **kwargs):
        """Hands in a child task and returns its id."""
        call = next(self.link.calls)
        answers = self.link.answers[call] = queue.SimpleQueue()
        self.link.send(call=dict(id=call, task_id=self.key[0], dispatch=dict(name=name, kwargs_json=json.dumps(kwargs))))
        answer = answers.get()
        if answer.error:
            raise RuntimeError(f"dispatch {name}: {answer.error}")
        return answer.made_id

    def perform(self, handler):
        """Runs the handler, in a thread of its own, and reports how it ended."""
        if traces:  # what the handler makes spans of is below the run of its task; the thread is this task's alone
            traces.attach(propagate.extract({"traceparent": self.assignment.traceparent, "tracestate": self.assignment.tracestate}))
        try:
            self.say("started")
            args, kwargs = json.loads(self.assignment.args_json or "[]"), json.loads(self.assignment.kwargs_json or "{}")
            outcome = dict(state="STATE_COMPLETED", result_json=json.dumps(handler(self, *args, **kwargs)))
        except Canceled:
            outcome = dict(state="STATE_CANCELED", error=dict(reason="Canceled on request."))
        except Exception as e:  # whatever it is, it ends this task and no other
            error = dict(description=str(e) or repr(e), traceback=traceback.format_exc(), code=getattr(e, "code", ""))
            outcome = dict(state="STATE_FAILED", error=error, safe=isinstance(e, Failure))
        del self.link.runs[self.key]
        try:
            self.say("ended", outcome=outcome)
        except Canceled:
            pass  # too late: it has failed by now


class Link:
    """One stream, from its hello to its end."""

    def __init__(self, stub, hello, handlers):
        self.handlers, self.welcomed, self.timer, self.same_clock = handlers, False, None, None
        self.length, self.last_call, self.until = 0, None, None  # of the lease, in nanoseconds; last_call is when to stop the tasks
        self.runs, self.threads, self.calls, self.answers = {}, [], itertools.count(1), {}
        self.outgoing = queue.SimpleQueue()
        self.stream = None
        self.send(hello=hello)
        self.stream = stub.Work(iter(self.outgoing.get, None))

    def send(self, **message):
        """Sends a message, unless the lease has run out: then whoever wants to say something is to stop."""
        if self.over():
            raise Canceled
        self.outgoing.put(work.WorkRequest(**message))

    def over(self):
        """Whether the lease has run out. A process that was stopped (SIGSTOP) learns it here, before a timer tells it."""
        if self.last_call is None or time.monotonic_ns() < self.last_call:
            return False
        self.stream.cancel()
        return True

    def follow(self):
        """Does what it is told until the stream ends."""
        for message in self.stream:
            if self.over():
                continue  # whatever it is, it came too late; the stream ends
            kind = message.WhichOneof("message")
            what = getattr(message, kind)
            if kind == "welcome":
                self.welcomed, self.length = True, what.lease.ToNanoseconds()
                self.hold(self.length)
                print(f"worker {what.worker} is ready", flush=True)
            elif kind == "lease":
                self.hold(what.valid_for.ToNanoseconds(), what.ends_at_monotonic)
            elif kind == "run":
                run = Run(self, what)
                self.runs[run.key] = run
                thread = threading.Thread(target=run.perform, args=[self.handlers[what.assignment.name]], daemon=True)
                self.threads = [t for t in self.threads if t.is_alive()] + [thread]
                thread.start()
            elif kind == "stop" and (what.task_id, what.claim) in self.runs:  # it may have ended meanwhile
                self.runs[what.task_id, what.claim].stopped.set()
            elif kind == "reply":
                self.answers.pop(what.id).put(what)
            elif kind == "refusal":
                print(f"task {what.task_id}: {what.reason}", file=sys.stderr, flush=True)

    def hold(self, valid_for, ends_at=0):
        """Takes a lease, of nanoseconds from now, which ends at a time of Sluice's machine. Ends the stream when no other lease
        comes before the last eighth of it, which is for stopping the tasks."""
        ends = time.monotonic_ns() + valid_for
        if ends_at and self.same_clock is None:
            # On the same machine it is the same clock: then ends_at is right even if we were stopped and read it late.
            self.same_clock = abs(ends_at - ends) < 1e9
        self.until = ends_at if self.same_clock else ends
        self.last_call = self.until - self.length // 8
        if self.timer:
            self.timer.cancel()
        self.timer = threading.Timer(max(0, self.last_call - time.monotonic_ns()) / 1e9 + 0.001, self.over)
        self.timer.daemon = True
        self.timer.start()

    def end(self):
        """Stops all tasks. They failed with the stream, and what they had reserved may be another's by now."""
        self.stream.cancel()
        self.outgoing.put(None)
        if self.timer:
            self.timer.cancel()
        for run in list(self.runs.values()):
            run.stopped.set()
        for answers in list(self.answers.values()):
            answers.put(work.CallReply(error="the stream has ended"))
        deadline = min(self.until or 0, time.monotonic_ns() + 5e9)
        for thread in self.threads:
            thread.join(max(0, deadline - time.monotonic_ns()) / 1e9)
        if any(thread.is_alive() for thread in self.threads):
            print("a task does not stop, so its process does", file=sys.stderr, flush=True)
            os._exit(1)  # nothing else ends a thread


def serve(handlers, addr, name="", slots=1):
    """Runs tasks for ever. handlers maps names of tasks to functions of a Run and the task's arguments."""
    hello = dict(name=name, slots=slots, pid=os.getpid(), handlers=[dict(name=task) for task in handlers])
    stub, pause = executor.ExecutorServiceStub(connect(addr)), 0.1
    while True:
        link = Link(stub, hello, handlers)
        try:
            link.follow()
            print("the stream has ended", file=sys.stderr, flush=True)
        except grpc.RpcError as e:
            print(f"the stream has ended: {e.code().name}: {e.details()}", file=sys.stderr, flush=True)
            if not link.welcomed and e.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED):
                sys.exit(1)  # trying again would not make it right
        finally:
            link.end()
        pause = 0.1 if link.welcomed else min(pause * 2, 10)
        time.sleep(pause * random.uniform(0.5, 1))
