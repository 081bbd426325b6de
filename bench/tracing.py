"""``python -m bench.tracing``: what tracing costs a request, one that is not sampled above all.

All that web process and worker do for it, in one process and without a request around it: the
headers are read, a span may begin, its ids go into two lines of the log and into a job, the job is
read, and what could have been a span is asked about. What they do without tracing is taken off.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

from bench.machine import describe
from bench.plan import say
from imageserve.queue.wire import Job, decode_job, encode_open_job
from imageserve.trace_context import Span
from imageserve.tracing import NO_TRACER, RecordingTracer, Tracer
from imageserve.web.calls import begin, record_request

MOST_US = 20.0
"""What an unsampled request may cost, in microseconds."""

ROUNDS, REPEATS = 30, 2000

HEADERS = {"REQUEST_METHOD": "POST", "CONTENT_LENGTH": "5000", "HTTP_X_REQUEST_ID": "req-1"}
STATE = "rojo=00f067aa0ba902b7,congo@nursery=t61rcWkgMzE"
JOB = Job("1" * 32, "resnet50", (224, 224, 3), 5, "q:reply:1", "req-1", 60_000)


class Drop:
    """Takes spans and sends none."""

    def keep(self, span: Span) -> None: ...

    def close(self, within_s: float) -> None: ...


def traced(headers: dict[str, str], tracer: Tracer) -> Callable[[], None]:
    """Return a request's way, as far as tracing is concerned."""

    def run() -> None:
        call = begin(headers, "/predict", tracer)
        text = encode_open_job(replace(JOB, context=call.context)) + ',"ts":1,"deadline":9}'
        tracer.note("decode", call.context, call.began, {"imageserve.picture": 0})
        job = decode_job(text)
        assert isinstance(job, Job)
        tracer.records(job.context)
        json.dumps(call.ids)
        record_request(tracer, call, 200)

    return run


def without() -> None:
    """Do the same without tracing, as it was before there was any."""
    untraced = begin(HEADERS, "/predict")
    decode_job(encode_open_job(replace(JOB, context=None)) + ',"ts":1,"deadline":9}')
    json.dumps({"request_id": untraced.request_id})


def main() -> int:
    """Print a table; return 1 where an unsampled request costs too much."""
    parser = argparse.ArgumentParser(prog="python -m bench.tracing", description=__doc__)
    parser.parse_args()
    parent = f"00-{'a' * 32}-{'b' * 16}-"
    unsampled = {**HEADERS, "HTTP_TRACEPARENT": f"{parent}00", "HTTP_TRACESTATE": STATE}
    sampled = {**unsampled, "HTTP_TRACEPARENT": f"{parent}01"}
    on = RecordingTracer(0.0, Drop())
    cases = {
        "no headers, tracing off": (traced(HEADERS, NO_TRACER), True),
        "no headers, tracing on": (traced(HEADERS, on), True),
        "unsampled caller, tracing off": (traced(unsampled, NO_TRACER), True),
        "unsampled caller, tracing on": (traced(unsampled, on), True),
        "sampled caller, tracing on": (traced(sampled, on), False),
    }
    say(describe())
    worst_us = 0.0
    for name, (run, is_unsampled) in cases.items():
        cost_us = _cost_us(run)
        print(f"{name:32} {cost_us:5.1f} us")
        worst_us = max(worst_us, cost_us if is_unsampled else 0.0)
    return int(worst_us > MOST_US)


def _cost_us(run: Callable[[], None]) -> float:
    """Return the processor time of a run beyond that of `without`, in turns with it."""
    differences = [_each_us(run) - _each_us(without) for _ in range(ROUNDS)]
    return statistics.median(differences)


def _each_us(run: Callable[[], None]) -> float:
    began = time.process_time()
    for _ in range(REPEATS):
        run()
    return (time.process_time() - began) / REPEATS * 1e6


if __name__ == "__main__":
    raise SystemExit(main())
