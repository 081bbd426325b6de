"""The options of ``imageserve loadtest``, and the plan that they and the environment make."""

import argparse
import math
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from imageserve.errors import ImageserveError
from imageserve_loadtest.client import Address, TargetError
from imageserve_loadtest.histogram import LONGEST_S
from imageserve_loadtest.measure import Plan
from imageserve_loadtest.scenario import (
    BROKEN_KINDS,
    BUILT_IN,
    CLOSED,
    OPEN,
    SOURCES,
    Phase,
    Scenario,
    load_scenario,
)
from imageserve_loadtest.schedule import CONSTANT, POISSON, Shard
from imageserve_loadtest.verdict import Objective

DURATION_S = 10.0
CLIENTS = 4
"""The load where the options name none."""

PRIORITIES = ("interactive", "background")

FOLDERS = (Path(__file__).parents[2], Path("/opt/imageserve/loadtest"))
"""Where the real pictures are: in a checkout, and in the image. ``LOADTEST_DIR`` comes first."""


class UsageError(ImageserveError):
    """The options contradict each other, or an environment variable is not valid."""


@dataclass(frozen=True, slots=True)
class Data:
    """A folder with ``images`` and, if wanted, more ``scenarios``; None if there is none."""

    folder: Path | None

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> "Data":
        if named := environ.get("LOADTEST_DIR"):
            return cls(Path(named) if Path(named).is_dir() else None)
        return cls(next((folder for folder in FOLDERS if (folder / "images").is_dir()), None))

    @property
    def images(self) -> Path | None:
        return self.folder / "images" if self.folder else None

    def scenarios(self) -> dict[str, Path]:
        folders = [BUILT_IN, *([self.folder / "scenarios"] if self.folder else [])]
        files = {file.stem: file for folder in folders for file in folder.glob("*.yaml")}
        return dict(sorted(files.items()))


def parser_of(data: Data) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="imageserve loadtest",
        usage="imageserve loadtest URL [options]\n       imageserve loadtest merge FILE...",
        description="Measure a running imageserve and check each of its answers.",
        epilog="Exit status: 0 if the verdict holds, 1 if it does not or nothing could be "
        "measured, 2 if the options are not valid. LOADTEST_API_KEY has the API key. "
        "LOADTEST_SHARDS and JOB_COMPLETION_INDEX make this one pod of several; LOADTEST_DIR is "
        "the folder of pictures and of more scenarios.",
    )
    parser.add_argument("url", nargs="?", metavar="URL", help="such as http://localhost:8000")
    names = ", ".join(data.scenarios())
    parser.add_argument("--list", action="store_true", help="list the scenarios and exit")
    _add_load(parser.add_argument_group("load"), names)
    _add_pictures(parser.add_argument_group("pictures"))
    _add_target(parser.add_argument_group("target"))
    add_outputs(parser)
    parser.add_argument("--records", type=Path, metavar="FILE", help="one JSON line per request")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    return parser


def _add_load(load: "argparse._ArgumentGroup", names: str) -> None:
    load.add_argument("--scenario", metavar="NAME|FILE", help=f"a scenario: {names}")
    load.add_argument(
        "--clients", type=_whole, metavar="N", help=f"closed loop (default {CLIENTS} clients)"
    )
    load.add_argument("--rate", type=_positive, metavar="N", help="open loop, requests a second")
    load.add_argument("--to-rate", type=_positive, metavar="N", help="a ramp from --rate to this")
    load.add_argument("--arrivals", choices=(POISSON, CONSTANT), help="of the open loop")
    load.add_argument(
        "--duration",
        type=_positive,
        metavar="SECONDS",
        help=f"of the load (default {DURATION_S:g}); a scenario is scaled to it",
    )
    load.add_argument(
        "--slo", action="append", default=[], metavar="TERMS", help="such as p99=500ms,errors=1%%"
    )
    load.add_argument(
        "--search", action="store_true", help="find the highest rate that meets the objective"
    )
    load.add_argument("--timeout", type=_timeout, metavar="SECONDS", help="per answer (60)")
    load.add_argument("--seed", type=int, metavar="N", help="seed of arrivals and pictures")
    load.add_argument(
        "--most-open", type=_whole, default=4096, metavar="N", help="requests open at once (4096)"
    )


