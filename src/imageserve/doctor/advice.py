"""What to do about each finding, and in which order. Pure."""

from collections.abc import Iterable
from typing import NamedTuple

from imageserve.doctor.facts import Found

_CRITICAL = {
    "redis-away": ("#imageserveredisaway", "see whether Redis runs, and check REDIS_URL from here"),
    "redis-refuses": ("#redis", "give the user what `imageserve queue acl` prints; free the names"),
    "redis-replica": ("#redis", "let REDIS_URL lead to the master, or use redis+sentinel://"),
    "redis-disk": ("#imageserveredisaway", "make room on its volume: it may refuse all writes"),
    "redis-full": ("#redis", "raise maxmemory and the memory of its process"),
    "redis-evicts": ("#imageserveredisevicts", "CONFIG SET maxmemory-policy noeviction"),
    "no-workers": ("#imageservenoworkers", "read the log of the model's workers"),
    "web-away": ("#imageservenotscraped", "read the log of the web pods: it names what they lack"),
    "web-without-redis": ("#imageserveredisaway", "read the log of the web pods"),
    "two-models": ("#troubleshooting", "give each model a queue of its own (IMAGE_QUEUE)"),
    "wrong-model": ("#troubleshooting", "name the model alike for web processes and workers"),
    "batch-too-long": ("#troubleshooting", "lower BATCH_SIZE, or raise REQUEST_TIMEOUT_S"),
    "crash-loop": ("#imageservenoworkers", "`kubectl logs POD --previous`; OOMKilled: more memory"),
    "none-ready": ("#imageservenoworkers", "`kubectl describe pod`, and the log of its pods"),
}
_WARNING = {
    "redis-nearly-full": ("#redis", "raise maxmemory, or lower QUEUE_BYTES_LIMIT"),
    "redis-evicted": ("#imageserveredisevicts", "set noeviction; look who else uses this Redis"),
    "redis-would-evict": ("#redis", "set maxmemory-policy noeviction before you set maxmemory"),
    "queue-larger-than-redis": ("#redis", "raise maxmemory, or lower QUEUE_BYTES_LIMIT"),
    "redis-no-aof": ("#redis", "set appendonly yes, appendfsync everysec"),
    "redis-no-maxmemory": ("#redis", "set maxmemory to half of what its process may have"),
    "redis-connections": ("#redis", "raise maxclients, or lower WEB_SLOTS or WEB_PROCESSES"),
    "clock": ("#imageserve-doctor", "synchronise the clocks of both machines (NTP)"),
    "clock-went-back": ("#imageserve-doctor", "synchronise the clock of Redis's machine (NTP)"),
    "not-ready": ("#imageservenoworkers", "`kubectl describe pod`, and the log of those pods"),
    "no-node": ("#imageserveunschedulable", "add what they lack, or lower maxReplicas"),
    "restarts": ("#imageservenoworkers", "`kubectl logs POD --previous`; OOMKilled: more memory"),
    "pod-without-worker": ("#troubleshooting", "compare REDIS_URL and queue of web and model pods"),
    "queue-without-model": ("#troubleshooting", "compare IMAGE_QUEUE and MODELS_FILE everywhere"),
    "other-models": ("#imageserve-doctor", "give this command the web server's settings"),
    "other-workers": ("#imageserve-doctor", "compare REDIS_URL: these are two systems"),
    "unfit-key": ("#api-keys", "mend or remove the line: it admits nobody"),
    "stand-in": ("#imageserve-doctor", "set MODEL to a real model, unless this is a test"),
    "queue-old": ("#imageservequeueold", "more pods of the model, unless background jobs may wait"),
    "bugs": ("#imageservebugs", "report the traceback that the web pods' log has"),
    "refuses": ("#imageserverefusing", "more pods of the side with the smaller capacity"),
    "dead": ("#imageservedeadpictures", "`imageserve queue dead` lists them"),
    "worker-problem": ("#imageservemodelchangefailed", "`imageserve models use --status`"),
    "versions-differ": ("#imageservemodelchangefailed", "end the rollout: `models use --status`"),
    "releases-differ": ("#beside-release-010", "upgrade all; look for image values of their own"),
    "slow-worker": ("#imageservetimeouts", "look at its CPU limit and node; delete its pod"),
    "silent-workers": ("#imageservenoworkers", "look whether their pods were killed, or hang"),
    "queue-too-small": ("#troubleshooting", "raise QUEUE_LIMIT and QUEUE_BYTES_LIMIT"),
    "lease-too-long": ("#imageserveleaseslost", "LEASE_S below half of REQUEST_TIMEOUT_S"),
    "env-twice": ("#imageserve-doctor", "use the chart's value instead of extraEnv"),
}
_NOTE = {
    "idle-without-workers": ("#imageservenoworkers", "nothing, if the model may scale to zero"),
    "capacity-differs": ("#overload-of-the-web-tier", "more pods of this side, or fewer others"),
    "paused": ("#imageserveatmaxreplicas", "remove the annotation, if nobody needs it"),
    "changed-by-hand": ("#imageserve-doctor", "put it into the values before the next upgrade"),
}


class Advice(NamedTuple):
    """What a finding means for whoever reads it."""

    severity: str
    """``critical``: no answers, or pictures may be lost; ``warning``; ``note``."""
    page: str
    do: str


_LISTS = {"critical": _CRITICAL, "warning": _WARNING, "note": _NOTE}
ADVICE = {
    name: Advice(severity, f"docs/operations.md{place}", do)
    for severity, listed in _LISTS.items()
    for name, (place, do) in listed.items()
}
"""In order of importance."""


def in_order(found: Iterable[Found]) -> list[Found]:
    """Return findings in order of importance, each once."""
    rank = {name: number for number, name in enumerate(ADVICE)}
    return sorted(dict.fromkeys(found), key=lambda each: rank[each[0]])
