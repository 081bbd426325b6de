"""The annotations by which people stop the autoscaler from touching a Deployment. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from imageserve.autoscaler.cluster import PAUSED, PAUSED_REPLICAS


@dataclass(frozen=True, slots=True)
class Pause:
    """A Deployment that is not to be sized."""

    replicas: int | None
    """So many are asked for instead; None: as many as there are."""
    words: str
    """What asks for it, for people."""


def pause_of(annotations: Mapping[str, str]) -> Pause | None:
    """Return how the annotations pause a Deployment; None where they do not.

    A value that makes no sense pauses as well: who wrote it wanted something left alone.
    """
    count = annotations.get(PAUSED_REPLICAS)
    if count is not None and count.strip().isdecimal():
        return Pause(int(count), f"{PAUSED_REPLICAS}: {count}")
    if count is not None:
        return Pause(None, f"{PAUSED_REPLICAS}: {count!r} is no number")
    flag = annotations.get(PAUSED)
    if flag is None or flag.strip().lower() == "false":
        return None
    return Pause(None, f"{PAUSED}: {flag}")
