"""``imageserve models use``: have the workers change to another version while they serve."""

import argparse
import time
from collections.abc import Iterator, Mapping

from imageserve.cli.access import redis_access
from imageserve.config.settings import Settings
from imageserve.errors import SettingsError
from imageserve.models.entries import ModelEntry, model_entries
from imageserve.queue.desired import decode_wanted, encode_wanted, parse_wanted
from imageserve.queue.queue import LIVE_MS, JobQueue, Snapshot, WorkerInfo
from imageserve.queue.redis_queue import RedisQueue

LOOK_S = 0.5


def add_use(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``use`` to the actions of ``imageserve models``."""
    about = "have the workers change to another version while they serve"
    use = actions.add_parser(
        "use",
        help=about,
        description=f"{about.capitalize()}. They load MODELS_DIR/NAME/VERSION beside the model "
        "that serves, warm it, and change to it between two batches. A version that cannot be "
        "served changes nothing; --status says why. REDIS_URL, MODEL and MODELS_FILE say which "
        "queue.",
    )
    what = use.add_mutually_exclusive_group(required=True)
    what.add_argument("version", nargs="?", metavar="NAME@VERSION", help="what to serve")
    what.add_argument("--back", action="store_true", help="what the workers are set up with again")
    what.add_argument("--status", action="store_true", help="only print who serves what")
    use.add_argument("--model", metavar="ENTRY", help="whose workers (default: those of NAME)")
    use.add_argument(
        "--wait",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="wait until every worker serves it; exit status 1 where one cannot, or time is up",
    )
    use.set_defaults(action=_use)


def _use(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    settings = Settings.from_env(environ)
    entry = _entry(model_entries(settings), options.model, options.version)
    queue = RedisQueue(redis_access(settings), entry.queue, connections=1)
    if not options.status:
        queue.want(_text(options.version, queue.snapshot().now))
    have_changed = _wait(queue, options.wait)
    print("\n".join(_report(entry, queue.wanted(), queue.snapshot())))
    return int(options.wait > 0 and not have_changed)


def _entry(entries: Mapping[str, ModelEntry], model: str | None, version: str | None) -> ModelEntry:
    name = model or (version or "").partition("@")[0]
    if name in entries:
        return entries[name]
    if model is None and len(entries) == 1:
        return next(iter(entries.values()))
    raise SettingsError(f"whose workers? Name one with --model: {', '.join(entries)}")


def _text(version: str | None, now: int) -> str:
    if version is None:
        return ""
    try:
        return encode_wanted(parse_wanted(version, now))
    except ValueError as error:
        raise SettingsError(str(error)) from error


def _wait(queue: JobQueue, seconds: float) -> bool:
    """Wait until all workers serve what they should; False where one cannot, or time is up."""
    end = time.monotonic() + seconds
    while True:
        wanted, workers = queue.wanted(), _live(queue.snapshot())
        answers = [worker for worker in workers if worker.answered == wanted]
        if any(worker.problem for worker in answers):
            return False
        if workers and len(answers) == len(workers):
            return True
        if time.monotonic() >= end:
            return False
        time.sleep(LOOK_S)


def _live(snapshot: Snapshot) -> list[WorkerInfo]:
    return [
        worker
        for worker in snapshot.workers
        if worker.state != "stopping" and snapshot.now - worker.last_seen <= LIVE_MS
    ]


def _report(entry: ModelEntry, wanted: str, snapshot: Snapshot) -> Iterator[str]:
    yield f"{entry.name}: wanted is {_shown(wanted)}"
    workers = _live(snapshot)
    if not workers:
        yield "no worker is there to serve it"
    for worker in workers:
        serves = worker.version or "a version it does not name"
        yield f"{worker.id}: serves {serves}, {_state(worker, wanted)}"


def _state(worker: WorkerInfo, wanted: str) -> str:
    if worker.loading:
        return f"loads {worker.loading}"
    if worker.answered != wanted:
        return "has not answered yet"
    return f"cannot change: {worker.problem}" if worker.problem else "as wanted"


def _shown(text: str) -> str:
    try:
        wanted = decode_wanted(text)
    except ValueError as error:
        return f"not known: {error}"
    return wanted.text if wanted else "what the workers are set up with"
