"""Every metric, by name; the only door to prometheus_client.

Under gunicorn several processes count: where PROMETHEUS_MULTIPROC_DIR is set (before this module is
imported) they count in shared files, and ``exposition`` adds them up.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
    values,
)
from prometheus_client.core import GaugeMetricFamily, Metric

CONTENT_TYPE = CONTENT_TYPE_LATEST


class _Process:
    """This process. The library asks for its id, by a system call, with every number it counts."""

    id = os.getpid()

    @classmethod
    def look_up(cls) -> None:
        cls.id = os.getpid()


os.register_at_fork(after_in_child=_Process.look_up)
if values.ValueClass is not values.MutexValue:
    values.ValueClass = values.MultiProcessValue(lambda: _Process.id)


@cache
def labelled(metric: Any, *labels: str) -> Any:
    """Return a metric with these labels. The library would look it up with a lock each time."""
    return metric.labels(*labels)


_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

requests_total = Counter(
    "imageserve_requests_total", "HTTP requests answered.", ["endpoint", "status", "code"]
)
request_seconds = Histogram(
    "imageserve_request_seconds",
    "Time from a read upload to its answer.",
    buckets=(*_SECONDS, 60.0, 120.0, 300.0),
)
pictures_total = Counter(
    "imageserve_pictures_total", "Pictures asked for, by outcome.", ["model", "outcome"]
)
key_pictures_total = Counter(
    "imageserve_key_pictures_total",
    "Pictures of API keys that have a name; a request that is refused unread counts as one.",
    ["key", "outcome"],
)
decode_seconds = Histogram(
    "imageserve_decode_seconds", "Time to decode and resize one picture.", buckets=_SECONDS
)
decoder_seconds = Histogram(
    "imageserve_decoder_seconds",
    "Time of one picture in a decoder process, its line left out, by decoder: quick, costly.",
    ["decoder"],
    buckets=_SECONDS,
)
decoder_line = Gauge(
    "imageserve_decoder_line",
    "Pictures that wait for a decoder process.",
    multiprocess_mode="livesum",
)
decoder_restarts_total = Counter(
    "imageserve_decoder_restarts_total",
    "Decoder processes that were replaced, by reason: deadline, processor time, died.",
    ["reason"],
)
queue_seconds = Histogram(
    "imageserve_queue_seconds", "Time a job waited in the queue.", ["model"], buckets=_SECONDS
)
spans_lost_total = Counter(
    "imageserve_spans_lost_total",
    "Spans of traces that reached no collector, by reason: not sent, queue full, end of process.",
    ["reason"],
)
slots_in_use = Gauge("imageserve_slots_in_use", "Requests in hand.", multiprocess_mode="livesum")
waiting_for_redis = Gauge(
    "imageserve_waiting_for_redis",
    "Requests that wait for the end of an outage of Redis.",
    multiprocess_mode="livesum",
)
upload_bytes_held = Gauge(
    "imageserve_upload_bytes_held", "Bytes of uploads in memory.", multiprocess_mode="livesum"
)

batches_total = Counter("imageserve_batches_total", "Batches run.", ["model"])
batch_size = Histogram("imageserve_batch_size", "Pictures per batch.", ["model"], buckets=_BATCHES)
batch_padding = Counter(
    "imageserve_batch_padding_total", "Empty places run to fill a bucket.", ["model"]
)
model_seconds = Histogram(
    "imageserve_model_seconds", "Time of one model call.", ["model"], buckets=_SECONDS
)
jobs_total = Counter("imageserve_jobs_total", "Jobs finished, by outcome.", ["model", "outcome"])
leases_lost_total = Counter(
    "imageserve_leases_lost_total", "Jobs finished too late: the lease was lost.", ["model"]
)
batch_limit = Gauge(
    "imageserve_batch_limit", "Largest batch that is run: less where memory was short.", ["model"]
)
model_info = Gauge(
    "imageserve_model_info", "1 for the version of the model that is served.", ["model", "version"]
)
model_changes_total = Counter(
    "imageserve_model_changes_total",
    "Other versions that were made ready, by outcome: changed, failed.",
    ["model", "outcome"],
)
model_change_failed = Gauge(
    "imageserve_model_change_failed",
    "1 while the version that should be served cannot be: the one before serves on.",
    ["model"],
)
redis_up = Gauge(
    "imageserve_redis_up",
    "1 while Redis answers this process; on Redis Cluster, while every node of its queues does.",
    multiprocess_mode="livemin",
)
redis_evicts = Gauge(
    "imageserve_redis_evicts",
    "1 where Redis, or a node of it, was set up, while it runs, to throw waiting pictures away.",
    multiprocess_mode="livemax",
)

autoscaler_decisions_total = Counter(
    "imageserve_autoscaler_decisions_total",
    "Decisions: what was to happen to the replicas, and what settled it.",
    ["model", "action", "reason"],
)
autoscaler_errors_total = Counter(
    "imageserve_autoscaler_errors_total",
    "What went wrong, by source: redis, api, rbac, target, conflict, events.",
    ["model", "source"],
)
autoscaler_pod_start_seconds = Histogram(
    "imageserve_autoscaler_pod_start_seconds",
    "Time from a pod's creation to its readiness.",
    ["model"],
    buckets=(1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200),
)

Readings = Mapping[tuple[str, ...], Mapping[str, float]]
"""Values of the labels -> metric name -> value. What is not known is left out."""

_QUEUE_GAUGES = {
    "imageserve_queue_length": "Jobs waiting.",
    "imageserve_queue_background": "Jobs waiting that are of the background.",
    "imageserve_queue_in_flight": "Jobs leased to workers.",
    "imageserve_queue_limit": "Jobs that may wait: QUEUE_LIMIT.",
    "imageserve_queue_bytes": "Pixels of the jobs that wait or are in flight, in bytes.",
    "imageserve_queue_bytes_limit": "Bytes that they may have: QUEUE_BYTES_LIMIT.",
    "imageserve_redis_bytes": "Memory that the Redis of the queue uses, in bytes.",
    "imageserve_redis_bytes_limit": "Bytes that it may use: maxmemory.",
    "imageserve_queue_oldest_seconds": "Age of the oldest waiting job.",
    "imageserve_queue_dead": "Entries of the dead list.",
    "imageserve_capacity_per_second": "Pictures per second that the live workers can do.",
    "imageserve_web_capacity_per_second": "Pictures per second that the live web processes could "
    "decode.",
    "imageserve_workers": "Live workers.",
}

_AUTOSCALER_GAUGES = {
    "imageserve_autoscaler_wanted_replicas": "Pods that are wanted, within all limits.",
    "imageserve_autoscaler_raw_replicas": "Pods that the load alone asks for.",
    "imageserve_autoscaler_current_replicas": "Pods that the Deployment asks for.",
    "imageserve_autoscaler_ready_replicas": "Pods that serve.",
    "imageserve_autoscaler_unschedulable_replicas": "Pods that have found no node for a minute.",
    "imageserve_autoscaler_queue_waiting": "Jobs waiting.",
    "imageserve_autoscaler_queue_in_flight": "Jobs leased to workers.",
    "imageserve_autoscaler_queue_oldest_seconds": "Age of the oldest waiting job.",
    "imageserve_autoscaler_arrivals_per_second": "Jobs that arrive, refused ones included.",
    "imageserve_autoscaler_capacity_per_second": "Jobs that one pod can do.",
    "imageserve_autoscaler_forecast_known_steps": "Steps of five minutes that the memory of four "
    "weeks knows.",
    "imageserve_autoscaler_forecast_per_second": "Arrivals of the jump that is expected within a "
    "step and the start of a pod; 0 for none.",
    "imageserve_autoscaler_forecast_replicas": "Pods for that jump.",
    "imageserve_autoscaler_forecast_tested": "Earlier forecasts that stand behind it: how many ...",
    "imageserve_autoscaler_forecast_right": "... how many of them would have been right ...",
    "imageserve_autoscaler_forecast_saved_pictures": "... how many fewer pictures would have been "
    "late ...",
    "imageserve_autoscaler_forecast_replica_hours": "... and for how many replica-hours.",
    "imageserve_autoscaler_budget_gpus": "GPUs that all models share.",
    "imageserve_autoscaler_budget_gpus_per_replica": "GPUs of one pod of this model.",
    "imageserve_autoscaler_budget_claimed_replicas": "Pods that are wanted, were it alone.",
    "imageserve_autoscaler_budget_given_replicas": "Pods that the budget allows now.",
    "imageserve_autoscaler_last_success_timestamp_seconds": "When all last answered.",
    "imageserve_autoscaler_leader": "1 where this process may act.",
    "imageserve_autoscaler_paused": "1 while an annotation of the Deployment pauses it.",
    "imageserve_autoscaler_dry_run": "1 where it only says what it would do.",
}


_START_GAUGES = {
    "imageserve_autoscaler_pod_start_phase_seconds": "What a phase of a pod's start usually takes: "
    "a model is sized with the sum of its phases.",
}


@dataclass(frozen=True)
class _Gauges:
    """Gauges that the caller has just read."""

    texts: Mapping[str, str]
    labels: Sequence[str]
    readings: Readings

    def collect(self) -> Iterable[Metric]:
        for name, text in self.texts.items():
            family = GaugeMetricFamily(name, text, labels=self.labels)
            for labels, numbers in self.readings.items():
                if name in numbers:
                    family.add_metric(labels, numbers[name])
            yield family


def exposition(
    queues: Readings | None = None, scaled: Readings | None = None, starts: Readings | None = None
) -> bytes:
    """Return all metrics of this process, or of all gunicorn processes, as Prometheus text.

    ``queues``, by model and queue, ``scaled``, an autoscaler's models, and ``starts``, by model and
    phase of a pod's start, are read by the caller at this moment. Leave out what cannot be
    read: no value is better than a wrong one.
    """
    registry = REGISTRY
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)
    text = generate_latest(registry)
    if queues:
        text += generate_latest(_Gauges(_QUEUE_GAUGES, ["model", "queue"], queues))
    if scaled:
        text += generate_latest(_Gauges(_AUTOSCALER_GAUGES, ["model"], scaled))
    if starts:
        text += generate_latest(_Gauges(_START_GAUGES, ["model", "phase"], starts))
    return text


def process_died(pid: int) -> None:
    """Forget the live gauges of a gunicorn process that has ended."""
    multiprocess.mark_process_dead(pid)
