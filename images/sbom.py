#!/usr/bin/env python3
"""What is in an image, as CycloneDX, and where the image comes from.

usage: images/sbom.py write|verify DIR/NAME...

Reads DIR/NAME.tar, which `images/build.sh --save` wrote, and needs no container engine. `write`
writes DIR/NAME.cdx.json: the Debian packages, and those of Python with the hashes of the lock file.
`verify` checks that DIR/NAME.cdx.json says what is in DIR/NAME.tar, and that the image was built
from a commit, on a base with a digest, with its times pinned.
"""

import hashlib
import json
import posixpath
import re
import sys
import tarfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import (
    ExternalReference,
    ExternalReferenceType,
    HashAlgorithm,
    HashType,
    Property,
    XsUri,
)
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
OURS = {"imageserve", "imageserve-loadtest"}
OWN_PACKAGES = "opt/imageserve/venv/"
LABEL = "org.opencontainers.image."
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
#: The files that are read from the layers.
READ = re.compile(
    r"var/lib/dpkg/status|usr/lib/os-release|opt/imageserve/venv/pyvenv\.cfg"
    r"|(?:opt/imageserve|usr/local)/.*(?:site-packages|app)/[^/]+\.dist-info/METADATA"
)


class WrongImageError(Exception):
    """An image is not what its lock file, its labels or its document say."""


@dataclass
class Image:
    """What a file of `docker save` or `buildah push docker-archive:` says of its image."""

    name: str
    id: str
    config: dict[str, Any]
    files: dict[str, str] = field(default_factory=dict)

    @property
    def labels(self) -> Mapping[str, str]:
        return self.config["config"].get("Labels") or {}

    def label(self, name: str) -> str:
        if name not in self.labels:
            raise WrongImageError(f"it has no label {name}: build it with images/build.sh")
        return self.labels[name]


def read_image(path: Path) -> Image:
    with tarfile.open(path) as archive:
        (manifest,) = json.loads(_member(archive, "manifest.json"))
        config = _member(archive, manifest["Config"])
        name = next(iter(manifest["RepoTags"] or []), path.stem)
        image = Image(name, hashlib.sha256(config).hexdigest(), json.loads(config))
        for layer in manifest["Layers"]:
            with tarfile.open(fileobj=archive.extractfile(layer)) as content:
                _add_layer(content, image.files)
    return image


def _add_layer(layer: tarfile.TarFile, files: dict[str, str]) -> None:
    for member in layer:
        path = posixpath.normpath(member.name)
        folder, name = posixpath.split(path)
        if name.startswith(".wh."):  # Something of an earlier layer was removed.
            gone = folder if name == ".wh..wh..opq" else f"{folder}/{name.removeprefix('.wh.')}"
            for each in [each for each in files if f"{each}/".startswith(f"{gone}/")]:
                del files[each]
        elif member.isfile() and READ.fullmatch(path):
            files[path] = _member(layer, member).decode()


