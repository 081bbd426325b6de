"""``imageserve models fetch``: a model into a folder of versions, or the weights of networks."""

import argparse
import logging
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TextIO

from imageserve.config.settings import Settings
from imageserve.errors import ModelLoadError
from imageserve.logger import setup_logging
from imageserve.models.entries import engine_of
from imageserve.models.fetch.address import is_address, parse_origin
from imageserve.models.fetch.folder import UNCHECKED, FetchedFolder, fetch_folder
from imageserve.models.fetch.weights import download, fetch_weights

log = logging.getLogger(__name__)

SHOWN_EVERY_S = 0.5
LOGGED_EVERY_S = 10.0

_EXAMPLES = """\
examples:
  imageserve models fetch https://models.example.com/flowers.tar.gz --sha256 5e1ff616... \\
      --to /models/flowers/2026-02
  imageserve models fetch s3://models/flowers/2026-02 --to /models/flowers/2026-02
  imageserve models fetch hf://owner/name@5c38ec7c405ec4b44b94cc5a9bb96e735b38267a \\
      --to /models/flowers/2026-02
  imageserve models fetch resnet50 --to /models

An archive (.tar.gz, .zip) holds a model folder; a single .onnx or .keras file becomes model.onnx or
model.keras in it. gs:// and az:// work like s3://. Beside the folder lies VERSION.sha256. A folder
that is there is checked and kept. A worker serves it with MODEL=/models/flowers/2026-02, or, with
MODELS_DIR=/models, after 'imageserve models use flowers@2026-02'.

Weights: a worker serves them with MODEL=NAME MODEL_WEIGHTS=DIR/NAME.weights.h5. Keras keeps its
download under KERAS_HOME (~/.keras).

Environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL and the like,
GOOGLE_SERVICE_ACCOUNT, AZURE_STORAGE_ACCOUNT_NAME, HF_TOKEN, HF_ENDPOINT; HTTPS_PROXY, NO_PROXY;
SSL_CERT_FILE, a file of certificate authorities."""


def add_fetch(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``fetch`` to the actions of ``imageserve models``."""
    about = "fetch a model, or the ImageNet weights of networks, into a folder"
    fetch = actions.add_parser(
        "fetch",
        help=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Fetch a model from a web server, an object store or Hugging Face into a "
        "folder, whole and\nchecked, or the ImageNet weights of networks.",
        epilog=_EXAMPLES,
    )
    fetch.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="https://, s3://, gs://, az:// or hf:// address; or names of networks, as "
        "'imageserve models list' shows them",
    )
    fetch.add_argument(
        "--to",
        required=True,
        type=Path,
        metavar="DIR",
        help="for an address DIR/NAME/VERSION, the model's folder; for networks the folder of "
        "their weights",
    )
    fetch.add_argument(
        "--sha256",
        metavar="HEX",
        help="what an address must give: checksum of the archive or file, or the one that this "
        f"command printed for a folder. Required for https://; '{UNCHECKED}' takes what comes",
    )
    fetch.set_defaults(action=_fetch)


def _fetch(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    settings = Settings.from_env(environ)
    if not any(is_address(each) for each in options.sources):
        if options.sha256 is not None:
            raise ModelLoadError("--sha256 is for addresses: leave it out for networks")
        return _fetch_weights(options, settings)
    if len(options.sources) > 1:
        raise ModelLoadError("one address at a time: each needs a folder of its own (--to)")
    setup_logging(settings.log_level, settings.log_format)
    with _stopped_by_sigterm(), _Progress(sys.stderr) as progress:
        origin = parse_origin(options.sources[0])
        done = fetch_folder(origin, options.to, options.sha256, progress.told, environ)
    _say(done, in_log=settings.log_format == "json")
    return 0


def _say(done: FetchedFolder, *, in_log: bool) -> None:
    what = "fetched" if done.is_new else "already there, checksums right"
    if in_log:
        fields = {"path": str(done.path), "files": done.files, "bytes": done.size}
        log.info(what, extra={"fields": {**fields, "sha256": done.sha256}})
    else:
        size = f"{done.size / 2**20:.1f} MiB"
        files = f"{done.files} file{'' if done.files == 1 else 's'}"
        print(f"{done.path}: {what}, {files}, {size}, sha256 {done.sha256}")


def _fetch_weights(options: argparse.Namespace, settings: Settings) -> int:
    save = partial(download, engine=engine_of(settings))
    for name in options.sources:
        done = fetch_weights(name, options.to, save)
        what = "fetched" if done.is_new else "already there, checksum right"
        print(f"{done.path}: {what}, {done.size / 2**20:.1f} MiB, sha256 {done.sha256}")
    return 0


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Clean up at SIGTERM too, which process 1 of a container would not even notice."""

    def stop(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Progress:
    """How far a download is: on one line of a terminal, elsewhere in the log now and then."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._every_s = SHOWN_EVERY_S if self._is_terminal else LOGGED_EVERY_S
        self._next_at = time.monotonic() + self._every_s
        self._has_line = False

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._has_line:
            print(file=self._stream)

    def told(self, come: int, total: int) -> None:
        if time.monotonic() < self._next_at:
            return
        self._next_at = time.monotonic() + self._every_s
        of_total = f" of {total / 2**20:.1f}" if total else ""
        if self._is_terminal:
            line = f"\r{come / 2**20:.1f}{of_total} MiB"
            print(f"{line:<40}", end="", file=self._stream, flush=True)
            self._has_line = True
        else:
            log.info("fetching", extra={"fields": {"bytes": come, "of_bytes": total or None}})
