"""What a ``.keras`` file or a SavedModel says about itself, read without Keras and TensorFlow."""

import json
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imageserve.models.foreign import foreign
from imageserve.models.protobuf import BadMessage, Message

Shape = tuple[int | None, ...]

MOST_BYTES = 64 * 2**20
"""Longest description of a network that is read; that of ResNet-152 has half a megabyte."""

GRAPH = "saved_model.pb"
_HDF5 = b"\x89HDF\r\n\x1a\n"
_OF_KERAS = ("keras", "tf_keras")


@dataclass(frozen=True, slots=True)
class KerasFile:
    """A ``.keras`` file without its weights."""

    version: str
    """Of the Keras that wrote it; "" where it does not say."""
    input: Shape
    """None for sides that are open; () where it is not declared."""
    custom: tuple[str, ...]
    """The layers and functions whose code is not part of Keras."""


def read_keras(path: Path) -> KerasFile | None:
    """Read a file; None where it is no ``.keras`` file. Raises OSError."""
    try:
        with zipfile.ZipFile(path) as archive:
            network, metadata = (_json(archive, f"{n}.json") for n in ("config", "metadata"))
            custom = tuple(dict.fromkeys(_custom(network)))
            return KerasFile(str(metadata.get("keras_version", "")), _input(network), custom)
    except OSError:
        raise
    except Exception:  # a damaged archive may raise much more than BadZipFile
        return None


def no_keras_file(path: Path) -> str:
    """Say what a file is that is no ``.keras`` file, and what to do. Raises OSError."""
    with path.open("rb") as file:
        if file.read(len(_HDF5)) == _HDF5:
            return hdf5_remedy(path)
    return f"{path} is no .keras file, or cut short: copy or save it anew"


def hdf5_remedy(path: Path) -> str:
    """Say what to do with a file in the format of Keras before ``.keras``."""
    if path.name.endswith(".weights.h5"):
        return f"{path} holds weights alone: save the whole model with model.save('model.keras')"
    return (
        f"{path} is in HDF5, the format of Keras 2: write it anew with "
        f"keras.saving.load_model('{path.stem}.h5', compile=False).save('{path.stem}.keras')"
    )


def remedy_for(file: KerasFile | None, running: str, error: str) -> str:
    """Say why Keras of the version ``running`` cannot load a file, and what to do.

    ``error`` is what Keras says; it goes into the message only where nothing better is known.
    """
    if file and file.custom:
        names = foreign(", ".join(file.custom))
        return (
            f": it needs code that is not part of Keras, of {names}; use Keras's own layers and "
            "functions, or write the model with model.export('saved_model') where that code is"
        )
    if file and _is_older_kind(file.version):
        return (
            f": it was written by Keras {foreign(file.version, 20)}; load it there (package "
            "tf_keras) and write it anew with model.export('saved_model')"
        )
    if file and _numbers(file.version) > _numbers(running):
        return (
            f" ({error}): it was written by the newer Keras {foreign(file.version, 20)}; save it "
            "with the one that runs here, or update that"
        )
    return f" ({error}): save it anew with model.save(), with layers that Keras itself has"


def _is_older_kind(version: str) -> bool:
    return (0, 0) < _numbers(version) < (3, 0)


def _numbers(version: str) -> tuple[int, int]:
    """Return the first two numbers of a version; zeros where there are none."""
    first, second, *_ = [*version.split("."), "", ""]
    return (int(first), int(second)) if first.isdecimal() and second.isdecimal() else (0, 0)


def saved_model_input(folder: Path) -> Shape:
    """Return the shape that a SavedModel takes; () where it is not declared. Raises OSError."""
    descriptor = os.open(folder / GRAPH, os.O_RDONLY)
    try:
        return _signature_input(Message.of_file(descriptor))
    except BadMessage:
        return ()
    finally:
        os.close(descriptor)


def _json(archive: zipfile.ZipFile, name: str) -> dict[str, Any]:
    if archive.getinfo(name).file_size > MOST_BYTES:
        raise ValueError(f"{name} is too long")
    found = json.loads(archive.read(name))
    if not isinstance(found, dict):
        raise ValueError(f"{name} is no object")
    return found


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Yield all serialized objects, in the order of the file."""
    if isinstance(value, dict):
        if "class_name" in value:
            yield value
        for inner in value.values():
            yield from _objects(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _objects(inner)


def _custom(network: Any) -> Iterator[str]:
    for each in _objects(network):
        name, content = each["class_name"], each.get("config")
        # Without a module it is no object with code but a value, such as a tensor.
        if name == "Lambda":
            yield "Lambda"
        elif "module" in each and str(each["module"]).partition(".")[0] not in _OF_KERAS:
            # A function's name stands in its content, behind that of its package.
            yield str(content if name == "function" else name).rpartition(">")[2]


def _input(network: dict[str, Any]) -> Shape:
    layers = (each["config"] for each in _objects(network) if each["class_name"] == "InputLayer")
    found = next((each for each in layers if isinstance(each, dict)), {})
    shape = found.get("batch_shape") or found.get("batch_input_shape")
    if shape is None:
        built = network.get("build_config")
        shape = built.get("input_shape") if isinstance(built, dict) else None
    if not isinstance(shape, list):
        return ()
    return tuple(side if isinstance(side, int) else None for side in shape)


def _signature_input(saved: Message) -> Shape:
    # SavedModel.meta_graphs, MetaGraphDef.signature_def, SignatureDef.inputs, TensorInfo's shape.
    for graph in saved.parts(2):
        for pair in graph.parts(5):
            if pair.text(1) == "serving_default":
                for signature in pair.parts(2):
                    for named in signature.parts(1):
                        return _tensor_shape(named)
    return ()


def _tensor_shape(named: Message) -> Shape:
    for tensor in named.parts(2):
        for shape in tensor.parts(3):
            sides = [side.number(1) for side in shape.parts(2)]
            # An open side is -1, as 64 bits.
            return tuple(side if side < 2**63 else None for side in sides)
    return ()
