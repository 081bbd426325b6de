"""Tries for some seconds to open a TCP connection, and prints the result: open or closed.

It ends early when the result is the third argument. It runs in a pod.
"""

import socket
import sys
import time


def attempt(host: str, port: int) -> str:
    try:
        with socket.create_connection((host, port), timeout=3):
            return "open"
    except socket.gaierror as error:
        return f"unknown ({error})"
    except OSError as error:
        return f"closed ({error})"


def main() -> None:
    host, port, expected, seconds = sys.argv[1:]
    end = time.monotonic() + float(seconds)
    found = attempt(host, int(port))
    while not found.startswith(expected) and time.monotonic() < end:
        time.sleep(1)
        found = attempt(host, int(port))
    sys.stdout.write(f"{found}\n")


main()
