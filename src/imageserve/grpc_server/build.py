"""Compiles the protocol while imageserve is built; pyproject.toml names the class for setuptools.

Nothing imports this at run time. What is written, a set of descriptors, says the same as the
Python modules that protoc could write, and any version of protobuf reads it: such a module demands
a protobuf that is no older than its protoc.

``open_inference_grpc.proto`` is from https://github.com/kserve/open-inference-protocol, unchanged.
"""

from pathlib import Path

from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
PROTOCOL = "open_inference_grpc.proto"


def compile_protocol() -> None:
    """Write the descriptors beside the protocol. Raises RuntimeError where protoc refuses it."""
    from grpc_tools import protoc

    compiled = HERE / PROTOCOL.replace(".proto", ".binpb")
    arguments = ["protoc", f"-I{HERE}", f"--descriptor_set_out={compiled}", PROTOCOL]
    if protoc.main(arguments) != 0:
        raise RuntimeError(f"protoc cannot compile {PROTOCOL}")


class BuildPy(build_py):  # type: ignore[misc]
    """Builds a wheel, or an editable installation, with the compiled protocol in it."""

    def run(self) -> None:
        compile_protocol()
        super().run()
