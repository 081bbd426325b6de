"""A pytest plugin: tests run in the order in which they are written.

mutmut names the tests of a function in no order, and a few see what others have left behind.
"""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: (item.path, item.location[1] or 0))
