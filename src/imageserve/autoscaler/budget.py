"""One budget of GPUs for several models: what each of them claims in, pods for each out. Pure.

While the models together want no more than there is, each gets what it wants. Else pods go where
they answer most pictures in time. docs/autoscaling.md explains the rule.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from imageserve.autoscaler.decision import Cause, Decision, Observation, action_of
from imageserve.autoscaler.load import Demand, demand
from imageserve.autoscaler.policy import Policy
from imageserve.autoscaler.sizing import State, after_a_step_down, busy_pods

STAY = 1.25
"""A pod that is there counts this much more than one that would first have to start: else two
models with nearly the same need would pass pods back and forth."""

MOMENT_S = 60.0
"""A model counts as working for this long, and the start of a pod, after its last job: a pod that
is started for a job serves the next one, even if that one has given up."""

TURN_S = 300.0
"""Where there are fewer pods than models with work, a model keeps its only pod for this long while
another one waits for its first."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What one model has and wants of the budget. Numbers are pods, but for ``gpus``."""

    gpus: int
    """Of one pod."""
    has: int
    """``spec.replicas`` of its Deployment."""
    wants: int
    """What it would set if it were alone."""
    asks: int = 0
    """What its load, or a jump that is expected, asks for; it may want to keep more than that."""
    least: int = 0
    """It always has so many: ``min_replicas``."""
    fixed: int = 0
    """Of those that it has or must have, the ones that are no matter of worth."""
    keeps: int = 0
    """Of those that it has, the ones that cannot be taken in this step."""
    works: bool = False
    """Whether it has jobs, or had one a moment ago: then it gets a first pod."""
    load: Demand | None = None
    """None: not known. It then gains nothing by more pods."""
    weight: float = 1.0
    since_s: float | None = None
    """Since when it has had pods, or has waited for its first one; None in a claim that is new."""

    def worth(self, pod: int) -> float:
        """Return what its pod number ``pod`` answers in time per second and GPU, weighted."""
        if self.load is None:
            return 0.0
        more = self.load.answered_per_s(pod) - self.load.answered_per_s(pod - 1)
        stays = STAY if pod <= self.has else 1.0
        return round(more * self.weight * stays / self.gpus, 6)


Claims = Mapping[str, Claim]
"""By the name of the model."""


def claim_of(
    policy: Policy, gpus: int, state: State, seen: Observation, decision: Decision, *, paused: bool
) -> Claim:
    """Return what a model claims after ``size`` has decided, as if it were alone, what it wants.

    A model that is paused, in a rollout, or whose load is not known keeps all that it has. So does
    every one after a restart, until half of the window of arrivals is known.
    """
    is_known = state.arrivals.per_second(policy.arrivals_window_s) is not None
    asks = decision.replicas if decision.raw is None else decision.raw
    is_free = is_known and decision.load is not None and not seen.rollout
    fixed = 0 if is_free else seen.replicas
    # Idle pods go at once, whatever the window says; of the busy ones as many as a step removes.
    keeps = min(busy_pods(policy, seen), after_a_step_down(policy, state, seen))
    return Claim(
        gpus=gpus,
        has=seen.replicas,
        wants=decision.replicas,
        asks=max(asks, seen.foreseen.pods if seen.foreseen else 0),
        least=min(policy.min_replicas, decision.replicas),
        fixed=decision.replicas if paused else min(fixed, decision.replicas),
        keeps=min(keeps, decision.replicas),
        works=seen.known and seen.now_s - state.busy_s < _start_s(policy, seen) + MOMENT_S,
        load=_load_now(policy, state, seen, decision.load),
        weight=policy.budget_weight,
    )


def _start_s(policy: Policy, seen: Observation) -> float:
    return policy.pod_start_s if seen.pod_start_s is None else seen.pod_start_s


def _load_now(
    policy: Policy, state: State, seen: Observation, load: Demand | None
) -> Demand | None:
    """Return the load without what has just ended: its pods are kept, but worth nothing."""
    now = state.arrivals.falls_to_per_second(policy.arrivals_window_s, policy.burst_window_s)
    if load is None or now is None:
        return load
    return demand(policy, now, seen.waiting, load.capacity_per_s, seen.pod_start_s)


# -- who gets what --------------------------------------------------------------------------------


def allot(gpus: int, claims: Claims, now_s: float) -> dict[str, int]:
    """Return the pods of each model, at most what it wants.

    Together they take at most ``gpus`` GPUs, but for pods that are fixed or cannot be taken yet. A
    GPU that cannot be taken yet stays promised, or pods of several GPUs would never find room.
    """
    pods = _certain(gpus, claims, now_s)
    left = gpus - sum(each * claims[name].gpus for name, each in pods.items())
    while True:
        growing = [
            name
            for name, claim in claims.items()
            if pods[name] < claim.wants and claim.gpus <= left and (pods[name] or not claim.works)
        ]
        if not growing:
            return {name: max(each, claims[name].keeps) for name, each in pods.items()}
        best = max(growing, key=lambda name: _rank(claims[name], pods[name]))
        pods[best] += 1
        left -= claims[best].gpus


def _rank(claim: Claim, pods: int) -> tuple[float, bool, bool, float]:
    """Return how good a use of GPUs one more pod is; of equal ones, who has least is first."""
    pod = pods + 1
    share = pods * claim.gpus / claim.weight
    return claim.worth(pod), pod <= claim.asks, pod <= claim.has, -share


