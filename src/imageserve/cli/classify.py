"""``imageserve classify``: send pictures to a running server and print their labels."""

import argparse
import csv
import glob
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from imageserve.cli.extras import argument
from imageserve.cli.progress import Progress
from imageserve.config.reader import number, whole
from imageserve.errors import ImageserveError

if TYPE_CHECKING:
    from imageserve.client import Client, ClientError, Options, Outcome, Result

DEFAULT_URL = "http://localhost:8000"
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
STDIN = "-"
_COUNT = argument(whole(1, 4096))
LONGEST_COLUMN = 60

_EPILOG = """\
FILE is a picture, a folder (all pictures below it), a pattern in quotes ('photos/**/*.jpg'), or
- for one picture from standard input.

A picture is sent again, while its --timeout lasts, where the server is busy or the connection
breaks. IMAGESERVE_URL and IMAGESERVE_API_KEY name the server and the API key.

Exit status 1 where a picture could not be classified."""


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    options = _parser(environ).parse_args(arguments)
    # Imported here: --help needs no httpx2.
    from imageserve.client import Client

    names = [name for argument in options.files for name in _names(argument)]
    key = environ.get("IMAGESERVE_API_KEY")
    try:
        client = Client(options.url, api_key=key, timeout=options.timeout)
    except ValueError as error:
        raise ImageserveError(f"--{error}") from error
    with client:
        return _classify(client, names, options)


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="imageserve classify",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Send pictures to a running imageserve and print their most likely labels.",
        epilog=_EPILOG,
    )
    url = environ.get("IMAGESERVE_URL") or DEFAULT_URL
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--url", default=url, help=f"the server (default {url})")
    parser.add_argument("--model", help="which model (default: the server's first)")
    parser.add_argument("--top", type=int, default=5, help="how many labels (default 5)")
    parser.add_argument("--min", type=float, help="only labels at least as probable, 0 to 1")
    parser.add_argument(
        "--priority", choices=("interactive", "background"), help="how urgent (default interactive)"
    )
    parser.add_argument(
        "--timeout",
        type=argument(number(0.001, 86_400)),
        default=60.0,
        metavar="SECONDS",
        help="for one picture, with all waiting (default 60)",
    )
    parser.add_argument(
        "--concurrency", type=_COUNT, default=16, help="pictures under way at once (default 16)"
    )
    parser.add_argument(
        "--format",
        choices=tuple(_WRITERS),
        default="text",
        help="text (default), table: a line for each picture, jsonl or csv",
    )
    parser.add_argument(
        "--json", action="store_const", const="jsonl", dest="format", help="same as --format jsonl"
    )
    return parser


def _names(argument: str) -> Iterator[str]:
    """Yield the files that an argument stands for; itself where there are none, which is told."""
    path = Path(argument)
    found: list[str] = []
    if path.is_dir():
        # What nobody may read, and what goes away meanwhile, is left out.
        below = (Path(folder, name) for folder, _, names in os.walk(path) for name in names)
        found = [str(file) for file in below if file.suffix.lower() in SUFFIXES and file.is_file()]
        if not found:
            raise ImageserveError(f"{argument} has no pictures ({', '.join(SUFFIXES)})")
    elif glob.has_magic(argument) and not path.exists():
        found = [file for file in glob.glob(argument, recursive=True) if Path(file).is_file()]
    yield from sorted(found) or [argument]


def _classify(client: "Client", names: Sequence[str], options: argparse.Namespace) -> int:
    from imageserve.client import BadRequest, Forbidden, Unauthorized

    write = _WRITERS[options.format](names)
    # Where results scroll by, they are the progress.
    shown = sys.stderr.isatty() and not sys.stdout.isatty()
    bar = Progress(len(names), "pictures") if shown else None
    failures = 0
    pictures = (sys.stdin.buffer if name == STDIN else name for name in names)
    with closing(
        client.classify_many(pictures, concurrency=options.concurrency, **_asked(options))
    ) as outcomes:
        for outcome in outcomes:
            _stop_without_server(outcome)
            failures += outcome.error is not None
            complaint = write(names[outcome.index], outcome)
            if complaint:
                bar.say(complaint) if bar else print(complaint, file=sys.stderr)
            if bar:
                bar.show(outcome.index + 1, f"{failures} failed")
            if isinstance(outcome.error, Unauthorized | Forbidden | BadRequest):
                break  # All others would get the same answer.
    if bar:
        bar.end()
    return 1 if failures else 0


def _asked(options: argparse.Namespace) -> "Options":
    asked: Options = {"top": options.top}
    if options.min is not None:
        asked["min"] = options.min
    if options.model:
        asked["model"] = options.model
    if options.priority:
        asked["priority"] = options.priority
    return asked


def _stop_without_server(outcome: "Outcome") -> None:
    """Raise ImageserveError where no server answered, or another one."""
    from imageserve.client import NotImageserve, Unreachable

    if isinstance(outcome.error, Unreachable):
        raise ImageserveError(f"{outcome.error.message} (--url names another server)")
    if isinstance(outcome.error, NotImageserve):
        raise ImageserveError(outcome.error.message)


Writer = Callable[[str, "Outcome"], str | None]
"""Prints what became of a picture; returns what is to be told on standard error."""


def _as_text(names: Sequence[str]) -> Writer:
    del names

    def write(name: str, outcome: "Outcome") -> str | None:
        if outcome.error:
            return f"{name}: {outcome.error}"
        print(name)
        for rank, each in enumerate(outcome.result.predictions, start=1):
            print(f"  {rank}. {each.label}: {each.probability:.4f}")
        return None

    return write


def _as_table(names: Sequence[str]) -> Writer:
    width = min(LONGEST_COLUMN, max(map(len, names)))

    def write(name: str, outcome: "Outcome") -> str | None:
        if outcome.error:
            return f"{name}: {outcome.error}"
        labels = (f"{each.label} {each.probability:.4f}" for each in outcome.result.predictions)
        print(f"{name:<{width}}  {'  '.join(labels)}".rstrip())
        return None

    return write


def _as_json_lines(names: Sequence[str]) -> Writer:
    del names

    def write(name: str, outcome: "Outcome") -> None:
        print(json.dumps({"file": name, **_answer(outcome.answer)}))

    return write


def _answer(answer: "Result | ClientError") -> Mapping[str, object]:
    """Return an answer as the server writes it."""
    if isinstance(answer, ImageserveError):
        error = {"code": answer.code, "message": answer.message}
        request = {"request_id": answer.request_id} if answer.request_id else {}
        return {"success": False, "error": error, **request}
    predictions = [{"label": p.label, "probability": p.probability} for p in answer.predictions]
    return {"success": True, "predictions": predictions}


def _as_csv(names: Sequence[str]) -> Writer:
    del names
    row = csv.writer(sys.stdout, lineterminator="\n").writerow
    row(["file", "rank", "label", "probability", "error", "message"])

    def write(name: str, outcome: "Outcome") -> None:
        if outcome.error:
            row([name, "", "", "", outcome.error.code, outcome.error.message])
            return
        for rank, each in enumerate(outcome.result.predictions, start=1):
            row([name, rank, each.label, each.probability, "", ""])

    return write


_WRITERS: Mapping[str, Callable[[Sequence[str]], Writer]] = {
    "text": _as_text,
    "table": _as_table,
    "jsonl": _as_json_lines,
    "csv": _as_csv,
}
