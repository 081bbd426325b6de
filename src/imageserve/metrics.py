"""Every metric, by name; the only door to prometheus_client.

Under gunicorn several processes count: where PROMETHEUS_MULTIPROC_DIR is set (before this module is
imported) they count in shared files, and ``exposition`` adds them up.
"""

import os
from collections.abc import Iterable, Mapping

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)
from prometheus_client.core import GaugeMetricFamily, Metric

CONTENT_TYPE = CONTENT_TYPE_LATEST

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

requests_total = Counter(
    "imageserve_requests_total", "HTTP requests answered.", ["endpoint", "status", "code"]
)
request_seconds = Histogram(
    "imageserve_request_seconds", "Time from a read upload to its answer.", buckets=_SECONDS
)
pictures_total = Counter(
    "imageserve_pictures_total", "Pictures asked for, by outcome.", ["model", "outcome"]
)
decode_seconds = Histogram(
    "imageserve_decode_seconds", "Time to decode and resize one picture.", buckets=_SECONDS
)
queue_seconds = Histogram(
    "imageserve_queue_seconds", "Time a job waited in the queue.", ["model"], buckets=_SECONDS
)
slots_in_use = Gauge("imageserve_slots_in_use", "Requests in hand.", multiprocess_mode="livesum")
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
redis_up = Gauge(
    "imageserve_redis_up",
    "1 while Redis answers this process.",
    multiprocess_mode="livemin",
)


QueueReadings = Mapping[tuple[str, str], Mapping[str, float]]
"""(model, queue) -> metric name -> value."""

_QUEUE_GAUGES = {
    "imageserve_queue_length": "Jobs waiting.",
    "imageserve_queue_in_flight": "Jobs leased to workers.",
    "imageserve_queue_oldest_seconds": "Age of the oldest waiting job.",
    "imageserve_queue_dead": "Entries of the dead list.",
    "imageserve_capacity_per_second": "Pictures per second that the live workers can do.",
    "imageserve_workers": "Live workers.",
}


class _QueueGauges:
    """What was read of the queues at this moment."""

    def __init__(self, readings: QueueReadings) -> None:
        self._readings = readings

    def collect(self) -> Iterable[Metric]:
        for name, text in _QUEUE_GAUGES.items():
            family = GaugeMetricFamily(name, text, labels=["model", "queue"])
            for labels, values in self._readings.items():
                family.add_metric(list(labels), values[name])
            yield family


def exposition(readings: QueueReadings | None = None) -> bytes:
    """Return all metrics of this process, or of all gunicorn processes, as Prometheus text.

    ``readings`` are of the queues, taken by the caller at this moment; leave them out where Redis
    does not answer: no value is better than a wrong one.
    """
    registry = REGISTRY
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)
    text = generate_latest(registry)
    if readings:
        extra = CollectorRegistry()
        extra.register(_QueueGauges(readings))
        text += generate_latest(extra)
    return text


def process_died(pid: int) -> None:
    """Forget the live gauges of a gunicorn process that has ended."""
    multiprocess.mark_process_dead(pid)
