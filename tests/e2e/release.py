"""One installed release: commands that change it, and queries."""

from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.chart.helm import Object
from tests.e2e.commands import CommandError, Helm, Kubectl, eventually
from tests.e2e.options import Values
from tests.e2e.state import is_leaving, is_ready, listed_kinds, name_of, selector, unsettled


class Release:
    """A release of the chart."""

    def __init__(self, name: str, kubectl: Kubectl, helm: Helm, layers: list[Path | Values]):
        self.name = name
        self._kubectl = kubectl
        self._helm = helm
        self._layers = layers

    # -- changing it --------------------------------------------------------------------------

    def install(self) -> None:
        self.upgrade()

    def upgrade(self, *more: Values) -> None:
        """Change its values to these, on top of those it was installed with."""
        self._helm.upgrade(self.name, [*self._layers, *more])

    @contextmanager
    def changed(self, *more: Values) -> Iterator[None]:
        """Change its values, and change them back."""
        self.upgrade(*more)
        try:
            yield
        finally:
            self.upgrade()

    def forget_check(self) -> None:
        """Delete what a failed check of an external Redis leaves: its Job, for its log."""
        chosen = f"--selector={selector(self.name, 'redis-check')}"
        for kind in ("jobs", "secrets", "networkpolicies"):
            self._kubectl("delete", kind, chosen, "--ignore-not-found")

    def test(self) -> None:
        self._helm.test(self.name)

    def uninstall(self) -> None:
        self._helm.uninstall(self.name)

    def restart(self, component: str) -> None:
        """Replace all pods of a component, one after another."""
        chosen = f"--selector={selector(self.name, component)}"
        self._kubectl("rollout", "restart", "deployment", chosen)

    def rendered(self, file: str, *more: Values) -> str:
        """Return one template of the chart as this release would render it."""
        return self._helm.template(self.name, [*self._layers, *more], file)

    def delete_pod(self, component: str, *, force: bool = False) -> str:
        """Delete a ready pod of a component, and return its name. Does not wait for its end."""
        pod = self.pods(component)[0]
        self._kubectl.delete("pod", name_of(pod), wait=False, force=force)
        return name_of(pod)

    # -- queries ------------------------------------------------------------------------------

    def settle(self) -> None:
        """Wait until every pod is ready and up to date, and replaced pods are gone."""
        last: list[str] = []

        def settled() -> bool:
            last[:] = self.waits_for()
            return not last

        eventually(settled, lambda: f"{self.name} is settled: {last}")

    def waits_for(self) -> list[str]:
        # Pods last, so that their list is not older than the state they are compared with.
        workloads = self._kubectl.objects("deployments,statefulsets", selector(self.name))
        pods = self._kubectl.objects("pods", selector(self.name))
        if not workloads:
            return ["nothing is installed"]
        return unsettled(workloads, pods)

    def pods(self, component: str = "") -> list[Object]:
        """Return the pods that are ready and not being deleted."""
        found = self._kubectl.objects("pods", selector(self.name, component))
        return [pod for pod in found if is_ready(pod) and not is_leaving(pod)]

    def workload(self, kind: str, component: str) -> Object:
        (found,) = self._kubectl.objects(kind, selector(self.name, component))
        return found

    def replicas(self) -> int:
        """Return the replicas of the model's Deployment."""
        return int(self.workload("deployment", "model")["spec"]["replicas"])

    @property
    def address(self) -> str:
        """Host and port of its Service, for pods of the same namespace."""
        return self.service_address("web")

    def service_address(self, component: str) -> str:
        (service,) = self._kubectl.objects("service", selector(self.name, component))
        return f"{name_of(service)}:{service['spec']['ports'][0]['port']}"

    def redis_password(self) -> str:
        (secret,) = self._kubectl.objects("secret", selector(self.name, "redis"))
        (value,) = secret["data"].values()
        return b64decode(value).decode()

    def remains(self) -> list[str]:
        """List every object that carries its label, and Helm's own record of it."""
        found = labelled(self._kubectl, selector(self.name))
        return found + labelled(self._kubectl, f"owner=helm,name={self.name}")


def labelled(kubectl: Kubectl, chosen: str) -> list[str]:
    """List the objects of all kinds with these labels; of everything for no label."""
    return sorted(name for kind in kinds(kubectl) for name in _names(kubectl, kind, chosen))


def kinds(kubectl: Kubectl) -> list[str]:
    asked = ("--namespaced=true", "--verbs=list,delete", "--output=name")
    return listed_kinds(kubectl("api-resources", *asked))


def _names(kubectl: Kubectl, kind: str, chosen: str) -> list[str]:
    options = [f"--selector={chosen}"] if chosen else []
    try:
        return kubectl("get", kind, *options, "--output=name", "--ignore-not-found").split()
    except CommandError as error:
        # A user who may not list a kind cannot have installed it either.
        if any(each in str(error) for each in ("(Forbidden)", "(MethodNotAllowed)")):
            return []
        raise
