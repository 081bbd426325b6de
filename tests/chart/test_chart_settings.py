"""The variables in the chart: each one is a setting that its program reads and accepts."""

import re
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.chart.helm import CHART, Helm, Object
from tests.chart.objects import PodTemplate, of_kind, pod_templates, the, title
from tests.chart.situations import EVERYTHING, KEYS, PASSWORD, SITUATIONS, Situation, each_situation

from imageserve.config.settings import Settings, variables
from imageserve.errors import Forbidden
from imageserve.models import Engine
from imageserve.models.catalog import NETWORKS, Scaling
from imageserve.models.entries import ModelEntry, engine_of, model_entries, worker_entry
from imageserve.models.folder import ModelFacts
from imageserve.preparation import Preparation
from imageserve.queue.quota import Quota
from imageserve.web.api_keys import ApiKeys
from imageserve.web.keys_file import ANYBODY, Caller

SETTINGS = set(variables())
#: Read by others than imageserve: the C library, Keras, TensorFlow, redis-cli, obstore.
OTHERS = {
    "HOME",
    "KERAS_HOME",
    "TF_FORCE_GPU_ALLOW_GROWTH",
    "REDISCLI_AUTH",
    "TZ",
    "AWS_ENDPOINT_URL",
    "SSL_CERT_FILE",
}
FILES = ("MODELS_FILE", "REDIS_CA_FILE", "API_KEYS_FILE", "SCALING_FILE")
#: The programs that know the models.
SERVING = ("web", "worker")


def programs(
    objects: list[Object], program: str | None = None
) -> Iterator[tuple[PodTemplate, Any]]:
    """Yield every container that runs imageserve, or one command of it, with its pod."""
    for pod in pod_templates(objects):
        for container in pod.spec["containers"]:
            variables = {each["name"] for each in container.get("env", [])}
            matches = program is None or container.get("args") == [program]
            if matches and "REDIS_URL" in variables:
                yield pod, container


def settings_of(pod: PodTemplate, container: Object, objects: list[Object], at: Path) -> Settings:
    """Read the settings as the container's program would, from its variables and files."""
    env = {each["name"]: each.get("value", "from-a-secret") for each in container["env"]}
    for name in FILES:
        if name in env:
            path = at / name
            path.write_text(file_in(pod, container, env[name], objects))
            env[name] = str(path)
    return Settings.from_env(env)


def file_in(pod: PodTemplate, container: Object, path: str, objects: list[Object]) -> str:
    """Return the content of a file as the container sees it; of a Secret of the user's, a dummy."""
    for mount in container["volumeMounts"]:
        volume = next(v for v in pod.spec["volumes"] if v["name"] == mount["name"])
        inside = path.removeprefix(mount["mountPath"] + "/")
        for source in volume.get("projected", {}).get("sources", []):
            for kind, key in (("ConfigMap", "configMap"), ("Secret", "secret")):
                for item in source.get(key, {}).get("items", []):
                    if item["path"] == inside:
                        return _content(objects, kind, source[key]["name"], item["key"])
    pytest.fail(f"{pod}: nothing puts a file at {path}")


def _content(objects: list[Object], kind: str, name: str, key: str) -> str:
    if not any(o["metadata"]["name"] == name for o in of_kind(objects, kind)):
        return "what a Secret of the user's holds"
    content: str = the(objects, kind, name)["data"][key]
    return b64decode(content).decode() if kind == "Secret" else content


@each_situation()
def test_every_variable_is_read_by_a_program(helm4: Helm, situation: Situation) -> None:
    names = {
        each["name"]
        for pod in pod_templates(situation.render(helm4))
        if pod.serves
        for container in pod.containers
        for each in container.get("env", [])
    }

    assert names - SETTINGS - OTHERS == set()


def test_a_variable_that_no_program_reads_would_be_found() -> None:
    assert "REDIS_URL" in SETTINGS
    assert "REDIS_HOST" not in SETTINGS | OTHERS


