"""Fixtures of the end-to-end tests: whole stacks of real processes."""

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.redis_server import executables
from tests.system.stack import Stack, running, stacks

MakeStack = Callable[..., Stack]


@pytest.fixture(scope="session")
def redis_program() -> str:
    return executables()[0].found()


@pytest.fixture
def make_stack(tmp_path: Path, redis_program: str) -> Iterator[MakeStack]:
    """Start stacks that only this test uses and may break; settings are keywords."""
    with ExitStack() as started:

        def make(*, workers: int = 1, redis_args: tuple[str, ...] = (), **env: str) -> Stack:
            directory = tmp_path / f"stack-{len(stacks)}"
            return started.enter_context(
                running(
                    directory,
                    redis_program,
                    workers=workers,
                    redis_args=redis_args,
                    place=None,
                    **env,
                )
            )

        yield make


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the logs of every running process when a test fails."""
    del item, call
    report = yield
    if report.failed:
        for stack in stacks:
            report.sections.extend(stack.logs())
    return report