def _add_pictures(pictures: "argparse._ArgumentGroup") -> None:
    pictures.add_argument("--images", type=Path, metavar="DIR", help="pictures and labels.csv")
    pictures.add_argument("--source", choices=SOURCES, help="which pictures (default auto)")
    pictures.add_argument(
        "--distinct", type=_whole, metavar="N", help="number of generated pictures"
    )
    pictures.add_argument(
        "--broken",
        type=_share,
        metavar="SHARE",
        help="share of the requests with a broken one, 0 to 1",
    )
    pictures.add_argument(
        "--broken-kinds", type=_kinds, metavar="KINDS", help=f"some of {','.join(BROKEN_KINDS)}"
    )
    pictures.add_argument("--per-request", type=_whole, metavar="N", help="pictures per request")
    pictures.add_argument(
        "--learn",
        action="store_true",
        help="send each picture once before the load, and expect that answer under load",
    )


def _add_target(target: "argparse._ArgumentGroup") -> None:
    target.add_argument("--model", metavar="NAME", help="model (default: the first)")
    target.add_argument(
        "--capacity", type=_positive, metavar="N", help="pictures a second (default: ask)"
    )
    target.add_argument(
        "--priority", choices=PRIORITIES, help="sent as X-Priority (default: that of the key)"
    )
    target.add_argument("--api-key-file", type=Path, metavar="FILE", help="its first key is sent")
    target.add_argument(
        "--ca-file", type=Path, metavar="FILE", help="certificate authorities for https"
    )
    target.add_argument(
        "--wait",
        type=_wait,
        default=60.0,
        metavar="SECONDS",
        help="for the target (60); 0: do not wait",
    )


def add_outputs(parser: argparse.ArgumentParser) -> None:
    outputs = parser.add_argument_group("output")
    outputs.add_argument("--json", metavar="FILE", help="the result as one line of JSON; - prints")
    outputs.add_argument("--html", type=Path, metavar="FILE", help="a report that opens offline")


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return number


def _wait(text: str) -> float:
    return 0.0 if text == "0" else _positive(text)


def _timeout(text: str) -> float:
    if (seconds := _positive(text)) > LONGEST_S:
        raise argparse.ArgumentTypeError(f"must be at most {LONGEST_S:g}, not {text!r}")
    return seconds


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, not {text!r}")
    return int(text)


def _share(text: str) -> float:
    if text == "0":
        return 0.0
    if (number := _positive(text)) > 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, not {text!r}")
    return number


def _kinds(text: str) -> tuple[str, ...]:
    kinds = tuple(kind.strip() for kind in text.split(","))
    if unknown := [kind for kind in kinds if kind not in BROKEN_KINDS]:
        known = ", ".join(BROKEN_KINDS)
        raise argparse.ArgumentTypeError(f"unknown {unknown[0]!r}; known are {known}")
    return kinds


# -- the plan -----------------------------------------------------------------------------------


def plan_of(options: argparse.Namespace, environ: Mapping[str, str], data: Data) -> Plan:
    if options.url is None:
        raise UsageError("the URL is missing: imageserve loadtest http://localhost:8000")
    shard = _shard(environ)
    if options.search and shard.of > 1:
        raise UsageError("--search works in one process, not in several pods")
    try:
        address = Address.parse(options.url)
    except TargetError as error:
        raise UsageError(str(error)) from error
    return Plan(
        address=address,
        scenario=scenario_of(options, data.scenarios()),
        shard=shard,
        model=options.model,
        api_key=_api_key(options.api_key_file, environ),
        priority=options.priority or "",
        tls=_tls(options.ca_file) if address.scheme == "https" else None,
        images=options.images or data.images,
        learn=options.learn,
        capacity_per_s=options.capacity,
        wait_s=options.wait,
        most_open=options.most_open,
    )


def _shard(environ: Mapping[str, str]) -> Shard:
    """Return this pod's shard. An Indexed Job sets JOB_COMPLETION_INDEX."""
    shards = _number(environ, "LOADTEST_SHARDS", 1)
    index = _number(environ, "JOB_COMPLETION_INDEX", 0) if shards > 1 else 0
    if not 0 <= index < shards:
        raise UsageError(f"JOB_COMPLETION_INDEX={index} is not below LOADTEST_SHARDS={shards}")
    return Shard(index, shards)


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name) or str(default)
    if not (text.isascii() and text.isdigit()):
        raise UsageError(f"{name} must be a whole number, not {text!r}")
    return int(text)


