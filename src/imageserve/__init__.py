"""imageserve: image classification on your own cluster. This module only names the version."""

__version__ = "0.2.0"
