"""Models fetched over HTTPS, from S3 and from Hugging Face, with servers of this machine."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from tests.model_server import (
    COMMIT,
    S3_CREDENTIALS,
    ModelServer,
    make_certificates,
    model_server,
    s3_put,
    s3_server,
    serve_hub,
)
from tests.redis_server import eventually

from imageserve.cli import models as command
from imageserve.cli import models_fetch
from imageserve.errors import ModelLoadError
from imageserve.models.fetch import archive as archives
from imageserve.models.fetch import folder as fetch_folder_module
from imageserve.models.fetch import remote
from imageserve.models.fetch.address import parse_origin
from imageserve.models.fetch.folder import FetchedFolder, fetch_folder

FILES = {"model.onnx": b"graph " * 1000, "labels.txt": b"red\ngreen\n", "imageserve.yaml": b"{}"}
SOURCE = Path(command.__file__).parents[2]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def web(certificates: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelServer]:
    """A server that this process trusts, and no pause that is worth the name."""
    monkeypatch.setattr(remote, "PAUSES_S", (0.01, 0.02))
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with model_server(certificates) as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(server.authority))
        yield server


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_server(tmp_path_factory.mktemp("s3") / "log") as url:
        s3_put(
            url,
            "models",
            {
                **{f"flowers/1/{name}": content for name, content in FILES.items()},
                "flowers/1/variables/part.bin": b"part",
                "flowers/12/labels.txt": b"another version",
                "flowers.tar.gz": tar_of(FILES),
                "pictures/cat.jpg": b"no model",
            },
        )
        yield url


@pytest.fixture
def with_s3(s3: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(remote, "PAUSES_S", (0.01, 0.02))
    for name, value in {**S3_CREDENTIALS, "AWS_ENDPOINT_URL": s3}.items():
        monkeypatch.setenv(name, value)
    return s3


def tar_of(files: Mapping[str, bytes], around: str = "") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"{around}{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def zip_of(files: Mapping[str, bytes], around: str = "") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in files.items():
            made.writestr(f"{around}{name}", content)
    return file.getvalue()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def fetch(source: str, to: Path, checksum: str | None = None, **environ: str) -> None:
    more = [] if checksum is None else ["--sha256", checksum]
    assert command.main(["fetch", source, "--to", str(to), *more], environ) == 0


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("make", [tar_of, zip_of])
@pytest.mark.parametrize("around", ["", "flowers/", "./flowers/"])
def test_an_archive_becomes_the_folder_of_a_version(
    web: ModelServer, tmp_path: Path, make: type, around: str
) -> None:
    ending = "zip" if make is zip_of else "tar.gz"
    archive = web.files[f"/a b/flowers.{ending}"] = make(FILES, around)
    to = tmp_path / "flowers" / "2026-02"

    fetch(f"{web.url}/a%20b/flowers.{ending}?signature=secret", to, sha256(archive))

    assert contents(to) == FILES
    assert names_in(to.parent) == ["2026-02", "2026-02.sha256"]
    assert web.asked[0].query == "signature=secret"
    record = to.with_name("2026-02.sha256").read_text()
    assert record.startswith(f"# {web.url}/a%20b/flowers.{ending}\n# sha256 {sha256(archive)}\n")
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", "2026-02.sha256"], cwd=to.parent, check=False
    )
    assert checked.returncode == 0


def test_a_single_file_becomes_the_model_of_its_folder(web: ModelServer, tmp_path: Path) -> None:
    web.files["/v7.onnx"] = FILES["model.onnx"]

    fetch(f"{web.url}/v7.onnx", tmp_path / "7", "unchecked")

    assert contents(tmp_path / "7") == {"model.onnx": FILES["model.onnx"]}


def test_a_folder_that_is_there_is_checked_and_kept(
    web: ModelServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = web.files["/flowers.zip"] = zip_of(FILES)
    to = tmp_path / "1"
    fetch(f"{web.url}/flowers.zip", to, sha256(archive))
    fetch(f"{web.url}/flowers.zip", to, sha256(archive))

    assert len(web.asked) == 1
    assert "already there, checksums right, 3 files" in capsys.readouterr().out

    (to / "labels.txt").write_text("blue\n")
    with pytest.raises(ModelLoadError, match=r"labels\.txt is not what was fetched: fetch into "):
        fetch(f"{web.url}/flowers.zip", to, sha256(archive))


@pytest.mark.parametrize(
    ("source", "checksum"),
    [("/other.zip", "unchecked"), ("/flowers.zip", "0" * 64)],
)
def test_a_folder_of_another_source_is_not_taken_for_this_one(
    web: ModelServer, tmp_path: Path, source: str, checksum: str
) -> None:
    web.files["/flowers.zip"] = zip_of(FILES)
    fetch(f"{web.url}/flowers.zip", tmp_path / "1", "unchecked")

    with pytest.raises(ModelLoadError, match=r"1 was fetched from https://.*/flowers\.zip, sha256"):
        fetch(f"{web.url}{source}", tmp_path / "1", checksum)


def test_a_folder_that_was_not_fetched_is_nobodys_to_overwrite(
    web: ModelServer, tmp_path: Path
) -> None:
    (tmp_path / "1").mkdir()

    with pytest.raises(ModelLoadError, match=r"was not fetched, 1\.sha256 is not beside it"):
        fetch(f"{web.url}/flowers.zip", tmp_path / "1", "unchecked")


def test_an_interrupted_download_goes_on_where_it_was(web: ModelServer, tmp_path: Path) -> None:
    content = web.files["/model.onnx"] = os.urandom(3 * 2**20)
    web.cut_after["/model.onnx"] = [2**20 + 5, 2**20 + 5]
    web.answers["/model.onnx"] = [503, 429]

    fetch(f"{web.url}/model.onnx", tmp_path / "1", sha256(content))

    assert contents(tmp_path / "1") == {"model.onnx": content}
    ranges = web.ranges("/model.onnx")
    assert ranges[:3] == [None, None, None]
    assert ranges[3] == f"bytes={2**20}-"
    assert len(ranges) == 5


def test_a_server_that_gives_no_parts_begins_anew(web: ModelServer, tmp_path: Path) -> None:
    content = web.files["/model.onnx"] = os.urandom(3 * 2**20)
    web.cut_after["/model.onnx"] = [2**20 + 5]
    web.has_ranges = False

    fetch(f"{web.url}/model.onnx", tmp_path / "1", sha256(content))

    assert contents(tmp_path / "1") == {"model.onnx": content}


def test_a_server_that_fails_for_ever_is_given_up(web: ModelServer, tmp_path: Path) -> None:
    web.answers["/model.onnx"] = [500] * 100

    with pytest.raises(ModelLoadError, match="the server answers 500 Internal Server Error: try"):
        fetch(f"{web.url}/model.onnx", tmp_path / "new" / "1", "unchecked")
    assert len(web.asked) == remote.MOST_FAILURES
    assert names_in(tmp_path / "new") == []


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (404, "does not exist (404): correct the address"),
        (403, "the server refuses it (403 Forbidden): give credentials that may read it"),
        (401, "the server refuses it (401 Unauthorized): give credentials that may read it"),
    ],
)
def test_what_another_try_would_not_change_is_said_at_once(
    web: ModelServer, tmp_path: Path, status: int, message: str
) -> None:
    web.answers["/model.onnx"] = [status] * 2

    with pytest.raises(ModelLoadError) as raised:
        fetch(f"{web.url}/model.onnx?signature=secret", tmp_path / "1", "unchecked")

    assert message in str(raised.value)
    assert "secret" not in str(raised.value)
    assert len(web.asked) == 1
    assert names_in(tmp_path) == []


def test_a_wrong_checksum_leaves_nothing(web: ModelServer, tmp_path: Path) -> None:
    archive = web.files["/flowers.zip"] = zip_of(FILES)

    with pytest.raises(ModelLoadError, match=f"has the checksum {sha256(archive)} and not 0000"):
        fetch(f"{web.url}/flowers.zip", tmp_path / "1", "0" * 64)
    assert names_in(tmp_path) == []


def test_a_certificate_that_nobody_vouches_for_is_refused(
    web: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")

    with pytest.raises(ModelLoadError, match=r"certificate is not trusted: .* SSL_CERT_FILE"):
        fetch(f"{web.url}/model.onnx", tmp_path / "1", "unchecked")
    assert web.asked == []


def test_the_proxy_of_the_environment_is_asked(
    web: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)

    with pytest.raises(ModelLoadError, match=r"Connection refused.*: check .* HTTPS_PROXY"):
        fetch(f"{web.url}/model.onnx", tmp_path / "1", "unchecked")
    assert web.asked == []


def test_a_file_of_unknown_length_is_refused(web: ModelServer, tmp_path: Path) -> None:
    web.files["/model.onnx"] = b"graph"
    web.has_lengths = False

    with pytest.raises(ModelLoadError, match="does not say how long the file is"):
        fetch(f"{web.url}/model.onnx", tmp_path / "1", "unchecked")


def test_a_full_disk_is_said_and_leaves_nothing(web: ModelServer, tmp_path: Path) -> None:
    web.files["/model.onnx"] = os.urandom(2 * 2**20)
    script = (
        "import resource, sys, os; resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20));"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "from imageserve.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = [
        "fetch",
        f"{web.url}/model.onnx",
        "--sha256",
        "unchecked",
        "--to",
        str(tmp_path / "1"),
    ]
    ended = subprocess.run(
        [sys.executable, "-c", script, "models", *arguments],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 1
    assert "cannot be written (File too large): nothing was changed" in ended.stderr
    assert names_in(tmp_path) == []


def test_sigterm_leaves_nothing(web: ModelServer, tmp_path: Path) -> None:
    web.files["/model.onnx"] = b"graph"
    web.answers["/model.onnx"] = [503] * 1000
    arguments = [
        "fetch",
        f"{web.url}/model.onnx",
        "--sha256",
        "unchecked",
        "--to",
        str(tmp_path / "1"),
    ]
    with subprocess.Popen(
        [sys.executable, "-m", "imageserve", "models", *arguments],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        stderr=subprocess.DEVNULL,
    ) as process:
        eventually(lambda: web.asked, "it asks", 30)
        assert len(names_in(tmp_path)) == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
    assert names_in(tmp_path) == []


def test_two_that_fetch_at_the_same_time_agree(web: ModelServer, tmp_path: Path) -> None:
    web.files["/flowers.zip"] = zip_of(FILES)
    origin, to = parse_origin(f"{web.url}/flowers.zip"), tmp_path / "1"
    others: list[FetchedFolder] = []

    def told(come: int, total: int) -> None:
        if not others:
            others.append(fetch_folder(origin, to, "unchecked", lambda *_: None, {}))

    done = fetch_folder(origin, to, "unchecked", told, {})

    assert ([each.is_new for each in others], done.is_new) == ([True], False)
    assert done.sha256 == others[0].sha256
    assert contents(to) == FILES
    assert names_in(tmp_path) == ["1", "1.sha256"]


def test_what_a_killed_process_left_is_removed_after_a_day(
    web: ModelServer, tmp_path: Path
) -> None:
    web.files["/flowers.zip"] = zip_of(FILES)
    for name in (".fetch-1-old", ".fetch-1-young", ".fetch-2-old"):
        (tmp_path / name / "part").mkdir(parents=True)
        if name.endswith("old"):
            os.utime(tmp_path / name, (0, 0))

    fetch(f"{web.url}/flowers.zip", tmp_path / "1", "unchecked")

    assert names_in(tmp_path) == [".fetch-1-young", ".fetch-2-old", "1", "1.sha256"]


def test_a_server_may_not_send_us_to_one_without_tls(web: ModelServer, tmp_path: Path) -> None:
    web.moved["/model.onnx"] = "http://localhost:1/model.onnx"

    with pytest.raises(ModelLoadError, match="it is, or leads to, an address without TLS"):
        fetch(f"{web.url}/model.onnx", tmp_path / "1", "unchecked")


def test_a_terminal_shows_how_far_it_is(
    web: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models_fetch, "SHOWN_EVERY_S", 0)
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", terminal)
    web.files["/model.onnx"] = bytes(2 * 2**20)

    fetch(f"{web.url}/model.onnx", tmp_path / "1", "unchecked")

    assert "\r2.0 MiB" in terminal.getvalue()
    assert terminal.getvalue().endswith("\n")


def test_all_that_is_printed_in_a_pod_is_json(web: ModelServer, tmp_path: Path) -> None:
    web.files["/model.onnx"] = b"graph"
    web.answers["/model.onnx"] = [503]
    fetching = [sys.executable, "-m", "imageserve", "models", "fetch"]
    env = {**os.environ, "PYTHONPATH": str(SOURCE), "LOG_FORMAT": "json"}

    lines: list[str] = []
    for source in (f"{web.url}/model.onnx", f"{web.url}/none.onnx"):
        command_line = [*fetching, source, "--sha256", "unchecked", "--to", str(tmp_path / "1")]
        ended = subprocess.run(command_line, env=env, capture_output=True, check=False)
        lines += (ended.stdout + ended.stderr).decode().splitlines()
    said = [json.loads(line) for line in lines]

    assert [each["level"] for each in said] == ["warning", "info", "critical"]
    assert said[0]["reason"] == "the server answers 503 Service Unavailable: try again later"
    assert (said[1]["message"], said[1]["bytes"]) == ("fetched", 5)
    assert "1 was fetched from" in said[2]["message"]


def linked(kind: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        info = tarfile.TarInfo("model.onnx")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    return file.getvalue()


def zipped_link() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        info = zipfile.ZipInfo("model.onnx")
        info.external_attr = 0o120777 << 16
        made.writestr(info, "/etc/passwd")
    return file.getvalue()


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (tar_of({"../model.onnx": b""}), "leaves the model's folder"),
        (tar_of({"/tmp/model.onnx": b""}), "leaves the model's folder"),
        (zip_of({"a/../../model.onnx": b""}), "leaves the model's folder"),
        (zip_of({"..\\model.onnx": b""}), "leaves the model's folder"),
        (tar_of({"model\n.onnx": b""}), "control characters"),
        (linked(tarfile.SYMTYPE), "is a link or no file"),
        (linked(tarfile.LNKTYPE), "is a link or no file"),
        (linked(tarfile.CHRTYPE), "is a link or no file"),
        (zipped_link(), "is a link or no file"),
        (tar_of({f"{number}": b"" for number in range(1100)}), "more than 1000 files"),
        (zip_of({"model.onnx": bytes(2**20 + 1)}), "more than 0 GiB"),
        (tar_of({"a": bytes(2**19), "b": bytes(2**19 + 1)}), "more than 0 GiB"),
        (tar_of({"model.onnx": b"x", "./model.onnx": b"y"}), "twice"),
        (tar_of({}), "holds no files"),
        (tar_of({"model.onnx": os.urandom(9000)})[:5000], "cannot be unpacked"),
        (zip_of({"model.onnx": os.urandom(9000)})[:5000], "cannot be unpacked"),
        (b"<html>sign in</html>", "cannot be unpacked"),
        (tar_of({"cat.jpg": b"cat"}), "holds no model, but cat.jpg: it must hold"),
        (tar_of({"model": b"x", "model/model.onnx": b"y"}), "cannot be written"),
    ],
    ids=lambda value: value if isinstance(value, str) else "archive",
)
def test_an_archive_that_is_no_plain_model_folder_is_refused(
    web: ModelServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    archive: bytes,
    message: str,
) -> None:
    monkeypatch.setattr(archives, "MOST_BYTES", 2**20)
    web.files["/flowers.tar.gz"] = archive

    with pytest.raises(ModelLoadError) as raised:
        fetch(f"{web.url}/flowers.tar.gz", tmp_path / "new" / "1", sha256(archive))

    assert message in str(raised.value)
    assert names_in(tmp_path / "new") == []
    assert names_in(tmp_path) == ["new"]


def test_a_folder_of_s3_is_fetched_with_its_checksum(
    with_s3: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch("s3://models/flowers/1", tmp_path / "a")

    assert contents(tmp_path / "a") == {**FILES, "variables/part.bin": b"part"}
    printed = capsys.readouterr().out.split()[-1]
    fetch("s3://models/flowers/1/", tmp_path / "b", printed)
    with pytest.raises(ModelLoadError, match=f"has the checksum {printed} and not 0000"):
        fetch("s3://models/flowers/1", tmp_path / "c", "0" * 64)


def test_an_archive_of_s3_is_fetched_and_needs_no_checksum(with_s3: str, tmp_path: Path) -> None:
    fetch("s3://models/flowers.tar.gz", tmp_path / "1")

    assert contents(tmp_path / "1") == FILES


@pytest.mark.parametrize(
    ("bound", "least", "source", "message"),
    [
        ("MOST_FILES", 3, "s3://models/flowers/1", "holds more than 3 files or 16 GiB"),
        ("MOST_BYTES", 6010, "s3://models/flowers/1", "holds more than 1000 files or 0 GiB"),
        ("MOST_BYTES", 100, "s3://models/flowers.tar.gz", "bytes, more than a model may: 100"),
    ],
)
@pytest.mark.usefixtures("with_s3")
def test_what_is_too_large_is_not_even_begun(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bound: str,
    least: int,
    source: str,
    message: str,
) -> None:
    monkeypatch.setattr(fetch_folder_module, bound, least)

    with pytest.raises(ModelLoadError) as raised:
        fetch(source, tmp_path / "1")

    assert message in str(raised.value)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("s3://nobody/flowers/1", "there is no such bucket: correct the address"),
        ("s3://nobody/flowers.zip", "there is no such bucket: correct the address"),
        ("s3://models/flowers/3", "holds no files: correct the address"),
        ("s3://models/none.zip", "does not exist (404): correct the address"),
        ("s3://models/pictures", "holds no model, but cat.jpg: it must hold"),
        ("s3://models/flowers", "holds no model, but 1, 12: it must hold"),
    ],
)
def test_what_s3_does_not_have_is_said(
    with_s3: str, tmp_path: Path, source: str, message: str
) -> None:
    with pytest.raises(ModelLoadError) as raised:
        fetch(source, tmp_path / "1")

    assert message in str(raised.value)
    assert names_in(tmp_path) == []


def test_an_address_of_s3_without_tls_must_be_allowed(
    with_s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ALLOW_HTTP")

    with pytest.raises(ModelLoadError, match=r"without TLS: .* AWS_ALLOW_HTTP=true"):
        fetch("s3://models/flowers/1", tmp_path / "1")


@pytest.fixture
def store(certificates: Path) -> Iterator[ModelServer]:
    with model_server(certificates) as server:
        yield server


HUB_FILES = {
    **FILES,
    "config.json": b"{}",
    "README.md": b"about",
    ".gitattributes": b"*",
    "pytorch_model.bin": b"weights" * 1000,
    "model.safetensors": b"weights" * 1000,
    "runs/events": b"log",
}


@pytest.mark.parametrize("revision", ["main", COMMIT, "refs/pr/1"])
def test_a_repository_of_hugging_face_is_fetched(
    web: ModelServer, store: ModelServer, tmp_path: Path, revision: str
) -> None:
    serve_hub(web, store, "owner/name", HUB_FILES, revision)
    shown = "hf://owner/name" + ("" if revision == "main" else f"@{revision}")

    fetch(shown, tmp_path / "1", HF_ENDPOINT=web.url, HF_TOKEN="hf_secret")

    assert contents(tmp_path / "1") == {**FILES, "config.json": b"{}"}
    assert {each.headers["authorization"] for each in web.asked} == {"Bearer hf_secret"}
    assert len(store.asked) == 1
    assert "authorization" not in store.asked[0].headers, "the token is for the hub alone"


def test_a_graph_among_others_is_put_at_the_top(
    web: ModelServer, store: ModelServer, tmp_path: Path
) -> None:
    files = {
        "config.json": b"{}",
        "onnx/model.onnx": b"graph",
        "onnx/model.onnx_data": b"weights",
        "onnx/model_quantized.onnx": b"another",
        "model.safetensors": b"weights",
    }
    serve_hub(web, store, "owner/name", files, "main")

    fetch("hf://owner/name", tmp_path / "1", HF_ENDPOINT=web.url)

    assert contents(tmp_path / "1") == {
        "config.json": b"{}",
        "model.onnx": b"graph",
        "model.onnx_data": b"weights",
    }


def test_a_large_file_that_is_not_the_repositorys_is_refused(
    web: ModelServer, store: ModelServer, tmp_path: Path
) -> None:
    serve_hub(web, store, "owner/name", HUB_FILES, "main")
    store.files = {path: b"x" * len(content) for path, content in store.files.items()}

    with pytest.raises(ModelLoadError, match=r"model\.onnx is not what the repository says"):
        fetch("hf://owner/name", tmp_path / "1", HF_ENDPOINT=web.url)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_repository_that_cannot_be_read_asks_for_a_token(
    web: ModelServer, tmp_path: Path, status: int
) -> None:
    web.answers["/api/models/owner/name/revision/main"] = [status]

    with pytest.raises(ModelLoadError, match=r"hf://owner/name: there is no such .* HF_TOKEN"):
        fetch("hf://owner/name", tmp_path / "1", HF_ENDPOINT=web.url)


def test_an_endpoint_that_is_no_hub_is_said(web: ModelServer, tmp_path: Path) -> None:
    web.files["/api/models/owner/name/revision/main"] = b"<html>"

    with pytest.raises(ModelLoadError, match="does not answer as Hugging Face does"):
        fetch("hf://owner/name", tmp_path / "1", HF_ENDPOINT=web.url)
