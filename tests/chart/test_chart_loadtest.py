"""The load test in the cluster: a Job whose pods share a load and whose success is the verdict."""

import json
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from tests.chart.helm import CHART, ROOT, Helm, Object, objects_of
from tests.chart.objects import of_kind, pod_templates, the, title
from tests.chart.situations import KEYS, PASSWORD, shapes
from tests.chart.values_file import values

from imageserve_loadtest.measure import Plan
from imageserve_loadtest.options import FOLDERS, Data, parser_of, plan_of
from imageserve_loadtest.schedule import Shard

SMALL_QUEUES = {"limits": {"queueBytesLimit": "100Mi"}}
KEYS_ON = {"apiKeys": {"enabled": True, "keys": KEYS}}


def job(helm: Helm, *given: Any, **own: Any) -> Object:
    """Return the Job of a release with these values of ``loadtest``."""
    objects = helm.render(PASSWORD, *given, {"loadtest": {"enabled": True, **own}})
    (found,) = of_kind(objects, "Job")
    return found


def container(found: Object) -> Any:
    (only,) = found["spec"]["template"]["spec"]["containers"]
    return only


def test_nothing_of_it_is_rendered_by_default(helm: Helm) -> None:
    assert not [each for each in helm.render(PASSWORD) if "loadtest" in title(each)]


@pytest.mark.parametrize("pods", [1, 3])
def test_it_runs_once_in_each_of_its_pods(helm: Helm, pods: int) -> None:
    spec = job(helm, parallelism=pods, timeoutSeconds=1234, ttlSecondsAfterFinished=5678)["spec"]

    assert spec["completionMode"] == "Indexed"
    assert (spec["parallelism"], spec["completions"]) == (pods, pods)
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert (spec["activeDeadlineSeconds"], spec["ttlSecondsAfterFinished"]) == (1234, 5678)
    # Kubernetes ends the other pods when the limit of the whole Job is reached.
    limits = {key: value for key, value in spec.items() if key.startswith("backoffLimit")}
    assert limits == ({"backoffLimit": 0} if pods == 1 else {"backoffLimitPerIndex": 0})


DATA = Data(ROOT / "loadtest")


def plan_in(found: Object, index: int = 0, files: dict[str, Path] | None = None) -> Plan:
    """Return what the program in one pod of the Job would do; ``files`` are in their place."""
    only = container(found)
    program, *given = only["args"]
    assert program == "loadtest"
    arguments = [str((files or {}).get(each, each)) for each in given]
    env = {each["name"]: each["value"] for each in only["env"]}
    options = parser_of(DATA).parse_args(arguments)
    return plan_of(options, {**env, "JOB_COMPLETION_INDEX": str(index)}, DATA)


@pytest.mark.parametrize("pods", [1, 3])
def test_each_pod_knows_its_share(helm4: Helm, pods: int) -> None:
    found = job(helm4, parallelism=pods)

    shards = [plan_in(found, index).shard for index in range(pods)]

    assert shards == [Shard(index, pods) for index in range(pods)]


SCENARIO = "/etc/loadtest/scenario/scenario.yaml"
LOADS: list[Any] = [
    pytest.param({}, ["--rate", "20", "--arrivals", "poisson", "--duration", "60"], id="default"),
    pytest.param(
        {"rate": 1_000_000, "arrivals": "constant", "durationSeconds": 1.5, "slo": ["p99=1s"]},
        [
            *("--rate", "1000000", "--arrivals", "constant", "--duration", "1.5"),
            *("--slo", "p99=1s"),
        ],
        id="a rate",
    ),
    pytest.param({"clients": 9}, ["--clients", "9", "--duration", "60"], id="clients"),
    pytest.param({"scenario": "steady"}, ["--scenario", "steady"], id="a scenario"),
    pytest.param(
        {"scenario": "steady", "slo": ["p99=1s", "errors=1%"], "extraArgs": ["--seed", "7"]},
        ["--scenario", "steady", "--slo", "p99=1s", "--slo", "errors=1%", "--seed", "7"],
        id="more of a scenario",
    ),
    pytest.param(
        {"scenarioConfigMap": "own"},
        ["--scenario", SCENARIO],
        id="a scenario of one's own",
    ),
]


@pytest.mark.parametrize(("own", "expected"), LOADS)
def test_the_program_takes_its_arguments(
    helm4: Helm, own: dict[str, Any], expected: list[str]
) -> None:
    found = job(helm4, **own)
    _, url, *options = container(found)["args"]
    files = {SCENARIO: DATA.scenarios()["smoke"]}

    assert url == "http://imageserve-web:80"
    assert options == [*expected, "--json", "-"]
    assert plan_in(found, files=files).scenario.seconds > 0


@pytest.mark.parametrize("name", ["steady", "ramp", "overload"])
def test_the_scenarios_that_the_values_name_are_there(name: str) -> None:
    assert f"`{name}`" in (CHART / "values.yaml").read_text()
    assert name in DATA.scenarios()


