"""The options of ``imageserve loadtest``, and the plan that they and the environment make."""

import argparse
import math
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from imageserve.cli.loadtest_scenario import CLIENTS, DURATION_S, UsageError, scenario_of
from imageserve.loadtest.histogram import LONGEST_S
from imageserve.loadtest.measure import Plan
from imageserve.loadtest.message import Address, TargetError
from imageserve.loadtest.scenario import BROKEN_KINDS, BUILT_IN, SOURCES
from imageserve.loadtest.schedule import CONSTANT, POISSON, Shard

FOLDERS = (Path(__file__).parents[3] / "loadtest", Path("/opt/imageserve/loadtest"))
"""Where pictures are: a checkout, and the image. ``LOADTEST_DIR`` goes before."""


@dataclass(frozen=True, slots=True)
class Data:
    """The folder with pictures, and perhaps more scenarios than the built-in ones, if any."""

    folder: Path | None

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> "Data":
        named = environ.get("LOADTEST_DIR")
        folders = [Path(named)] if named else FOLDERS
        return cls(next((folder for folder in folders if folder.is_dir()), None))

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
        epilog="Exit status: 0 where the verdict holds, 1 where it does not, 2 where the call "
        "makes no sense. LOADTEST_API_KEY has the API key. LOADTEST_SHARDS and "
        "JOB_COMPLETION_INDEX make this one pod of several; LOADTEST_DIR is the folder of "
        "pictures and of more scenarios.",
    )
    parser.add_argument("url", nargs="?", metavar="URL", help="such as http://localhost:8000")
    names = ", ".join(data.scenarios())
    parser.add_argument("--list", action="store_true", help="list the scenarios and end")
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
        help=f"how long (default {DURATION_S:g}); a scenario is stretched or shortened to it",
    )
    load.add_argument(
        "--slo", action="append", default=[], metavar="TERMS", help="such as p99=500ms,errors=1%%"
    )
    load.add_argument(
        "--search", action="store_true", help="find the highest rate that meets the objective"
    )
    load.add_argument("--timeout", type=_timeout, metavar="SECONDS", help="per answer (60)")
    load.add_argument("--seed", type=int, metavar="N", help="another one, another order")
    load.add_argument(
        "--most-open", type=_whole, default=4096, metavar="N", help="requests open at once (4096)"
    )


def _add_pictures(pictures: "argparse._ArgumentGroup") -> None:
    pictures.add_argument("--images", type=Path, metavar="DIR", help="pictures and labels.csv")
    pictures.add_argument("--source", choices=SOURCES, help="which pictures (default auto)")
    pictures.add_argument("--distinct", type=_whole, metavar="N", help="how many are generated")
    pictures.add_argument(
        "--broken", type=_share, metavar="SHARE", help="of the requests, 0 to 1, with a broken one"
    )
    pictures.add_argument(
        "--broken-kinds", type=_kinds, metavar="KINDS", help=f"some of {','.join(BROKEN_KINDS)}"
    )
    pictures.add_argument("--per-request", type=_whole, metavar="N", help="pictures in a request")
    pictures.add_argument(
        "--learn",
        action="store_true",
        help="ask for each picture once before, and expect that answer under load",
    )


def _add_target(target: "argparse._ArgumentGroup") -> None:
    target.add_argument("--model", metavar="NAME", help="which model (default: the first)")
    target.add_argument(
        "--capacity", type=_positive, metavar="N", help="pictures a second (default: ask)"
    )
    target.add_argument("--api-key-file", type=Path, metavar="FILE", help="its first key is sent")
    target.add_argument("--ca-file", type=Path, metavar="FILE", help="whom https may be signed by")
    target.add_argument(
        "--wait", type=_wait, default=60.0, metavar="SECONDS", help="for the target; 0: do not ask"
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


def plan_of(options: argparse.Namespace, environ: Mapping[str, str], data: Data) -> Plan:
    if options.url is None:
        raise UsageError("which server? imageserve loadtest http://localhost:8000")
    shard = _shard(environ)
    if options.search and shard.of > 1:
        raise UsageError("--search is for one program, not for several pods")
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
        tls=_tls(options.ca_file) if address.scheme == "https" else None,
        images=options.images or data.images,
        learn=options.learn,
        capacity_per_s=options.capacity,
        wait_s=options.wait,
        most_open=options.most_open,
    )


def _shard(environ: Mapping[str, str]) -> Shard:
    """Read which pod of how many this is; JOB_COMPLETION_INDEX is set by an Indexed Job."""
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
    """Take the key from the environment, or the first of a file like the server's own."""
    if file is None:
        return environ.get("LOADTEST_API_KEY", "").strip()
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--api-key-file: {file} cannot be read: {error}") from error
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise UsageError(f"--api-key-file: {file} has no key")
    return keys[0]


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise UsageError(f"--ca-file: {ca_file} cannot be used: {error}") from error
