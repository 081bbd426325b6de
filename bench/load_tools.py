"""``python -m bench.load_tools``: is our load test's measure right? Others beside it, by hand.

One service (two web processes, the stand-in) is put under the same load in turns by
``imageserve loadtest``, wrk, hey, h2load and perf_analyzer: first a closed loop of so many clients,
then a Poisson rate, which of the others only perf_analyzer has. Each posts the same JPEG. A program
that is not there is left out, with a word:

- wrk, hey, h2load: ``apt-get install wrk hey nghttp2-client``;
- perf_analyzer: its wheel needs glibc 2.38. On an older system put it into a root of its own::

    debootstrap --variant=minbase --include=python3-venv trixie /tmp/trixie
    chroot /tmp/trixie python3 -m venv /opt/pa
    chroot /tmp/trixie /opt/pa/bin/pip install perf-analyzer==2.60.0
    python -m bench.load_tools --perf-analyzer "chroot /tmp/trixie /opt/pa/bin/perf_analyzer"

  It runs as root there, and its files go below the root's ``/tmp``.
"""

import argparse
import base64
import csv
import json
import math
import re
import shlex
import shutil
import statistics
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.picture import photo_jpeg
from bench.plan import say
from bench.processes import Bed
from bench.stacks import start_imageserve

OURS, PERF_ANALYZER = "imageserve loadtest", "perf_analyzer"
MODEL = "stand-in"

_TIMES = {"us": 0.001, "ms": 1.0, "s": 1000.0}


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of each program."""

    port: int
    picture: Path
    """Alone in its folder; above that stands what single programs need: see `_write`."""
    seconds: float
    clients: int = 0
    rate_per_s: float = 0.0
    """A Poisson process instead of clients."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/predict"

    def file(self, name: str) -> Path:
        return self.picture.parents[1] / name


@dataclass(frozen=True, slots=True)
class Seen:
    """What one program says of one load; times in ms."""

    per_s: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Program:
    """A program that makes load: its command, and how its words are read."""

    command: Callable[[Load], Sequence[str]]
    read: Callable[[str, Load], Seen]


# -- ours ------------------------------------------------------------------------------------------


def _ours(load: Load) -> Sequence[str]:
    asked = f"--rate={load.rate_per_s}" if load.rate_per_s else f"--clients={load.clients}"
    more = ("--source=files", "--learn", "--quiet", f"--duration={load.seconds}")
    folder = f"--images={load.picture.parent}"
    url = f"http://127.0.0.1:{load.port}"
    return [sys.executable, "-m", "imageserve", "loadtest", url, asked, folder, *more, "--json=-"]


def _read_ours(said: str, load: Load) -> Seen:
    result = json.loads(next(line for line in said.splitlines() if line.startswith("{")))
    good = result["latency"]["good"]
    return Seen(good["count"] / load.seconds, good["p50_ms"], good["p99_ms"])


# -- wrk, hey, h2load ------------------------------------------------------------------------------


def _wrk(load: Load) -> Sequence[str]:
    asked = ("-t1", f"-c{load.clients}", f"-d{load.seconds:g}s", "--timeout=30s", "--latency")
    return ["wrk", *asked, f"-s{load.file('post.lua')}", load.url]


def _read_wrk(said: str, load: Load) -> Seen:
    shares = dict(re.findall(r"^ +(50|99)% +([\d.]+[mu]?s)$", said, re.MULTILINE))
    per_s = float(re.findall(r"Requests/sec: +([\d.]+)", said)[0])
    return Seen(per_s, _as_ms(shares["50"]), _as_ms(shares["99"]))


def _as_ms(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)([mu]?s)", text.strip()).groups()  # type: ignore[union-attr]
    return float(number) * _TIMES[unit]


def _hey(load: Load) -> Sequence[str]:
    asked = ("-z", f"{load.seconds:g}s", "-c", str(load.clients), "-t", "30")
    return ["hey", *asked, "-m", "POST", "-T", "image/jpeg", "-D", str(load.picture), load.url]


