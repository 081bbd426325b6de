"""Runs one load test, from its plan to its result."""

import asyncio
import os
import platform
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from urllib.parse import quote

from imageserve import __version__
from imageserve_loadtest import checks, verdict
from imageserve_loadtest.client import Address, Client, NoAnswer, TargetError
from imageserve_loadtest.driver import Driver, RequestOptions
from imageserve_loadtest.pictures import ModelFacts, Picture, PictureSampler, PictureSource
from imageserve_loadtest.result import (
    GIVEN,
    Load,
    PhaseLoad,
    QueueSnapshot,
    Result,
    Target,
    Tool,
)
from imageserve_loadtest.scenario import CLOSED, Scenario
from imageserve_loadtest.schedule import Shard, clients_of, instants
from imageserve_loadtest.tally import Record, Tally
from imageserve_loadtest.target import Requests, TargetPages

_TICK_S = 0.5
_PAGE_TIMEOUT_S = 5.0
_WARM_UP_CLIENTS, _WARM_UP_PICTURES = 8, 4
_WEB_TELLS_TRIES, _WEB_TELLS_S = 4, 3.0
"""How often, and after which pauses, web processes are asked for what they have just measured."""

Capacity = tuple[float, str]
"""Pictures a second, 0 where it is unknown, and whose capacity it is."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that defines a load test."""

    address: Address
    scenario: Scenario
    shard: Shard = field(default_factory=Shard)
    model: str | None = None
    """Name of the model; None: the target's first one."""
    api_key: str = ""
    priority: str = ""
    tls: ssl.SSLContext | None = None
    images: Path | None = None
    """The folder of real pictures."""
    learn: bool = False
    """Before the load, send every picture once and expect that answer from then on."""
    capacity_per_s: float | None = None
    """Pictures a second, for scenarios with shares of it; None: ask the target."""
    wait_s: float = 60.0
    most_open: int = 4096
    connect_timeout_s: float = 5.0


@dataclass(frozen=True, slots=True)
class ProgressCallbacks:
    """Functions that are called while the load runs."""

    on_begin: Callable[[Driver], None] = lambda _: None
    on_tick: Callable[[Tally, float], None] = lambda *_: None
    """Twice a second, with the counts and the seconds since the load began."""
    on_record: Callable[[Record], None] = lambda _: None


