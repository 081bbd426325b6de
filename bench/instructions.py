"""``python -m bench.instructions``: instructions per picture of each process, by valgrind.

They do not depend on how busy the machine is. Only those in user mode are counted: of a system
call, what leads to it. Where memory is filled or copied by ``rep``, each byte counts as one.

The programs run as in ``python -m bench``, 50 times slower; the stand-in sleeps longer by as much,
so that batches are of a usual size. What idle processes do (heartbeats, gunicorn's clock) is
measured too and left out: in real time it is done 50 times less per picture.

``--beside COMMIT`` counts that commit's in turns, and prints the ratio. ``--profile`` also prints
where they are: C functions, and Python functions as samples of a run without valgrind show them.
"""

import argparse
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.client import HTTPResponse
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import sampler
from bench.closed_loop import Form, picture_request
from bench.commits import THIS, sources
from bench.history import NotInHistory, name_of
from bench.machine import describe
from bench.picture import photo_jpeg
from bench.plan import say
from bench.processes import ROOT, Bed, Process
from bench.report import percent, ratios, spread, table
from bench.stacks import Stack, start_imageserve

TARGET = 0.6
"""Of another commit's instructions, at most."""
SLOWER = 50
MODEL = f"stand-in:batch_ms={15 * SLOWER},image_ms={SLOWER // 2}"
DIGEST = "_blake2"
"""The library that makes the stand-in's labels: the model's work, and none of ours."""
ROLES = ("web", "worker", "Redis")
ALL, MODEL_ROLE = "all of these", "the stand-in itself"
IDLE_S = 10.0
WARM_UP = 8
"""Clients that send a few pictures each before anything is counted."""
ANSWER_S = 120.0
SHOWN = 40
"""Lines of a profile."""


class CountedBed(Bed):
    """Starts each process in callgrind."""

    def start(
        self, name: str, command: Sequence[str], settings: Mapping[str, str] | None = None
    ) -> Process:
        """As `Bed.start`. Nothing is counted yet."""
        # Of a seed depends how often names collide in dictionaries.
        own = {"PYTHONHASHSEED": "0", **(settings or {})}
        return super().start(name, [*self._callgrind(), *command], own)

    def _callgrind(self) -> list[str]:
        return [
            "valgrind",
            "--tool=callgrind",
            "--quiet",
            "--trace-children=yes",
            "--instr-atstart=no",
            f"--vgdb-prefix={self.directory}/vgdb",
            f"--callgrind-out-file={self.directory}/calls.%p",
        ]

    def tell(self, pid: int, command: str) -> None:
        """Say something to the callgrind of a process."""
        vgdb = ["vgdb", f"--vgdb-prefix={self.directory}/vgdb", f"--pid={pid}", command]
        subprocess.run(vgdb, check=True, capture_output=True, timeout=120)


class Counted:
    """A system in callgrind."""

    def __init__(self, bed: CountedBed, stack: Stack) -> None:
        self._port = stack.web_port
        self._bed = bed
        self._pids = {role: process.pids() for role, process in stack.processes.items()}
        for pid in chain.from_iterable(self._pids.values()):
            bed.tell(pid, "instrumentation on")

    def idle(self) -> dict[str, float]:
        """Return the instructions per second that it needs to do nothing."""
        counts, seconds = self._meanwhile(lambda: time.sleep(IDLE_S))
        return {role: count / seconds for role, count in counts.items()}

    def per_picture(
        self, clients: int, pictures: int, request: bytes, idle: Mapping[str, float]
    ) -> dict[str, float]:
        """Have pictures classified; return thousands of instructions for each.

        ``idle``: as `idle` returns it; it is left out.
        """
        counts, seconds = self._meanwhile(partial(load, self._port, clients, pictures, request))
        found = {role: (counts[role] - idle[role] * seconds) / pictures / 1000 for role in ROLES}
        costs = self.functions("worker")
        model = sum(n for name, n in costs.items() if name.startswith(DIGEST)) / pictures / 1000
        found["worker"] -= model
        return {**found, ALL: sum(found.values()), MODEL_ROLE: model}

    def _meanwhile(self, work: Callable[[], None]) -> tuple[dict[str, int], float]:
        """Return the instructions of each role while ``work`` runs, and its seconds."""
        for pid in chain.from_iterable(self._pids.values()):
            self._bed.tell(pid, "zero")
        began = time.monotonic()
        work()
        counts = {role: sum(map(self._counted, pids)) for role, pids in self._pids.items()}
        return counts, time.monotonic() - began

    def _counted(self, pid: int) -> int:
        self._bed.tell(pid, "dump")
        return sum(map(int, re.findall(r"^summary: (\d+)", self._dumped(pid), re.MULTILINE)))

    def _dumped(self, pid: int) -> str:
        dumps = self._bed.directory.glob(f"calls.{pid}.*")
        return max(dumps, key=lambda path: int(path.suffix[1:])).read_text()

    def functions(self, role: str) -> Counter[str]:
        """Return the instructions of the last measurement, by library and function."""
        found: Counter[str] = Counter()
        for pid in self._pids[role]:
            found += self_costs(self._dumped(pid).splitlines())
        return found


