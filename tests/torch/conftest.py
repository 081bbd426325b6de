"""Keras settles on its backend when it is first imported, which importing a test does."""

import os

os.environ["KERAS_BACKEND"] = "torch"
