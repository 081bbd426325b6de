"""A pytest plugin: tests run in the usual order, those of units first, each file from its top.

mutmut names the tests of a function in no order, and a few see what others have left behind.
"""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_place)


def _place(item: pytest.Item) -> tuple[bool, str, int]:
    return "unit" not in item.path.parts, str(item.path), item.location[1] or 0
