"""What to do about each finding, and in which order. Pure."""

from collections.abc import Iterable

from imageserve.doctor.facts import Found

_CRITICAL = {
    "other-models": ("#imageserve-doctor", "give this command the web server's settings first"),
    "other-workers": ("#imageserve-doctor", "compare REDIS_URL: these are two systems"),
    "redis-away": ("#imageserveredisaway", "see whether Redis runs, and check REDIS_URL from here"),
    "redis-refuses": ("#redis", "give the user what `imageserve queue acl` prints; free the names"),
    "redis-replica": ("#redis", "let REDIS_URL lead to the master, or use redis+sentinel://"),
    "redis-disk": ("#imageserveredisaway", "make room on its volume: it may refuse all writes"),
    "redis-full": ("#redis", "raise maxmemory and the memory of its process"),
    "redis-evicts": ("#imageserveredisevicts", "CONFIG SET maxmemory-policy noeviction"),
    "no-workers": ("#imageservenoworkers", "read the log of the model's workers"),
    "web-away": ("#imageservenotscraped", "read the log of the web pods: it names what they lack"),
    "web-without-redis": ("#imageserveredisaway", "read the log of the web pods"),
    "wrong-model": ("#troubleshooting", "one queue a model (IMAGE_QUEUE), named alike everywhere"),
    "batch-too-long": ("#troubleshooting", "lower BATCH_SIZE, or raise REQUEST_TIMEOUT_S"),
    "crash-loop": ("#imageservenoworkers", "`kubectl logs POD --previous`; OOMKilled: more memory"),
    "none-ready": ("#imageservenoworkers", "`kubectl describe pod`, and the log of its pods"),
}
_WARNING = {
    "redis-evicted": ("#imageserveredisevicts", "set noeviction; look who else uses this Redis"),
    "queue-larger-than-redis": ("#redis", "raise maxmemory, or lower QUEUE_BYTES_LIMIT"),
    "redis-no-aof": ("#redis", "set appendonly yes, appendfsync everysec"),
    "redis-no-maxmemory": ("#redis", "set noeviction, then maxmemory to half of what it may have"),
    "clock": ("#imageserve-doctor", "synchronise the clocks of both machines (NTP)"),
    "not-ready": ("#imageservenoworkers", "`kubectl describe pod`, and the log of those pods"),
    "restarts": ("#imageservenoworkers", "`kubectl logs POD --previous`; OOMKilled: more memory"),
    "pod-without-worker": ("#troubleshooting", "compare REDIS_URL and queue of web and model pods"),
    "queue-without-model": ("#troubleshooting", "compare IMAGE_QUEUE and MODELS_FILE everywhere"),
    "unfit-key": ("#api-keys", "mend the file: no web process can start with it"),
    "stand-in": ("#imageserve-doctor", "set MODEL to a real model, unless this is a test"),
    "bugs": ("#imageservebugs", "report the traceback that the web pods' log has"),
    "dead": ("#imageservedeadpictures", "`imageserve queue dead` lists them"),
    "worker-problem": ("#imageservemodelchangefailed", "`imageserve models use --status`"),
    "versions-differ": ("#imageservemodelchangefailed", "end the rollout: `models use --status`"),
    "releases-differ": (
        "docs/upgrading.md#old-and-new-pods-side-by-side",
        "upgrade all; look for image values of their own",
    ),
    "slow-worker": ("#imageservetimeouts", "look at its CPU limit and node; delete its pod"),
    "silent-workers": ("#imageservenoworkers", "look whether their pods were killed, or hang"),
    "queue-too-small": ("#troubleshooting", "raise QUEUE_LIMIT and QUEUE_BYTES_LIMIT"),
    "lease-too-long": ("#imageserveleaseslost", "LEASE_S below half of REQUEST_TIMEOUT_S"),
    "env-twice": ("#imageserve-doctor", "use the chart's value instead of extraEnv"),
}
_NOTE = {
    "idle-without-workers": ("#imageservenoworkers", "nothing, if the model may scale to zero"),
    "capacity-differs": ("#overload-of-the-web-tier", "more web pods, or more CPU for them"),
    "paused": ("#imageserveatmaxreplicas", "remove the annotation, if nobody needs it"),
    "changed-by-hand": ("#imageserve-doctor", "put it into the values before the next upgrade"),
}


ADVICE = {
    name: {
        "severity": severity,
        "page": f"docs/operations.md{place}" if place.startswith("#") else place,
        "do": do,
    }
    for severity, listed in (("critical", _CRITICAL), ("warning", _WARNING), ("note", _NOTE))
    for name, (place, do) in listed.items()
}
"""In order of importance. Critical: no answers, or pictures may be lost."""


def in_order(found: Iterable[Found]) -> list[Found]:
    """Return findings in order of importance, each once."""
    return sorted(dict.fromkeys(found), key=lambda each: [*ADVICE].index(each[0]))
