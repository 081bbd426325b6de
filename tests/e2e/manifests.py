"""The objects that the tests create: pods of clients, their files, a test policy."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.chart.helm import Object
from tests.e2e.state import COMPONENT, INSTANCE

FILES = "/client"
PICTURES = "/pictures"
OURS = "imageserve-e2e"
"""The label of everything here; its value is the run."""

LISTENER_PORT = 8080
LONGEST_RUN_S = 1800

_COPIED = ("imagePullSecrets", "securityContext", "nodeSelector", "tolerations")


def config_map(name: str, run: str, files: Sequence[Path]) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {OURS: run}},
        "immutable": True,
        "binaryData": {each.name: b64encode(each.read_bytes()).decode() for each in files},
    }


def namespace(name: str) -> Object:
    """A namespace that takes no pod but those of the "restricted" level."""
    labels = {OURS: name, "pod-security.kubernetes.io/enforce": "restricted"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def client_labels(web: Object, run: str) -> dict[str, str]:
    """Labels that the chart's policies let in: those of its own test pod."""
    own = web["spec"]["selector"]["matchLabels"]
    kept = {key: value for key, value in own.items() if key != COMPONENT}
    assert INSTANCE in kept, own
    return {**kept, COMPONENT: "test", OURS: run}


def pod(
    name: str, web: Object, labels: Mapping[str, str], config_maps: Sequence[str], *command: str
) -> Object:
    """A pod that runs a command once, in the image of a release's web pods and under their rules.

    ``config_maps`` are the client's files and its pictures.
    """
    like = web["spec"]["template"]["spec"]
    (container,) = like["containers"]
    mounted = dict(zip((FILES, PICTURES), config_maps, strict=True))
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": dict(labels)},
        "spec": {
            **{key: like[key] for key in _COPIED if key in like},
            "restartPolicy": "Never",
            "activeDeadlineSeconds": LONGEST_RUN_S,
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "containers": [
                {
                    "name": "client",
                    "image": container["image"],
                    "imagePullPolicy": container["imagePullPolicy"],
                    "command": list(command),
                    "securityContext": container.get("securityContext", {}),
                    "resources": {
                        "requests": {"cpu": "50m", "memory": "64Mi"},
                        "limits": {"memory": "256Mi"},
                    },
                    "volumeMounts": [
                        {"name": "tmp", "mountPath": "/tmp"},
                        *(
                            {"name": path[1:], "mountPath": path, "readOnly": True}
                            for path in mounted
                        ),
                    ],
                }
            ],
            "volumes": [
                {"name": "tmp", "emptyDir": {"sizeLimit": "16Mi"}},
                *({"name": k[1:], "configMap": {"name": v}} for k, v in mounted.items()),
            ],
        },
    }


def closed_to_all(name: str, labels: Mapping[str, str]) -> Object:
    """A policy that lets no connection in to the pods with these labels."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "labels": dict(labels)},
        "spec": {"podSelector": {"matchLabels": dict(labels)}, "policyTypes": ["Ingress"]},
    }