def _read_hey(said: str, load: Load) -> Seen:
    shares = dict(re.findall(r"^ +(50|99)% in ([\d.]+) secs", said, re.MULTILINE))
    per_s = float(re.findall(r"Requests/sec:\s+([\d.]+)", said)[0])
    return Seen(per_s, 1000 * float(shares["50"]), 1000 * float(shares["99"]))


def _h2load(load: Load) -> Sequence[str]:
    load.file("h2load.log").unlink(missing_ok=True)
    asked = ("--h1", "-t1", f"-c{load.clients}", f"-D{load.seconds:g}")
    head = ("-H", "content-type: image/jpeg", f"-d{load.picture}")
    return ["h2load", *asked, *head, f"--log-file={load.file('h2load.log')}", load.url]


def _read_h2load(said: str, load: Load) -> Seen:
    """Read its log: a line for each request, with the time that it took in microseconds."""
    lines = [line.split("\t") for line in load.file("h2load.log").read_text().splitlines()]
    return _seen(sorted(int(took) / 1000 for _, status, took in lines if status == "200"), load)


def _seen(sorted_ms: Sequence[float], load: Load) -> Seen:
    def at(percent: float) -> float:
        return sorted_ms[math.ceil(percent / 100 * len(sorted_ms)) - 1]

    return Seen(len(sorted_ms) / load.seconds, at(50), at(99))


# -- perf_analyzer ---------------------------------------------------------------------------------


def _perf_analyzer(start: Sequence[str], inside: Path) -> Callable[[Load], Sequence[str]]:
    """``inside``: the folder of the picture, as the program sees it."""

    def command(load: Load) -> Sequence[str]:
        asked = [f"--concurrency-range={load.clients}"]
        if load.rate_per_s:
            rate = f"--request-rate-range={load.rate_per_s}"
            asked = [rate, "--request-distribution=poisson", "--max-threads=16"]
        # It stops when three windows agree, or after twenty of them.
        length_ms = round(1000 * load.seconds / 3)
        windows = [f"--measurement-interval={length_ms}", "--stability-percentage=25", "-r20"]
        data = [f"--input-data={inside / 'picture.json'}", "--shape=image:1"]
        out = [f"-f{inside / 'perf_analyzer.csv'}", "--percentile=99"]
        where = ["-m", MODEL, "-u", f"127.0.0.1:{load.port}", "-i", "http"]
        return [*start, *where, *asked, *windows, *data, *out]

    return command


def _read_perf_analyzer(at: Path) -> Callable[[str, Load], Seen]:
    def read(said: str, load: Load) -> Seen:
        path = at / "perf_analyzer.csv"
        with path.open() as file:
            row = next(csv.DictReader(file))
        path.unlink()  # Where windows never agree it writes none.
        per_s = float(row["Inferences/Second"])
        return Seen(per_s, float(row["p50 latency"]) / 1000, float(row["p99 latency"]) / 1000)

    return read


# -- the measurement -------------------------------------------------------------------------------


def _programs(given: argparse.Namespace, folder: Path) -> dict[str, Program]:
    found = {OURS: Program(_ours, _read_ours)}
    others = {
        "wrk": Program(_wrk, _read_wrk),
        "hey": Program(_hey, _read_hey),
        "h2load": Program(_h2load, _read_h2load),
    }
    for name, program in others.items():
        if shutil.which(name):
            found[name] = program
        else:
            say(f"there is no {name}: left out")
    if given.perf_analyzer:
        start = shlex.split(given.perf_analyzer)
        root = Path(start[1]) if start[0] == "chroot" else Path("/")
        shared = root / "tmp" / "bench-clients"
        shutil.rmtree(shared, ignore_errors=True)
        shutil.copytree(folder, shared)
        inside = Path("/") / shared.relative_to(root)
        command, read = _perf_analyzer(start, inside), _read_perf_analyzer(shared)
        found[PERF_ANALYZER] = Program(command, read)
    else:
        say("no --perf-analyzer: left out")
    return found


