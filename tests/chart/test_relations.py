"""The checks between objects, on a small release that is sound and on ones with one flaw each."""

from collections.abc import Callable

import pytest
from tests.chart import relations
from tests.chart.helm import Object, objects_of

GOOD = """
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      serviceAccountName: web
      containers:
        - name: web
          ports: [{name: http, containerPort: 8000}]
          env:
            - {name: KEY, valueFrom: {secretKeyRef: {name: keys, key: one}}}
            - {name: OTHER, value: x}
          resources: {requests: {cpu: 1}}
          readinessProbe: {httpGet: {path: /, port: http}}
          volumeMounts: [{name: files, mountPath: /files}, {name: tmp, mountPath: /tmp}]
      volumes:
        - {name: files, configMap: {name: files, items: [{key: a.yaml, path: a.yaml}]}}
        - {name: tmp, emptyDir: {}}
---
kind: StatefulSet
metadata: {name: redis}
spec:
  replicas: 1
  selector: {matchLabels: {app: redis}}
  template:
    metadata: {labels: {app: redis}}
    spec:
      containers:
        - name: redis
          ports: [{name: redis, containerPort: 6379}]
          volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates: [{metadata: {name: data}}]
---
kind: Service
metadata: {name: web, labels: {app: web}}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
---
kind: HorizontalPodAutoscaler
metadata: {name: web}
spec:
  scaleTargetRef: {kind: Deployment, name: web}
  metrics:
    - type: Resource
      resource: {name: cpu, target: {type: Utilization, averageUtilization: 70}}
---
kind: PodDisruptionBudget
metadata: {name: web}
spec: {maxUnavailable: 1, selector: {matchLabels: {app: web}}}
---
kind: ServiceMonitor
metadata: {name: web}
spec: {selector: {matchLabels: {app: web}}, endpoints: [{port: http}]}
---
kind: PodMonitor
metadata: {name: redis}
spec: {selector: {matchLabels: {app: redis}}, podMetricsEndpoints: [{port: redis}]}
---
kind: Ingress
metadata: {name: web}
spec:
  tls: [{secretName: certificate}]
  rules: [{http: {paths: [{backend: {service: {name: web, port: {name: http}}}}]}}]
---
kind: HTTPRoute
metadata: {name: web}
spec: {rules: [{backendRefs: [{name: web, port: 80}]}]}
---
kind: NetworkPolicy
metadata: {name: redis}
spec:
  podSelector: {matchLabels: {app: redis}}
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]
---
{kind: Secret, metadata: {name: keys}, stringData: {one: "1"}}
---
{kind: ConfigMap, metadata: {name: files}, data: {a.yaml: ""}}
---
{kind: ServiceAccount, metadata: {name: web}}
---
kind: RoleBinding
metadata: {name: web}
roleRef: {kind: Role, name: reader}
subjects: [{kind: ServiceAccount, name: web}]
---
{kind: Role, metadata: {name: reader}}
---
kind: ScaledObject
metadata: {name: web}
spec:
  scaleTargetRef: {kind: Deployment, name: web}
  triggers: [{type: redis, authenticationRef: {name: redis}}]
---
kind: TriggerAuthentication
metadata: {name: redis}
spec: {secretTargetRef: [{parameter: password, name: keys, key: one}]}
"""

Check = Callable[[list[Object]], list[str]]


def references(objects: list[Object]) -> list[str]:
    return relations.reference_problems(objects, ["Secret/certificate"])


def shares_a_namespace(objects: list[Object]) -> list[str]:
    """With a release of other names and other labels."""
    other = GOOD.replace("web", "shop").replace("redis", "store").replace("name: ", "name: b-")
    return relations.overlap_problems(objects, objects_of(other))