class Session:
    """A target that is ready, and the pictures for it. Each ``run`` is a load of its own."""

    def __init__(self, plan: Plan, requests: Requests, pages: TargetPages) -> None:
        self._plan = plan
        self._requests = requests
        self._pages = pages
        self.model = ModelFacts()
        self.scenario = plan.scenario
        """The plan's scenario, with rates in place of shares of a capacity."""
        self._capacity: Capacity | None = None
        self._source = ""
        self._good: Sequence[Picture] = ()
        self._broken: Sequence[Picture] = ()

    async def prepare(self, client: Client, tell: Callable[[str], None]) -> None:
        """Wait for the target, which ``tell`` is told, and get the pictures.

        Raises:
            TargetError: it does not become ready, or does not say what is needed.
            PicturesError: the pictures cannot be used.
        """
        await self._pages.wait_ready(self._plan.wait_s, tell)
        self.model = await self._pages.model(self._plan.model)
        source = PictureSource(self.scenario, self.model, self._plan.images)
        learn = partial(self._learn, client) if self._plan.learn else None
        self._source = source.kind
        self._good, self._broken = await source.good(learn), source.broken()
        self.scenario = await self._at_capacity(client, self.scenario)

    async def run(self, scenario: Scenario, callbacks: ProgressCallbacks) -> Result:
        """Send the load of a scenario that has rates, and return the result."""
        client = self._client(scenario.timeout_s)
        await client.resolve()
        tally = Tally(scenario.seconds)
        driver = self._driver(client, tally, scenario, callbacks)
        callbacks.on_begin(driver)
        started_at, cpu_s = datetime.now(UTC), time.process_time()
        queue: list[QueueSnapshot] = []
        try:
            async with self._observed(driver, tally, queue, callbacks):
                await _send(driver, scenario, self._plan.shard)
        finally:
            client.close()
        cpu_s = time.process_time() - cpu_s
        facts = _RunFacts(started_at, cpu_s, queue, client.unsolicited)
        return self._result(scenario, driver, tally, facts)

    # -- before the load ------------------------------------------------------------------------

    async def _at_capacity(self, client: Client, scenario: Scenario) -> Scenario:
        if not scenario.needs_capacity:
            return scenario
        given_per_s = self._plan.capacity_per_s
        self._capacity = (given_per_s, GIVEN) if given_per_s else await self._asked(client)
        if self._capacity[0] <= 0:
            raise TargetError(
                f"the scenario {scenario.name!r} needs the capacity, but the target does not "
                "tell it: start a worker, or give --capacity PICTURES_PER_S"
            )
        return scenario.at_capacity(self._capacity[0])

    async def _asked(self, client: Client) -> "Capacity":
        """Ask the target for its capacity, the smaller one of its model and of its web processes.

        Web processes know theirs once they have decoded something: they get some pictures first.
        """
        found = await self._pages.queue(self.model.name, 0.0) or QueueSnapshot(0.0, 0, 0)
        if found.capacity_per_s and found.web_capacity_per_s == 0:
            await asyncio.gather(*(self._warm_up(client, i) for i in range(_WARM_UP_CLIENTS)))
            for _ in range(_WEB_TELLS_TRIES):
                await asyncio.sleep(_WEB_TELLS_S)
                found = await self._pages.queue(self.model.name, 0.0) or found
                if found.web_capacity_per_s:
                    break
        return found.smaller_capacity

    async def _warm_up(self, client: Client, i: int) -> None:
        for picture in self._good[i : i + _WARM_UP_PICTURES]:
            with suppress(NoAnswer):
                await client.send(self._requests.predict([picture.data], "lt-warm-up"))

    async def _learn(self, client: Client, picture: Picture) -> Picture:
        try:
            answer = await client.send(self._requests.predict([picture.data], "lt-learn"))
        except NoAnswer as error:
            raise TargetError(f"{picture.name}: {error}") from error
        learnt = checks.learnt(picture, answer)
        if learnt is None:
            raise TargetError(f"{picture.name}: cannot learn from an answer {answer.status}")
        return learnt

    # -- during the load ------------------------------------------------------------------------

    def _client(self, timeout_s: float) -> Client:
        plan = self._plan
        return Client(
            plan.address,
            connect_timeout_s=plan.connect_timeout_s,
            timeout_s=timeout_s,
            tls=plan.tls,
        )

    def _driver(
        self, client: Client, tally: Tally, scenario: Scenario, callbacks: ProgressCallbacks
    ) -> Driver:
        shard, mix = self._plan.shard, scenario.pictures
        sampler = PictureSampler(
            self._good,
            self._broken,
            broken_share=mix.broken_share,
            per_request=mix.per_request,
            seed=f"{scenario.seed}/{shard.index}",
        )
        run_id = f"lt-{os.urandom(3).hex()}-{shard.index}"
        options = RequestOptions(run_id, mix.multipart, self._plan.most_open)
        return Driver(client, self._requests, sampler, tally, options, callbacks.on_record)

    @asynccontextmanager
    async def _observed(
        self,
        driver: Driver,
        tally: Tally,
        queue: list[QueueSnapshot],
        callbacks: ProgressCallbacks,
    ) -> AsyncIterator[None]:
        """Call ``on_tick`` and read the queue until the block ends."""
        tasks = [asyncio.create_task(_tick(driver, tally, callbacks))]
        if self._plan.shard.index == 0:  # It is enough if one pod asks.
            tasks.append(asyncio.create_task(self._read_queue(driver, tally.interval_s, queue)))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read_queue(self, driver: Driver, every_s: float, queue: list[QueueSnapshot]) -> None:
        while True:
            snapshot = await self._pages.queue(self.model.name, driver.elapsed_s)
            if snapshot is not None:
                queue.append(snapshot)
            await asyncio.sleep(every_s)

    # -- after the load -------------------------------------------------------------------------

    def _result(
        self, scenario: Scenario, driver: Driver, tally: Tally, facts: "_RunFacts"
    ) -> Result:
        shard = self._plan.shard
        planned = None if driver.stopped else _planned(scenario, shard)
        seconds = tally.last_done_s if driver.stopped else max(scenario.seconds, tally.last_done_s)
        result = Result(
            target=Target(self._plan.address.url, self.model.name, self.model.input_size),
            load=self._load(scenario),
            objective=scenario.objective.terms(),
            started_at=facts.started_at.isoformat(timespec="milliseconds"),
            seconds=seconds,
            counts=tally.counts(planned, facts.unsolicited),
            latency=tally.latency,
            stages=tally.stages,
            lateness=tally.lateness,
            timeline=tally.timeline(),
            verdict=verdict.NOT_JUDGED,
            sending_seconds=tally.last_sent_s,
            examples=tally.examples,
            goodput_within_ms=scenario.objective.within_ms,
            queue=tuple(facts.queue),
            interrupted=driver.stopped,
            tool=_tool(facts.cpu_s),
        )
        return verdict.judged(result, scenario.objective)

    def _load(self, scenario: Scenario) -> Load:
        shard = self._plan.shard
        capacity_per_s, capacity_of = self._capacity or (None, "")
        return Load(
            scenario=scenario.name,
            loop=scenario.loop,
            arrivals="" if scenario.loop == CLOSED else scenario.arrivals,
            phases=tuple(
                PhaseLoad(p.name, p.seconds, p.clients, p.rate_per_s, p.to_rate_per_s)
                for p in scenario.phases
            ),
            seed=scenario.seed,
            timeout_s=scenario.timeout_s,
            pictures=self._source,
            distinct=len(self._good),
            per_request=scenario.pictures.per_request,
            broken_share=scenario.pictures.broken_share,
            shard=shard.index,
            shards=shard.of,
            capacity_per_s=capacity_per_s,
            capacity_of=capacity_of,
        )


