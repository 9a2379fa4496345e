"""A Sluice worker for tests. Its one task makes a span in the trace of the task and exports it by itself, as JSON over HTTP, for
want of OpenTelemetry's packages. The first argument is the folder of the example that this is a variation of, the second where Sluice
answers, the third where the collector does."""

import json
import os
import sys
import time
import urllib.request

sys.path.insert(0, sys.argv[1])
from link import serve  # noqa: E402


def traced(run):
    _, trace, parent, _ = run.assignment.traceparent.split("-")
    began = time.time_ns()
    span = {
        "traceId": trace, "spanId": os.urandom(8).hex(), "parentSpanId": parent, "name": "in Python", "kind": 1,
        "startTimeUnixNano": str(began), "endTimeUnixNano": str(time.time_ns()),
    }
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "python"}}]}
    body = json.dumps({"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": [span]}]}]}).encode()
    headers = {"Content-Type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(sys.argv[3] + "/v1/traces", body, headers)).close()
    return {"child": run.dispatch("test.noop")}


serve({"e2e.traced": traced}, addr=sys.argv[2], name="tracing")
