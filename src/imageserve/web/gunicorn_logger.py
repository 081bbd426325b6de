"""Makes gunicorn log as everything else does: one format, one stream."""

import os
from typing import Any

from gunicorn.glogging import Logger as GunicornLogger

from imageserve.config.settings import Settings
from imageserve.logger import setup_logging


class Logger(GunicornLogger):  # type: ignore[misc]
    """Hands gunicorn's lines to the root logger."""

    def setup(self, cfg: Any) -> None:
        del cfg
        settings = Settings.from_env(os.environ)
        setup_logging(settings.log_level, settings.log_format)
        self.error_log.handlers.clear()
        self.error_log.propagate = True
