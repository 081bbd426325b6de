"""How a process stops. SIGTERM and SIGINT are told to a thread, not to a signal handler.

A handler of Python's runs in the main thread, between any two of its instructions. If it takes a
lock that this thread holds just then, the process hangs for ever: ``Event.set()`` does, while the
main thread is about to wait for that event. So here the handler does nothing, and a thread acts.
It does so at once, even while the main thread is in a long call of a C library.
"""

import logging
import os
import signal
import threading
from collections.abc import Callable
from typing import NoReturn

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def on_stop_signal(
    stop: Callable[[], None], in_main_thread: Callable[[], None] = lambda: None
) -> None:
    """Have a thread call ``stop`` at each SIGTERM and SIGINT from now on.

    ``in_main_thread`` is what the handler does after that: it may raise, and must take no lock.
    Call this in the main thread, once per process.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    # Python's C code writes the number of each signal there.
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: in_main_thread())
    threading.Thread(target=_run, args=(reader, stop), name="signals", daemon=True).start()


def _run(reader: int, stop: Callable[[], None]) -> None:
    while True:
        if any(number in STOP_SIGNALS for number in os.read(reader, 64)):
            stop()


def end_process() -> NoReturn:
    """End this process with status 0 now; for one whose threads may be in the midst of a call.

    Python's own end would tear down what they use: a thread that comes back from a system call then
    aborts the process, and a model that is being loaded may crash.
    """
    logging.shutdown()
    os._exit(0)