def _certain(gpus: int, claims: Claims, now_s: float) -> dict[str, int]:
    """Return the pods that each model has for certain: its fewest, and one where it has work.

    If there are too few GPUs for the latter, models take turns. Who waits at the head of the line
    is passed by nobody, however many GPUs its pod needs.
    """
    pods = {name: max(claim.least, claim.fixed) for name, claim in claims.items()}
    left = gpus - sum(claims[name].gpus * each for name, each in pods.items())
    line = [
        name for name, claim in claims.items() if claim.works and claim.wants and not pods[name]
    ]
    blocked = False
    for name in sorted(line, key=lambda name: _turn(claims[name], now_s)):
        claim = claims[name]
        if claim.gpus <= left and (claim.has or not blocked):
            pods[name] = 1
            left -= claim.gpus
        elif not claim.has:
            blocked = True
    return pods


def _turn(claim: Claim, now_s: float) -> tuple[int, float]:
    """Return the place in the line for a first pod."""
    since_s = now_s if claim.since_s is None else claim.since_s
    if not claim.has:
        return 1, since_s
    return (0, since_s) if now_s - since_s < TURN_S else (2, -since_s)


# -- all models over time -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Share:
    """What a model gets of the budget."""

    budget: int
    """GPUs of all models together."""
    gpus: int
    """Of one of its pods."""
    wants: int
    """Pods that it would set if it were alone."""
    pods: int
    """Pods that it may set now. Growth waits until the GPUs are free by the Deployments."""

    def facts(self) -> dict[str, int]:
        """Return what ``explain`` shows of it."""
        return {
            "gpus": self.budget,
            "gpus_per_pod": self.gpus,
            "wanted_pods": self.wants,
            "given_pods": self.pods,
        }

    def limited(self, seen: Observation, decision: Decision) -> Decision:
        """Return the decision within this share."""
        if self.pods >= decision.replicas:
            return decision
        return replace(
            decision,
            replicas=self.pods,
            action=action_of(self.pods - seen.replicas),
            reason=f"{decision.reason}; the budget of {self.budget} GPUs gives it {self.pods} of "
            f"{self.wants} pods",
            cause=Cause.BUDGET,
        )


class Budget:
    """The claims of all models, each of which comes and is renewed at a time of its own.

    At no time may they set more pods than there are GPUs: a model grows only into GPUs that no
    Deployment asks for. Not safe to use from several threads.
    """

    def __init__(self, gpus: int, models: Claims) -> None:
        """``models``: what each is taken to have where its Deployment cannot be read."""
        self.gpus = gpus
        self._claims = dict(models)
        self._unseen = set(models)
        self._shares: dict[str, int] = {}
        self._may_set: dict[str, int] = {}
        self._told: dict[str, int] = {}

    def claim(self, name: str, claim: Claim, now_s: float) -> tuple[Share, Collection[str]]:
        """Return what this model gets, and which others are now to give pods away."""
        self._unseen.discard(name)
        since_s = _since_s(self._claims[name], claim, now_s)
        self._claims[name] = replace(claim, since_s=since_s)
        self._shares = allot(self.gpus, self._claims, now_s)
        pods = self._shares[name]
        if pods > claim.has:
            pods = max(claim.has, claim.fixed, min(pods, self._room(name)))
        self._may_set[name] = pods
        self._told[name] = self._shares[name]
        return Share(self.gpus, claim.gpus, claim.wants, pods), tuple(self._givers(name))

    def unknown(self, name: str, *, is_gone: bool) -> None:
        """Note that a model's Deployment cannot be read: it keeps what it had, or has nothing."""
        self._unseen.discard(name)
        if is_gone:
            self._claims[name] = Claim(self._claims[name].gpus, has=0, wants=0)
            self._may_set[name] = 0

    def scaled(self, name: str, pods: int) -> Collection[str]:
        """Note that a model's pods were set; return which others now have room for more."""
        before = self._claims[name]
        since_s = before.since_s if bool(pods) == bool(before.has) else None
        self._claims[name] = replace(before, has=pods, since_s=since_s)
        self._may_set[name] = pods
        if pods >= before.has:
            return ()
        others = self._claims.items()
        return tuple(n for n, each in others if n != name and self._shares.get(n, 0) > each.has)

    def _room(self, name: str) -> int:
        """Return the most pods of this model that leave the others what they have or may set."""
        if self._unseen:
            return 0
        others = sum(
            max(each.has, self._may_set.get(n, 0)) * each.gpus
            for n, each in self._claims.items()
            if n != name
        )
        return (self.gpus - others) // self._claims[name].gpus

    def _givers(self, name: str) -> Iterator[str]:
        """Yield the others that have more than their share, each once as long as it is the same."""
        for other, claim in self._claims.items():
            share = self._shares[other]
            if other != name and share < claim.has and self._told.get(other) != share:
                self._told[other] = share
                yield other


def _since_s(before: Claim, claim: Claim, now_s: float) -> float:
    """Return since when the model has had pods, or has waited for its first one."""
    is_same = bool(before.has) == bool(claim.has) and (claim.works or claim.has > 0)
    return now_s if before.since_s is None or not is_same else before.since_s
