"""Which files a worker should serve, and when they count as changed."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imageserve.errors import ModelLoadError
from imageserve.models.entries import ModelEntry
from imageserve.preparation import Preparation
from imageserve.queue.desired import DesiredVersion
from imageserve.worker.versions import MOST_FILES, Versions, fingerprint_of

V2 = DesiredVersion("shapes", "v2", 7)
UNREADABLE = Path("/", "x" * 300)
"""A name that is too long: reading it fails even for root, whom permissions do not stop."""


def an_entry(network: str = "shapes", **more: Any) -> ModelEntry:
    return ModelEntry("shapes", "image_queue", Preparation((96, 96)), network=network, **more)


def a_folder(path: Path, yaml: str | None = None) -> Path:
    path.mkdir(parents=True)
    (path / "model.keras").write_text("a model")
    (path / "labels.txt").write_text("circle\n")
    if yaml is not None:
        (path / "imageserve.yaml").write_text(yaml)
    return path


def test_a_version_is_a_folder_below_that_of_its_name(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "shapes" / "v2")
    versions = Versions(an_entry("resnet50", labels="/other/labels.txt"), str(tmp_path))

    found = versions.find(V2)

    assert (found.entry.network, found.entry.labels) == (str(folder), None)
    assert (found.entry.name, found.entry.queue) == ("shapes", "image_queue")
    assert (found.version, found.shown) == ("v2", "v2")


def test_a_version_of_another_name_is_shown_with_its_name(tmp_path: Path) -> None:
    a_folder(tmp_path / "flowers" / "v2")

    found = Versions(an_entry(), str(tmp_path)).find(DesiredVersion("flowers", "v2", 7))

    assert found.version == "flowers@v2"


def test_without_a_desired_version_the_model_of_the_settings_is_served(tmp_path: Path) -> None:
    found = Versions(an_entry(), str(tmp_path)).find(None)

    assert (found.entry, found.version, found.asked_at, found.fingerprint) == (
        an_entry(),
        None,
        0,
        (),
    )


@pytest.mark.parametrize(
    ("there", "named"),
    [
        pytest.param([], "choose one of: none", id="no version at all"),
        pytest.param(["v1", "v3"], "choose one of: v1, v3", id="other versions"),
    ],
)
def test_the_error_for_a_missing_version_lists_the_existing_ones(
    tmp_path: Path, there: list[str], named: str
) -> None:
    for version in there:
        a_folder(tmp_path / "shapes" / version)

    with pytest.raises(ModelLoadError, match=f"no folder .*/shapes/v2.*{named}"):
        Versions(an_entry(), str(tmp_path)).find(V2)


def test_without_a_folder_of_versions_the_setting_is_named() -> None:
    with pytest.raises(ModelLoadError, match="set MODELS_DIR on the workers"):
        Versions(an_entry(), None).find(V2)


def test_folders_that_cannot_be_read_are_named_with_a_remedy() -> None:
    with pytest.raises(ModelLoadError, match=r"shapes@v2 in .* cannot be read .*: allow it"):
        Versions(an_entry(), str(UNREADABLE)).find(V2)
    with pytest.raises(ModelLoadError, match=r"cannot be read .*: allow it"):
        Versions(an_entry(f"{UNREADABLE}/"), None).find(None)


def test_the_same_version_set_again_is_the_same_model_but_a_new_desired_version(
    tmp_path: Path,
) -> None:
    a_folder(tmp_path / "shapes" / "v2")
    versions = Versions(an_entry(), str(tmp_path))

    one, again = versions.find(V2), versions.find(DesiredVersion("shapes", "v2", 8))

    assert one.is_same_model(again)
    assert one != again


# -- changed files --------------------------------------------------------------------------------


def _write_over(folder: Path) -> None:
    (folder / "model.keras").write_text("another model")


def _rename_a_file(folder: Path) -> None:
    new = folder / "new"
    new.write_text("a model")
    os.utime(new, ns=(0, (folder / "model.keras").stat().st_mtime_ns))
    new.rename(folder / "model.keras")


def _rename_the_folder(folder: Path) -> None:
    folder.rename(folder.with_name("old"))
    a_folder(folder)


def _add_a_file(folder: Path) -> None:
    (folder / "saved_model").mkdir()
    (folder / "saved_model" / "saved_model.pb").write_text("graph")


def _remove_it(folder: Path) -> None:
    folder.rename(folder.with_name("old"))


@pytest.mark.parametrize(
    "change", [_write_over, _rename_a_file, _rename_the_folder, _add_a_file, _remove_it]
)
def test_a_folder_has_changed_when_any_of_its_files_has(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    folder = a_folder(tmp_path / "shapes")
    versions = Versions(an_entry(str(folder)), None)
    before = versions.find(None)
    assert versions.find(None) == before

    change(folder)

    assert not versions.find(None).is_same_model(before)


@pytest.mark.parametrize("change", [_write_over, _rename_a_file, _add_a_file])
def test_what_changes_beside_an_imageserve_yaml_is_a_change_that_it_does_not_announce(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    folder = a_folder(tmp_path / "shapes", "version: '1'\n")
    versions = Versions(an_entry(str(folder)), None)
    before = versions.find(None)

    change(folder)
    between = versions.find(None)
    (folder / "imageserve.yaml").write_text("version: '12'\n")
    after = versions.find(None)

    assert not between.is_same_model(before)
    assert not between.is_announced(before), "the rest may still be missing"
    assert after.is_announced(before)


def test_without_an_imageserve_yaml_every_change_is_announced(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "shapes")
    versions = Versions(an_entry(str(folder)), None)
    before = versions.find(None)

    _write_over(folder)

    assert versions.find(None).is_announced(before)


def test_labels_among_more_parts_of_weights_than_are_looked_at_count(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "shapes")
    for number in range(MOST_FILES):
        (folder / f"a{number}").touch()
    before = fingerprint_of([folder])

    (folder / "labels.txt").write_text("square\n")

    assert len(before) == MOST_FILES
    assert fingerprint_of([folder]) != before


def test_a_link_that_leads_elsewhere_is_a_change(tmp_path: Path) -> None:
    for version in ("v1", "v2"):
        a_folder(tmp_path / version)
    link = tmp_path / "current"
    link.symlink_to("v1")
    before = fingerprint_of([link])

    (tmp_path / "next").symlink_to("v2")
    (tmp_path / "next").rename(link)

    assert fingerprint_of([link]) != before


def test_a_mounted_config_map_is_a_change_when_kubernetes_writes_it_anew(tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    a_folder(mount / "..2026_01")
    a_folder(mount / "..2026_02")
    (mount / "..data").symlink_to("..2026_01")
    for name in ("model.keras", "labels.txt"):
        (mount / name).symlink_to(f"..data/{name}")
    before = fingerprint_of([mount])
    assert [Path(file[0]).name for file in before] == ["labels.txt", "model.keras"]

    (mount / "..data_tmp").symlink_to("..2026_02")
    (mount / "..data_tmp").rename(mount / "..data")

    assert fingerprint_of([mount]) != before


def test_the_fingerprint_covers_files_that_an_entry_names_and_no_network_names(
    tmp_path: Path,
) -> None:
    for name in ("a.keras", "labels.txt", "weights.h5"):
        (tmp_path / name).write_text(name)
    paths = {name: str(tmp_path / name) for name in ("a.keras", "labels.txt", "weights.h5")}

    file = an_entry(paths["a.keras"], labels=paths["labels.txt"])
    network = an_entry("resnet50", weights=paths["weights.h5"])

    assert names_in(file) == ["a.keras", "labels.txt"]
    assert names_in(network) == ["weights.h5"]
    assert names_in(an_entry("stand-in:size=96")) == []


def names_in(entry: ModelEntry) -> list[str]:
    return [Path(file[0]).name for file in Versions(entry, None).find(None).fingerprint]
