"""The load test of the chart as a user runs it: a Job, its logs, and one report made of them."""

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from tests.chart.helm import Object, objects_of
from tests.chart.objects import of_kind
from tests.e2e.commands import Kubectl, eventually
from tests.e2e.state import name_of

JOB_NAME = "batch.kubernetes.io/job-name"


@dataclass(frozen=True)
class StressJob:
    """A Job that has been started."""

    name: str
    pods: int
    kubectl: Kubectl

    @classmethod
    def of(cls, text: str, kubectl: Kubectl) -> "StressJob":
        """Find the Job among the objects of a rendered file."""
        (job,) = of_kind(objects_of(text), "Job")
        return cls(name_of(job), job["spec"]["parallelism"], kubectl)

    def succeeds(self) -> bool:
        """Wait for its end; its success is the verdict of all its pods."""
        return eventually(self._verdict, f"job {self.name} has ended") == "Complete"

    def _verdict(self) -> str:
        return verdict(self.kubectl.json("get", "job", self.name))

    def logs(self) -> str:
        return self.kubectl("logs", f"--selector={JOB_NAME}={self.name}", "--tail=-1")

    def merged(self) -> Any:
        """Return the one report of all pods, merged by `imageserve loadtest merge`."""
        command = [sys.executable, "-m", "imageserve", "loadtest", "merge", "-", "--json", "-"]
        done = subprocess.run(
            command, input=self.logs(), capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        assert f"results of {self.pods} pods" in done.stderr
        return json.loads(done.stdout)


def verdict(job: Object) -> str:
    """Return how a Job has ended, ``Complete`` or ``Failed``; empty while it runs."""
    conditions = job.get("status", {}).get("conditions", [])
    ends = [c["type"] for c in conditions if c["status"] == "True"]
    return next((each for each in ends if each in ("Complete", "Failed")), "")
