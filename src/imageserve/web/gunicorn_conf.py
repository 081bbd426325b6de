"""The gunicorn configuration of the web server, read from the settings.

``imageserve web`` starts gunicorn with it. The lower-case names are gunicorn's.
"""

import os
from typing import Any

from imageserve import metrics
from imageserve.config.settings import Settings
from imageserve.web.drain import create_flag_file
from imageserve.web.run_dir import run_dir

_settings = Settings.from_env(os.environ)

_host = f"[{_settings.web_host}]" if ":" in _settings.web_host else _settings.web_host
bind = f"{_host}:{_settings.web_port}"
workers = _settings.web_processes
worker_class = "imageserve.web.gunicorn_worker.Worker"
# More than slots: probes, uploads and refusals need connections too.
worker_connections = max(2048, 4 * _settings.web_slots)
backlog = 2048
keepalive = _settings.keepalive_s
# A worker process that does not even tick for this long is killed and replaced.
timeout = 60
# Requests in hand at SIGTERM are answered within this.
graceful_timeout = round(_settings.request_timeout_s + _settings.upload_timeout_s + 5)
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - gunicorn's
control_socket_disable = True
accesslog = None
logger_class = "imageserve.web.gunicorn_logger.Logger"


def on_starting(server: Any) -> None:
    del server
    create_flag_file(run_dir(_settings))
    # This parent serves nothing: its gauges, all zero, must not count.
    metrics.process_died(os.getpid())


def post_fork(server: Any, worker: Any) -> None:
    del server
    type(worker).upload_timeout_s = _settings.upload_timeout_s


def child_exit(server: Any, worker: Any) -> None:
    del server
    metrics.process_died(worker.pid)