@each_situation()
def test_the_programs_can_use_every_value(
    helm4: Helm, situation: Situation, tmp_path: Path
) -> None:
    objects = situation.render(helm4)
    found = list(programs(objects))

    for pod, container in found:
        settings_of(pod, container, objects, tmp_path)

    has_autoscaler = any("autoscaler" in title(each) for each in of_kind(objects, "Deployment"))
    expected = {*SERVING, "autoscaler"} if has_autoscaler else set(SERVING)
    if any(
        port["name"] == "grpc" for s in of_kind(objects, "Service") for port in s["spec"]["ports"]
    ):
        expected |= {"grpc"}
    if any("redis-check" in title(each) for each in of_kind(objects, "Job")):
        expected |= {"queue"}
    assert {container["args"][0] for _, container in found} == expected


def test_the_web_server_accepts_the_keys_that_were_given(helm4: Helm, tmp_path: Path) -> None:
    options = "burst=3 rate=0.5 models=shapes,resnet50 priority=background name=team-a"
    given = [*KEYS, f"background-sixteen {options}"]
    objects = helm4.render({"apiKeys": {"enabled": True, "keys": given}}, PASSWORD)
    web = next(programs(objects, "web"))

    path = settings_of(*web, objects, tmp_path).api_keys_file
    assert path is not None
    keys = ApiKeys(Path(path))

    for key in KEYS:
        assert keys.caller(f"Bearer {key}", "") == ANYBODY
    assert keys.caller("Bearer background-sixteen", "") == Caller(
        "team-a", "background", Quota("team-a", 0.5, 3), frozenset({"shapes", "resnet50"})
    )
    with pytest.raises(Forbidden):
        keys.caller("Bearer another-key-of-somebody", "")


def test_what_makes_spans_knows_the_collector(helm4: Helm, tmp_path: Path) -> None:
    traced = {"tracing": {"endpoint": "http://collector:4318", "share": 0.25}}
    values = (traced, {"web": {"grpc": {"enabled": True}}}, PASSWORD)
    objects = helm4.render(*values)
    makers = ("web", "grpc", "worker")
    found = [each for program in makers for each in programs(objects, program)]
    (autoscaler,) = programs(objects, "autoscaler")

    assert len(found) == 3
    for each in found:
        settings = settings_of(*each, objects, tmp_path)
        assert (settings.traces_endpoint, settings.traces_share) == ("http://collector:4318", 0.25)
    assert settings_of(*autoscaler, objects, tmp_path).traces_endpoint == ""


def test_without_a_collector_nothing_says_a_word_of_traces(helm4: Helm) -> None:
    assert "TRACES" not in helm4.text(PASSWORD, {"tracing": {"share": 1}})


def test_workers_see_no_api_key(helm4: Helm) -> None:
    objects = helm4.render({"apiKeys": {"enabled": True, "keys": KEYS}}, PASSWORD)

    for pod, _ in programs(objects, "worker"):
        assert "api-keys" not in yaml.safe_dump(pod.spec)


@each_situation()
def test_web_and_workers_know_the_same_models(
    helm4: Helm, situation: Situation, tmp_path: Path
) -> None:
    objects = situation.render(helm4)
    known = [
        model_entries(settings_of(*each, objects, tmp_path))
        for program in SERVING
        for each in programs(objects, program)
    ]
    served = [
        worker_entry(settings_of(*each, objects, tmp_path)) for each in programs(objects, "worker")
    ]

    assert all(list(each.items()) == list(known[0].items()) for each in known)
    assert sorted(each.name for each in served) == sorted(known[0])


def test_the_default_serves_the_bundled_model(helm4: Helm, tmp_path: Path) -> None:
    objects = helm4.render(PASSWORD)
    (worker,) = programs(objects, "worker")

    entry = worker_entry(settings_of(*worker, objects, tmp_path))

    assert (entry.name, entry.network, entry.queue) == ("shapes", "shapes", "image_queue")


def _models(**models: Any) -> list[Any]:
    return [{"models": models, "limits": {"queueBytesLimit": "64Mi"}}, PASSWORD]


