"""Where the other commands find ``redis_access``."""

from imageserve.queue.redis.access import redis_access

__all__ = ["redis_access"]
