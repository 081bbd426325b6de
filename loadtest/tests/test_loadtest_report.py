"""The HTML report in a real browser: nothing is fetched, and all is visible on screen and phone."""

import random
import shlex
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any, cast

import pytest
from tests.browser import PHONE, SCREEN, Browser

from imageserve_loadtest.histogram import COARSE, Histogram
from imageserve_loadtest.html_plots import percentile_curve
from imageserve_loadtest.html_report import render
from imageserve_loadtest.options import Data, parser_of, plan_of
from imageserve_loadtest.result import (
    Counts,
    Latencies,
    Load,
    PhaseLoad,
    QueueSnapshot,
    Refusals,
    Result,
    SearchStep,
    Target,
    Timeline,
    TimelinePoint,
    Tool,
    Verdict,
)
from imageserve_loadtest.verdict import Objective

HOSTILE = "<script>document.title='taken over'</script>"


# -- results to show ------------------------------------------------------------------------------


def histogram(count: int, middle_ms: float, digits: int = 3) -> Histogram:
    drawn = random.Random(count)
    made = Histogram(digits)
    for _ in range(count):
        made.record_s(middle_ms / 1000 * drawn.lognormvariate(0, 0.5))
    return made


def timeline(seconds: int) -> Timeline:
    return Timeline(
        1.0,
        tuple(
            TimelinePoint(
                at_s=float(second),
                planned=80,
                sent=80,
                # Nothing is answered in the fifth second: there is a gap in the latencies.
                outcomes={} if second == 5 else {"good": 70, "refused": 8, "error": 2},
                statuses={} if second == 5 else {"200": 70, "503": 8},
                latency=histogram(0 if second == 5 else 70, 20.0 + second, COARSE),
            )
            for second in range(seconds)
        ),
    )


def result(*, holds: bool = True) -> Result:
    good = 2_030
    return Result(
        target=Target("http://127.0.0.1:8000", "stand-in", (64, 64)),
        load=Load(
            scenario="steps",
            loop="open",
            arrivals="poisson",
            phases=(
                PhaseLoad("warm-up", 10, rate_per_s=40, to_rate_per_s=80),
                PhaseLoad("load", 20, rate_per_s=80),
            ),
            seed=7,
            timeout_s=60,
            pictures="generated",
            distinct=2_000,
            per_request=1,
            broken_share=0.1,
        ),
        objective=("p99=500ms", "errors=0%"),
        started_at="2026-02-03T04:05:06.789Z",
        seconds=30.4,
        counts=Counts(
            planned=2_320,
            sent=2_320,
            good=good,
            refused=232,
            error=58,
            pictures=2_320,
            refusals={"queue_full": Refusals(230, 2)},
            errors={"reset": 58},
            statuses={"200": good, "503": 232},
        ),
        latency=Latencies(
            good=histogram(good, 25),
            broken=histogram(203, 2),
            refused=histogram(232, 3),
            other=histogram(58, 400),
            from_send=histogram(good, 24),
        ),
        stages={
            name: histogram(good, ms)
            for name, ms in {
                "decode": 2.0,
                "queue": 6.0,
                "model": 15.0,
                "total": 24.0,
                "outside": 1.0,
            }.items()
        },
        lateness=histogram(2_320, 0.3),
        timeline=timeline(30),
        verdict=Verdict(holds, () if holds else ("p99 is 612 ms, not 500 ms", "58 had no answer")),
        examples={} if holds else {"error": "lt-1-7: the connection was reset"},
        queue=tuple(QueueSnapshot(float(s), s % 7 * 5, 8, 160.0, 4) for s in range(30)),
        notes=("the tool was late by 0.3 ms at p50",),
        tool=Tool("1.2.3", "3.11.7", "a-machine", 2, 3.3),
    )


def merged() -> Result:
    one = result()
    return replace(one, pods=4, load=replace(one.load, shards=4))


def searched() -> Result:
    steps = (
        SearchStep(80, True, 79.8, 21.0, 80.0),
        SearchStep(160, False, 121.0, 400.0, 2_100.0, ("p99 is 2100 ms, not 500 ms",)),
    )
    return replace(result(), search=steps)


def empty() -> Result:
    """A run without any answer: nothing to draw."""
    one = result(holds=False)
    counts = Counts(planned=40, sent=40, error=40, errors={"connect": 40})
    return replace(
        one,
        counts=counts,
        latency=Latencies(other=histogram(40, 1)),
        stages={},
        queue=(),
        timeline=Timeline(),
    )


