"""One load test from its plan to its result."""

import asyncio
import os
import platform
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from urllib.parse import quote

from imageserve import __version__
from imageserve.loadtest import checks, verdict
from imageserve.loadtest.client import Client
from imageserve.loadtest.driver import Driver, Shooting
from imageserve.loadtest.message import Address, NoAnswer, Requests, TargetError
from imageserve.loadtest.pictures import Deck, Picture
from imageserve.loadtest.result import Load, PhaseLoad, QueueSample, Result, Target, Tool
from imageserve.loadtest.scenario import CLOSED, Scenario, stretches
from imageserve.loadtest.schedule import Shard, clients_of, instants
from imageserve.loadtest.stock import Stock, source_of
from imageserve.loadtest.tally import Record, Tally
from imageserve.loadtest.target import ModelFacts, TargetPages

_TICK_S = 0.5
_PAGE_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a load test needs to be told."""

    address: Address
    scenario: Scenario
    shard: Shard = field(default_factory=Shard)
    model: str | None = None
    """The model to ask; None: the target's first."""
    api_key: str = ""
    tls: ssl.SSLContext | None = None
    images: Path | None = None
    """The folder of real pictures."""
    learn: bool = False
    """Ask for every picture once before the load, and take the answer for the right one."""
    capacity_per_s: float | None = None
    """Pictures a second, for scenarios in shares of it; None: what the target says."""
    wait_s: float = 60.0
    most_open: int = 4096
    connect_timeout_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Watch:
    """What wants to know of the load while it runs."""

    on_begin: Callable[[Driver], None] = lambda _: None
    on_tick: Callable[[Tally, float], None] = lambda *_: None
    """Called twice a second with what was counted and the seconds since the load began."""
    on_record: Callable[[Record], None] = lambda _: None


