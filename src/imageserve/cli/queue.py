"""``imageserve queue``: show, check or empty a queue; its dead list; the rights it needs."""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence

from imageserve.cli.extras import argument, chosen
from imageserve.config.reader import number, whole
from imageserve.config.settings import Settings
from imageserve.errors import QueueError, QueueUnavailable, SettingsError
from imageserve.models.entries import ModelEntry, model_entries
from imageserve.queue.monitor import Monitor
from imageserve.queue.redis.connection import RedisAccess
from imageserve.queue.rights import ROLES, acl_rules
from imageserve.queue.self_test import check_server
from imageserve.queue.snapshot import Snapshot

CHECK_PAUSE_S = 1.0
"""Between two checks of a Redis that cannot be reached."""


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    options = _parser().parse_args(arguments)
    settings = Settings.from_env(environ)
    entries = chosen(model_entries(settings), options.model)
    access = RedisAccess.from_settings(settings)
    if options.action == "acl":
        return _acl([entry.queue for entry in entries], access)
    if options.action == "check":
        return _check(access, entries, settings.queue_bytes_limit, options.wait)
    monitor = Monitor(access, [entry.queue for entry in entries])
    if options.action == "status":
        return _status(entries, monitor, as_json=options.json)
    for entry in entries:
        if options.action == "dead":
            _dead(monitor, entry.queue, options.count)
        else:
            _purge(monitor, entry.queue, confirmed=options.yes)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="imageserve queue",
        description="Show, check or empty the queues of the models that REDIS_URL, MODEL and "
        "MODELS_FILE name.",
    )
    parser.add_argument("--model", help="only this model's queue")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    status = actions.add_parser("status", help="print waiting jobs, jobs in work, and workers")
    status.add_argument("--json", action="store_true", help="print JSON")
    dead = actions.add_parser("dead", help="print the dead list, newest first, as JSON lines")
    dead.add_argument(
        "--count",
        type=argument(whole(1, 1_000_000)),
        default=20,
        help="how many entries (default 20)",
    )
    check = actions.add_parser(
        "check", help="try whether Redis can be reached and serve as the queue, as workers do"
    )
    check.add_argument(
        "--wait",
        type=argument(number(0, 86_400)),
        default=0.0,
        metavar="SECONDS",
        help="try again for this long while Redis cannot be reached (default 0)",
    )
    purge = actions.add_parser("purge", help="drop all waiting jobs; their clients get 503")
    purge.add_argument("--yes", action="store_true", help="do not ask")
    actions.add_parser("acl", help="print what users of Redis must be allowed, per role")
    return parser


def _acl(queues: Sequence[str], access: RedisAccess) -> int:
    """Print the rules of each role, ready for ACL SETUSER."""
    for role in ROLES:
        print(f"# {role}\n{' '.join(acl_rules(role, queues, access))}\n")
    return 0


def _status(entries: Sequence[ModelEntry], monitor: Monitor, *, as_json: bool) -> int:
    """Print each queue that can be read; the exit status is 1 where one cannot."""
    unread = 0
    snapshots = monitor.snapshots()
    for entry in entries:
        snapshot = snapshots[entry.queue]
        if isinstance(snapshot, QueueError):
            unread += 1
            print(f"imageserve queue: {entry.queue}: {snapshot}", file=sys.stderr)
        else:
            _print_queue(entry, snapshot, as_json=as_json)
    return int(unread > 0)


def _print_queue(entry: ModelEntry, snapshot: Snapshot, *, as_json: bool) -> None:
    facts = {
        "model": entry.name,
        "queue": entry.queue,
        "queued": snapshot.queued,
        "background": snapshot.background,
        "retry": snapshot.retry,
        "in_flight": snapshot.in_flight,
        "oldest_ms": snapshot.oldest_ms,
        "dead": snapshot.dead,
        "capacity_per_s": round(snapshot.capacity_per_s, 1),
        "expected_wait_ms": snapshot.expected_wait_ms,
        **snapshot.stats,
    }
    workers = {
        w.id: f"{w.state}, seen {snapshot.now - w.last_seen} ms ago"
        + (f", {w.problem}" if w.problem else "")
        for w in snapshot.workers
    }
    if as_json:
        print(json.dumps({**facts, "workers": workers}))
        return
    for name, value in {**facts, **{f"worker {k}": v for k, v in workers.items()}}.items():
        print(f"{name:<18} {value}")
    print()


def _check(
    access: RedisAccess, entries: Sequence[ModelEntry], queue_bytes_limit: int, wait_s: float
) -> int:
    """Run the self-test of a starting process on each queue; return 1 where one fails."""
    failed = 0
    end_s = time.monotonic() + wait_s
    for entry in entries:
        try:
            _check_until(end_s, access, entry.queue, queue_bytes_limit)
        except QueueError as error:
            failed += 1
            print(f"imageserve queue: {entry.queue}: {error}", file=sys.stderr)
        else:
            print(f"{entry.queue}: Redis can serve as its queue")
    return int(failed > 0)


def _check_until(end_s: float, access: RedisAccess, queue: str, queue_bytes_limit: int) -> None:
    """Check once; again while Redis cannot be reached and ``end_s`` has not come."""
    while True:
        try:
            return check_server(access, queue, queue_bytes_limit)
        except QueueUnavailable:
            if time.monotonic() >= end_s:
                raise
            time.sleep(CHECK_PAUSE_S)


def _dead(monitor: Monitor, queue: str, count: int) -> None:
    for item in monitor.dead(queue, count):
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(item["at"] / 1000))
        print(json.dumps({"at": at, "reason": item["reason"], "entry": item["entry"]}))


def _purge(monitor: Monitor, queue: str, *, confirmed: bool) -> None:
    if not confirmed:
        if not sys.stdin.isatty():
            raise SettingsError("queue purge needs --yes where nobody can be asked")
        if input(f"Drop all jobs that wait in {queue}? [y/N] ").strip().lower() != "y":
            return
    print(f"dropped {monitor.purge(queue)} jobs of {queue}")
