"""``imageserve plan``: what a rate of pictures takes. Needs no Redis and no cluster."""

import argparse
import json
import re
import shlex
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from imageserve import measured
from imageserve.cli.plan_report import report, sources, unknown
from imageserve.cli.plan_values import as_yaml, values_of
from imageserve.cli.plan_worker import GivenWorker, given_worker
from imageserve.config.choices import DEFAULT_BATCH_SIZE, MAX_IMAGE_SIDE, RUNTIMES
from imageserve.config.reader import EnvText, Parser, byte_count, number, parsed, whole
from imageserve.config.settings import Settings
from imageserve.errors import ImageserveError, SettingsError
from imageserve.plan import Costs, Load, Place, known_costs, plan
from imageserve.preparation import Preparation

MEASURED_S = 1.0
"""How long --measure decodes each of its two pictures."""
LEAST_DECODED = 5


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    options = _parser().parse_args(arguments)
    settings = Settings.from_env(environ)
    load, place = _load(options), _place(options)
    _check_accepted(load, settings)
    worker = given_worker(options, environ)
    preparation = worker.preparation
    if options.measure:
        costs = _measured_costs(load, preparation, settings)
    else:
        costs = known_costs(load, preparation)
    made = plan(load, worker.worker, costs, place)
    values = values_of(made, worker.network, worker.runtime, worker.precision)
    if options.values:
        print("\n".join([*_header(arguments, worker), *as_yaml(values)]))
    elif options.json:
        facts = {**asdict(made), "values": values, "sources": dict(sources(made))}
        print(json.dumps({**facts, "unknown": dict(unknown(made))}, indent=2, default=str))
    else:
        print("\n".join(report(made, values)))
    return 0


# -- the command line -----------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="imageserve plan",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Reckon what a rate of pictures takes: web pods, model pods, Redis, network, "
        "and the\nvalues of the chart. Each number comes with its formula; costs are those of "
        "docs/performance.md,\nor measured here, or given. It says what it does not know, and "
        "which command tells that.",
        epilog="examples:\n"
        "  imageserve plan --rate 2000 --model resnet50 --picture 500x375\n"
        "  imageserve models bench ./flowers --json > flowers.json    # on the workers' kind of "
        "machine\n"
        "  imageserve plan --rate 300 --peak 3 --model flowers.json --picture 4000x3000 --measure\n"
        "  imageserve plan --rate 2000 --model resnet50 --gpu --worker-rate 1500 --values > "
        "plan.yaml",
    )
    _add_load(parser)
    _add_model(parser)
    _add_place(parser)
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print JSON")
    output.add_argument(
        "--values", action="store_true", help="print the chart's values: YAML for helm --values"
    )
    return parser


