"""Who is measured under overload, and when: round by round, so that all have the same machine.

In the first round every system is measured in all rows. Later rounds last longer, and have only
those that may decide a target: this system's own, and the one row in which it is compared with
peers, for the best two of them. Each round of each system is kept on its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from bench.kept import Circumstances, Kept, key
from bench.overload import (
    FAST,
    LATER_SECONDS,
    QUICK_SECONDS,
    SECONDS,
    SLOW,
    Contestant,
    Measured,
    Setting,
    StandInTimes,
    all_settings,
    measure_round,
    mixed_settings,
    round_from_json,
    target_setting,
)
from bench.peers.reasons import why
from bench.peers.systems import OURS
from bench.plan import Plan, say

RIVALS = 2
"""The number of peers that are measured in later rounds."""


@dataclass(frozen=True, slots=True)
class Overload:
    """All that was measured under overload."""

    measured: dict[StandInTimes, dict[str, Measured]]
    """By stand-in and system; the first system is this one."""
    failed: dict[str, str] = field(default_factory=dict)
    """Why the numbers of a system are missing."""
    left_out: list[str] = field(default_factory=list)
    """The systems that are too slow for the faster stand-in."""
    pieces: dict[StandInTimes, list[Circumstances]] = field(default_factory=dict)


def settings_of_round(
    model: StandInTimes, name: str, number_of_round: int, *, is_quick: bool
) -> list[Setting]:
    """Return the rows of one system in one round."""
    if number_of_round == 1 and not is_quick:
        return all_settings(model)
    mixed = mixed_settings(model) if is_quick or name == OURS else []
    return [target_setting(model), *mixed]


def rivals(measured: Mapping[str, Measured]) -> list[str]:
    """Return the peers that are best in the row of the target."""
    setting = target_setting(SLOW)
    peers = [name for name in measured if name != OURS]
    best_first = sorted(peers, key=lambda name: -max(measured[name].shares_of_capacity(setting)))
    return best_first[:RIVALS]


def measure_overload(
    kept: Kept, plan: Plan, contestants: Sequence[Contestant], part: str
) -> Overload:
    """Measure all systems with both stand-ins; of one that fails under the load the reason."""
    made = Overload({SLOW: {}, FAST: {}}, pieces={SLOW: [], FAST: []})
    made.left_out.extend(each.name for each in contestants if each.is_slow)
    rounds = _Rounds(kept, plan, part, made)
    for each in contestants:
        rounds.add(each, SLOW, 1)
    for number_of_round in range(2, 1 + plan.rounds):
        taking_part = {OURS, *rivals(made.measured[SLOW])}
        for each in contestants:
            if each.name in taking_part:
                rounds.add(each, SLOW, number_of_round)
    for each in contestants:
        if not each.is_slow:
            rounds.add(each, FAST, 1)
    return made


@dataclass(frozen=True, slots=True)
class _Rounds:
    """Measures one round of one system after the other, or takes it as it was kept."""

    kept: Kept
    plan: Plan
    part: str
    made: Overload

    def add(self, contestant: Contestant, model: StandInTimes, number: int) -> None:
        seconds = SECONDS if number == 1 else LATER_SECONDS
        seconds = QUICK_SECONDS if self.plan.is_quick else seconds
        plan = replace(self.plan, seconds=seconds)
        piece = self.kept.piece(
            key(self.part, model.key, contestant.name, number),
            plan,
            partial(_measured, plan, contestant, model, number),
        )
        self.made.pieces[model].append(piece.circumstances)
        if "failed" in piece.value:
            who = f"{contestant.name}, {model.name}, round {number}"
            self.made.failed[who] = piece.value["failed"]
        else:
            by_name = self.made.measured[model].setdefault(contestant.name, Measured())
            by_name.rounds.append(round_from_json(piece.value))


def _measured(
    plan: Plan, contestant: Contestant, model: StandInTimes, number: int
) -> dict[str, Any]:
    settings = settings_of_round(model, contestant.name, number, is_quick=plan.is_quick)
    try:
        made = measure_round(contestant, model, settings, seconds=plan.seconds, seed=number)
    except SystemExit as error:
        if contestant.name == OURS:
            raise
        reason = why(error)
        say(f"{contestant.name} fails under overload: {reason}")
        return {"failed": reason}
    return made.as_json()
