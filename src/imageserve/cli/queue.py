"""``imageserve queue``: look into a queue, read its dead list, empty it."""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence

from imageserve.cli.access import redis_access
from imageserve.config.settings import Settings
from imageserve.errors import SettingsError
from imageserve.models.entries import ModelEntry, model_entries
from imageserve.queue.capacity import expected_wait_ms, per_second
from imageserve.queue.queue import live_tables
from imageserve.queue.redis_queue import RedisQueue


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    options = _parser().parse_args(arguments)
    settings = Settings.from_env(environ)
    for entry in _entries(settings, options.model):
        queue = RedisQueue(redis_access(settings), entry.queue, connections=1)
        if options.action == "status":
            _status(entry, queue, as_json=options.json)
        elif options.action == "dead":
            _dead(queue, options.count)
        else:
            _purge(queue, confirmed=options.yes)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="imageserve queue",
        description="Look into the queues of the models. REDIS_URL, MODEL and MODELS_FILE say "
        "which ones.",
    )
    parser.add_argument("--model", help="only this model's queue")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    status = actions.add_parser("status", help="what waits, what is in work, who works")
    status.add_argument("--json", action="store_true", help="print JSON")
    dead = actions.add_parser("dead", help="print the dead list, newest first, as JSON lines")
    dead.add_argument("--count", type=int, default=20, help="how many entries (default 20)")
    purge = actions.add_parser(
        "purge", help="drop all waiting jobs; those who wait for them are answered 503"
    )
    purge.add_argument("--yes", action="store_true", help="do not ask")
    return parser


def _entries(settings: Settings, name: str | None) -> list[ModelEntry]:
    entries = model_entries(settings)
    if name is None:
        return list(entries.values())
    if name not in entries:
        raise SettingsError(f"no model {name!r}; there are {', '.join(entries)}")
    return [entries[name]]


def _status(entry: ModelEntry, queue: RedisQueue, *, as_json: bool) -> None:
    snapshot = queue.snapshot()
    capacity = sum(map(per_second, live_tables(snapshot)))
    wait_ms = expected_wait_ms(snapshot.backlog, capacity)
    facts = {
        "model": entry.name,
        "queue": queue.name,
        "queued": snapshot.queued,
        "retry": snapshot.retry,
        "in_flight": snapshot.in_flight,
        "oldest_ms": snapshot.oldest_ms,
        "dead": snapshot.dead,
        "capacity_per_s": round(capacity, 1),
        "expected_wait_ms": None if wait_ms is None else round(wait_ms),
        **snapshot.stats,
    }
    workers = {
        w.id: f"{w.state}, seen {snapshot.now - w.last_seen} ms ago" for w in snapshot.workers
    }
    if as_json:
        print(json.dumps({**facts, "workers": workers}))
        return
    for name, value in {**facts, **{f"worker {k}": v for k, v in workers.items()}}.items():
        print(f"{name:<18} {value}")
    print()


def _dead(queue: RedisQueue, count: int) -> None:
    for item in queue.dead(count):
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(item["at"] / 1000))
        print(json.dumps({"at": at, "reason": item["reason"], "entry": item["entry"]}))


def _purge(queue: RedisQueue, *, confirmed: bool) -> None:
    if not confirmed:
        if not sys.stdin.isatty():
            raise SettingsError("queue purge needs --yes where nobody can be asked")
        if input(f"Drop all jobs that wait in {queue.name}? [y/N] ").strip().lower() != "y":
            return
    print(f"dropped {queue.purge()} jobs of {queue.name}")
