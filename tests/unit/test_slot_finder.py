"""Where the owner of a slot is asked for; tests/component does so with real clusters."""

import pytest
import redis

from imageserve.queue.redis.address import Node
from imageserve.queue.redis.cluster import SlotFinder


class ForgottenMeanwhile(SlotFinder):
    """Another thread's connection fails right after the node of the last one was read."""

    held: Node | None = None

    @property
    def _connected_to(self) -> Node | None:
        node, self.held = self.held, None
        return node

    @_connected_to.setter
    def _connected_to(self, node: Node | None) -> None:
        self.held = node


def test_a_node_that_another_thread_forgets_is_asked_or_left_out() -> None:
    asked: list[Node] = []

    def away(node: Node) -> redis.Redis:
        asked.append(node)
        raise redis.ConnectionError("away")

    find = ForgottenMeanwhile("queue", [("seed", 1)], away)
    find.note_connected(("last", 2))

    with pytest.raises(redis.ConnectionError, match="away"):
        find()

    assert asked == [("last", 2), ("seed", 1)]
