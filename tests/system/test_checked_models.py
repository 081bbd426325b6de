"""A model folder that ``models check`` passes is served by real processes, as it was checked."""

import io
from pathlib import Path

from PIL import Image
from tests.onnx_files import LABELS, write_labels, write_onnx
from tests.redis_server import eventually
from tests.system.conftest import MakeStack
from tests.system.stack import START_S


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (20, 10), (200, 30, 10)).save(file, "PNG")
    return file.getvalue()


def test_a_folder_without_facts_is_served_and_a_change_beside_its_model_too(
    make_stack: MakeStack, tmp_path: Path
) -> None:
    folder = tmp_path / "forms"
    folder.mkdir()
    write_onnx(folder / "model.onnx", beside="model.onnx.data")
    write_labels(folder / "labels.txt")
    stack = make_stack(MODEL=str(folder), workers=0)
    check = stack.run("check", "models", "check")
    assert check.wait() == 0, check.output()

    stack.start_worker()

    first = stack.http.predict(picture())
    version = first.headers["x-model-version"]
    assert f"forms, version {version}" in check.output()
    assert set(first.labels) == set(LABELS)

    write_labels(folder / "labels.txt", [f"{label}\u2028 of ours" for label in LABELS])

    def labels() -> set[str]:
        return set(stack.http.predict(picture()).labels)

    eventually(lambda: labels() == {f"{label}\u2028 of ours" for label in LABELS}, "new", START_S)
    relabelled = stack.http.predict(picture()).headers["x-model-version"]
    (folder / "model.onnx.data").write_bytes(bytes(36))

    def shown() -> str:
        return str(stack.http.predict(picture()).headers["x-model-version"])

    eventually(lambda: shown() not in (version, relabelled), "another version", START_S)