class Session:
    """A target that is ready, and the pictures for it; each ``run`` is a load of its own."""

    def __init__(self, plan: Plan, requests: Requests, pages: TargetPages) -> None:
        self._plan = plan
        self._requests = requests
        self._pages = pages
        self.model = ModelFacts()
        self.scenario = plan.scenario
        """With rates, where the plan's has shares of a capacity."""
        self._good: Sequence[Picture] = ()
        self._broken: Sequence[Picture] = ()

    async def prepare(self, client: Client) -> None:
        """Wait for the target, and make what is to be sent.

        Raises:
            TargetError: it does not become ready, or does not tell what is needed.
            PicturesError: the pictures cannot be used.
        """
        await self._pages.wait_ready(self._plan.wait_s)
        self.model = await self._pages.model(self._plan.model)
        self.scenario = await self._at_capacity(self.scenario)
        stock = Stock(self.scenario, self.model, self._plan.images)
        learnt = partial(self._learnt, client) if self._plan.learn else None
        self._good, self._broken = await stock.good(learnt), stock.broken()

    async def run(self, scenario: Scenario, watch: Watch) -> Result:
        """Send a scenario's load, with rates instead of shares, and return what was found."""
        client = self._client(scenario.timeout_s)
        await client.resolve()
        tally = Tally(scenario.seconds)
        driver = self._driver(client, tally, scenario, watch)
        watch.on_begin(driver)
        started_at, cpu_s = datetime.now(UTC), time.process_time()
        queue: list[QueueSample] = []
        try:
            async with self._watching(driver, tally, queue, watch):
                await _drive(driver, scenario, self._plan.shard)
        finally:
            client.close()
        cpu_s = time.process_time() - cpu_s
        return self._result(scenario, driver, tally, client, _Facts(started_at, cpu_s, queue))

    # -- before ---------------------------------------------------------------------------------

    async def _at_capacity(self, scenario: Scenario) -> Scenario:
        if not scenario.needs_capacity:
            return scenario
        capacity_per_s = self._plan.capacity_per_s
        if capacity_per_s is None:
            sample = await self._pages.queue(self.model.name, 0.0)
            capacity_per_s = sample.capacity_per_s if sample else 0.0
        if capacity_per_s <= 0:
            raise TargetError(
                f"the scenario {scenario.name!r} needs the capacity, which the target does not "
                "tell: start a worker, or give --capacity PICTURES_PER_S"
            )
        return scenario.at_capacity(capacity_per_s)

    async def _learnt(self, client: Client, picture: Picture) -> Picture:
        try:
            answer = await client.ask(self._requests.predict([picture.data], "lt-learn"))
        except NoAnswer as error:
            raise TargetError(f"{picture.name}: {error}") from error
        learnt = checks.learnt(picture, answer)
        if learnt is None:
            raise TargetError(f"{picture.name}: nothing to learn from status {answer.status}")
        return learnt

    # -- during ---------------------------------------------------------------------------------

    def _client(self, timeout_s: float) -> Client:
        plan = self._plan
        return Client(
            plan.address,
            connect_timeout_s=plan.connect_timeout_s,
            timeout_s=timeout_s,
            tls=plan.tls,
        )

    def _driver(self, client: Client, tally: Tally, scenario: Scenario, watch: Watch) -> Driver:
        shard, mix = self._plan.shard, scenario.pictures
        deck = Deck(
            self._good,
            self._broken,
            broken_share=mix.broken_share,
            per_request=mix.per_request,
            seed=f"{scenario.seed}/{shard.index}",
        )
        run_id = f"lt-{os.urandom(3).hex()}-{shard.index}"
        shooting = Shooting(run_id, mix.multipart, self._plan.most_open)
        return Driver(client, self._requests, deck, tally, shooting, watch.on_record)

    @asynccontextmanager
    async def _watching(
        self, driver: Driver, tally: Tally, queue: list[QueueSample], watch: Watch
    ) -> AsyncIterator[None]:
        """Tick, and look at the queue, until the load has ended."""
        tasks = [asyncio.create_task(_tick(driver, tally, watch))]
        if self._plan.shard.index == 0:  # One pod that asks is enough.
            tasks.append(asyncio.create_task(self._sample(driver, tally.interval_s, queue)))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _sample(self, driver: Driver, every_s: float, queue: list[QueueSample]) -> None:
        while True:
            sample = await self._pages.queue(self.model.name, driver.elapsed_s)
            if sample is not None:
                queue.append(sample)
            await asyncio.sleep(every_s)

    # -- after ----------------------------------------------------------------------------------

    def _result(
        self, scenario: Scenario, driver: Driver, tally: Tally, client: Client, facts: "_Facts"
    ) -> Result:
        shard = self._plan.shard
        planned = None if driver.stopped else _planned(scenario, shard)
        seconds = tally.last_done_s if driver.stopped else max(scenario.seconds, tally.last_done_s)
        result = Result(
            target=Target(self._plan.address.url, self.model.name, self.model.input_size),
            load=_load(scenario, shard, source_of(scenario, self.model), len(self._good)),
            objective=scenario.objective.terms(),
            started_at=facts.started_at.isoformat(timespec="milliseconds"),
            seconds=seconds,
            counts=tally.counts(planned, client.strays),
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


@dataclass(frozen=True, slots=True)
class _Facts:
    started_at: datetime
    cpu_s: float
    queue: Sequence[QueueSample]


@asynccontextmanager
async def session(plan: Plan) -> AsyncIterator[Session]:
    """Prepare a target and the pictures for it; raises what ``Session.prepare`` raises."""
    query = f"?model={quote(plan.model, safe='')}" if plan.model else ""
    requests = Requests(plan.address, plan.api_key, query)
    client = Client(
        plan.address,
        connect_timeout_s=plan.connect_timeout_s,
        timeout_s=max(_PAGE_TIMEOUT_S, plan.scenario.timeout_s if plan.learn else 0.0),
        tls=plan.tls,
    )
    await client.resolve()
    found = Session(plan, requests, TargetPages(client, requests))
    try:
        await found.prepare(client)
        yield found
    finally:
        client.close()


async def _drive(driver: Driver, scenario: Scenario, shard: Shard) -> None:
    if scenario.loop == CLOSED:
        phases = [(p.seconds, clients_of(p.clients or 0, shard)) for p in scenario.phases]
        await driver.closed_loop(phases)
    else:
        await driver.open_loop(
            instants(stretches(scenario), scenario.arrivals, scenario.seed, shard)
        )


async def _tick(driver: Driver, tally: Tally, watch: Watch) -> None:
    while True:
        await asyncio.sleep(_TICK_S)
        watch.on_tick(tally, driver.elapsed_s)


def _planned(scenario: Scenario, shard: Shard) -> int | None:
    """Count the schedule once more, apart from what was sent; None in a closed loop."""
    if scenario.loop == CLOSED:
        return None
    times = instants(stretches(scenario), scenario.arrivals, scenario.seed, shard)
    return sum(1 for _ in times)


def _load(scenario: Scenario, shard: Shard, source: str, distinct: int) -> Load:
    return Load(
        scenario=scenario.name,
        loop=scenario.loop,
        arrivals="" if scenario.loop == CLOSED else scenario.arrivals,
        phases=tuple(
            PhaseLoad(each.name, each.seconds, each.clients, each.rate_per_s, each.to_rate_per_s)
            for each in scenario.phases
        ),
        seed=scenario.seed,
        timeout_s=scenario.timeout_s,
        pictures=source,
        distinct=distinct,
        per_request=scenario.pictures.per_request,
        broken_share=scenario.pictures.broken_share,
        shard=shard.index,
        shards=shard.of,
    )


def _tool(cpu_s: float) -> Tool:
    return Tool(
        version=__version__,
        python=platform.python_version(),
        host=platform.node(),
        cores=os.cpu_count() or 0,
        cpu_s=cpu_s,
    )
