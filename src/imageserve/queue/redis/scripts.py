"""The Lua scripts of the protocol: each one change of state, run by Redis as a whole."""

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import redis
from redis.exceptions import NoScriptError


class Script:
    """One Lua script, called by its digest and loaded where the server does not know it."""

    def __init__(self, name: str) -> None:
        self.source = (files("imageserve.queue") / "lua" / f"{name}.lua").read_text()
        # Redis names scripts by SHA-1; nothing is kept secret by it.
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    def __call__(
        self, client: "redis.Redis", keys: Sequence[str], args: Sequence[str | int | bytes]
    ) -> Any:
        try:
            return client.evalsha(self.sha, len(keys), *keys, *args)
        except NoScriptError:
            # A restart empties the script cache. EVAL runs the script and caches it.
            return client.eval(self.source, len(keys), *keys, *args)


ENQUEUE = Script("enqueue")
CLAIM = Script("claim")
FINISH = Script("finish")
EXTEND = Script("extend")
RELEASE = Script("release")
BURY = Script("bury")
HEARTBEAT = Script("heartbeat")
SNAPSHOT = Script("snapshot")