def mounted(found: Object, path: str) -> Any:
    """Return the volume in which a file is, as the container sees it."""
    spec = found["spec"]["template"]["spec"]
    mount = next(m for m in container(found)["volumeMounts"] if path.startswith(m["mountPath"]))
    return next(v for v in spec["volumes"] if v["name"] == mount["name"])


def test_the_api_key_comes_from_the_secret_of_the_release(helm4: Helm, tmp_path: Path) -> None:
    found = job(helm4, KEYS_ON)
    arguments = container(found)["args"]
    path = arguments[arguments.index("--api-key-file") + 1]
    secret = the(helm4.render(PASSWORD, KEYS_ON), "Secret", "imageserve-api-keys")
    here = tmp_path / "keys"
    here.write_text(f"# ours\n\n{b64decode(secret['data']['keys']).decode()}")

    volume = mounted(found, path)

    assert volume["secret"]["secretName"] == "imageserve-api-keys"
    assert [item["path"] for item in volume["secret"]["items"]] == [Path(path).name]
    assert plan_in(found, files={path: here}).api_key == KEYS[0]
    assert not [key for key in KEYS if key in json.dumps(found)]


def test_without_api_keys_none_is_sent(helm4: Helm) -> None:
    assert "--api-key-file" not in container(job(helm4))["args"]


def test_its_pods_can_do_nothing_but_call(helm4: Helm) -> None:
    (pod,) = pod_templates([job(helm4)])

    assert pod.spec["automountServiceAccountToken"] is False
    assert "serviceAccountName" not in pod.spec
    # The selectors of web and model pods must not match these.
    objects = helm4.render(PASSWORD, {"loadtest": {"enabled": True}})
    for each in of_kind(objects, "Service"):
        assert not each["spec"]["selector"].items() <= dict(pod.labels).items(), title(each)


@pytest.mark.parametrize(
    ("values", "learns"),
    [
        ({}, False),
        (shapes(network="stand-in:size=8"), False),
        (shapes(network="resnet50"), True),
        (shapes(network="/m/own.keras", labels="/m/own.txt", inputSize=8), True),
        ({"models": {"resnet50": {}}, "defaultModel": "shapes", **SMALL_QUEUES}, False),
    ],
    ids=["bundled", "stand-in", "known", "own", "beside the bundled one"],
)
def test_the_answers_of_a_model_with_other_labels_are_learnt(
    helm4: Helm, values: Any, learns: bool
) -> None:
    plain, chosen = job(helm4, values), job(helm4, values, extraArgs=["--images", "/own"])

    assert plan_in(plain).learn == learns
    assert "--learn" not in container(chosen)["args"]


def test_another_load_is_another_job_and_the_same_is_the_same(helm4: Helm) -> None:
    """A Job cannot be changed: an upgrade that tried it would be refused."""
    first = job(helm4)

    assert job(helm4, {"web": {"replicas": 7}}) == first
    for own in ({"rate": 21}, {"parallelism": 2}, {"image": {"tag": "other"}}):
        assert title(job(helm4, **own)) != title(first)


def test_its_file_alone_renders_the_whole_load_test(helm4: Helm, tmp_path: Path) -> None:
    """``--show-only`` of its file renders every object that it adds to a release."""
    values_file = tmp_path / "values.json"
    values_file.write_text(json.dumps({**PASSWORD, "loadtest": {"enabled": True}}))
    command = ["template", "imageserve", str(CHART), f"--values={values_file}"]
    alone = helm4._run([*command, "--show-only=templates/loadtest.yaml"])
    assert isinstance(alone, str)
    without = {title(each) for each in helm4.render(PASSWORD)}
    having = {title(o) for o in helm4.render(PASSWORD, {"loadtest": {"enabled": True}})}

    assert {title(each) for each in objects_of(alone)} == having - without


def test_the_image_has_the_folders_that_the_program_reads() -> None:
    folders = [str(folder) for folder in FOLDERS]
    dockerfile = (ROOT / "images" / "loadtest" / "Dockerfile").read_text()

    assert "COPY loadtest/images /opt/imageserve/loadtest/images\n" in dockerfile
    assert "/opt/imageserve/loadtest" in folders


def test_the_logs_of_several_pods_are_merged_into_one_report(tmp_path: Path) -> None:
    """The command of the documentation, on logs with other lines between the results."""
    documented = (ROOT / "docs" / "kubernetes.md").read_text()
    assert "| imageserve loadtest merge -" in documented
    command = [sys.executable, "-m", "imageserve", "loadtest", "merge", "-"]

    done = subprocess.run(
        command, input="no result\n", cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert done.returncode == 2
    assert "result" in done.stderr


def test_a_small_cluster_can_bear_the_default_load() -> None:
    own = values()["loadtest"]

    assert own["rate"] <= 50
    assert own["timeoutSeconds"] > 2 * own["durationSeconds"]