CHECKS: list[Check] = [
    relations.selector_problems,
    relations.service_problems,
    relations.probe_problems,
    references,
    relations.duplicate_problems,
    relations.mount_problems,
    relations.monitor_problems,
    relations.disruption_problems,
    relations.autoscaler_problems,
    relations.cluster_scope_problems,
    shares_a_namespace,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_sound_release_passes(check: Check) -> None:
    assert check(objects_of(GOOD)) == []


POD_LABELS = "metadata: {labels: {app: web}}"
TARGET = "scaleTargetRef: {kind: Deployment, name: web}\n  triggers"
FLAWS = [
    # check, what is replaced, by what, what must be said
    (references, "kind: Role, name: reader", "kind: Role, name: x", "names Role/x"),
    (references, "ServiceAccount, name: web}]", "ServiceAccount, name: x}]", "ServiceAccount/x"),
    (references, "authenticationRef: {name: redis}", "authenticationRef: {name: x}", "cation/x"),
    (references, "name: keys, key: one}]", "name: keys, key: x}]", "names Secret/keys:x"),
    (relations.autoscaler_problems, TARGET, TARGET.replace("web", "x"), "ScaledObject/web has no"),
    (relations.selector_problems, POD_LABELS, "metadata: {labels: {app: x}}", "Deployment/web"),
    (relations.selector_problems, "labels: {app: redis}", "labels: {app: web}", "StatefulSet"),
    (relations.service_problems, "selector: {app: web}", "selector: {app: x}", "no pods"),
    (relations.service_problems, "labels: {app: redis}", "labels: {app: web}", "StatefulSet/redis"),
    (relations.service_problems, "targetPort: http", "targetPort: https", "no port https"),
    (relations.service_problems, "targetPort: http", "targetPort: 80", "no port 80"),
    (relations.service_problems, ", targetPort: http", "", "no port 80"),
    (relations.probe_problems, "path: /, port: http", "path: /, port: web", "no port web"),
    (relations.probe_problems, "path: /, port: http", "path: /, port: 1", "no port 1"),
    (references, "key: one", "key: two", "Secret/keys:two"),
    (references, "secretKeyRef: {name: keys", "secretKeyRef: {name: k", "Secret/k:one"),
    (references, "stringData: {one", "stringData: {two", "Secret/keys:one"),
    (references, "configMap: {name: files", "configMap: {name: f", "ConfigMap/f"),
    (references, "key: a.yaml", "key: b.yaml", "ConfigMap/files:b.yaml"),
    (references, "serviceAccountName: web", "serviceAccountName: w", "ServiceAccount/w"),
    (references, "secretName: certificate", "secretName: c", "Secret/c"),
    (references, "port: {name: http}", "port: {number: 81}", "Service/web:81"),
    (references, "name: web, port: 80}]", "name: web, port: 81}]", "Service/web:81"),
    (references, "tmp, emptyDir: {}", "tmp, secret: {secretName: t}", "Secret/t"),
    (
        references,
        "tmp, emptyDir: {}",
        "tmp, persistentVolumeClaim: {claimName: t}",
        "PersistentVolumeClaim/t",
    ),
    (
        references,
        "tmp, emptyDir: {}",
        "tmp, projected: {sources: [{configMap: {name: t}}]}",
        "ConfigMap/t",
    ),
    (references, "resources: {", "envFrom: [{secretRef: {name: e}}]\n          resources: {", "/e"),
    (relations.duplicate_problems, "name: OTHER", "name: KEY", "variable KEY"),
    (relations.duplicate_problems, "name: tmp, empty", "name: files, empty", "volume files"),
    (relations.duplicate_problems, "mountPath: /tmp", "mountPath: /files", "mount path /files"),
    (
        relations.duplicate_problems,
        "containerPort: 8000}",
        "containerPort: 8000}, {name: http, containerPort: 1}",
        "port name http",
    ),
    (
        relations.duplicate_problems,
        "containerPort: 8000}",
        "containerPort: 8000}, {name: b, containerPort: 8000}",
        "(8000, 'TCP')",
    ),
    (
        relations.duplicate_problems,
        "        - name: web",
        "        - {name: web}\n        - name: web",
        "container web",
    ),
    (
        relations.duplicate_problems,
        "kind: Secret, metadata: {name: keys}",
        "kind: ConfigMap, metadata: {name: files}",
        "ConfigMap/files twice",
    ),
    (relations.mount_problems, "{name: tmp, mountPath", "{name: t, mountPath", "mounts t"),
    (relations.mount_problems, ", {name: tmp, mountPath: /tmp}", "", "volume tmp"),
    (relations.monitor_problems, "labels: {app: web}}\nspec", "labels: {}}\nspec", "nothing"),
    (relations.monitor_problems, "endpoints: [{port: http", "endpoints: [{port: x", "no port x"),
    (relations.monitor_problems, "Endpoints: [{port: redis", "Endpoints: [{port: x", "no port x"),
    (
        relations.monitor_problems,
        "selector: {matchLabels: {app: redis}}, pod",
        "selector: {matchLabels: {app: r}}, pod",
        "PodMonitor/redis selects nothing",
    ),
    (
        relations.disruption_problems,
        "1, selector: {matchLabels: {app: web}}",
        "1, selector: {matchLabels: {app: w}}",
        "protects nothing",
    ),
    (
        relations.disruption_problems,
        "1, selector: {matchLabels: {app: web}}",
        "1, selector: {}",
        "StatefulSet/redis",
    ),
    (relations.disruption_problems, "maxUnavailable: 1", "maxUnavailable: 0", "lets no pod"),
    (relations.disruption_problems, "maxUnavailable: 1", "minAvailable: 100%", "lets no pod"),
    (
        relations.disruption_problems,
        "maxUnavailable: 1, selector: {matchLabels: {app: web}}",
        "minAvailable: 1, selector: {matchLabels: {app: redis}}",
        "lets no pod",
    ),
    (
        relations.autoscaler_problems,
        "kind: Deployment, name: web",
        "kind: Deployment, name: w",
        "no target",
    ),
    (
        relations.autoscaler_problems,
        "spec:\n  selector: {matchLabels: {app: web}}",
        "spec:\n  replicas: 2\n  selector: {matchLabels: {app: web}}",
        "has replicas and an HPA",
    ),
    (relations.autoscaler_problems, "requests: {cpu: 1}", "requests: {memory: 1}", "no cpu"),
    (relations.cluster_scope_problems, "kind: Secret", "kind: ClusterRole", "ClusterRole/keys"),
    (shares_a_namespace, "name: keys}, s", "name: b-keys}, s", "both have Secret/b-keys"),
    (
        shares_a_namespace,
        "podSelector: {matchLabels: {app: redis}}",
        "podSelector: {}",
        "NetworkPolicy/redis selects",
    ),
    (
        shares_a_namespace,
        "selector: {matchLabels: {app: web}}, endpoints",
        "selector: {}, endpoints",
        "selects Service/",
    ),
    (shares_a_namespace, "selector: {app: web}", "selector: {app: shop}", "Service/web selects"),
    (
        shares_a_namespace,
        "from: [{podSelector: {matchLabels: {app: web}}}]",
        "from: [{podSelector: {}}]",
        "NetworkPolicy/redis selects",
    ),
]


@pytest.mark.parametrize(
    ("check", "sound", "flawed", "said"),
    [pytest.param(*flaw, id=f"{flaw[0].__name__}: {flaw[3]}") for flaw in FLAWS],
)
def test_a_flaw_is_found(check: Check, sound: str, flawed: str, said: str) -> None:
    assert sound in GOOD

    found = check(objects_of(GOOD.replace(sound, flawed)))

    assert any(said in each for each in found), found


def test_a_key_given_twice_is_an_error() -> None:
    with pytest.raises(Exception, match="given twice: app"):
        objects_of("metadata: {labels: {app: web, app: redis}}")
