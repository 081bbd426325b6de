"""``imageserve models use``: set the desired version of a model, and wait for the workers."""

import argparse
import time
from collections.abc import Iterator, Mapping

from imageserve.cli.extras import argument, sentence
from imageserve.config.reader import number
from imageserve.config.settings import Settings
from imageserve.errors import QueueError, SettingsError
from imageserve.models.entries import ModelEntry, model_entries
from imageserve.queue.desired import decode_desired, encode_desired, parse_desired
from imageserve.queue.monitor import Monitor
from imageserve.queue.redis.connection import RedisAccess
from imageserve.queue.snapshot import Snapshot, WorkerInfo

POLL_S = 0.5


def add_use(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``use`` to the actions of ``imageserve models``."""
    about = "have the workers change to another version while they serve"
    use = actions.add_parser(
        "use",
        help=about,
        description=f"{sentence(about)}. They load MODELS_DIR/NAME/VERSION beside the model "
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
        type=argument(number(0, 86_400)),
        default=0.0,
        metavar="SECONDS",
        help="wait until every worker serves it; exit status 1 where one cannot, or time is up",
    )
    use.set_defaults(action=_use)


def _use(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    settings = Settings.from_env(environ)
    entry = _entry(model_entries(settings), options.model, options.version)
    monitor = Monitor(RedisAccess.from_settings(settings), [entry.queue])
    if not options.status:
        now = _snapshot(monitor, entry.queue).now
        monitor.set_desired(entry.queue, _text(options.version, now))
    have_changed = _wait(monitor, entry.queue, options.wait)
    report = _report(entry, monitor.desired(entry.queue), _snapshot(monitor, entry.queue))
    print("\n".join(report))
    return int(options.wait > 0 and not have_changed)


def _snapshot(monitor: Monitor, queue: str) -> Snapshot:
    snapshot = monitor.snapshots()[queue]
    if isinstance(snapshot, QueueError):
        raise snapshot
    return snapshot


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
        return encode_desired(parse_desired(version, now))
    except ValueError as error:
        raise SettingsError(str(error)) from error


def _wait(monitor: Monitor, queue: str, seconds: float) -> bool:
    """Wait until all workers serve the desired version; False where one cannot, or time is up."""
    end = time.monotonic() + seconds
    while True:
        desired, workers = monitor.desired(queue), _snapshot(monitor, queue).live_workers
        answers = [worker for worker in workers if worker.answered == desired]
        if any(worker.problem for worker in answers):
            return False
        if workers and len(answers) == len(workers):
            return True
        if time.monotonic() >= end:
            return False
        time.sleep(POLL_S)


def _report(entry: ModelEntry, desired: str, snapshot: Snapshot) -> Iterator[str]:
    yield f"{entry.name}: wanted is {_shown(desired)}"
    workers = snapshot.live_workers
    if not workers:
        yield "no worker is there to serve it"
    for worker in workers:
        serves = worker.version or "a version it does not name"
        yield f"{worker.id}: serves {serves}, {_state(worker, desired)}"


def _state(worker: WorkerInfo, desired: str) -> str:
    if worker.loading:
        return f"loads {worker.loading}"
    if worker.answered != desired:
        return "has not answered yet"
    return f"cannot change: {worker.problem}" if worker.problem else "as wanted"


def _shown(text: str) -> str:
    try:
        desired = decode_desired(text)
    except ValueError as error:
        return f"not known: {error}"
    return desired.text if desired else "what the workers are set up with"
