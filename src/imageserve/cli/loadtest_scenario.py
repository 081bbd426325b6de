"""The scenario that the options of ``imageserve loadtest`` make: a file, or one of their own."""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from imageserve.errors import ImageserveError
from imageserve.loadtest.objective import Objective
from imageserve.loadtest.scenario import CLOSED, OPEN, Phase, Scenario, load_scenario

DURATION_S = 10.0
CLIENTS = 4
"""What is sent where nothing is asked for."""


class UsageError(ImageserveError):
    """The options do not fit together, or an environment variable cannot be used."""


def scenario_of(options: argparse.Namespace, known: Mapping[str, Path]) -> Scenario:
    """Return the load that the options describe; ``known`` are the scenarios by their names.

    Raises:
        UsageError: the options do not fit together.
        ScenarioError: the scenario's file cannot be used.
        ObjectiveError: a term of ``--slo`` cannot be understood.
    """
    _check_load(options)
    scenario = _named(options.scenario, known) if options.scenario else _from_options(options)
    if options.scenario and options.duration:
        scenario = scenario.lasting(options.duration)
    scenario = _changed(scenario, options)
    _check_effect(scenario, options)
    return scenario


def _check_load(options: argparse.Namespace) -> None:
    """Refuse options of which one would silently win."""
    if options.search and (options.clients or options.to_rate):
        raise UsageError("--search tries rates of its own; leave --clients and --to-rate out")
    rate = options.rate and not options.search
    if options.scenario and (options.clients or rate or options.to_rate):
        raise UsageError("--scenario has its own load; leave --clients, --rate and --to-rate out")
    if options.to_rate and not options.rate:
        raise UsageError("--to-rate needs --rate")
    if options.rate and options.clients:
        raise UsageError("--clients is a closed loop and --rate an open one: leave one out")


def _check_effect(scenario: Scenario, options: argparse.Namespace) -> None:
    """Refuse options that would change nothing: somebody would believe that they did."""
    if options.arrivals and scenario.loop == CLOSED:
        raise UsageError("--arrivals is for an open loop: give --rate")
    if options.broken_kinds and not scenario.pictures.broken_share:
        raise UsageError("--broken-kinds needs --broken")
    if options.source == "generated" and (options.images or options.learn):
        raise UsageError("--images and --learn are for real pictures, not for --source generated")
    if options.search and not scenario.objective.limits_time:
        raise UsageError(
            "--search needs an objective in time, such as --slo p99=500ms: a backlog that is "
            "answered in the end would let any rate hold"
        )


def _changed(scenario: Scenario, options: argparse.Namespace) -> Scenario:
    """Return it with whatever the options say besides the load."""
    real = options.images or options.learn
    mix = {
        "source": options.source or ("files" if real else None),
        "distinct": options.distinct,
        "broken_share": options.broken,
        "broken": options.broken_kinds,
        "per_request": options.per_request,
    }
    changed = {
        "arrivals": options.arrivals,
        "timeout_s": options.timeout,
        "seed": options.seed,
        "objective": Objective.parse([*scenario.objective.terms(), *options.slo]),
        "pictures": replace(scenario.pictures, **_given(mix)),
        "loop": OPEN if options.search else None,
    }
    return replace(scenario, **_given(changed))


def _given(changes: Mapping[str, object]) -> dict[str, Any]:
    return {name: value for name, value in changes.items() if value is not None}


def _from_options(options: argparse.Namespace) -> Scenario:
    seconds = options.duration or DURATION_S
    if options.rate or options.search:
        phase = Phase(seconds, rate_per_s=options.rate, to_rate_per_s=options.to_rate)
        return Scenario("rate", (phase,))
    return Scenario("clients", (Phase(seconds, clients=options.clients or CLIENTS),), loop=CLOSED)


def _named(name: str, known: Mapping[str, Path]) -> Scenario:
    if name in known:
        return load_scenario(known[name])
    if name.endswith((".yaml", ".yml")):
        return load_scenario(Path(name))
    raise UsageError(
        f"there is no scenario {name!r}; there are {', '.join(known)}; a file ends in .yaml"
    )