def hostile() -> Result:
    one = result(holds=False)
    refusals = {HOSTILE: Refusals(1, 0)}
    return replace(
        one,
        target=Target(f"http://127.0.0.1/{HOSTILE}", HOSTILE),
        counts=replace(one.counts, refusals=refusals, failures={f"500 {HOSTILE}": 1}),
        stages={HOSTILE: histogram(10, 5)},
        verdict=Verdict(False, (HOSTILE,)),
        notes=(HOSTILE,),
        examples={"failed": HOSTILE},
    )


RESULTS = {
    "holds": result(),
    "fails": result(holds=False),
    "merged": merged(),
    "searched": searched(),
    "empty": empty(),
    "hostile": hostile(),
}


# -- the browser ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.driver.quit()


class Pages:
    """Reports as files; each is rendered once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __call__(self, name: str) -> Path:
        page = self._directory / f"{name}.html"
        if not page.exists():
            page.write_text(render(RESULTS[name]), encoding="utf-8")
        return page


@pytest.fixture(scope="module")
def page_of(tmp_path_factory: pytest.TempPathFactory) -> Pages:
    return Pages(tmp_path_factory.mktemp("reports"))


# -- in the browser -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RESULTS)
def test_a_report_requests_nothing_else_and_logs_no_error(
    browser: Browser, page_of: Pages, name: str
) -> None:
    page = page_of(name)
    browser.show(page)
    outside = [url for url in browser.requested() if not url.startswith("data:")]
    assert outside == [page.as_uri()]
    assert browser.run("return performance.getEntriesByType('resource').length") == 0
    assert browser.console() == []


@pytest.mark.parametrize(
    ("name", "words"),
    [("holds", "The verdict holds"), ("fails", "The verdict does not hold")],
    ids=["holds", "fails"],
)
def test_the_verdict_comes_first_with_its_reasons(
    browser: Browser, page_of: Pages, name: str, words: str
) -> None:
    browser.show(page_of(name))
    verdict = browser.text(f".verdict.{name}")
    assert words in verdict
    assert all(reason in verdict for reason in RESULTS[name].verdict.reasons)
    box = browser.run("return document.querySelector('.verdict').getBoundingClientRect().toJSON()")
    assert 0 <= box["top"] < 200


def test_the_figures_are_those_of_the_result(browser: Browser, page_of: Pages) -> None:
    shown = RESULTS["holds"]
    browser.show(page_of("holds"))
    text = browser.text("main")
    found = shown.latency.good.percentiles_ms((50.0, 99.0))
    for figure in (f"{shown.goodput_per_s:.1f}", *(f"{ms:.1f}" for ms in found.values())):
        assert figure in text
    for words in (
        "2,030",
        "queue_full",
        "2 without Retry-After",
        "reset",
        "a-machine",
        "2026-02-03 04:05:06 UTC",
        "warm-up: 40 to 80/s for 10 s",
        "10.0 % broken on purpose",
        "--scenario steps --duration 30 --seed 7",
    ):
        assert words in text


def test_merged_results_examples_and_searches_are_shown(browser: Browser, page_of: Pages) -> None:
    browser.show(page_of("merged"))
    assert "4 pods" in browser.text("header")
    browser.show(page_of("fails"))
    assert "lt-1-7: the connection was reset" in browser.text("main")
    browser.show(page_of("searched"))
    assert "p99 is 2100 ms, not 500 ms" in browser.text("main")


def drawings(browser: Browser) -> list[dict[str, Any]]:
    """Give each plot's size, number of drawn lines and label."""
    script = """return [...document.querySelectorAll('figure svg')].map(svg => ({
        label: svg.getAttribute('aria-label'), role: svg.getAttribute('role'),
        paths: svg.querySelectorAll('path').length,
        ...svg.getBoundingClientRect().toJSON()}))"""
    return cast(list[dict[str, Any]], browser.run(script))


@pytest.mark.parametrize("size", [SCREEN, PHONE], ids=["screen", "phone"])
def test_every_plot_is_seen_and_says_in_words_what_it_shows(
    browser: Browser, page_of: Pages, size: tuple[int, int]
) -> None:
    browser.show(page_of("holds"), size)
    plots = drawings(browser)
    assert [plot["label"].split()[0] for plot in plots] == [
        "Latency",
        "Requests",
        "Latency",
        "Answers",
        "The",
        "Where",
    ]
    for plot in plots:
        assert plot["role"] == "img"
        assert plot["width"] > 300
        assert plot["height"] > 100
        assert plot["paths"] > 10
    tables = browser.run("return document.querySelectorAll('table').length")
    assert tables >= len(plots)


