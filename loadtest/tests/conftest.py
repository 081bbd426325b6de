"""What the tests of the load test share: the profile of hypothesis, and a redis-server."""

import hypothesis
import pytest
from tests.redis_server import executables

# A slow machine is not a failure.
hypothesis.settings.register_profile("unhurried", hypothesis.settings(), deadline=None)
hypothesis.settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def redis_program() -> str:
    return executables()[0].found()
