"""Puts together what classifies in one process, whatever its clients speak."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from imageserve.config.settings import Settings
from imageserve.decoding import DecodingPolicy, resizer_in_use
from imageserve.models.entries import model_entries
from imageserve.queue.monitor import Monitor
from imageserve.queue.producer import Producer, ProducerConfig, connect_producers
from imageserve.queue.redis.connection import RedisAccess
from imageserve.tracing import Tracer
from imageserve.web.capacity import CapacityTeller
from imageserve.web.decoders import Decoders
from imageserve.web.lifecycle import Lifecycle, queue_names, start_first_contact
from imageserve.web.line import DecodeLine
from imageserve.web.predict import Predictor, ServedModel
from imageserve.web.waiting_room import Places, WaitingRoom

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Assembly:
    """The parts of one process that classifies."""

    predictor: Predictor
    monitor: Monitor


def assemble(
    settings: Settings, lifecycle: Lifecycle, line: DecodeLine, processes: int, tracer: Tracer
) -> Assembly:
    """Build the parts, and start their threads. After a fork: a Redis client must never cross one.

    ``processes``: those of this server, which share its processors.
    """
    start_first_contact(settings, lifecycle)
    access = RedisAccess.from_settings(settings)
    # A connection for each request in progress: made on demand, and never waited for. A process
    # that is short of processor time holds each for a whole turn of its event loop; a request that
    # waited two seconds for one would take Redis for dead.
    monitor = Monitor(access, queue_names(settings), connections=settings.web_slots)
    producers = _producers(settings, access)
    CapacityTeller(list(producers.values()), line, lifecycle, processes).start()
    return Assembly(_predictor(settings, producers, line, tracer), monitor)


def _producers(settings: Settings, access: RedisAccess) -> dict[str, Producer]:
    limits = ProducerConfig(settings.queue_limit, settings.queue_bytes_limit, settings.result_ttl_s)
    return connect_producers(access, queue_names(settings), limits, connections=settings.web_slots)


def _predictor(
    settings: Settings, producers: Mapping[str, Producer], line: DecodeLine, tracer: Tracer
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
    return Predictor(models, decoding, line, Decoders(decoding, settings.decode_s), tracer)
