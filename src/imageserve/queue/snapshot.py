"""Temporary: the names of the file that takes this one's place."""

from imageserve.queue.queue import LIVE_MS, Snapshot, WorkerInfo, live_tables
from imageserve.queue.snapshots import encode_worker_info

__all__ = ["LIVE_MS", "Snapshot", "WorkerInfo", "encode_worker_info", "live_tables"]