def _member(archive: tarfile.TarFile, member: str | tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    if file is None:
        raise WrongImageError(f"{member} is not a file")
    return file.read()


# -- packages --------------------------------------------------------------------------------------


def debian_packages(image: Image) -> Iterator[Component]:
    system = dict(
        re.findall(r'^(\w+)="?([^"\n]*)', image.files.get("usr/lib/os-release", ""), re.M)
    )
    distribution = f"{system.get('ID', 'debian')}-{system.get('VERSION_ID', 'unknown')}"
    for paragraph in image.files.get("var/lib/dpkg/status", "").split("\n\n"):
        package = HeaderParser().parsestr(paragraph)
        if package.get("Status", "").split()[-1:] != ["installed"]:
            continue
        source = re.sub(r" \((.*)\)", r"@\1", package.get("Source", ""))
        more = {"arch": package["Architecture"], "distro": distribution, "upstream": source}
        yield _component("deb", package["Package"], package["Version"], more)


def python_packages(image: Image, lock: str) -> Iterator[Component]:
    """Yield them; those of imageserve's environment must be the ones of the lock file."""
    locked = _locked(lock, _environment(image))
    found = set()
    for path, text in sorted(image.files.items()):
        if not path.endswith("/METADATA"):
            continue
        package = HeaderParser().parsestr(text)
        name, version = canonicalize_name(package["Name"]), package["Version"]
        hashes: Iterable[str] = ()
        if path.startswith(OWN_PACKAGES):
            if (name, version) not in locked:
                raise WrongImageError(f"{name} {version} is not in its lock file")
            found.add((name, version))
            hashes = locked[name, version]
        yield _component("pypi", name, version, {}, hashes, package.get("License-Expression", ""))
    if absent := sorted(set(locked) - found):
        names = ", ".join(" ".join(each) for each in absent)
        raise WrongImageError(f"its lock file has packages that it lacks: {names}")
    variables = dict(each.split("=", 1) for each in image.config["config"].get("Env") or [])
    if "PYTHON_VERSION" in variables:  # Of the base image python; Debian's own is a package.
        yield _component("generic", "python", variables["PYTHON_VERSION"], {})


def _component(
    kind: str,
    name: str,
    version: str,
    more: Mapping[str, str],
    hashes: Iterable[str] = (),
    licence: str = "",
) -> Component:
    debian = "debian" if kind == "deb" else None
    url = PackageURL(kind, debian, name, version, {key: each for key, each in more.items() if each})
    digests = [HashType(alg=HashAlgorithm.SHA_256, content=each) for each in hashes]
    # Whatever index it was installed from: the hashes say that it is the same.
    where = ExternalReference(
        type=ExternalReferenceType.DISTRIBUTION, url=XsUri(str(url)), hashes=digests
    )
    return Component(
        name=name,
        version=version,
        purl=url,
        bom_ref=str(url),
        type=ComponentType.APPLICATION if name in OURS else ComponentType.LIBRARY,
        external_references=[where] if digests else [],
        licenses=[LicenseFactory().make_from_string(licence)] if licence else [],
    )


def _environment(image: Image) -> dict[str, str]:
    """Return what the markers of a lock file ask for."""
    settings = image.files.get(f"{OWN_PACKAGES}pyvenv.cfg", "")
    version = re.search(r"^version = (\d+\.\d+)\.\S+$", settings, re.MULTILINE)
    if not version:
        raise WrongImageError("it has no environment of Python in /opt/imageserve/venv")
    return environment(MACHINES[image.config["architecture"]], version[0].split()[-1])


def environment(machine: str, python: str) -> dict[str, str]:
    """Return the markers' values on Linux, for ``x86_64`` or ``aarch64`` and such as ``3.12.4``."""
    return {
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": python,
        "python_version": ".".join(python.split(".")[:2]),
        "sys_platform": "linux",
    }


def _locked(lock: str, where: Mapping[str, str]) -> dict[tuple[str, str], list[str]]:
    """Return name and version of what a lock file installs there, with the hashes of all files."""
    packages: dict[tuple[str, str], list[str]] = {}
    for line in lock.replace("\\\n", "").splitlines():
        wanted, *hashes = re.split(r"\s+--hash=sha256:", line.partition("#")[0].strip())
        if wanted:
            requirement = Requirement(wanted)
            if requirement.marker is None or requirement.marker.evaluate(dict(where)):
                version = str(requirement.specifier).removeprefix("==")
                packages[canonicalize_name(requirement.name), version] = hashes
    return packages


def installed(lock: str, machine: str, python: str) -> set[tuple[str, str]]:
    """Return name and version of what a lock file installs on such a machine."""
    return set(_locked(lock, environment(machine, python)))


# -- the document ----------------------------------------------------------------------------------


def document(image: Image) -> str:
    """Return the CycloneDX document of an image: of the same image always the same."""
    digest, _, name = image.label("imageserve.lock").partition(" ")
    lock = (ROOT / name).read_bytes()
    revision = image.label(f"{LABEL}revision")
    if hashlib.sha256(lock).hexdigest() != digest:
        raise WrongImageError(f"it was built with another {name}: check out its commit, {revision}")
    packages = {*debian_packages(image), *python_packages(image, lock.decode())}
    whole = Component(
        name=image.name,
        version=image.label(f"{LABEL}version"),
        type=ComponentType.CONTAINER,
        bom_ref="image",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=image.id)],
    )
    facts = [Property(name=f"imageserve:{key}", value=each) for key, each in _facts(image)]
    created = datetime.fromisoformat(image.label(f"{LABEL}created"))
    bom = Bom(
        serial_number=uuid.uuid5(uuid.NAMESPACE_OID, image.id),
        metadata=BomMetaData(component=whole, timestamp=created, properties=facts),
        components=packages,
    )
    bom.register_dependency(whole, packages)
    return JsonV1Dot6(bom).output_as_string(indent=1) + "\n"


def _facts(image: Image) -> Iterator[tuple[str, str]]:
    """Yield where an image comes from."""
    yield "lock", image.label("imageserve.lock")
    for name in ("revision", "base.name", "base.digest"):
        if f"{LABEL}{name}" in image.labels:
            yield name, image.labels[f"{LABEL}{name}"]
    for number, layer in enumerate(image.config["rootfs"]["diff_ids"]):
        yield f"layer:{number}", layer


def verify(image: Image, written: str) -> None:
    """Raise WrongImageError if a document is not that of the image, or nothing says its origin."""
    if written != document(image):
        raise WrongImageError("its document is that of another image: write it with --sbom")
    revision = image.label(f"{LABEL}revision")
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise WrongImageError(
            f"its revision is {revision}: build it from a commit, nothing changed"
        )
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", image.labels.get(f"{LABEL}base.digest", "")):
        raise WrongImageError("its base has no digest: build it with --base NAME@sha256:...")
    if image.config["created"][:19] != image.label(f"{LABEL}created")[:19]:
        raise WrongImageError("its times are not pinned: build it with images/build.sh")


def main(arguments: list[str]) -> int:
    if len(arguments) < 2 or arguments[0] not in ("write", "verify"):
        sys.stderr.write(__doc__ or "")
        return 2
    status = 0
    for stem in arguments[1:]:
        tar, json_file = Path(f"{stem}.tar"), Path(f"{stem}.cdx.json")
        try:
            image = read_image(tar)
            if arguments[0] == "write":
                json_file.write_text(document(image))
            else:
                verify(image, json_file.read_text())
            revision = image.label(f"{LABEL}revision")
            sys.stdout.write(f"{tar}: {json_file.name} says what is in it; commit {revision}\n")
        except (WrongImageError, OSError, tarfile.TarError) as error:
            sys.stderr.write(f"{tar}: {error}\n")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
