"""A repository of Hugging Face: what of it is a model, and where its files are."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from imageserve.errors import ModelLoadError
from imageserve.models.fetch.address import Origin, inside
from imageserve.models.fetch.remote import Remote, RemoteError

ENDPOINT = "https://huggingface.co"
_MOST_LISTED = 16 * 2**20
_GRAPHS = "onnx"
"""The folder where repositories for several libraries keep their graphs."""
_OTHERS = (
    ".bin",
    ".ckpt",
    ".gguf",
    ".h5",
    ".md",
    ".mlmodel",
    ".msgpack",
    ".npz",
    ".ot",
    ".pb",
    ".pkl",
    ".pt",
    ".pth",
    ".safetensors",
    ".tflite",
)
"""Weights for other libraries, and what is about the model: not fetched."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a repository that belongs to the model."""

    path: str
    """In the repository."""
    name: PurePosixPath
    """In the model's folder."""
    size: int
    sha256: str | None
    """As the repository says it, of large files only."""


@dataclass(frozen=True, slots=True)
class Repository:
    """One commit of a repository, and the files of it that make the model."""

    commit: str
    files: tuple[HubFile, ...]
    _base: str
    _headers: Mapping[str, str]
    _shown: str

    def remote(self, file: HubFile) -> Remote:
        address = f"{self._base}/resolve/{self.commit}/{quote(file.path)}"
        return Remote(address, f"{self._shown}/{file.path}", self._headers)


def open_repository(origin: Origin, environ: Mapping[str, str]) -> Repository:
    """List a repository; ``HF_TOKEN`` and ``HF_ENDPOINT`` of the environment count.

    Raises ModelLoadError where it cannot be read, or holds no model.
    """
    name, revision = origin.repository
    endpoint = (environ.get("HF_ENDPOINT") or ENDPOINT).rstrip("/")
    token = environ.get("HF_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    address = f"{endpoint}/api/models/{name}/revision/{quote(revision, safe='')}?blobs=true"
    try:
        listed = Remote(address, origin.shown, headers).read(_MOST_LISTED)
    except RemoteError as error:
        if error.status not in (401, 403, 404):
            raise
        raise ModelLoadError(
            f"{origin.shown}: there is no such repository or revision, or it is private or gated: "
            "correct it, or set HF_TOKEN to a token that may read it"
        ) from error
    try:
        commit, files = _read(json.loads(listed))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelLoadError(
            f"{endpoint} does not answer as Hugging Face does ({error!r}): correct HF_ENDPOINT"
        ) from error
    return Repository(commit, files, f"{endpoint}/{name}", headers, origin.shown)


def _read(answer: Any) -> tuple[str, tuple[HubFile, ...]]:
    sizes = {each["rfilename"]: each for each in answer["siblings"]}
    files = [
        HubFile(path, name, int(sizes[path].get("size") or 0), _sha256(sizes[path]))
        for path, name in chosen(list(sizes)).items()
    ]
    commit = answer["sha"]
    if not isinstance(commit, str) or not commit.isalnum():
        raise ValueError("no commit")
    return commit, tuple(files)


def _sha256(sibling: Mapping[str, Any]) -> str | None:
    return (sibling.get("lfs") or {}).get("sha256")


def chosen(paths: list[str]) -> dict[str, PurePosixPath]:
    """Choose the files of a repository that make a model folder, with their names there.

    Those at the top and of ``saved_model``, without weights of other libraries. A graph that lies
    in ``onnx`` alone is put at the top, as the libraries write it into a local folder.
    """
    named = {path: inside(path) for path in paths}
    found = {path: name for path, name in named.items() if _counts(name)}
    if not {"model.onnx", "model.keras"} & set(paths):
        for path, name in named.items():
            if name.parts[0] == _GRAPHS and len(name.parts) == 2 and _is_graph(name):
                found[path] = PurePosixPath(name.name)
    return found


def _is_graph(name: PurePosixPath) -> bool:
    """Whether it is ``model.onnx`` or weights of it, such as ``model.onnx_data``."""
    return name.name.startswith("model.onnx")


def _counts(name: PurePosixPath) -> bool:
    if name.parts[0] == "saved_model":
        return True
    return len(name.parts) == 1 and name.suffix not in _OTHERS and not name.name.startswith(".")