def _api_key(file: Path | None, environ: Mapping[str, str]) -> str:
    """Return the key in the environment, or the first in a file like the server's own."""
    if file is None:
        return environ.get("LOADTEST_API_KEY", "").strip()
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--api-key-file: {file} cannot be read: {error}") from error
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise UsageError(f"--api-key-file: {file} contains no key")
    first, *behind = keys[0].split()
    # Options of the key, such as priority=background; a key may have spaces.
    return first if behind and "=" in behind[0] else keys[0]


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise UsageError(f"--ca-file: {ca_file} cannot be used: {error}") from error


# -- the scenario -------------------------------------------------------------------------------


def scenario_of(options: argparse.Namespace, known: Mapping[str, Path]) -> Scenario:
    """Return the load that the options describe; ``known`` are the scenarios by name.

    Raises:
        UsageError: the options contradict each other.
        ScenarioError: the scenario's file cannot be used.
        ObjectiveError: a term of ``--slo`` is not valid.
    """
    _check_load(options)
    scenario = _named(options.scenario, known) if options.scenario else _from_options(options)
    if options.scenario and options.duration:
        scenario = scenario.lasting(options.duration)
    scenario = _changed(scenario, options)
    _check_effect(scenario, options)
    return scenario


def _check_load(options: argparse.Namespace) -> None:
    """Refuse options of which one would be ignored."""
    if options.search and (options.clients or options.to_rate):
        raise UsageError("--search chooses its own rates; leave out --clients and --to-rate")
    rate = options.rate and not options.search
    if options.scenario and (options.clients or rate or options.to_rate):
        raise UsageError("--scenario has its own load; leave out --clients, --rate and --to-rate")
    if options.to_rate and not options.rate:
        raise UsageError("--to-rate needs --rate")
    if options.rate and options.clients:
        raise UsageError("--clients is a closed loop and --rate an open one; leave out one of them")


def _check_effect(scenario: Scenario, options: argparse.Namespace) -> None:
    """Refuse options that would have no effect."""
    if options.arrivals and scenario.loop == CLOSED:
        raise UsageError("--arrivals is for an open loop: give --rate")
    if options.broken_kinds and not scenario.pictures.broken_share:
        raise UsageError("--broken-kinds needs --broken")
    if options.source == "generated" and (options.images or options.learn):
        raise UsageError("--images and --learn are for real pictures, not for --source generated")
    if options.search and not scenario.objective.limits_time:
        raise UsageError(
            "--search needs a time limit such as --slo p99=500ms: without one, any rate holds "
            "whose backlog is answered in the end"
        )


def _changed(scenario: Scenario, options: argparse.Namespace) -> Scenario:
    """Return the scenario with all options applied that do not define the load."""
    real = options.images or options.learn
    mix = {
        "source": options.source or ("files" if real else None),
        "distinct": options.distinct,
        "broken_share": options.broken,
        "broken": options.broken_kinds,
        "per_request": options.per_request,
    }
    changed = {
        "arrivals": options.arrivals,
        "timeout_s": options.timeout,
        "seed": options.seed,
        "objective": Objective.parse([*scenario.objective.terms(), *options.slo]),
        "pictures": replace(scenario.pictures, **_given(mix)),
        "loop": OPEN if options.search else None,
    }
    return replace(scenario, **_given(changed))


def _given(changes: Mapping[str, object]) -> dict[str, Any]:
    return {name: value for name, value in changes.items() if value is not None}


def _from_options(options: argparse.Namespace) -> Scenario:
    seconds = options.duration or DURATION_S
    if options.rate or options.search:
        phase = Phase(seconds, rate_per_s=options.rate, to_rate_per_s=options.to_rate)
        return Scenario("rate", (phase,))
    return Scenario("clients", (Phase(seconds, clients=options.clients or CLIENTS),), loop=CLOSED)


def _named(name: str, known: Mapping[str, Path]) -> Scenario:
    if name in known:
        return load_scenario(known[name])
    if name.endswith((".yaml", ".yml")):
        return load_scenario(Path(name))
    raise UsageError(
        f"there is no scenario {name!r}; there are {', '.join(known)}; a file must end in .yaml"
    )