def test_no_two_parts_of_the_page_have_the_same_id(browser: Browser, page_of: Pages) -> None:
    browser.show(page_of("holds"))
    ids = browser.run("return [...document.querySelectorAll('[id]')].map(each => each.id)")
    assert len(ids) > 100
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", RESULTS)
def test_on_a_phone_the_page_does_not_move_sideways(
    browser: Browser, page_of: Pages, name: str
) -> None:
    browser.show(page_of(name), PHONE)
    assert browser.run("return innerWidth") == PHONE[0]
    assert browser.sideways() <= 0


CONTRASTS = """
const light = colour => {
  const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(n => n / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = element => {
  const colour = getComputedStyle(element).backgroundColor;
  return /rgba\\(.*, 0\\)|transparent/.test(colour) ? behind(element.parentElement) : colour;
};
const ratio = element => {
  const style = getComputedStyle(element);
  const front = element.closest('svg') ? style.fill : style.color;
  const [a, b] = [light(front), light(behind(element))].sort((x, y) => y - x);
  return (a + 0.05) / (b + 0.05);
};
return [...document.querySelectorAll('h1, h2, h3, p, li, th, td, dt, dd, small, strong, summary,'
  + 'caption, pre, svg text')].map(element => [element.textContent.trim(), ratio(element)]);
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["holds", "fails"])
def test_all_text_stands_out_from_what_is_behind_it(
    browser: Browser, page_of: Pages, name: str, scheme: str
) -> None:
    # 4.5 is what WCAG 2.2 asks for in 1.4.3 (level AA).
    browser.show(page_of(name), scheme=scheme)
    weak = [(text, ratio) for text, ratio in browser.run(CONTRASTS) if ratio < 4.5]
    assert weak == []


def test_the_two_colour_schemes_differ(browser: Browser, page_of: Pages) -> None:
    page = page_of("holds")
    seen = []
    for scheme in ("light", "dark"):
        browser.show(page, scheme=scheme)
        seen.append(browser.run("return getComputedStyle(document.body).backgroundColor"))
    assert seen[0] != seen[1]


def test_what_the_target_says_is_shown_and_never_run(browser: Browser, page_of: Pages) -> None:
    browser.show(page_of("hostile"))
    assert browser.run("return document.title").startswith("does not hold: load test of")
    assert browser.run("return document.scripts.length") == 0
    assert HOSTILE in browser.text(".verdict")
    assert HOSTILE in browser.text("h1")


# -- without a browser ----------------------------------------------------------------------------


def closed() -> Result:
    one = result()
    phases = (PhaseLoad("", 12, clients=6),)
    return replace(
        one,
        load=replace(
            one.load,
            scenario="clients",
            loop="closed",
            arrivals="",
            phases=phases,
            broken_share=0.0,
            per_request=3,
        ),
    )


def ramp() -> Result:
    one = result()
    phases = (PhaseLoad("", 12, rate_per_s=40, to_rate_per_s=80.5),)
    return replace(one, load=replace(one.load, scenario="rate", phases=phases))


@pytest.mark.parametrize("count", [1, 2, 1_000])
def test_the_percentile_curve_goes_from_the_fastest_answer_to_the_slowest(count: int) -> None:
    latency = histogram(count, 20)
    fastest_ms, _ = next(latency.buckets())

    curve = percentile_curve("good", latency)

    assert (curve.x[0], curve.y[0], curve.y[-1]) == (0, fastest_ms, latency.max_ms)
    assert 100 - 100 / count < curve.x[-1] < 100
    assert list(curve.y) == sorted(curve.y)
    at_90 = [ms for x, ms in zip(curve.x, curve.y, strict=True) if x <= 90]
    assert at_90[-1] <= (latency.percentile_ms(90) or 0)


@pytest.mark.parametrize("shown", [closed(), ramp()], ids=["closed loop", "ramp"])
def test_the_command_makes_the_same_load_again(shown: Result) -> None:
    page = render(shown)
    command = shlex.split(unescape(page.partition("<pre>")[2].partition("</pre>")[0]))
    assert command[:2] == ["imageserve", "loadtest"]
    data = Data(None)
    scenario = plan_of(parser_of(data).parse_args(command[2:]), {}, data).scenario
    load, (phase,) = shown.load, scenario.phases
    assert (scenario.name, scenario.loop, scenario.seed) == (load.scenario, load.loop, load.seed)
    assert scenario.objective == Objective.parse(shown.objective)
    assert scenario.pictures.per_request == load.per_request
    assert scenario.pictures.broken_share == load.broken_share
    assert scenario.pictures.distinct == load.distinct
    (wanted,) = load.phases
    assert (phase.seconds, phase.clients) == (wanted.seconds, wanted.clients)
    assert (phase.rate_per_s, phase.to_rate_per_s) == (wanted.rate_per_s, wanted.to_rate_per_s)
