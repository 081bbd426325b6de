"""One key on two web servers: they accept what its quota allows, and others notice nothing."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.quotas import clients_of
from tests.redis_server import free_port
from tests.system.client import Client
from tests.system.conftest import MakeStack
from tests.system.samples import sample
from tests.system.stack import Stack

from imageserve.queue.quota import Quota

QUOTA = Quota("team-a", 20, 40)
STALL_S = 0.5
"""A busy machine may hold the first picture, and a few that are under way at the end, so long."""
LIMITED, OTHER = "the-key-of-team-a", "a-key-without-a-quota"
SECONDS = 5.0
GOOD = sample(1)


@pytest.fixture
def stack(make_stack: MakeStack, tmp_path: Path) -> Stack:
    keys = tmp_path / "keys"
    keys.write_text(
        f"{LIMITED} name={QUOTA.name} rate={QUOTA.rate:g} burst={QUOTA.burst}\n{OTHER}\n"
    )
    return make_stack(API_KEYS_FILE=str(keys), WEB_PROCESSES="1")


@pytest.fixture
def second(stack: Stack, tmp_path: Path) -> Iterator[Client]:
    """Another web server, as another pod."""
    port = free_port()
    program = stack.run("web-2", "web", WEB_PORT=str(port), RUN_DIR=str(tmp_path / "run-2"))
    client = Client(port)
    stack.wait_for(lambda: client.status_of("/readyz") == 200, "the second web server", 60)
    yield client
    program.end()


def test_two_web_servers_together_hold_a_key_to_its_quota(stack: Stack, second: Client) -> None:
    before_us = now_us(stack)
    with clients_of([stack.port, second.port], GOOD.data, LIMITED, 3) as clients:
        time.sleep(SECONDS)
        answers = (second.predict(GOOD.data, X_API_Key=LIMITED) for _ in range(100))
        refused = next(answer for answer in answers if answer.status != 200)
        others = [each.predict(GOOD.data, X_API_Key=OTHER) for each in (stack.http, second)]
    after_us, accepted = now_us(stack), stack.count("accepted") - len(others)

    allowed = QUOTA.burst + (after_us - before_us) / QUOTA.interval_us
    used_us = int(stack.db.get(stack.keys.quota(QUOTA.name)) or after_us) - after_us
    left = QUOTA.burst - used_us / QUOTA.interval_us
    assert accepted <= allowed
    # None is lost, but those of the time before the first one came.
    assert accepted + left == pytest.approx(allowed, abs=QUOTA.rate * STALL_S)
    assert {status for _, status in clients.answers} == {200, 429}
    assert all(clients.answers[port, 200] for port in (stack.port, second.port))

    assert (refused.status, refused.code, refused.retry_after_s) == (429, "rate_limited", 1)
    assert refused.message == "the key team-a may send 20 pictures a second, and 40 at once"
    assert [reply.labels[0] for reply in others] == 2 * [GOOD.label]
    assert stack.count("rejected") == 0, "no worker more is needed for what a quota refuses"
    assert stack.keys_without_expiry() == []


def now_us(stack: Stack) -> int:
    seconds, us = stack.db.time()
    return int(seconds) * 10**6 + int(us)
