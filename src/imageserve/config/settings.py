"""Every setting: its environment variable, its default, what it means.

``Settings.from_env`` reads them once, at the start of a process; a value that cannot be used stops
the process and names itself. Parts of the system get plain values, never this object. The table in
the README is written from here (``imageserve settings``).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from imageserve.errors import SettingsError

SHAPES = "shapes"


def _text(value: str) -> str:
    if not value:
        raise ValueError("must not be empty")
    return value


def _number(
    kind: Callable[[str], float], what: str, low: float, high: float
) -> Callable[[str], Any]:
    def parse(value: str) -> float:
        allowed = f"must be a {what} from {low} to {high}"
        try:
            number = kind(value.replace("_", "?"))  # Python takes 1_0 for 10.
        except ValueError as error:
            raise ValueError(allowed) from error
        if not low <= number <= high:
            raise ValueError(allowed)
        return number

    return parse


def _whole(low: int, high: int) -> Callable[[str], Any]:
    return _number(int, "whole number", low, high)


def _seconds(low: float, high: float) -> Callable[[str], Any]:
    return _number(float, "number", low, high)


_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


def _bytes(value: str) -> int:
    match = re.fullmatch(r"(\d+)\s*([kmg]i?)?b?", value.strip().lower())
    if match is None or int(match[1]) == 0:
        raise ValueError("must be a number of bytes above 0, such as 10MiB or 10485760")
    return int(match[1]) * _UNITS[match[2] or ""]


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value.lower() not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return value.lower()

    return parse


def _switch(value: str) -> bool:
    choices = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if value.strip().lower() not in choices:
        raise ValueError(f"must be one of {', '.join(choices)}")
    return choices[value.strip().lower()]


def _size(value: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", value.strip().lower())
    size = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not all(8 <= n <= 4096 for n in size):
        raise ValueError("must be HEIGHTxWIDTH or one number for both, 8 to 4096, such as 224")
    return size


IMAGE_FORMATS = ("jpeg", "png", "webp", "gif", "bmp")


def _formats(value: str) -> frozenset[str]:
    names = frozenset(name.strip().lower() for name in value.split(",") if name.strip())
    unknown = names - set(IMAGE_FORMATS)
    if unknown or not names:
        raise ValueError(f"must be a comma-separated list out of {', '.join(IMAGE_FORMATS)}")
    return names


def _queue_name(value: str) -> str:
    if not re.fullmatch(r"[^\s{}]{1,200}", value):
        raise ValueError("must be 1 to 200 characters without spaces and braces")
    return value


INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "hamming", "box", "lanczos")


def setting(
    env: str, default: Any, parse: Callable[[str], Any], doc: str, shown: str | None = None
) -> Any:
    """Declare one field of Settings; ``shown`` is how its default reads in the documentation."""
    meta = {"env": env, "parse": parse, "doc": doc, "shown": shown}
    return field(default=default, metadata=meta, repr="PASSWORD" not in env)


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of one process."""

    redis_url: str = setting(
        "REDIS_URL",
        "redis://localhost:6379/0",
        _text,
        "Where Redis is: `redis://`, `rediss://` (TLS), `unix://` or "
        "`redis+sentinel://h1:26379,h2:26379/master/db`, "
        "`redis+cluster://h1:6379,h2:6379`. Redis 6.2 or later.",
    )
    redis_username: str | None = setting("REDIS_USERNAME", None, _text, "User of a Redis ACL.")
    redis_password: str | None = setting(
        "REDIS_PASSWORD", None, _text, "Password for Redis. Any characters; never part of the URL."
    )
    redis_ca_file: str | None = setting(
        "REDIS_CA_FILE", None, _text, "Certificate authority that signed the Redis certificate."
    )
    redis_sentinel_password: str | None = setting(
        "REDIS_SENTINEL_PASSWORD", None, _text, "Password of the Sentinels, where they have one."
    )
    models_file: str | None = setting(
        "MODELS_FILE",
        None,
        _text,
        "YAML file that names several models: name → `queue`, `input_size`, `interpolation`, "
        "`network`, `weights`, `labels`.",
    )
    model: str | None = setting(
        "MODEL",
        None,
        _text,
        "The model: `shapes` (bundled), a network of keras.applications such as `resnet50` "
        "(`imageserve models list`), `stand-in`, or the path of a `.keras` or `.onnx` file or of a "
        "model folder. With `MODELS_FILE`, the name of the entry that a worker serves.",
        shown="`shapes`, or the first entry of `MODELS_FILE`",
    )
    image_queue: str = setting(
        "IMAGE_QUEUE", "image_queue", _queue_name, "Redis list that holds the jobs of the model."
    )
    input_size: tuple[int, int] | None = setting(
        "INPUT_SIZE",
        None,
        _size,
        "Height and width of the model's input, `224` or `224x320`. Needed for a `.keras` or "
        "`.onnx` file, and where a web process cannot read the model's folder.",
        shown="the model's own",
    )
    interpolation: str | None = setting(
        "INTERPOLATION",
        None,
        _one_of(*INTERPOLATIONS),
        f"How pictures are resized: {', '.join(INTERPOLATIONS)}.",
        shown="what the model's folder says, else `bilinear`",
    )
    model_weights: str = setting(
        "MODEL_WEIGHTS",
        "imagenet",
        _text,
        "Weights of a network named by `MODEL`: `imagenet` (downloaded by Keras), the path of a "
        "weights file, or `random` (seeded, for tests).",
    )
    model_labels: str | None = setting(
        "MODEL_LABELS",
        None,
        _text,
        "Labels of a model: one a line, in class order. Needed for a `.keras` or `.onnx` file.",
        shown="the model's own",
    )
    model_runtime: str | None = setting(
        "MODEL_RUNTIME",
        None,
        _one_of("keras", "onnx"),
        "What runs the model: `keras`, or `onnx` (ONNX Runtime) for what `imageserve models "
        "export` wrote.",
        shown="`onnx` where there is only an `.onnx` file, else `keras`",
    )
    keras_backend: str = setting(
        "KERAS_BACKEND",
        "tensorflow",
        _one_of("tensorflow", "jax", "torch"),
        "What Keras runs on: tensorflow, jax, torch. The last two must be installed.",
    )
    precision: str = setting(
        "PRECISION",
        "float32",
        _one_of("float32", "bfloat16", "float16"),
        "In what most layers are computed: float32, bfloat16, and by Keras float16. `imageserve "
        "models check` says what it changes.",
    )
    xla: bool = setting(
        "XLA",
        False,
        _switch,
        "Whether TensorFlow compiles the model with XLA, `1` or `0`. JAX always does.",
        shown="`0`",
    )
    model_threads: int | None = setting(
        "MODEL_THREADS",
        None,
        _whole(1, 1024),
        "Threads that compute one call of the model on a CPU. JAX takes no notice.",
        shown="the processors that the container may use",
    )
    models_dir: str | None = setting(
        "MODELS_DIR",
        None,
        _text,
        "Folder on the workers with versions to change to while they serve, `NAME/VERSION/`, each "
        "a model folder: `imageserve models use NAME@VERSION`.",
    )
    batch_size: int = setting(
        "BATCH_SIZE", 32, _whole(1, 1024), "Most pictures in one call of the model."
    )
    batch_delay_ms: int = setting(
        "BATCH_DELAY_MS",
        0,
        _whole(0, 10_000),
        "How long a worker waits for more pictures before it runs a batch that is not full.",
    )
    request_timeout_s: float = setting(
        "REQUEST_TIMEOUT_S",
        30.0,
        _seconds(0.1, 3600),
        "A request is answered within this time after its upload, if only with 504.",
    )
    upload_timeout_s: float = setting(
        "UPLOAD_TIMEOUT_S", 10.0, _seconds(0.1, 3600), "A request must have arrived within it."
    )
    result_ttl_s: float = setting(
        "RESULT_TTL_S", 60.0, _seconds(1, 86_400), "How long a result outlives its deadline."
    )
    queue_limit: int = setting(
        "QUEUE_LIMIT", 2048, _whole(1, 10_000_000), "Most jobs that may wait in one queue."
    )
    queue_bytes_limit: int = setting(
        "QUEUE_BYTES_LIMIT",
        512 * 2**20,
        _bytes,
        "Most bytes of pixels of one queue, waiting and in work. At most 0.6 of Redis's maxmemory.",
        shown="512MiB",
    )
    lease_s: float = setting(
        "LEASE_S",
        10.0,
        _seconds(0.5, 3600),
        "A worker that does not renew its lease for this long has lost its jobs to others.",
    )
    max_attempts: int = setting(
        "MAX_ATTEMPTS",
        2,
        _whole(1, 100),
        "How many workers one job may lose before it is given up (422, dead list).",
    )
    max_image_bytes: int = setting(
        "MAX_IMAGE_BYTES", 10 * 2**20, _bytes, "Largest picture, as uploaded.", shown="10MiB"
    )
    max_body_bytes: int = setting(
        "MAX_BODY_BYTES", 32 * 2**20, _bytes, "Largest request body.", shown="32MiB"
    )
    max_image_pixels: int = setting(
        "MAX_IMAGE_PIXELS",
        50_000_000,
        _whole(1, 2**31 - 1),
        "Largest picture in pixels; read from its header, before decoding.",
    )
    max_images: int = setting(
        "MAX_IMAGES", 16, _whole(1, 1024), "Most pictures in one multipart request."
    )
    image_formats: frozenset[str] = setting(
        "IMAGE_FORMATS",
        frozenset(IMAGE_FORMATS),
        _formats,
        "Formats that are accepted.",
        shown=f"`{','.join(IMAGE_FORMATS)}`",
    )
    fast_jpeg: bool = setting(
        "FAST_JPEG",
        True,
        _switch,
        "Whether a JPEG of four times the model's height and width or more is decoded at a reduced "
        "size, `1` or `0`: up to three times as fast, for pixels that differ a little.",
        shown="`1`",
    )
    web_host: str = setting("WEB_HOST", "0.0.0.0", _text, "Address the web server listens on.")  # noqa: S104 - a pod's own network
    web_port: int = setting("WEB_PORT", 8000, _whole(1, 65_535), "Port of the web server.")
    web_processes: int = setting("WEB_PROCESSES", 2, _whole(1, 256), "Processes of the web server.")
    web_slots: int = setting(
        "WEB_SLOTS",
        256,
        _whole(1, 100_000),
        "Requests that one web process has in hand at once; one more is answered 503 `busy`. "
        "Waiting requests are greenlets, so this is not a number of threads.",
    )
    web_memory_bytes: int = setting(
        "WEB_MEMORY_BYTES",
        256 * 2**20,
        _bytes,
        "Bytes of uploads that one web process holds at once; beyond it, 503 `busy`.",
        shown="256MiB",
    )
    keepalive_s: int = setting(
        "KEEPALIVE_S",
        75,
        _whole(1, 3600),
        "How long an idle connection is kept. Longer than the idle time of what stands in front.",
    )
    drain_s: float = setting(
        "DRAIN_S",
        5.0,
        _seconds(0, 600),
        "How long `imageserve drain` keeps serving while load balancers take notice.",
    )
    api_keys_file: str | None = setting(
        "API_KEYS_FILE",
        None,
        _text,
        "File with the keys that may call `/predict`, one a line, `#` for comments. Read again "
        "when it changes. Without it no key is asked for.",
    )
    run_dir: str = setting(
        "RUN_DIR",
        "",
        _text,
        "Directory for the web server's shared counters and drain flag. Must be writable.",
        shown="a directory under the system's temporary one",
    )
    metrics_port: int = setting(
        "METRICS_PORT",
        9100,
        _whole(0, 65_535),
        "Port of a worker's `/startupz`, `/healthz`, `/readyz` and `/metrics`, and of the "
        "autoscaler's; 0 switches it off. The web server has them on its own port.",
    )
    scaling_file: str | None = setting(
        "SCALING_FILE",
        None,
        _text,
        "YAML file for the autoscaler: which Deployment works on which queue, and how many pods it "
        "may have.",
    )
    pod_name: str | None = setting(
        "POD_NAME",
        None,
        _text,
        "Name of the autoscaler's own pod: who it is where several share a lease.",
    )
    pod_namespace: str | None = setting(
        "POD_NAMESPACE",
        None,
        _text,
        "Kubernetes namespace of the Deployments that the autoscaler sizes.",
        shown="that of the kubeconfig's context",
    )
    shutdown_s: float = setting(
        "SHUTDOWN_S",
        30.0,
        _seconds(1, 3600),
        "After SIGTERM a worker has this long to finish its batch and give the rest back.",
    )
    log_level: str = setting(
        "LOG_LEVEL",
        "info",
        _one_of("debug", "info", "warning", "error", "critical"),
        "Least severe level that is logged: debug, info, warning, error, critical.",
    )
    log_format: str = setting(
        "LOG_FORMAT",
        "auto",
        _one_of("auto", "json", "text"),
        "`json` (one object a line), `text`, or `auto`: text in a terminal, else json.",
    )

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "Settings":
        """Read all settings. An empty variable counts as not set.

        Raises SettingsError, naming the variable, where a value cannot be used.
        """
        values = {
            f.name: _parse(f.metadata["env"], f.metadata["parse"], environ[f.metadata["env"]])
            for f in fields(cls)
            if environ.get(f.metadata["env"])
        }
        settings = cls(**values)
        settings._check()
        return settings

    def _check(self) -> None:
        if self.max_image_bytes > self.max_body_bytes:
            raise SettingsError("MAX_IMAGE_BYTES must not be larger than MAX_BODY_BYTES")
        if self.max_body_bytes > self.web_memory_bytes:
            raise SettingsError("MAX_BODY_BYTES must not be larger than WEB_MEMORY_BYTES")
        for env, path in (
            ("MODELS_FILE", self.models_file),
            ("REDIS_CA_FILE", self.redis_ca_file),
            ("MODEL_LABELS", self.model_labels),
            ("API_KEYS_FILE", self.api_keys_file),
            ("SCALING_FILE", self.scaling_file),
        ):
            if path is not None:
                _check_file(env, path)


def _check_file(env: str, path: str) -> None:
    try:
        is_there = Path(path).is_file()
    except OSError as error:
        raise SettingsError(f"{env}: {path!r} cannot be read ({error.strerror})") from error
    if not is_there:
        raise SettingsError(f"{env}: there is no file {path!r}")


def _parse(env: str, parse: Callable[[str], Any], value: str) -> Any:
    try:
        return parse(value)
    except ValueError as error:
        shown = "" if "PASSWORD" in env else f" (it is {value!r})"
        raise SettingsError(f"{env}: {error}{shown}") from error


def table() -> str:
    """Return all settings as a Markdown table."""
    lines = ["| variable | default | meaning |", "| --- | --- | --- |"]
    for f in fields(Settings):
        default = f.metadata["shown"] or ("none" if f.default in (None, "") else f"`{f.default}`")
        lines.append(f"| `{f.metadata['env']}` | {default} | {f.metadata['doc']} |")
    return "\n".join(lines)