def test_the_default_model_comes_first(helm4: Helm, tmp_path: Path) -> None:
    values = _models(a={"network": "stand-in"}, b={"network": "stand-in"})
    objects = helm4.render(*values, {"defaultModel": "b"})
    web = next(programs(objects, "web"))

    entries = model_entries(settings_of(*web, objects, tmp_path))

    assert list(entries) == ["b", "a", "shapes"]


def test_the_values_of_a_model_reach_the_programs(helm4: Helm, tmp_path: Path) -> None:
    own = {
        "network": "/models/cats.keras",
        "queue": "cats",
        "weights": "random",
        "labels": "/models/cats.txt",
        "inputSize": [160, 320],
        "interpolation": "bicubic",
    }
    objects = helm4.render(*_models(shapes={"enabled": False}, cats=own))
    web = next(programs(objects, "web"))

    entry = model_entries(settings_of(*web, objects, tmp_path))["cats"]

    assert entry == ModelEntry(
        "cats",
        "cats",
        Preparation((160, 320), interpolation="bicubic"),
        "/models/cats.keras",
        "random",
        "/models/cats.txt",
        ModelFacts((160, 320), "bicubic"),
    )


def test_how_pictures_are_prepared_reaches_the_programs(helm4: Helm, tmp_path: Path) -> None:
    means = [0.485, 0.456, 0.406]
    own = {
        "network": "/models/cats",
        "inputSize": 224,
        "resize": "crop",
        "resizeTo": 256,
        "cropRounding": "down",
        "antialias": False,
        "colour": "bgr",
        "layout": "nchw",
        "pixelScaling": {"divide": 255, "mean": means, "std": 0.5},
        "activation": "sigmoid",
        "embedding": "avg_pool",
    }
    bars = {"network": "stand-in", "resize": "pad", "pad": 0, "pixelScaling": "-1..1"}
    objects = helm4.render(
        *_models(shapes={"enabled": False}, cats=own, bars=bars), {"defaultModel": "cats"}
    )
    web = next(programs(objects, "web"))

    entries = model_entries(settings_of(*web, objects, tmp_path))

    assert entries["cats"].given == ModelFacts(
        (224, 224),
        scaling=Scaling((1 / (255 * 0.5),) * 3, tuple(-mean / 0.5 for mean in means)),
        resize="crop",
        resize_to=256,
        antialias=False,
        crop_rounding="down",
        colour="bgr",
        layout="nchw",
        activation="sigmoid",
        embedding="avg_pool",
    )
    assert entries["bars"].given == ModelFacts(scaling="-1..1", resize="pad", pad=0)


def test_web_pods_start_without_knowing_how_pictures_of_a_folder_are_prepared(
    helm4: Helm, tmp_path: Path
) -> None:
    own = {"network": "/models/cats", "pad": 114, "cropRounding": "down"}
    objects = helm4.render(*_models(shapes={"enabled": False}, cats=own))
    web = next(programs(objects, "web"))

    assert model_entries(settings_of(*web, objects, tmp_path))["cats"].preparation is None


def test_the_engine_of_a_model_reaches_the_programs(helm4: Helm, tmp_path: Path) -> None:
    own = {"runtime": "keras", "backend": "jax", "precision": "bfloat16", "xla": True, "threads": 3}
    folder = {"versions": {"dir": "/versions"}}
    objects = helm4.render({"models": {"shapes": {**own, **folder}}}, PASSWORD)
    (worker,) = programs(objects, "worker")

    settings = settings_of(*worker, objects, tmp_path)

    assert engine_of(settings) == Engine("keras", "jax", "bfloat16", xla=True, threads=3)
    assert settings.models_dir == "/versions"


def test_an_engine_that_is_not_set_is_the_default(helm4: Helm, tmp_path: Path) -> None:
    objects = helm4.render(PASSWORD)
    (worker,) = programs(objects, "worker")

    settings = settings_of(*worker, objects, tmp_path)

    assert engine_of(settings) == engine_of(Settings())
    assert settings.models_dir is None


def test_the_chart_knows_every_network_of_keras() -> None:
    text = (CHART / "templates" / "_values.tpl").read_text()
    (known,) = re.findall(r'define "imageserve\.networks" -}}(.*?)\{\{- end', text, re.S)

    assert re.findall(r'"(\w+)"', known.replace('"names"', "")) == list(NETWORKS)


