"""The WSGI factory: puts one web process together.

gunicorn imports it in each web process, after the fork: a Redis client must never cross a fork.
"""

from collections.abc import Callable
from typing import Any

from imageserve.config.settings import Settings
from imageserve.tracing import Tracer
from imageserve.web.app import create_app
from imageserve.web.assembly import assemble
from imageserve.web.classify import WebConfig
from imageserve.web.lifecycle import DrainFlag, Lifecycle, run_dir
from imageserve.web.line import DecodeLine
from imageserve.web.page import NO_PAGE, page_files


def create_application(
    settings: Settings, lifecycle: Lifecycle, line: DecodeLine, tracer: Tracer
) -> Callable[..., Any]:
    """Build the application of one web process, and start its threads."""
    lifecycle.drain_flag = DrainFlag(run_dir(settings))
    parts = assemble(settings, lifecycle, line, settings.web_processes, tracer)
    page = page_files(settings) if settings.web_page else NO_PAGE
    config = WebConfig.from_settings(settings)
    return create_app(parts.predictor, parts.monitor, config, lifecycle, page)
