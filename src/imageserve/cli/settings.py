"""``imageserve settings``: the table of all settings."""

import argparse
from collections.abc import Mapping, Sequence

from imageserve.config.settings import table


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    del environ
    parser = argparse.ArgumentParser(
        prog="imageserve settings",
        description="Print every setting as a Markdown table: variable, default, meaning.",
    )
    parser.parse_args(arguments)
    print(table())
    return 0
