"""How Redis is reached: directly, behind Sentinel, on a cluster."""

import sys

_UNUSED = "opentelemetry.metrics"
"""redis-py imports it, with 60 modules more, for metrics that nobody here asks it for."""

if "redis" not in sys.modules and _UNUSED not in sys.modules:
    sys.modules[_UNUSED] = None  # type: ignore[assignment]  # As if it were not installed.
    try:
        import redis  # noqa: F401
    finally:
        del sys.modules[_UNUSED]