def test_the_values_of_one_model_do_not_change_the_others(helm4: Helm) -> None:
    values = _models(one={"network": "stand-in", "resources": {"requests": {"cpu": "7"}}})
    objects = helm4.render(*values, {"defaultModel": "shapes"})
    cpus = {
        pod.owner["metadata"]["labels"]["imageserve-model"]: c["resources"]["requests"]
        for pod, c in programs(objects, "worker")
    }

    assert cpus["one"] == {"cpu": "7", "memory": cpus["shapes"]["memory"]}
    assert cpus["shapes"]["cpu"] != "7"


NAMES = ["yes", "123", "null", "1e3", "Cats_and.Dogs", "0x1f", "a-b"]


@pytest.mark.parametrize("name", NAMES)
def test_a_model_name_that_yaml_could_misread_stays_what_it_is(
    helm4: Helm, tmp_path: Path, name: str
) -> None:
    objects = helm4.render(
        *_models(**{"shapes": {"enabled": False}, name: {"network": "stand-in"}})
    )
    (worker,) = programs(objects, "worker")

    entry = worker_entry(settings_of(*worker, objects, tmp_path))

    assert entry.name == name


LARGE = [
    ("limits.maxImagePixels", 50_000_000, "MAX_IMAGE_PIXELS"),
    ("limits.queueLimit", 10_000_000, "QUEUE_LIMIT"),
    ("limits.maxBodyBytes", 33_554_432, "MAX_BODY_BYTES"),
    ("web.memoryBytes", 134_217_728, "WEB_MEMORY_BYTES"),
    ("web.decodeMemoryBytes", 536_870_912, "DECODE_MEMORY_BYTES"),
    ("limits.maxImageSide", 50_000_000, "MAX_IMAGE_SIDE"),
]


@pytest.mark.parametrize(("path", "value", "name"), LARGE, ids=str)
def test_large_numbers_are_not_written_with_an_exponent(
    helm: Helm, path: str, value: int, name: str
) -> None:
    part, key = path.split(".")
    objects = helm.render({part: {key: value}}, PASSWORD)
    _, web = next(programs(objects, "web"))

    assert {each["name"]: each.get("value") for each in web["env"]}[name] == str(value)


def test_the_redis_url_names_the_service_and_its_port(helm4: Helm) -> None:
    values = {"redis": {"service": {"port": 7000}}}
    objects = helm4.render(values, PASSWORD)
    (service,) = [s for s in of_kind(objects, "Service") if "redis" in s["metadata"]["name"]]

    for _, container in programs(objects):
        env = {each["name"]: each.get("value") for each in container["env"]}
        assert env["REDIS_URL"] == f"redis://{service['metadata']['name']}:7000/0"
    assert service["spec"]["ports"][0]["port"] == 7000


URLS = {
    "external redis": "redis://redis.data.test:6379/0",
    "external redis with TLS, own CA and an ACL user": "rediss://redis.data.test:6380/3",
    "sentinels with passwords": "redis+sentinel://s1.test:26379,s2.test:26380/mymaster/0",
    "external cluster": "rediss+cluster://n1.test:6379,n2.test:6380",
}


@each_situation([s for s in SITUATIONS if s.name in URLS])
def test_the_url_of_an_external_redis(helm4: Helm, situation: Situation) -> None:
    objects = situation.render(helm4)

    for _, container in programs(objects):
        env = {each["name"]: each.get("value") for each in container["env"]}
        assert env["REDIS_URL"] == URLS[situation.name]
    assert not of_kind(objects, "StatefulSet")


def test_no_password_is_written_into_a_pod(helm4: Helm) -> None:
    objects = EVERYTHING.render(helm4)

    for obj in objects:
        if obj["kind"] != "Secret":
            assert PASSWORD["redis"]["auth"]["password"] not in yaml.safe_dump(obj)
            assert "a-key-of-sixteen" not in yaml.safe_dump(obj)
