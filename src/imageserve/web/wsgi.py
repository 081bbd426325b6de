"""The WSGI factory: puts one web process together.

gunicorn imports it in each web process, after the fork: a Redis client must never cross a fork.
"""

from collections.abc import Callable
from typing import Any

from imageserve.config.settings import Settings
from imageserve.decoding import DecodingPolicy
from imageserve.models.entries import model_entries
from imageserve.queue.redis.access import redis_access
from imageserve.queue.redis_queue import RedisQueue
from imageserve.queue.redis_replies import RedisReplies
from imageserve.web.api_keys import read_api_keys
from imageserve.web.app import WebConfig, create_app
from imageserve.web.capacity_view import CapacityView
from imageserve.web.greenlets import offload
from imageserve.web.lifecycle import DrainFlag, Lifecycle, run_dir, start_first_contact
from imageserve.web.predictor import Predictor, PredictorConfig, Served
from imageserve.web.upload import UploadLimits


def create_application(settings: Settings, lifecycle: Lifecycle) -> Callable[..., Any]:
    """Build the application of one web process, and start its threads."""
    lifecycle.drain_flag = DrainFlag(run_dir(settings))
    start_first_contact(settings, lifecycle)
    return create_app(_predictor(settings), _web_config(settings), lifecycle)


def _predictor(settings: Settings) -> Predictor:
    access = redis_access(settings)
    models: dict[str, Served] = {}
    queues: dict[str, RedisQueue] = {}
    for name, entry in model_entries(settings).items():
        # One for every request in hand: made on demand, and never waited for. A process that is
        # short of processor time holds each for a whole turn of its event loop; a request that
        # waited two seconds for one would take Redis for dead and have the next ones refused.
        queue = queues[entry.queue] = RedisQueue(
            access, entry.queue, connections=settings.web_slots
        )
        models[name] = Served(entry, queue, CapacityView(queue))
    config = PredictorConfig(
        decoding=DecodingPolicy(
            settings.max_image_bytes,
            settings.max_image_pixels,
            settings.image_formats,
            settings.fast_jpeg,
        ),
        max_jobs=settings.queue_limit,
        max_bytes=settings.queue_bytes_limit,
        result_ttl_s=settings.result_ttl_s,
    )
    replies = RedisReplies(access, queues)
    replies.start()
    return Predictor(models, replies, config, offload)


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
