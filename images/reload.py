"""Runs a command, and again whenever the code in the image has changed: for ``skaffold dev``.

A restart, not a reload: every module of every process is the new one, in the web server's parent as
well as in a worker that has imported TensorFlow. Signals go to the command; it ends with it.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

APP = Path(os.environ.get("RELOAD_DIR", "/opt/imageserve/app/imageserve"))
CHECK_EVERY_S = 0.5

State = dict[str, tuple[int, int]]


class Stopped(Exception):
    """SIGTERM or SIGINT came."""


def state() -> State:
    """Return size and time of change of every file of the code."""
    found: State = {}
    for folder, _, names in os.walk(APP):
        for name in names:
            path = os.path.join(folder, name)
            try:
                facts = os.stat(path)
            except FileNotFoundError:
                continue
            found[path] = (facts.st_size, facts.st_mtime_ns)
    return found


def settled(before: State) -> State:
    """Wait until two checks in a row see no change: a sync writes many files."""
    while True:
        time.sleep(CHECK_EVERY_S)
        now = state()
        if now == before:
            return now
        before = now


def say(text: str) -> None:
    sys.stderr.write(f"reload: {text}\n")


def stop(*_: object) -> None:
    raise Stopped


def main(command: list[str]) -> int:
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    known = state()
    child = subprocess.Popen(command)
    ended = False
    try:
        while True:
            time.sleep(CHECK_EVERY_S)
            if child.poll() is not None and not ended:
                ended = True
                say(f"the command ended with {child.returncode}; it starts again after a change")
            if state() == known:
                continue
            known = settled(known)
            say("the code has changed: starting anew")
            child.terminate()
            child.wait()
            child = subprocess.Popen(command)
            ended = False
    except Stopped:
        child.terminate()
        return max(0, child.wait())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
