"""What imageserve has warned of in a test."""

import logging

import pytest


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings. Other tests may have had more logged, and libraries log as well."""
    return [
        each.getMessage()
        for each in caplog.records
        if each.name.startswith("imageserve") and each.levelno >= logging.WARNING
    ]
