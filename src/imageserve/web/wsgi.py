"""The WSGI factory: puts one web process together.

gunicorn imports it in each web process, after the fork: a Redis client must never cross a fork.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from imageserve.config.settings import Settings
from imageserve.decoding import DecodingPolicy, resizer_in_use
from imageserve.models.entries import model_entries
from imageserve.queue.monitor import Monitor
from imageserve.queue.producer import Producer, ProducerConfig, connect_producers
from imageserve.queue.redis.connection import RedisAccess
from imageserve.web.api_keys import read_api_keys
from imageserve.web.app import WebConfig, create_app
from imageserve.web.capacity import CapacityTeller
from imageserve.web.decoders import Decoders
from imageserve.web.lifecycle import (
    DrainFlag,
    Lifecycle,
    queue_names,
    run_dir,
    start_first_contact,
)
from imageserve.web.line import DecodeLine
from imageserve.web.predict import Predictor, ServedModel
from imageserve.web.upload import UploadLimits
from imageserve.web.waiting_room import Places, WaitingRoom

log = logging.getLogger(__name__)


def create_application(
    settings: Settings, lifecycle: Lifecycle, line: DecodeLine
) -> Callable[..., Any]:
    """Build the application of one web process, and start its threads."""
    lifecycle.drain_flag = DrainFlag(run_dir(settings))
    start_first_contact(settings, lifecycle)
    access = RedisAccess.from_settings(settings)
    # A connection for each request in progress: made on demand, and never waited for. A process
    # that is short of processor time holds each for a whole turn of its event loop; a request that
    # waited two seconds for one would take Redis for dead.
    monitor = Monitor(access, queue_names(settings), connections=settings.web_slots)
    producers = _producers(settings, access)
    CapacityTeller(list(producers.values()), line, lifecycle, settings.web_processes).start()
    predictor = _predictor(settings, producers, line)
    return create_app(predictor, monitor, _web_config(settings), lifecycle)


def _producers(settings: Settings, access: RedisAccess) -> dict[str, Producer]:
    limits = ProducerConfig(settings.queue_limit, settings.queue_bytes_limit, settings.result_ttl_s)
    return connect_producers(access, queue_names(settings), limits, connections=settings.web_slots)


def _predictor(
    settings: Settings, producers: Mapping[str, Producer], line: DecodeLine
) -> Predictor:
    entries = model_entries(settings)
    places = Places(settings.web_slots // 2)
    rooms = {
        breaker: WaitingRoom(breaker, places, settings.outage_patience_s)
        for breaker in {producer.breaker for producer in producers.values()}
    }
    served = ((entry, producers[entry.queue]) for entry in entries.values())
    models = {
        entry.name: ServedModel(entry, producer, rooms[producer.breaker])
        for entry, producer in served
    }
    decoding = DecodingPolicy.from_settings(settings)
    log.info(resizer_in_use(decoding))
    return Predictor(models, decoding, line, Decoders(decoding, settings.decode_s))


def _web_config(settings: Settings) -> WebConfig:
    return WebConfig(
        upload=UploadLimits(
            settings.max_body_bytes,
            settings.max_image_bytes,
            settings.max_images,
            settings.upload_timeout_s,
        ),
        request_timeout_s=settings.request_timeout_s,
        slots=settings.web_slots,
        memory_bytes=settings.web_memory_bytes,
        api_keys=read_api_keys(settings.api_keys_file),
    )
