"""What several commands build from the settings."""

from imageserve.jobs.redis_connection import RedisAccess
from imageserve.settings import Settings


def redis_access(settings: Settings) -> RedisAccess:
    return RedisAccess(
        url=settings.redis_url,
        username=settings.redis_username,
        password=settings.redis_password,
        ca_file=settings.redis_ca_file,
        sentinel_password=settings.redis_sentinel_password,
    )
