"""One budget of GPUs: who gets pods, who gives them, and what holds whatever is claimed."""

from dataclasses import dataclass, field, replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageserve.autoscaler.budget import TURN_S, Budget, Claim, Claims, allot, claim_of
from imageserve.autoscaler.decision import Action, Cause, Decision, Observation
from imageserve.autoscaler.load import Arrivals, demand
from imageserve.autoscaler.policy import Policy
from imageserve.autoscaler.sizing import State, size

POLICY = Policy(
    min_replicas=0, max_replicas=20, target_utilization=0.5, scale_down_max_fraction=0.25
)
TABLE = {32: 1000.0}
"""32 pictures a second."""


def claim(rate: float = 0.0, *, waiting: int = 0, **fields: object) -> Claim:
    """Return the claim of a model whose pods do 32 a second, half of it for reserve."""
    load = demand(POLICY, rate, waiting, 32.0, 60.0)
    own = {"gpus": 1, "has": 0, "wants": load.pods, "asks": load.pods, "works": rate > 0}
    return Claim(**{**own, "load": load, **fields})  # type: ignore[arg-type]


# -- who gets what --------------------------------------------------------------------------------


def test_each_gets_what_it_wants_where_there_is_enough() -> None:
    claims = {"a": claim(64), "b": claim(16), "idle": claim(has=3, wants=3)}
    assert allot(9, claims, 0.0) == {"a": 4, "b": 2, "idle": 3}


def test_what_serves_goes_before_what_is_reserve() -> None:
    # Both want eight: of 128 a second four pods do all, of 32 the first one does, if nothing comes.
    claims = {"busy": claim(128), "calm": claim(32, wants=8)}
    assert allot(6, claims, 0.0) == {"busy": 5, "calm": 1}


def test_pods_that_are_only_kept_for_a_while_go_first() -> None:
    claims = {"late": claim(32, waiting=5000, has=1), "idle": claim(has=4, wants=4)}
    assert allot(5, claims, 0.0)["idle"] == 5 - allot(5, claims, 0.0)["late"] < 4
    assert allot(5, {**claims, "idle": claim(has=4, wants=4, least=2)}, 0.0)["idle"] == 2


def test_a_pod_of_two_gpus_must_be_worth_two() -> None:
    claims = {"small": claim(300), "large": claim(300, gpus=2)}
    assert allot(6, claims, 0.0) == {"small": 4, "large": 1}
    claims["large"] = replace(claims["large"], weight=2.5)
    assert allot(6, claims, 0.0) == {"small": 2, "large": 2}


def test_a_pod_that_serves_moves_only_for_clearly_more() -> None:
    claims = {"here": claim(300, has=4), "there": claim(300, weight=1.2)}
    assert allot(5, claims, 0.0) == {"here": 4, "there": 1}
    claims["there"] = replace(claims["there"], weight=1.3)
    assert allot(5, claims, 0.0) == {"here": 1, "there": 4}


def test_what_cannot_be_taken_stays_and_is_promised_to_nobody_else() -> None:
    # Six of its eight pods work: one more GPU is not enough for the large pod, and nobody gets it.
    claims = {
        "busy": claim(40, has=7, wants=7, keeps=6),
        "large": claim(300, gpus=4, weight=9, has=0),
        "third": claim(40, has=1, wants=1),
    }
    assert allot(8, claims, 0.0) == {"busy": 6, "large": 1, "third": 1}


def test_the_load_ranks_before_what_is_kept_for_a_while() -> None:
    # Its measured speed is wrong: by that, one more pod would do nothing.
    late = claim(32, has=2, wants=3, asks=3)
    assert allot(4, {"idle": claim(has=2, wants=2), "late": late}, 0.0) == {"idle": 1, "late": 3}


def test_fewer_gpus_than_models_are_taken_in_turns() -> None:
    old, new = (claim(10, has=1, since_s=s) for s in (0.0, 100.0))
    first, last = (claim(10, since_s=s) for s in (50.0, 60.0))
    claims = {"new": new, "last": last, "first": first, "old": old}

    assert allot(2, claims, TURN_S - 1) == {"new": 1, "last": 0, "first": 0, "old": 1}
    assert allot(2, claims, TURN_S + 1) == {"new": 1, "last": 0, "first": 1, "old": 0}
    assert allot(2, claims, TURN_S + 101) == {"new": 0, "last": 1, "first": 1, "old": 0}


