"""Measures, inside a web process, how long each greenlet holds the event loop.

Python imports this at its start where this folder is on its path, which only the fuzz arranges.
From its fork on each web process writes a line for every stretch of processor time between two
switches of greenlets that is longer than ``FUZZ_STRETCH_MS``: how long, and whose connection.
"""

import json
import os
import time
import traceback
from typing import Any

_FOLDER = os.environ.get("FUZZ_FOLDER", "")
_LEAST_S = float(os.environ.get("FUZZ_STRETCH_MS", "25")) / 1000


class _Stretches:
    """The trace function of one thread."""

    def __init__(self) -> None:
        self._began = time.thread_time()
        self._ports: dict[int, int] = {}
        """The client's port by the id of a greenlet."""

    def __call__(self, event: str, greenlets: tuple[Any, Any]) -> None:
        used = time.thread_time() - self._began
        origin, target = greenlets
        if used > _LEAST_S:
            self._write(used, origin)
        if getattr(origin, "dead", False):
            self._ports.pop(id(origin), None)
        elif id(target) not in self._ports and (port := _port(getattr(target, "args", ()))):
            self._ports[id(target)] = port
        self._began = time.thread_time()

    @staticmethod
    def _frames(greenlet: Any) -> "list[traceback.FrameSummary]":
        frame = getattr(greenlet, "gr_frame", None)
        return traceback.extract_stack(frame, limit=4) if frame else []

    def _write(self, used: float, origin: Any) -> None:
        frames = self._frames(origin)
        places = [f"{os.path.basename(each.filename)}:{each.lineno} {each.name}" for each in frames]
        line = {
            "ended": time.time(),
            "ms": round(1000 * used, 1),
            "port": self._ports.get(id(origin), 0),
            "place": " > ".join(places) or f"the end of a {type(origin).__name__}",
        }
        with open(os.path.join(_FOLDER, f"stretches-{os.getpid()}.jsonl"), "a") as file:
            file.write(json.dumps(line) + "\n")


def _port(arguments: Any) -> int:
    """Return the port in a client's address, somewhere in the arguments of a greenlet."""
    match arguments:
        case (str(), int(port), *_):
            return port
        case tuple():
            return max(map(_port, arguments), default=0)
    return 0


def _install() -> None:
    import greenlet

    greenlet.settrace(_Stretches())


if _FOLDER:
    os.register_at_fork(after_in_child=_install)
