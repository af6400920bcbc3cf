"""The checked-in stubs are exactly what the pinned generator makes of the .proto files."""

from __future__ import annotations

from pathlib import Path

from tests.protos.generate import PROTO_DIR, SOURCE_ROOT, generate, stubs


def test_stubs_are_current(tmp_path: Path) -> None:
    generate(tmp_path)
    fresh, kept = stubs(tmp_path), stubs(SOURCE_ROOT)
    assert sorted(fresh) == sorted(kept), "files differ: run `make protos`"
    different = [name for name in fresh if fresh[name] != kept[name]]
    assert different == [], "stubs are out of date: run `make protos`"


def test_every_proto_file_has_its_stubs() -> None:
    paths = list((SOURCE_ROOT / PROTO_DIR).glob("*.proto"))
    assert {"kv", "raft", "cluster"} <= {path.stem for path in paths}
    for path in paths:
        assert f"{path.stem}_pb2.py" in stubs(SOURCE_ROOT)
        assert (f"{path.stem}_pb2_grpc.py" in stubs(SOURCE_ROOT)) == ("\nservice " in path.read_text())


def test_stubs_that_no_proto_file_asks_for_are_removed(tmp_path: Path) -> None:
    old = tmp_path / PROTO_DIR / "gone_pb2.py"
    old.parent.mkdir(parents=True)
    old.write_text("")
    generate(tmp_path)
    assert not old.exists()