def test_nobody_passes_the_head_of_the_line() -> None:
    large = claim(5, gpus=2, since_s=0.0)
    claims = {"small": claim(5, since_s=1.0), "serves": claim(5, has=1, since_s=0.0)}
    assert allot(2, {**claims, "large": large}, 10.0) == {"small": 0, "serves": 1, "large": 0}
    assert allot(2, {**claims, "large": large}, TURN_S)["large"] == 1


# -- what holds, whatever is claimed --------------------------------------------------------------


@st.composite
def claims_of_several(draw: st.DrawFn, *, most_gpus: int = 4, free: bool = False) -> Claims:
    """Generate claims; ``free`` ones have nothing that cannot be taken, and no first pods."""

    def one(name: str) -> Claim:
        has, least = draw(st.integers(0, 6)), draw(st.integers(0, 2))
        wants = draw(st.integers(least, 8))
        return claim(
            draw(st.floats(0, 400)),
            waiting=draw(st.sampled_from([0, 0, 500, 5000])),
            gpus=draw(st.integers(1, most_gpus)),
            has=has,
            wants=wants,
            asks=draw(st.integers(0, 8)),
            least=least,
            keeps=0 if free else draw(st.integers(0, min(has, wants))),
            fixed=0 if free else draw(st.sampled_from([0, 0, min(has, wants)])),
            works=False if free else draw(st.booleans()),
            weight=draw(st.sampled_from([0.5, 1.0, 1.0, 3.0])),
            since_s=draw(st.floats(0, 1000)),
        )

    return {name: one(name) for name in "abcd"[: draw(st.integers(1, 4))]}


def gpus_of(claims: Claims, pods: dict[str, int]) -> int:
    return sum(claims[name].gpus * each for name, each in pods.items())


some_gpus = st.integers(1, 30)


@given(some_gpus, claims_of_several())
def test_nobody_gets_more_than_it_wants_or_less_than_it_must_have(
    gpus: int, claims: Claims
) -> None:
    pods = allot(gpus, claims, 1000.0)
    for name, each in claims.items():
        assert max(each.least, each.fixed, each.keeps) <= pods[name] <= each.wants


@given(some_gpus, claims_of_several())
def test_together_they_take_no_more_than_there_is(gpus: int, claims: Claims) -> None:
    pods = allot(gpus, claims, 1000.0)
    must = {n: max(each.least, each.fixed) for n, each in claims.items()}
    kept = {n: max(0, each.keeps - must[n]) for n, each in claims.items()}
    assert gpus_of(claims, pods) <= max(gpus, gpus_of(claims, must)) + gpus_of(claims, kept)


@given(claims_of_several())
def test_a_budget_that_is_large_enough_limits_nobody(claims: Claims) -> None:
    wanted = {name: each.wants for name, each in claims.items()}
    assert allot(max(1, gpus_of(claims, wanted)), claims, 1000.0) == wanted


@given(some_gpus, claims_of_several(free=True))
def test_no_gpu_is_left_that_somebody_could_use(gpus: int, claims: Claims) -> None:
    pods = allot(gpus, claims, 1000.0)
    left = gpus - gpus_of(claims, pods)
    assert not [n for n, each in claims.items() if pods[n] < each.wants and each.gpus <= left]


@given(st.integers(8, 20), claims_of_several(most_gpus=1, free=True))
def test_no_other_division_answers_more_in_time(gpus: int, claims: Claims) -> None:
    def answered(pods: dict[str, int]) -> float:
        return sum(claims[name].worth(n) for name, each in pods.items() for n in range(1, each + 1))

    ranges = (range(each.least, each.wants + 1) for each in claims.values())
    divisions = (dict(zip(claims, pods, strict=True)) for pods in product(*ranges))
    best = max(answered(pods) for pods in divisions if sum(pods.values()) <= gpus)
    assert answered(allot(gpus, claims, 1000.0)) == pytest.approx(best, abs=1e-3)


@given(some_gpus, claims_of_several(free=True), st.floats(1, 10))
def test_more_weight_never_means_fewer_pods(gpus: int, claims: Claims, times: float) -> None:
    name, own = next(iter(claims.items()))
    heavier = {**claims, name: replace(own, weight=own.weight * times)}
    assert allot(gpus, heavier, 1000.0)[name] >= allot(gpus, claims, 1000.0)[name]