def _write(folder: Path) -> Path:
    """Write the picture, and what single programs need to post it."""
    picture, data = folder / "pictures" / "picture.jpg", photo_jpeg()
    picture.parent.mkdir(parents=True)
    picture.write_bytes(data)
    (folder / "post.lua").write_text(
        f'wrk.method = "POST"\nwrk.body = io.open("{picture}", "rb"):read("*all")\n'
        'wrk.headers["Content-Type"] = "image/jpeg"\n'
    )
    # For base64 it adds no length of its own before the bytes.
    content = {"b64": base64.b64encode(struct.pack("<I", len(data)) + data).decode()}
    text = json.dumps({"data": [{"image": {"content": content, "shape": [1]}}]})
    (folder / "picture.json").write_text(text)
    return picture


def _measure(programs: Mapping[str, Program], load: Load, rounds: int) -> dict[str, list[Seen]]:
    seen: dict[str, list[Seen]] = {name: [] for name in programs}
    _run(OURS, programs[OURS], load)  # Warms the service up.
    for number in range(rounds):
        for name, program in programs.items():
            if found := _run(name, program, load):
                seen[name].append(found)
                say(f"round {number + 1}: {name}: {found}")
    return {name: rounds for name, rounds in seen.items() if rounds}


def _run(name: str, program: Program, load: Load) -> Seen | None:
    """Return what a program says; None where it has no figures, with what it says instead."""
    command = [str(part) for part in program.command(load)]
    # Ours exits with 1 where its own objective is not met.
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return program.read(done.stdout, load)
    except (LookupError, OSError, StopIteration, ValueError) as error:
        say(f"{name} has no figures ({error!r}):\n{done.stdout[-1000:]}{done.stderr[-1000:]}")
        return None


def _table(seen: Mapping[str, Sequence[Seen]]) -> str:
    """Return the medians of all rounds; of the 99th percentile the spread too."""
    lines = [
        "| program | pictures/s | p50, ms | p99, ms (lowest to highest) |",
        "|---|---|---|---|",
    ]
    for name, rounds in seen.items():
        per_s = statistics.median(each.per_s for each in rounds)
        p50 = statistics.median(each.p50_ms for each in rounds)
        p99 = sorted(each.p99_ms for each in rounds)
        spread = f"{statistics.median(p99):.1f} ({p99[0]:.1f} to {p99[-1]:.1f})"
        lines.append(f"| {name} | {per_s:.1f} | {p50:.1f} | {spread} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.load_tools",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--clients", type=int, default=8, help="of the closed loop, default 8")
    parser.add_argument("--rate", type=float, default=50.0, help="of the open loop, default 50")
    parser.add_argument("--rounds", type=int, default=5, help="default 5")
    parser.add_argument("--seconds", type=float, default=15.0, help="of a load, default 15")
    parser.add_argument("--perf-analyzer", metavar="COMMAND", help="how to start it")
    given = parser.parse_args()
    with Bed() as bed:
        picture = _write(bed.directory / "load")
        programs = _programs(given, picture.parents[1])
        stack = start_imageserve(bed)
        closed = Load(stack.web_port, picture, given.seconds, clients=given.clients)
        print(f"\n{given.clients} clients:\n\n{_table(_measure(programs, closed, given.rounds))}")
        programs = {name: programs[name] for name in (OURS, PERF_ANALYZER) if name in programs}
        rate = Load(stack.web_port, picture, given.seconds, rate_per_s=given.rate)
        print(f"\n{given.rate:g}/s, Poisson:\n\n{_table(_measure(programs, rate, given.rounds))}")


if __name__ == "__main__":
    main()
