"""Lets ``python -m imageserve`` do what ``imageserve`` does."""

import sys

from imageserve.cli import main

if __name__ == "__main__":
    sys.exit(main())