# -- over time ------------------------------------------------------------------------------------


@dataclass
class World:
    """Deployments whose models claim one after the other, and set what they get."""

    gpus: int
    models: dict[str, Claim]
    now_s: float = 1000.0
    budget: Budget = field(init=False)

    def __post_init__(self) -> None:
        unseen = {n: replace(each, has=0, wants=0) for n, each in self.models.items()}
        self.budget = Budget(self.gpus, unseen)

    def step(self, name: str, **changes: object) -> tuple[int, set[str]]:
        """Let one model claim and set its pods; return them, and who was to be woken."""
        self.models[name] = replace(self.models[name], **changes)  # type: ignore[arg-type]
        share, givers = self.budget.claim(name, self.models[name], self.now_s)
        self.models[name] = replace(self.models[name], has=share.pods)
        takers = self.budget.scaled(name, share.pods)
        return share.pods, {*givers, *takers}

    def round(self, passed_s: float = 5.0) -> dict[str, int]:
        self.now_s += passed_s
        return {name: self.step(name)[0] for name in self.models}

    @property
    def used(self) -> int:
        return sum(each.gpus * each.has for each in self.models.values())


@given(some_gpus, claims_of_several(), st.data())
def test_at_no_time_are_more_gpus_asked_for_than_there_are(
    gpus: int, claims: Claims, data: st.DataObject
) -> None:
    world = World(gpus, {n: replace(each, fixed=0, least=0) for n, each in claims.items()})
    before = max(gpus, world.used)
    for _ in range(data.draw(st.integers(1, 20))):
        name = data.draw(st.sampled_from(sorted(claims)))
        has = world.models[name].has
        wants = data.draw(st.integers(0, 8))
        keeps = data.draw(st.integers(0, min(has, wants)))
        world.step(name, wants=wants, keeps=keeps, works=data.draw(st.booleans()))
        assert world.used <= before
        before = max(gpus, world.used)


@given(st.integers(4, 8), st.lists(st.integers(1, 4), min_size=2, max_size=6))
def test_every_model_with_work_gets_its_turn(gpus: int, sizes: list[int]) -> None:
    world = World(gpus, {str(n): claim(900, gpus=each) for n, each in enumerate(sizes)})
    served: set[str] = set()
    for _ in range(int(len(sizes) * (TURN_S + 30) / 15)):
        served |= {name for name, pods in world.round(15.0).items() if pods}
    assert served == set(world.models)


def test_an_idle_model_gives_its_pods_in_one_step() -> None:
    world = World(4, {"idle": claim(has=4, wants=4, least=1), "late": claim(0)})
    assert world.round() == {"idle": 4, "late": 0}
    late = claim(100)
    got, woken = world.step("late", load=late.load, wants=3, asks=7, works=True)
    assert (got, woken) == (0, {"idle"})
    assert world.step("idle") == (1, {"late"})
    assert world.step("late") == (3, set())


def test_who_was_told_to_give_is_told_once() -> None:
    world = World(4, {"held": claim(has=4, wants=4), "late": claim(0)})
    world.round()
    late = claim(100, has=0, wants=3)
    # It cannot act: in a dry run, or because its API calls fail.
    told = [world.budget.claim("late", late, world.now_s)[1] for _ in range(3)]
    assert told == [("held",), (), ()]


def test_nobody_grows_before_all_models_were_seen() -> None:
    world = World(8, {"a": claim(200), "b": claim(200, has=6, wants=6, keeps=6)})
    assert world.step("a")[0] == 0
    world.step("b")
    assert world.step("a")[0] == 2


def test_a_model_whose_deployment_cannot_be_read_keeps_what_it_had() -> None:
    world = World(8, {"a": claim(200), "b": claim(has=6, wants=6, keeps=6)})
    world.round()
    world.budget.unknown("b", is_gone=False)
    assert world.step("a")[0] == 2
    world.budget.unknown("b", is_gone=True)
    assert world.step("a")[0] == 8


def test_one_that_was_never_read_has_its_fewest() -> None:
    budget = Budget(8, {"a": claim(), "b": claim(has=3, wants=3, least=3, fixed=3)})
    budget.unknown("b", is_gone=False)
    share, _ = budget.claim("a", claim(400), 0.0)
    assert share.pods == 5


# -- from a decision to a claim -------------------------------------------------------------------

