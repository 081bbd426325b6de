"""The access to Redis that the settings describe."""

from imageserve.config.settings import Settings
from imageserve.queue.redis.connection import RedisAccess


def redis_access(settings: Settings) -> RedisAccess:
    return RedisAccess(
        url=settings.redis_url,
        username=settings.redis_username,
        password=settings.redis_password,
        ca_file=settings.redis_ca_file,
        sentinel_password=settings.redis_sentinel_password,
    )
