"""``imageserve classify``: send pictures to a running server and print their labels."""

import argparse
import http.client
import json
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from imageserve.errors import ImageserveError

DEFAULT_URL = "http://localhost:8000"


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    del environ
    parser = argparse.ArgumentParser(
        prog="imageserve classify",
        description="Send pictures to a running imageserve and print their most likely labels.",
        epilog="Exit status 1 where a picture could not be classified.",
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--url", default=DEFAULT_URL, help=f"the server (default {DEFAULT_URL})")
    parser.add_argument("--model", help="which model (default: the server's first)")
    parser.add_argument("--top", type=int, default=5, help="how many labels (default 5)")
    parser.add_argument(
        "--priority", choices=("interactive", "background"), help="how urgent (default interactive)"
    )
    parser.add_argument("--timeout", type=float, default=60, metavar="SECONDS")
    parser.add_argument("--json", action="store_true", help="print the answers as JSON lines")
    options = parser.parse_args(arguments)
    failures = 0
    for file in options.files:
        answer = _classify(file, options)
        failures += not answer.get("success", False)
        _show(file, answer, as_json=options.json)
    return 1 if failures else 0


def _classify(file: Path, options: argparse.Namespace) -> dict[str, Any]:
    try:
        data = file.read_bytes()
    except OSError as error:
        return {"success": False, "error": {"code": "unreadable", "message": str(error)}}
    query = {"top": str(options.top), **({"model": options.model} if options.model else {})}
    url = f"{options.url.rstrip('/')}/predict?{urllib.parse.urlencode(query)}"
    if not url.startswith(("http://", "https://")):
        raise ImageserveError(f"--url must begin with http:// or https://, not {options.url!r}")
    headers = {"Content-Type": "application/octet-stream"}
    if options.priority:
        headers["X-Priority"] = options.priority
    request = urllib.request.Request(url, data, headers)  # noqa: S310 - checked
    return _send(request, options)


def _send(request: urllib.request.Request, options: argparse.Namespace) -> dict[str, Any]:
    try:
        with _response(request, options.timeout) as response:
            answer = json.loads(response.read())
    except (OSError, http.client.HTTPException) as error:
        raise ImageserveError(f"{options.url} cannot be reached: {error}") from error
    except ValueError:
        answer = None  # No JSON.
    if not isinstance(answer, dict) or not answer.keys() & {"predictions", "error"}:
        raise ImageserveError(f"{options.url} answers {response.status}; is it imageserve?")
    return answer


def _response(request: urllib.request.Request, timeout_s: float) -> Any:
    try:
        return urllib.request.urlopen(request, timeout=timeout_s)  # noqa: S310 - checked
    except urllib.error.HTTPError as error:
        return error  # It is a response as well, and its body says what was wrong.


def _show(file: Path, answer: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"file": str(file), **answer}))
    elif not answer.get("success"):
        print(f"{file}: {answer['error']['message']} ({answer['error']['code']})", file=sys.stderr)
    else:
        print(file)
        for rank, prediction in enumerate(answer["predictions"], start=1):
            print(f"  {rank}. {prediction['label']}: {prediction['probability']:.4f}")