SEEN = Observation(1000.0, True, "run", 0, 0, 0, 0, 0.0, TABLE, 4, 4)


def claimed(seen: Observation, policy: Policy = POLICY, *, paused: bool = False) -> Claim:
    earlier = seen.now_s - policy.arrivals_window_s
    state = State(earlier, "run", arrivals=Arrivals(((earlier, 0),)))
    decision, state = size(policy, state, seen)
    if paused:
        decision = Decision(seen.replicas, None, Action.HOLD, "paused")
    return claim_of(policy, 1, state, seen, decision, paused=paused)


@pytest.mark.parametrize(
    ("seen", "paused", "fixed", "keeps"),
    [
        pytest.param(SEEN, False, 0, 0, id="idle pods are free, whatever the window says"),
        pytest.param(replace(SEEN, in_flight=65), False, 0, 2, id="the pods in use stay"),
        pytest.param(replace(SEEN, in_flight=256), False, 0, 3, id="all in use: one a step"),
        pytest.param(replace(SEEN, rollout=True), False, 4, 0, id="a rollout keeps all"),
        pytest.param(replace(SEEN, known=False), False, 4, 0, id="so does an unread queue"),
        pytest.param(replace(SEEN, bucket_ms={}), False, 4, 0, id="so does an unknown speed"),
        pytest.param(SEEN, True, 4, 0, id="and a pause"),
    ],
)
def test_what_cannot_be_taken(seen: Observation, paused: bool, fixed: int, keeps: int) -> None:
    found = claimed(seen, paused=paused)
    assert (found.has, found.wants, found.fixed, found.keeps) == (4, 4, fixed, keeps)


def test_after_a_restart_all_pods_stay_until_the_arrivals_are_known() -> None:
    state, seen, fixed = State(), SEEN, []
    for _ in range(15):
        decision, state = size(POLICY, state, seen)
        fixed.append(claim_of(POLICY, 1, state, seen, decision, paused=False).fixed)
        seen = replace(seen, now_s=seen.now_s + 5)
    # Half of a window of 120 s.
    assert fixed == [4] * 12 + [0] * 3


def test_a_claim_says_what_the_load_asks_for_and_what_is_only_kept() -> None:
    found = claimed(replace(SEEN, waiting=1), replace(POLICY, min_replicas=1, budget_weight=3))
    assert (found.wants, found.asks, found.least, found.works, found.weight) == (4, 1, 1, True, 3)


def test_a_load_that_has_just_ended_is_worth_nothing() -> None:
    state, seen = State(), replace(SEEN, accepted=0)
    for step in range(27):
        # 100 a second for two minutes, then none for ten seconds.
        seen = replace(seen, now_s=1000.0 + 5 * step, accepted=min(step, 24) * 500)
        decision, state = size(POLICY, state, seen)
        if step == 24:
            assert claim_of(POLICY, 1, state, seen, decision, paused=False).worth(3) > 10
    found = claim_of(POLICY, 1, state, seen, decision, paused=False)
    assert decision.arrivals_per_s == pytest.approx(91.7, abs=0.1)
    assert (found.wants, found.worth(1), found.works) == (6, 0.0, True)


def test_a_model_works_until_a_pod_for_its_last_job_has_had_time_to_serve() -> None:
    state, seen = State(), replace(SEEN, waiting=1)
    works = []
    for _ in range(30):
        decision, state = size(POLICY, state, seen)
        works.append(claim_of(POLICY, 1, state, seen, decision, paused=False).works)
        seen = replace(seen, waiting=0, now_s=seen.now_s + 5)
    # One minute, and one for the start of a pod.
    assert works.index(False) == 24


def test_a_decision_beyond_the_share_says_so() -> None:
    decision, _ = size(POLICY, State(), replace(SEEN, waiting=100_000))
    budget = Budget(6, {"a": claim(), "b": claim(has=2, wants=2, fixed=2)})
    budget.unknown("b", is_gone=False)
    share, _ = budget.claim("a", claim(400, has=4, wants=decision.replicas), 0.0)

    limited = share.limited(SEEN, decision)

    assert (limited.replicas, limited.action, limited.cause) == (4, Action.HOLD, Cause.BUDGET)
    of = f"4 of {decision.replicas} pods"
    assert limited.reason == f"{decision.reason}; the budget of 6 GPUs gives it {of}"
    assert share.limited(SEEN, replace(decision, replicas=3)).replicas == 3
