"""Makes the stubs of `ravelpb` from its .proto files: `make protos` writes them into the package, a test compares.

python tests/protos/generate.py [DIRECTORY]
"""

from __future__ import annotations

import importlib.resources
import sys
from pathlib import Path
from typing import Final

from google.rpc import status_pb2
from grpc_tools import protoc

SOURCE_ROOT: Final = Path(__file__).resolve().parents[2] / "protos"
PROTO_DIR: Final = "ravelpb/v1"
STUB_PATTERNS: Final = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")


class GenerateError(Exception):
    """The compiler refused the files; it has said why on stderr."""


def stubs(root: Path) -> dict[str, bytes]:
    """The stubs below a source root, by file name."""
    return {path.name: path.read_bytes() for pattern in STUB_PATTERNS for path in sorted((root / PROTO_DIR).glob(pattern))}


def generate(out: Path) -> None:
    """Write every stub below `out`, which mirrors protos/, and remove those that no .proto file asks for any more."""
    protos = sorted((SOURCE_ROOT / PROTO_DIR).glob("*.proto"))
    google = Path(status_pb2.__file__).parents[2]  # its .proto files lie beside its stubs
    well_known = importlib.resources.files("grpc_tools") / "_proto"
    before = stubs(out)
    flags = [f"-I{SOURCE_ROOT}", f"-I{google}", f"-I{well_known}"]
    flags += [f"--{kind}_out={out}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    # The plugins of mypy-protobuf are scripts beside this interpreter, which need not be on PATH.
    flags += [f"--plugin={name}={Path(sys.executable).parent / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    if protoc.main(["protoc", *flags, *map(str, protos)]) != 0:
        raise GenerateError("protoc refused the .proto files")
    _remove_empty_services(out, [path.stem for path in protos if "\nservice " not in path.read_text()])
    known = {f"{path.stem}{ending[1:]}" for path in protos for ending in STUB_PATTERNS}
    for name in before.keys() - known:
        (out / PROTO_DIR / name).unlink()


def _remove_empty_services(out: Path, stems: list[str]) -> None:
    """The compiler writes service stubs also for files that declare no service."""
    for stem in stems:
        for ending in ("_pb2_grpc.py", "_pb2_grpc.pyi"):
            (out / PROTO_DIR / f"{stem}{ending}").unlink(missing_ok=True)


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else SOURCE_ROOT)
