"""Addresses that models are fetched from, and the files of a repository that make a model."""

from pathlib import Path

import pytest

from imageserve.cli import models as command
from imageserve.errors import ModelLoadError
from imageserve.models.fetch.address import parse_origin
from imageserve.models.fetch.folder import fetch_folder
from imageserve.models.fetch.hub import chosen


@pytest.mark.parametrize(
    ("address", "scheme", "ending", "shown"),
    [
        ("https://host/flowers.tar.gz", "https", ".tar.gz", None),
        ("https://me:secret@host:8443/a/b.ZIP", "https", ".zip", "https://host:8443/a/b.ZIP"),
        ("https://host/b.tgz?X-Amz-Signature=secret", "https", ".tgz", "https://host/b.tgz"),
        ("https://host/b.onnx", "https", ".onnx", None),
        ("s3://bucket/flowers/1", "s3", None, None),
        ("s3://bucket/flowers.keras", "s3", ".keras", None),
        ("gs://bucket/flowers", "gs", None, None),
        ("az://container/flowers", "az", None, None),
        ("hf://owner/name@refs/pr/1", "hf", None, None),
        ("hf://owner/name.onnx", "hf", None, None),
    ],
)
def test_an_address_says_what_is_there(
    address: str, scheme: str, ending: str | None, shown: str | None
) -> None:
    origin = parse_origin(address)

    assert (origin.scheme, origin.ending) == (scheme, ending)
    assert origin.shown == (shown or address)


def test_a_repository_has_a_revision() -> None:
    assert parse_origin("hf://owner/name@v1").repository == ("owner/name", "v1")
    assert parse_origin("hf://owner/name").repository == ("owner/name", "main")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://host/flowers.zip", "nothing can be fetched from http://: use https://"),
        ("ftp://host/flowers.zip", "nothing can be fetched from ftp://"),
        ("https://host/flowers", "is no single file: a web server gives one that ends in"),
        ("https:///flowers.zip", "is no address"),
        ("s3:///flowers.zip", "is no address"),
        ("s3://bucket/flowers?versionId=1", "is no address"),
        ("hf://name", "is no repository: write hf://OWNER/NAME@REVISION"),
        ("hf://owner/name/file", "is no repository"),
        ("hf://owner/../../name", "is no repository"),
    ],
)
def test_an_address_that_means_nothing_is_refused(address: str, message: str) -> None:
    with pytest.raises(ModelLoadError) as raised:
        parse_origin(address)

    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("folder", "sha256", "message"),
    [
        ("1", None, "needs --sha256, the checksum of the file"),
        ("1", "5e1f", "'5e1f' is no checksum"),
        ("1", "5E" * 32, "is no checksum"),
        (".hidden", "unchecked", "ends in no version"),
        ("", "unchecked", "ends in no version"),
        ("a b", "unchecked", "ends in no version"),
    ],
)
def test_what_cannot_be_checked_or_used_is_not_fetched(
    folder: str, sha256: str | None, message: str
) -> None:
    origin = parse_origin("https://localhost:1/flowers.zip")

    with pytest.raises(ModelLoadError) as raised:
        fetch_folder(origin, Path(folder), sha256, lambda *_: None, {})

    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["s3://a/b", "s3://a/c"], "one address at a time"),
        (["s3://a/b", "resnet50"], "one address at a time"),
        (["resnet50", "--sha256", "0" * 64], "--sha256 is for addresses"),
    ],
)
def test_the_command_takes_one_address_or_names(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelLoadError, match=message):
        command.main(["fetch", *arguments, "--to", str(tmp_path / "1")], {})


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["model.onnx", "weights.dat", "tf_model.h5"], ["model.onnx", "weights.dat"]),
        (["model.onnx", "onnx/model.onnx"], ["model.onnx"]),
        (["onnx/model.onnx", "onnx/model_fp16.onnx", "a.json"], ["a.json", "model.onnx"]),
        (["saved_model/saved_model.pb", "x.pb"], ["saved_model/saved_model.pb"]),
        ([".gitattributes", "docs/a.json"], []),
    ],
)
def test_the_files_that_make_a_model_are_chosen(paths: list[str], names: list[str]) -> None:
    assert sorted(map(str, chosen(paths).values())) == names


@pytest.mark.parametrize("path", ["../labels.txt", "/labels.txt", "a/../../labels.txt", "..", ""])
def test_a_repository_cannot_write_outside_its_folder(path: str) -> None:
    with pytest.raises(ModelLoadError, match="leaves the model's folder"):
        chosen([path])