def _add_load(parser: argparse.ArgumentParser) -> None:
    width, height = measured.REFERENCE
    load = parser.add_argument_group("what comes")
    load.add_argument("--rate", required=True, metavar="N", help="pictures a second")
    load.add_argument(
        "--peak", default="1", metavar="FACTOR", help="the busiest minutes have so many times more"
    )
    load.add_argument(
        "--picture",
        default=f"{width}x{height}",
        metavar="WxH",
        help=f"width and height of a picture, decoded as a JPEG (default {width}x{height})",
    )
    load.add_argument(
        "--picture-bytes",
        metavar="BYTES",
        help=f"of one picture, such as 80k (default {measured.JPEG_BYTES_PER_PIXEL} a pixel)",
    )
    load.add_argument(
        "--clients-deadline",
        default="30",
        metavar="SECONDS",
        help="how long clients wait for an answer (default 30)",
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    model = parser.add_argument_group("the model")
    model.add_argument(
        "--model",
        required=True,
        help="a known name (`imageserve models list`), a model folder or file, or the .json that "
        "`imageserve models bench --json` printed",
    )
    model.add_argument(
        "--worker-rate", metavar="N", help="pictures a second of one worker, instead of a measured"
    )
    model.add_argument(
        "--batch-size",
        metavar="N",
        help=f"with --worker-rate: in batches of so many (default {DEFAULT_BATCH_SIZE})",
    )
    model.add_argument("--input-size", metavar="SIZE", help="such as 224 or 224x320 (height first)")
    model.add_argument(
        "--runtime", choices=RUNTIMES, help="default: keras, or the fastest of the .json"
    )
    model.add_argument("--gpu", action="store_true", help="each model pod has a GPU")


def _add_place(parser: argparse.ArgumentParser) -> None:
    place = parser.add_argument_group("where it runs")
    place.add_argument(
        "--measure", action="store_true", help="measure decoding on this machine (3 s, Pillow)"
    )
    place.add_argument(
        "--replicas", metavar="N", help="fewest pods of each kind (default: web 2, model 1)"
    )
    place.add_argument("--web-processes", default="2", metavar="N", help="in a web pod (default 2)")
    place.add_argument(
        "--network", default="10", metavar="GBIT", help="of the node of Redis (default 10 Gbit/s)"
    )
    place.add_argument(
        "--no-aof",
        action="store_true",
        help="a Redis of your own that keeps nothing on disk: after its restart web processes "
        "queue again what waited",
    )


def _option(options: argparse.Namespace, name: str, parse: Parser[Any]) -> Any:
    """Return the parsed value of an option. Raises SettingsError that names it."""
    given = getattr(options, name.replace("-", "_"))
    return None if given is None else parsed(f"--{name}", parse, EnvText(given))


def _load(options: argparse.Namespace) -> Load:
    return Load(
        rate=_option(options, "rate", number(0.001, 10_000_000)),
        peak=_option(options, "peak", number(1, 1000)),
        size=_option(options, "picture", _sides),
        jpeg_bytes=_option(options, "picture-bytes", byte_count),
        deadline_s=_option(options, "clients-deadline", number(0.1, 3600)),
    )


def _sides(value: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", value.strip().lower())
    sides = (int(match[1]), int(match[2])) if match else (0, 0)
    if not all(8 <= side <= MAX_IMAGE_SIDE for side in sides):
        raise ValueError(
            f"must be WIDTHxHEIGHT, such as 500x375, each 8 to {MAX_IMAGE_SIDE} pixels"
        )
    return sides


def _check_accepted(load: Load, settings: Settings) -> None:
    """Raise SettingsError where web servers would refuse such pictures."""
    if load.pixels > settings.max_image_pixels:
        raise SettingsError(
            f"--picture: web servers refuse more than {settings.max_image_pixels:,} pixels "
            "(MAX_IMAGE_PIXELS, in the chart limits.maxImagePixels)"
        )
    if load.upload_bytes > settings.max_image_bytes:
        raise SettingsError(
            f"--picture-bytes: web servers refuse more than {settings.max_image_bytes:,} bytes "
            "(MAX_IMAGE_BYTES, in the chart limits.maxImageBytes), and these pictures have "
            f"{load.upload_bytes:,}"
        )


def _place(options: argparse.Namespace) -> Place:
    least = _option(options, "replicas", whole(1, 10_000))
    return Place(
        web_processes=_option(options, "web-processes", whole(1, 256)),
        least_web_pods=least or Place().least_web_pods,
        least_model_pods=least or Place().least_model_pods,
        network_gbit=_option(options, "network", number(0.1, 10_000)),
        logged=not options.no_aof,
    )


def _header(arguments: Sequence[str], worker: GivenWorker) -> Iterator[str]:
    yield f"# imageserve plan {shlex.join(arguments)}"
    yield "# Addresses below example.com are yours to fill in, as are the paths of models."


# -- measuring ------------------------------------------------------------------------------------


def _measured_costs(load: Load, preparation: Preparation, settings: Settings) -> Costs:
    """Decode the benchmark's picture and one of the given size here, as a web server would.

    What the first one tells of this machine is taken to hold for the rest of a picture's cost.
    """
    known = measured.DECODE_MS
    reference_ms = decode_ms(measured.REFERENCE, Preparation((224, 224)), settings)
    own_ms = decode_ms(load.size, preparation, settings)
    speed = known / reference_ms
    rest_ms = known_costs(load, preparation, speed).rest_ms
    return Costs(
        rest_ms,
        own_ms,
        f"decoding measured here; this machine is {speed:.2f} times as fast at it as that of the "
        f"tables ({measured.TABLES}), which is applied to the rest",
    )


def decode_ms(size: tuple[int, int], preparation: Preparation, settings: Settings) -> float:
    """Return the processor time to decode a drawn JPEG of this width and height, a median."""
    try:
        from imageserve.decoding import DecodingPolicy, decode
        from imageserve.decoding.drawn import drawn_jpeg
    except ImportError as error:
        raise ImageserveError(
            "--measure decodes pictures and needs Pillow: pip install 'imageserve[web]'"
        ) from error
    data, policy = drawn_jpeg(*size), DecodingPolicy.from_settings(settings)
    times: list[float] = []
    while sum(times) < MEASURED_S or len(times) < LEAST_DECODED:
        began = time.process_time()
        decode(data, preparation, policy)
        times.append(time.process_time() - began)
    return statistics.median(times) * 1000
