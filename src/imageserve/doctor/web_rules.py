"""What is wrong with the web server, as it says itself. Pure."""

from collections import Counter
from collections.abc import Iterator

from imageserve.doctor.facts import Facts, Found, WebFacts

REFUSED = 0.05
"""Share of the requests that may be refused, as of the alert."""


def web_findings(facts: Facts) -> Iterator[Found]:
    web = facts.web
    if web and web.problem:
        yield "web-away", f"the web server at {web.url} does not answer: {web.problem}"
    elif web:
        yield from _system(web, facts)
        yield from _answers(web)


def _system(web: WebFacts, facts: Facts) -> Iterator[Found]:
    there = web.status.get("models", {})
    if web.status.get("redis") != "ok":
        yield "web-without-redis", f"the web server at {web.url} cannot read all of its queues"
    elif facts.queues.keys() != there.keys():
        what = f"the web server at {web.url} serves {', '.join(there)}; these settings name "
        yield "other-models", what + ", ".join(facts.queues)
    for model, snapshot in facts.snapshots():
        told = {worker["id"] for worker in there.get(model, {}).get("workers", ())}
        seen = {worker.id for worker in snapshot.workers}
        if told and seen and not told & seen:
            what = f"the web server sees other workers of model {model} than this command"
            yield "other-workers", what


def _answers(web: WebFacts) -> Iterator[Found]:
    asked: Counter[tuple[str, str]] = Counter()
    for name, labels, value in web.samples:
        if name == "imageserve_requests_total" and labels.get("endpoint") in ("predict", "infer"):
            asked[labels.get("status", ""), labels.get("code", "")] += int(value)
    for (status, code), count in asked.items():
        if status == "500":
            yield "bugs", f"{count} requests were answered 500 since the web server started"
        if status == "503" and count > REFUSED * asked.total():
            what = f"{count / asked.total():.0%} of the requests were refused since its start"
            yield "refuses", f"{what}: {code}"
