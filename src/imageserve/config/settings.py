"""Every setting: its environment variable, its default, what it means.

A variable has the name of its field, in capitals. ``Settings.from_env`` reads them once, at the
start of a process, and refuses a value that cannot be used. Parts of the system get plain values,
never this object. ``imageserve settings`` prints the table in the README from here.
"""

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any

from imageserve.config import choices
from imageserve.config.reader import (
    EnvText,
    Parser,
    byte_count,
    existing_file,
    http_address,
    image_size,
    number,
    one_of,
    origins,
    parsed,
    queue_name,
    some_of,
    switch,
    text,
    whole,
)
from imageserve.errors import SettingsError


def setting(
    default: Any, parse: Parser[Any], doc: str, *, shown: str | None = None, is_secret: bool = False
) -> Any:
    """Declare one field of Settings; ``shown`` is how its default reads in the documentation."""
    return field(
        default=default, metadata={"parse": parse, "doc": doc, "shown": shown}, repr=not is_secret
    )


_listed = ", ".join


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of one process."""

    redis_url: str = setting(
        "redis://localhost:6379/0",
        text,
        "Where Redis is: `redis://`, `rediss://` (TLS), `unix://` or "
        "`redis+sentinel://h1:26379,h2:26379/master/db`, `redis+cluster://h1:6379,h2:6379`. "
        "Redis 6.2 or later.",
    )
    redis_username: str | None = setting(None, text, "User of a Redis ACL.")
    redis_password: str | None = setting(
        None, text, "Password for Redis. Any characters; never part of the URL.", is_secret=True
    )
    redis_ca_file: str | None = setting(
        None, existing_file, "Certificate authority that signed the Redis certificate."
    )
    redis_sentinel_password: str | None = setting(
        None, text, "Password of the Sentinels, where they have one.", is_secret=True
    )
    models_file: str | None = setting(
        None,
        existing_file,
        "YAML file that names several models: name → `queue`, `network`, `weights`, `labels` and "
        "the keys of `imageserve.yaml` (docs/model-folders.md).",
    )
    model: str | None = setting(
        None,
        text,
        "The model: `shapes` (bundled), a network of keras.applications such as `resnet50` "
        "(`imageserve models list`), `stand-in`, or the path of a `.keras` or `.onnx` file or of a "
        "model folder. With `MODELS_FILE`, the name of the entry that a worker serves.",
        shown="`shapes`, or the first entry of `MODELS_FILE`",
    )
    image_queue: str = setting(
        "image_queue", queue_name, "Redis list that holds the jobs of the model."
    )
    input_size: tuple[int, int] | None = setting(
        None,
        image_size,
        "Height and width of the model's input, `224` or `224x320`, where its file leaves them "
        "open. Web processes learn it from the workers.",
        shown="the model's own",
    )
    interpolation: str | None = setting(
        None,
        one_of(*choices.INTERPOLATIONS),
        f"How pictures are resized: {_listed(choices.INTERPOLATIONS)}.",
        shown=f"what the model's folder says, else `{choices.DEFAULT_INTERPOLATION}`",
    )
    model_weights: str = setting(
        choices.DEFAULT_WEIGHTS,
        text,
        "Weights of a network named by `MODEL`: `imagenet` (downloaded by Keras), the path of a "
        "weights file, or `random` (seeded, for tests).",
    )
    model_labels: str | None = setting(
        None,
        existing_file,
        "File with the labels of the model: one a line, in class order. Needed for a `.keras` or "
        "`.onnx` file.",
        shown="the model's own",
    )
    model_runtime: str | None = setting(
        None,
        one_of(*choices.RUNTIMES),
        "What runs the model: `keras`, or `onnx` (ONNX Runtime) for an `.onnx` file.",
        shown="`onnx` where there is only an `.onnx` file, else `keras`",
    )
    keras_backend: str = setting(
        choices.DEFAULT_BACKEND,
        one_of(*choices.BACKENDS),
        f"Backend of Keras: {_listed(choices.BACKENDS)}. The last two must be installed.",
    )
    precision: str = setting(
        choices.DEFAULT_PRECISION,
        one_of(*choices.PRECISIONS),
        "Number format of most layers: float32, bfloat16, and with Keras float16. `imageserve "
        "models check` shows how much the answers change.",
    )
    xla: bool = setting(
        False, switch, "`1`: TensorFlow compiles the model with XLA. JAX always does.", shown="`0`"
    )
    model_threads: int | None = setting(
        None,
        whole(1, 1024),
        "Threads that compute one call of the model on a CPU. JAX ignores it.",
        shown="the processors that the container may use",
    )
    models_dir: str | None = setting(
        None,
        text,
        "Folder on the workers with more versions of models, `NAME/VERSION/`, each a model folder. "
        "`imageserve models use NAME@VERSION` changes to one of them without a restart.",
    )
    batch_size: int = setting(
        choices.DEFAULT_BATCH_SIZE,
        whole(*choices.BATCH_SIZES),
        "Most pictures in one call of the model.",
    )
    batch_delay_ms: int = setting(
        0,
        whole(0, 10_000),
        "How long a worker waits for more pictures before a batch that is not full.",
    )
    request_timeout_s: float = setting(
        30.0,
        number(0.1, 3600),
        "Longest time from the upload of a request to its answer; then 504.",
    )
    outage_patience_s: float = setting(
        10.0,
        number(0, 3600),
        "While Redis is away, requests wait for it, at most this long after the first failure and "
        "at most half of `WEB_SLOTS` at once; then 503 `redis_unavailable`. `0`: none waits.",
    )
    upload_timeout_s: float = setting(
        10.0, number(0.1, 3600), "A request must have arrived within this time."
    )
    result_ttl_s: float = setting(
        60.0, number(1, 86_400), "How long a result is kept after the deadline of its job."
    )
    queue_limit: int = setting(2048, whole(1, 10_000_000), "Most jobs waiting in one queue.")
    queue_bytes_limit: int = setting(
        512 * 2**20,
        byte_count,
        "Most bytes of pixels in one queue, waiting and in work. At most 0.6 of Redis's maxmemory.",
        shown="512MiB",
    )
    lease_s: float = setting(
        10.0,
        number(0.5, 3600),
        "A worker that does not renew its lease for this long loses its jobs.",
    )
    max_attempts: int = setting(
        2,
        whole(1, 100),
        "Workers that may be lost with one job before it is given up (422, dead list).",
    )
    max_image_bytes: int = setting(
        choices.MAX_IMAGE_BYTES, byte_count, "Largest picture in bytes, as uploaded.", shown="10MiB"
    )
    max_body_bytes: int = setting(
        32 * 2**20, byte_count, "Largest request body in bytes.", shown="32MiB"
    )
    max_image_pixels: int = setting(
        choices.MAX_IMAGE_PIXELS, whole(1, 2**31 - 1), "Largest picture in pixels."
    )
    max_image_side: int = setting(
        choices.MAX_IMAGE_SIDE,
        whole(1, 2**31 - 1),
        "Longest side of a picture in pixels: to resize one takes memory in proportion to it.",
    )
    decode_memory_bytes: int = setting(
        choices.DECODE_MEMORY_BYTES,
        byte_count,
        "Memory that one web process may take for decoding, beyond that of the uploads. A picture "
        "that needs more, by its header, is refused.",
        shown="1GiB",
    )
    decode_s: float = setting(
        10.0,
        number(0.1, 3600),
        "Processor time that decoding one picture may take, in seconds; then it is refused.",
    )
    max_images: int = setting(16, whole(1, 1024), "Most pictures in one multipart request.")
    image_formats: frozenset[str] = setting(
        frozenset(choices.IMAGE_FORMATS),
        some_of(*choices.IMAGE_FORMATS),
        "Formats of pictures that are accepted.",
        shown=f"`{','.join(choices.IMAGE_FORMATS)}`",
    )
    fast_jpeg: bool = setting(
        True,
        switch,
        "`1`: a JPEG of at least four times the model's height and width is decoded at a reduced "
        "size. That is up to three times as fast; the pixels differ a little.",
        shown="`1`",
    )
    fast_resize: bool = setting(
        True,
        switch,
        "`1`: where a model's interpolation is `bilinear`, pictures are resized by vector units if "
        "the processor is an x86-64, in a fifth of the time; a byte may differ by 1. `0`: by "
        "Pillow always.",
        shown="`1`",
    )
    web_host: str = setting("0.0.0.0", text, "Address the web server listens on.")  # noqa: S104 - a pod's own network
    web_port: int = setting(8000, whole(1, 65_535), "Port of the web server.")
    web_probe_port: int = setting(
        0,
        whole(0, 65_535),
        "Port on which the web server answers `/healthz` and `/readyz` whatever its load is; 0 "
        "switches it off. They are on `WEB_PORT` too.",
    )
    grpc_port: int = setting(
        8001,
        whole(1, 65_535),
        "Port of `imageserve grpc`, which serves the Open Inference Protocol over gRPC. It has the "
        "limits of one web process.",
    )
    web_processes: int = setting(2, whole(1, 256), "Processes of the web server.")
    web_slots: int = setting(
        256,
        whole(1, 100_000),
        "Requests that one web process handles at once; one more is answered 503 `busy`. Each is a "
        "greenlet, not a thread.",
    )
    web_memory_bytes: int = setting(
        256 * 2**20,
        byte_count,
        "Bytes of uploads that one web process holds at once; beyond that, 503 `busy`.",
        shown="256MiB",
    )
    keepalive_s: int = setting(
        75,
        whole(1, 3600),
        "How long an idle connection is kept open. Must be longer than the idle timeout of a load "
        "balancer in front.",
    )
    drain_s: float = setting(
        5.0,
        number(0, 600),
        "How long `imageserve drain`, and `imageserve grpc` after SIGTERM, keep serving, so that "
        "load balancers notice.",
    )
    api_keys_file: str | None = setting(
        None,
        existing_file,
        "File with the keys that may call `/predict`, one a line, of 16 or more ASCII characters; "
        "`#` starts a comment. Options behind a key: `name=`, `rate=` and `burst=` (its quota), "
        "`models=`, `priority=background`. It is read again when it changes. Without it no key is "
        "needed.",
    )
    cors_origins: frozenset[str] = setting(
        frozenset(),
        origins,
        "Origins whose pages may call this server from a browser, separated by commas, such as "
        "`https://app.example.com`; `*`: all.",
    )
    web_page: bool = setting(
        False,
        switch,
        "`1`: a page for people at `/`: drop pictures there, see their labels and what the cluster "
        "does. `imageserve run` switches it on.",
        shown="`0`",
    )
    run_dir: str = setting(
        "",
        text,
        "Directory for the web server's shared counters and drain flag. It must be this user's or "
        "root's, and writable. In one that others can write to, a private one named after the port "
        "is made.",
        shown="a directory of this user under the system's temporary one",
    )
    metrics_port: int = setting(
        9100,
        whole(0, 65_535),
        "Port for `/startupz`, `/healthz`, `/readyz` and `/metrics` of a worker, of the autoscaler "
        "and of `imageserve grpc`; 0 switches it off. The web server has its own ports.",
    )
    scaling_file: str | None = setting(
        None,
        existing_file,
        "YAML file for the autoscaler: the Deployment that serves each queue, and how many pods it "
        "may have.",
    )
    pod_name: str | None = setting(
        None, text, "Name of the autoscaler's own pod: its identity where several share a lease."
    )
    pod_namespace: str | None = setting(
        None,
        text,
        "Kubernetes namespace of the Deployments that the autoscaler sizes.",
        shown="that of the kubeconfig's context",
    )
    traces_endpoint: str = setting(
        "",
        http_address,
        "OpenTelemetry collector that gets the spans of sampled requests by OTLP over HTTP, such "
        "as `http://collector:4318` (docs/tracing.md). Without it none are made.",
    )
    traces_share: float = setting(
        0.01,
        number(0, 1),
        "With `TRACES_ENDPOINT`: share of the requests without a `traceparent` that begin a trace. "
        "A request with one is traced if its caller samples it.",
    )
    shutdown_s: float = setting(
        30.0, number(1, 3600), "Time that a worker has after SIGTERM to finish its batch."
    )
    log_level: str = setting(
        "info",
        one_of(*choices.LOG_LEVELS),
        f"Least severe level logged: {_listed(choices.LOG_LEVELS)}.",
    )
    log_format: str = setting(
        "auto",
        one_of(*choices.LOG_FORMATS),
        "`json` (one object a line), `text`, or `auto`: text in a terminal, else json.",
    )

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "Settings":
        """Read all settings. An empty variable counts as not set.

        Raises SettingsError, naming the variable, where a value cannot be used.
        """
        values = {
            f.name: parsed(env, f.metadata["parse"], EnvText(environ[env]), secret=not f.repr)
            for env, f in variables().items()
            if environ.get(env)
        }
        settings = cls(**values)
        settings._check()
        return settings

    def _check(self) -> None:
        if self.max_image_bytes > self.max_body_bytes:
            raise SettingsError("MAX_IMAGE_BYTES must not be larger than MAX_BODY_BYTES")
        if self.max_body_bytes > self.web_memory_bytes:
            raise SettingsError("MAX_BODY_BYTES must not be larger than WEB_MEMORY_BYTES")
        if self.web_probe_port == self.web_port:
            raise SettingsError("WEB_PROBE_PORT must be another port than WEB_PORT")


def variables() -> dict[str, Field[Any]]:
    """Return the field of every environment variable."""
    return {f.name.upper(): f for f in fields(Settings)}


def table() -> str:
    """Return all settings as a Markdown table."""
    lines = ["| variable | default | meaning |", "| --- | --- | --- |"]
    for env, f in variables().items():
        default = f.metadata["shown"] or (
            "none" if f.default in (None, "", frozenset()) else f"`{f.default}`"
        )
        lines.append(f"| `{env}` | {default} | {f.metadata['doc']} |")
    return "\n".join(lines)