@dataclass(frozen=True, slots=True)
class _RunFacts:
    """What is known about a run besides its requests."""

    started_at: datetime
    cpu_s: float
    queue: Sequence[QueueSnapshot]
    unsolicited: int


@asynccontextmanager
async def session(plan: Plan, tell: Callable[[str], None]) -> AsyncIterator[Session]:
    """Prepare a target and its pictures. Raises what ``Session.prepare`` raises."""
    query = f"?model={quote(plan.model, safe='')}" if plan.model else ""
    requests = Requests(plan.address, plan.api_key, query, plan.priority)
    client = Client(
        plan.address,
        connect_timeout_s=plan.connect_timeout_s,
        timeout_s=max(_PAGE_TIMEOUT_S, plan.scenario.timeout_s if plan.learn else 0.0),
        tls=plan.tls,
    )
    await client.resolve()
    prepared = Session(plan, requests, TargetPages(client, requests))
    try:
        await prepared.prepare(client, tell)
        yield prepared
    finally:
        client.close()


async def _send(driver: Driver, scenario: Scenario, shard: Shard) -> None:
    if scenario.loop == CLOSED:
        phases = [(p.seconds, clients_of(p.clients or 0, shard)) for p in scenario.phases]
        await driver.closed_loop(phases)
    else:
        await driver.open_loop(_instants(scenario, shard))


def _instants(scenario: Scenario, shard: Shard) -> Iterator[float]:
    return instants(scenario.segments(), scenario.arrivals, scenario.seed, shard)


async def _tick(driver: Driver, tally: Tally, callbacks: ProgressCallbacks) -> None:
    while True:
        await asyncio.sleep(_TICK_S)
        callbacks.on_tick(tally, driver.elapsed_s)


def _planned(scenario: Scenario, shard: Shard) -> int | None:
    """Count the schedule again, independently of what was sent; None in a closed loop."""
    if scenario.loop == CLOSED:
        return None
    return sum(1 for _ in _instants(scenario, shard))


def _tool(cpu_s: float) -> Tool:
    return Tool(
        version=__version__,
        python=platform.python_version(),
        host=platform.node(),
        cores=os.cpu_count() or 0,
        cpu_s=cpu_s,
    )
