"""Part (e): the CPU time of idle processes."""

import time

from bench.plan import Plan, say
from bench.processes import Bed, cpu_s
from bench.report import Section, Verdict
from bench.stacks import WEB_PROCESSES, start_imageserve, start_worker, wait_for_workers

MOST_SHARE = 0.005
SECONDS = 20.0
QUICK_SECONDS = 8.0
SETTLE_S = 2.0


def idle_section(plan: Plan) -> Section:
    seconds = QUICK_SECONDS if plan.is_quick else SECONDS
    shares = _shares(plan, seconds)
    judged = {name: share for name, share in shares.items() if name != "redis-server"}
    worst = max(judged.values())
    verdict = Verdict(
        f"< {100 * MOST_SHARE:g} % of a core each", f"at most {_show(worst)}", worst < MOST_SHARE
    )
    return Section(
        "(e) Idle processes",
        ("process", "of a core"),
        [[name, _show(share)] for name, share in shares.items()],
        [verdict],
        [f"CPU time over {seconds:g} s, in steps of 10 ms."],
    )


def _shares(plan: Plan, seconds: float) -> dict[str, float]:
    with Bed() as bed:
        say("starting web server and workers")
        stack = start_imageserve(bed)
        named = {"worker, stand-in": stack.processes["worker"].popen.pid}
        if not plan.is_quick:
            keras = start_worker(
                bed, "keras-worker", stack.redis, "mobilenet_v2", {"IMAGE_QUEUE": "other"}
            )
            wait_for_workers(stack.redis, "other", keras)
            named["worker, mobilenet_v2"] = keras.popen.pid
        parent, *children = stack.processes["web"].pids()
        # Its own children come first; each web process has one, a decoder process.
        web, decoders = children[:WEB_PROCESSES], children[WEB_PROCESSES:]
        named |= {f"web process {i}": pid for i, pid in enumerate(web, 1)}
        named |= {f"decoder process {i}": pid for i, pid in enumerate(decoders, 1)}
        named |= {"gunicorn parent": parent, "redis-server": stack.redis.process.popen.pid}
        time.sleep(SETTLE_S)
        say(f"doing nothing for {seconds:g} s")
        before = {name: cpu_s(pid) for name, pid in named.items()}
        began = time.perf_counter()
        time.sleep(seconds)
        elapsed_s = time.perf_counter() - began
        return {name: (cpu_s(pid) - before[name]) / elapsed_s for name, pid in named.items()}


def _show(share: float) -> str:
    return f"{100 * share:.2f} %"