def self_costs(dump: Sequence[str]) -> Counter[str]:
    """Read callgrind's format: what each function needs, without those that it calls."""
    names: dict[tuple[str, str], str] = {}
    costs: Counter[str] = Counter()
    here = {"ob": "", "fn": ""}
    is_call = False
    for line in dump:
        if match := re.match(r"c?(ob|fn)=(\(\d+\))(?: (.*))?$", line):
            kind, number, name = match.groups()
            name = names.setdefault((kind, number), name)
            if not line.startswith("c"):
                here[kind] = name
        elif line.startswith("calls="):
            is_call = True  # The next line has what the called function needs.
        elif line[:1].isdigit() or line[:1] in ("+", "-", "*"):
            if not is_call:
                costs[f"{Path(here['ob']).name}: {here['fn']}"] += int(line.split()[-1])
            is_call = False
    return costs


def load(port: int, clients: int, pictures: int, request: bytes) -> None:
    """Send the same request over each client's connection, again when it is answered.

    Raises SystemExit where it is not answered with 200.
    """

    def post(_: int) -> bool:
        with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_S) as connection:
            return all(_status(connection, request) == 200 for _ in range(pictures // clients))

    with ThreadPoolExecutor(clients) as pool:
        if not all(pool.map(post, range(clients))):
            raise SystemExit("bench: a picture is not classified")


def _status(connection: socket.socket, request: bytes) -> int:
    connection.sendall(request)
    response = HTTPResponse(connection)
    response.begin()
    response.read()
    return response.status


def main(arguments: list[str]) -> int:
    """Return 1 where there are more instructions than the target allows."""
    given = parse(arguments)
    if not shutil.which("valgrind"):
        raise SystemExit("bench: valgrind is not installed")
    say(describe())
    try:
        with TemporaryDirectory(prefix="bench-") as directory:
            found = sources(given.beside, Path(directory))
            counts = measure(found, given)
    except NotInHistory as error:
        raise SystemExit(f"bench: no commit {given.beside} to compare with: {error}") from error
    return _print(counts, given.beside)


def measure(
    found: Mapping[str, Path], given: argparse.Namespace
) -> dict[str, list[dict[str, float]]]:
    request = picture_request(Form.PLAIN, photo_jpeg())
    counts: dict[str, list[dict[str, float]]] = {label: [] for label in found}
    with CountedBed() as bed:
        systems = {label: _start(bed, label, source, request) for label, source in found.items()}
        idle = {label: system.idle() for label, system in systems.items()}
        for number_of_round in range(1, given.rounds + 1):
            for label, system in systems.items():
                count = system.per_picture(given.clients, given.pictures, request, idle[label])
                counts[label].append(count)
                shown = ", ".join(f"{role} {n:.0f}" for role, n in count.items())
                say(f"round {number_of_round} of {given.rounds}: {label}: {shown}")
        if given.profile:
            for role in ROLES:
                print(f"\n{role}, C functions:\n" + _top(systems[THIS].functions(role)))
    if given.profile:
        print("\nweb, Python functions, self time:\n" + _top(_sampled(found[THIS], request)))
    return counts


def _start(bed: CountedBed, label: str, source: Path, request: bytes) -> Counted:
    say(f"starting {label}")
    settings = {"PYTHONPATH": str(source), "MODEL": MODEL, "REQUEST_TIMEOUT_S": f"{ANSWER_S:g}"}
    stack = start_imageserve(bed, label, settings=settings)
    load(stack.web_port, WARM_UP, 4 * WARM_UP, request)
    return Counted(bed, stack)


def _sampled(source: Path, request: bytes) -> Counter[str]:
    """Return where web processes of this source are while they run as usual."""
    with TemporaryDirectory(prefix="bench-") as directory:
        folder = Path(directory)
        (folder / "sitecustomize.py").write_text(sampler.HOOK.format(root=str(ROOT)))
        settings = {"PYTHONPATH": f"{folder}:{source}", sampler.VARIABLE: directory}
        with Bed() as bed:
            stack = start_imageserve(bed, "sampled", settings=settings)
            load(stack.web_port, WARM_UP, 2000, request)
        found: Counter[str] = Counter()
        for path in folder.glob("*.samples"):
            for line in path.read_text().splitlines():
                n, name = line.split("\t")
                found[name] += int(n)
        return found


def _top(costs: Counter[str]) -> str:
    total = sum(costs.values())
    return "\n".join(f"{percent(n / total):>7}  {name}" for name, n in costs.most_common(SHOWN))


def _print(counts: Mapping[str, list[dict[str, float]]], beside: str | None) -> int:
    labels = list(counts)
    rows = []
    for role in (*ROLES, ALL, MODEL_ROLE):
        values = [[each[role] for each in counts[label]] for label in labels]
        shown = [spread(ratios(*values), lambda value: f"{value:.3f}")] if beside else []
        rows.append([role, *map(spread, values), *shown])
    print("\nThousands of instructions per picture; medians, in parentheses least and most.\n")
    print(table(["", *labels, *(["ratio"] if beside else [])], rows))
    if beside is None:
        return 0
    ratio = statistics.median(ratios(*([each[ALL] for each in counts[x]] for x in labels)))
    met = ratio <= TARGET
    verdict = f"target: <= {TARGET:g}, {'met' if met else 'missed'}"
    print(f"\n{ratio:.3f} of that ({name_of(beside)}); {verdict}")
    return int(not met)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.instructions")
    parser.add_argument("--beside", metavar="COMMIT", help="count that commit's in turns")
    parser.add_argument("--profile", action="store_true", help="print where they are")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=64, help="in each round")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
