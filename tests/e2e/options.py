"""The options for the cluster: environment variables that begin with E2E_."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chart.helm import CHART

Values = dict[str, Any]

SMALL = CHART / "values-minikube.yaml"
"""Every cluster has room for this."""

TWO_OF_EACH: Values = {
    # The tests count the pods; those of the autoscaler have a release of their own.
    "autoscaling": {"mode": "none"},
    # The default again: the pods are behind a Service, which must notice the change.
    "web": {"replicas": 2, "drainSeconds": 10},
    "models": {"shapes": {"scaling": {"replicas": 2}}},
}
"""A pod that is killed needs another one that takes over before the deadline of its requests."""

_VARIABLES = {
    "E2E_AUTOSCALER_REPOSITORY": "autoscaler_repository",
    "E2E_CONTEXT": "context",
    "E2E_IMAGE_PULL_POLICY": "pull_policy",
    "E2E_IMAGE_REGISTRY": "registry",
    "E2E_IMAGE_TAG": "tag",
    "E2E_LOADTEST_REPOSITORY": "loadtest_repository",
    "E2E_MODEL_REPOSITORY": "model_repository",
    "E2E_NAMESPACE": "namespace",
    "E2E_REDIS_IMAGE": "redis_image",
    "E2E_VALUES": "values",
    "E2E_WEB_REPOSITORY": "web_repository",
}


class OptionError(Exception):
    """An environment variable with a wrong name or value."""


@dataclass(frozen=True)
class Options:
    """The options of one run; for empty ones, chart and kubectl decide."""

    context: str = ""
    namespace: str = ""
    """Empty: one of our own, made at the start and deleted at the end."""
    registry: str = ""
    web_repository: str = ""
    model_repository: str = ""
    tag: str = ""
    pull_policy: str = ""
    redis_image: str = ""
    values: str = ""
    """Values files, separated by commas."""
    autoscaler_repository: str = ""
    loadtest_repository: str = ""

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "Options":
        given = {name: value for name, value in environ.items() if name.startswith("E2E_")}
        unknown = sorted(given.keys() - _VARIABLES.keys())
        if unknown:
            raise OptionError(f"{', '.join(unknown)}: there are only {', '.join(_VARIABLES)}")
        options = cls(**{_VARIABLES[name]: value.strip() for name, value in given.items()})
        for path in options.values_files:
            if not path.is_file():
                raise OptionError(f"E2E_VALUES: there is no file {path}")
        split_image(options.redis_image)
        return options

    @property
    def values_files(self) -> list[Path]:
        return [Path(each.strip()) for each in self.values.split(",") if each.strip()]

    def image_values(self) -> Values:
        """Return the chart's values for the images that were named."""
        repository, tag = split_image(self.redis_image)
        return _without_empty(
            {
                "image": {"registry": self.registry, "pullPolicy": self.pull_policy},
                "web": {"image": {"repository": self.web_repository, "tag": self.tag}},
                "modelDefaults": {"image": {"repository": self.model_repository, "tag": self.tag}},
                "autoscaler": {
                    "image": {"repository": self.autoscaler_repository, "tag": self.tag}
                },
                "loadtest": {"image": {"repository": self.loadtest_repository, "tag": self.tag}},
                "redis": {"image": {"repository": repository, "tag": tag}},
            }
        )

    def layers(self) -> list[Path | Values]:
        """Return all values that every installation gets, the strongest last."""
        return [SMALL, TWO_OF_EACH, self.image_values(), *self.values_files]


def split_image(image: str) -> tuple[str, str]:
    """Split ``host:5000/redis:8`` at its tag; return two empty texts for an empty one."""
    repository, _, tag = image.rpartition(":")
    if image and (not repository or "/" in tag or not tag):
        raise OptionError(f"E2E_REDIS_IMAGE: {image} has no tag: say repository:tag")
    return repository, tag


def _without_empty(values: Values) -> Values:
    inner = {k: _without_empty(v) if isinstance(v, dict) else v for k, v in values.items()}
    return {k: v for k, v in inner.items() if v not in ("", {})}
