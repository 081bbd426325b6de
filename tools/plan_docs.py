"""Writes the tables of docs/performance.md, section "A growing system", from what was measured.

``imageserve.measured`` holds the numbers, ``imageserve.plan`` reckons with them. With
``--decoding`` it measures here how decoding grows with the picture, and prints the two constants.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from imageserve import measured
from imageserve.cli.plan import decode_ms
from imageserve.cli.plan_report import short
from imageserve.cli.plan_values import most_clients, size_text
from imageserve.config.settings import Settings
from imageserve.plan import MAX_CLIENTS, Load, Place, Plan, Worker, known_costs, plan
from imageserve.preparation import Preparation

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
BEGIN, END = "<!-- plan: begin -->", "<!-- plan: end -->"
INPUT = Preparation((224, 224))
PICTURES = ((500, 375), (1600, 1200), (4000, 3000))
RATES = (1_000, 10_000, 100_000)
EXAMPLE = ("mobilenet_v2", "onnx")
OTHERS = (("resnet50", "onnx"), ("resnet50", "keras"))
RUNTIME_TITLES = {"keras": "Keras on TensorFlow", "onnx": "ONNX Runtime"}
DECODED = ((250, 188), (500, 375), (700, 525), (1600, 1200), (2400, 1800), (4800, 3600))


def tables() -> str:
    """Return what stands between the markers."""
    return "\n".join([*_table(_ones()), "", *_table(_growth())])


def _ones() -> Iterator[tuple[str, ...]]:
    """Yield the rows of what one of each does."""
    yield "one of each, busy all the time", "pictures/s", "measured"
    for size in PICTURES:
        load = Load(1, size=size)
        costs = known_costs(load, INPUT)
        ms = costs.rest_ms + costs.decode_ms
        name = f"web core, JPEGs of {size[0]} x {size[1]} ({short(ms)} ms)"
        yield name, short(1000 / ms), costs.source.replace("docs/performance.md", "(a), (b)")
    for logged, name in ((True, "with the append-only file, as in the chart"), (False, "no file")):
        ms = measured.redis_ms(INPUT.bytes) * (measured.LOGGED_TIMES if logged else 1)
        source = _part("f") + (f"; x {measured.LOGGED_TIMES}: {measured.REDIS_DETAILS}" * logged)
        yield f"Redis core, pixels of 224 x 224, {name}", short(1000 / ms), source
    per_s = 10e9 / 8 / (INPUT.bytes + measured.WIRE_BYTES)
    yield "network of 10 Gbit/s at Redis, the same pixels", short(per_s), "arithmetic"
    for (model, runtime), speed in measured.SPEEDS.items():
        name = f"worker, {model}, {RUNTIME_TITLES[runtime]}, {speed.cores} cores"
        yield name, short(max(speed.per_second.values())), _part("c")
    yield "worker with a GPU", "?", "not measured here: `imageserve models bench`"


def _part(letter: str) -> str:
    return measured.TABLES.replace("docs/performance.md", f"({letter})")


def _growth() -> Iterator[tuple[str, ...]]:
    """Yield the rows of what the rates take."""
    plans = [_planned(rate, EXAMPLE) for rate in RATES]
    yield ("", *(f"{rate:,} pictures/s" for rate in RATES))
    for name, told in _TOLD.items():
        yield (name, *(told(each) for each in plans))
    for model, runtime in OTHERS:
        name = f"model pods for {model}, {RUNTIME_TITLES[runtime]}"
        yield (name, *(f"{_planned(rate, (model, runtime)).models.pods:,}" for rate in RATES))


def _planned(rate: float, model: tuple[str, str]) -> Plan:
    speed = measured.SPEEDS[model]
    times = {size: 1000 * size / per_s for size, per_s in speed.per_second.items()}
    load = Load(rate)
    worker = Worker(model[0], INPUT, times, speed.source, speed.cores)
    return plan(load, worker, known_costs(load, INPUT), Place())


def _memory(each: Plan) -> str:
    return f"`{size_text(each.redis.maxmemory)}`"


def _connections(each: Plan) -> str:
    most = each.redis.connections
    return f"{most:,}" + (f" (`maxclients {most_clients(most)}`)" * (most > MAX_CLIENTS))


_TOLD: Mapping[str, Callable[[Plan], str]] = {
    "uploads, Gbit/s": lambda each: short(each.load.rate * each.load.upload_bytes * 8 / 1e9),
    "web cores that are busy": lambda each: short(each.web.cores),
    "`web.replicas`, of 2 `web.processes` and 2 cores": lambda each: f"{each.web.pods:,}",
    f"model pods for {EXAMPLE[0]}, {RUNTIME_TITLES[EXAMPLE[1]]}, 2 cores each": (
        lambda each: f"{each.models.pods:,}"
    ),
    "Redis nodes, with the append-only file": lambda each: f"{each.redis.nodes}",
    "of each: its core": lambda each: f"{100 * each.redis.node_cores:.0f} %",
    "of each: network each way, Gbit/s": lambda each: short(each.redis.node_gbit),
    "of each: written to disk, MB/s": lambda each: short(each.redis.node_log_mbyte),
    "of each: `maxmemory`": _memory,
    "`limits.queueLimit`": lambda each: f"{each.redis.waiting:,}",
    "`limits.queueBytesLimit`": lambda each: f"`{size_text(each.redis.queue_bytes)}`",
    "connections to each Redis, at most": _connections,
    "next wall": lambda each: f"{each.walls[0].name}: {short(each.walls[0].at_per_s)}/s",
}


def _table(rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    for number, row in enumerate(rows):
        yield f"| {' | '.join(row)} |"
        if not number:
            yield f"| :--- |{' ---: |' * (len(row) - 1)}"


def decoding() -> Iterator[str]:
    """Measure, and yield the constants: a line through full sizes, and a slope for each other."""
    settings = Settings.from_env(os.environ)
    by_scale: dict[int, list[tuple[int, float]]] = {}
    for size in DECODED:
        ms = decode_ms(size, INPUT, settings)
        scale = INPUT.jpeg_scale(size)
        by_scale.setdefault(scale, []).append((size[0] * size[1], ms))
        print(f"{size[0]}x{size[1]}, sides / {scale}: {ms:.2f} ms", file=sys.stderr, flush=True)
    (few, least), *_, (many, most) = by_scale[1]
    slope = (most - least) / (many - few)
    base = least - slope * few
    slopes = {scale: (runs[-1][1] - base) / runs[-1][0] for scale, runs in by_scale.items()}
    slopes[1] = slope
    yield f"DECODE_BASE_MS = {base:.2f}"
    yield f"DECODE_NS_PER_PIXEL = { ({n: round(1e6 * each, 2) for n, each in slopes.items()}) }"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; 1 where it differs")
    parser.add_argument("--decoding", action="store_true", help="measure, and print constants")
    options = parser.parse_args(arguments)
    if options.decoding:
        print("\n".join(decoding()))
        return 0
    old = PAGE.read_text(encoding="utf-8")
    head, begin, rest = old.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        print(f"{PAGE} has no lines {BEGIN} and {END} to write between", file=sys.stderr)
        return 2
    new = f"{head}{begin}\n\n{tables()}\n\n{end}{tail}"
    if new != old and options.check:
        print(f"{PAGE}: run python tools/plan_docs.py", file=sys.stderr)
    elif new != old:
        PAGE.write_text(new, encoding="utf-8")
    return int(options.check and new != old)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
