"""What images/sbom.py writes of an image, and what it refuses; on archives that are made here."""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from images import sbom
from images.sbom import LABEL, ROOT, WrongImageError, document, installed, read_image, verify

LOCK = (ROOT / "locks/autoscaler.txt").read_text()
DPKG = """Package: libc6
Status: install ok installed
Architecture: amd64
Source: glibc (2.36-9)
Version: 2.36-9+deb12u14

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1
"""
SITE = "opt/imageserve/venv/lib/python3.11/site-packages"


def packages(**others: str) -> dict[str, str]:
    """Files of an image with the packages of the lock file, but for these versions."""
    versions = dict(installed(LOCK, "x86_64", "3.11.2")) | others
    files = {
        f"{SITE}/{name}-{version}.dist-info/METADATA": f"Name: {name}\nVersion: {version}\n"
        for name, version in versions.items()
    }
    return {
        "var/lib/dpkg/status": DPKG,
        "usr/lib/os-release": 'ID=debian\nVERSION_ID="12"\n',
        "opt/imageserve/venv/pyvenv.cfg": "home = /usr/bin\nversion = 3.11.2\n",
        "opt/imageserve/app/imageserve-0.1.0.dist-info/METADATA": (
            "Name: imageserve\nVersion: 0.1.0\nLicense-Expression: Apache-2.0\n"
        ),
        **files,
    }


LABELS = {
    "imageserve.lock": f"{hashlib.sha256(LOCK.encode()).hexdigest()} locks/autoscaler.txt",
    f"{LABEL}version": "0.1.0",
    f"{LABEL}revision": "a" * 40,
    f"{LABEL}created": "2026-11-01T12:00:00Z",
    f"{LABEL}base.name": "debian-python",
    f"{LABEL}base.digest": f"sha256:{'b' * 64}",
}


def tar(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def saved(
    path: Path, *layers: Mapping[str, str], labels: Mapping[str, str] = LABELS, **more: Any
) -> Path:
    contents = [tar({name: text.encode() for name, text in each.items()}) for each in layers]
    digests = [hashlib.sha256(each).hexdigest() for each in contents]
    config = {
        "architecture": "amd64",
        "created": "2026-11-01T12:00:00Z",
        "config": {"Labels": dict(labels), "Env": ["PATH=/usr/bin"]},
        "rootfs": {"diff_ids": [f"sha256:{each}" for each in digests]},
        **more,
    }
    manifest = [
        {
            "Config": "config.json",
            "RepoTags": ["imageserve/autoscaler:0.1.0"],
            "Layers": [f"{each}.tar" for each in digests],
        }
    ]
    files = {"manifest.json": json.dumps(manifest), "config.json": json.dumps(config)}
    blobs = {f"{each}.tar": content for each, content in zip(digests, contents, strict=True)}
    path.write_bytes(tar({name: text.encode() for name, text in files.items()} | blobs))
    return path


def test_it_names_the_packages_of_debian_and_of_python(tmp_path: Path) -> None:
    written = json.loads(document(read_image(saved(tmp_path / "a.tar", packages()))))

    found = {each["purl"]: each for each in written["components"]}
    libc = (
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u14?arch=amd64&distro=debian-12&upstream=glibc%402.36-9"
    )
    assert libc in found
    assert not [each for each in found if "gone" in each]
    names = {(each["name"], each["version"]) for each in found.values()}
    assert names == installed(LOCK, "x86_64", "3.11.2") | {
        ("libc6", "2.36-9+deb12u14"),
        ("imageserve", "0.1.0"),
    }
    (distribution,) = next(each for each in found.values() if each["name"] == "redis")[
        "externalReferences"
    ]
    assert distribution["hashes"]
    assert all(each["content"] in LOCK for each in distribution["hashes"])
    licence = found["pkg:pypi/imageserve@0.1.0"]["licenses"][0]["license"]["id"]
    assert licence == "Apache-2.0"
    facts = {each["name"]: each["value"] for each in written["metadata"]["properties"]}
    assert facts["imageserve:revision"] == "a" * 40
    assert facts["imageserve:layer:0"].startswith("sha256:")


def test_it_is_valid_by_the_schema_and_the_same_each_time(tmp_path: Path) -> None:
    image = saved(tmp_path / "a.tar", packages())

    once, again = document(read_image(image)), document(read_image(image))

    assert once == again
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(once) is None
    assert validator.validate_str(once.replace('"library"', '"nonsense"')) is not None


def test_what_a_later_layer_removed_is_not_in_it(tmp_path: Path) -> None:
    extra = {f"{SITE}/evil-1.dist-info/METADATA": "Name: evil\nVersion: 1\n"}
    image = saved(tmp_path / "a.tar", packages() | extra, {f"{SITE}/.wh.evil-1.dist-info": ""})

    assert "evil" not in document(read_image(image))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (packages(redis="0.1"), "redis 0.1 is not in its lock file"),
        (packages(evil="1.0"), "evil 1.0 is not in its lock file"),
        (
            {name: text for name, text in packages().items() if "/redis-" not in name},
            "its lock file has packages that it lacks: redis ",
        ),
    ],
)
def test_an_image_that_is_not_its_lock_file_has_no_document(
    tmp_path: Path, files: Mapping[str, str], said: str
) -> None:
    with pytest.raises(WrongImageError, match=said):
        document(read_image(saved(tmp_path / "a.tar", files)))


# -- --verify --------------------------------------------------------------------------------------


def labels(**changed: str) -> dict[str, str]:
    names = {name.replace("_", "."): value for name, value in changed.items()}
    return LABELS | {f"{LABEL}{name}": value for name, value in names.items()}


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ({"labels": labels(revision=f"{'a' * 40}-dirty")}, "its revision is a+-dirty"),
        ({"labels": labels(revision="unknown")}, "its revision is unknown"),
        ({"labels": labels(base_digest="")}, "its base has no digest"),
        ({"created": "2026-11-26T13:00:00Z"}, "its times are not pinned"),
    ],
)
def test_an_image_of_unknown_origin_is_refused(
    tmp_path: Path, image: dict[str, Any], said: str
) -> None:
    read = read_image(saved(tmp_path / "a.tar", packages(), **image))

    with pytest.raises(WrongImageError, match=said):
        verify(read, document(read))


def test_an_image_of_another_lock_file_is_told_its_commit(tmp_path: Path) -> None:
    other = LABELS | {"imageserve.lock": f"{'0' * 64} locks/autoscaler.txt"}

    with pytest.raises(WrongImageError, match=f"check out its commit, {'a' * 40}"):
        document(read_image(saved(tmp_path / "a.tar", packages(), labels=other)))


def test_a_document_of_something_else_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path / "a.tar", packages())
    stem = str(tmp_path / "a")
    assert sbom.main(["write", stem]) == 0
    assert sbom.main(["verify", stem]) == 0

    path = tmp_path / "a.cdx.json"
    path.write_text(path.read_text().replace("libc6", "musl"))

    assert sbom.main(["verify", stem]) == 1
    assert "its document is that of another image" in capsys.readouterr().err


def test_an_image_with_other_content_is_refused(tmp_path: Path) -> None:
    written = document(read_image(saved(tmp_path / "a.tar", packages())))
    other = read_image(saved(tmp_path / "b.tar", packages(), {"opt/imageserve/app/x.py": "evil"}))

    with pytest.raises(WrongImageError, match="its document is that of another image"):
        verify(other, written)
