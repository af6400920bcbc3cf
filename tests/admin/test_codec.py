"""Commands as bytes: canonical, strict, and refused by every replica alike."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from ravel_node.admin.codec import (
    BODY_BYTES_MAX,
    MOVE_SLOTS_MAX,
    MOVES_MAX,
    REPLICAS_WANTED_MAX,
    REPORT_MEMBERS_MAX,
    decode,
    encode,
)
from ravel_node.admin.commands import (
    KINDS,
    AdoptCluster,
    BeginMove,
    Command,
    CommandFormError,
    DecideMove,
    FinishMove,
    ForgetServer,
    MarkLeaving,
    PlanMoves,
    PlannedMove,
    RemoveCluster,
    ReportMembership,
    Seated,
    SetCluster,
    SetSlotMap,
    VacateAddress,
)
from ravel_node.machine import envelope
from ravel_node.machine.envelope import UnknownCommandError
from ravel_node.machine.summary import described
from ravelpb.errors import Reason
from ravelpb.slots import SLOT_COUNT
from tests.admin.helpers import Admin, hex_id, registering

MEMBERS = tuple(Seated(hex_id(number), number) for number in range(1, REPORT_MEMBERS_MAX + 1))

EACH: list[Command] = [
    registering(1),
    registering(2, new_cluster="b", cluster_id=hex_id(9), replica_id=4),
    ReportMembership(hex_id(9), hex_id(1), 3, 17, (Seated(hex_id(1), 1), Seated(hex_id(2), 2, True))),
    ReportMembership(hex_id(9), hex_id(1), 3, 17, MEMBERS),
    MarkLeaving(hex_id(1)),
    ForgetServer(hex_id(1)),
    SetCluster("b", hex_id(8), 5, True),
    RemoveCluster("b"),
    AdoptCluster("b", hex_id(8), hex_id(9)),
    VacateAddress(hex_id(1), registering(1).listen, registering(1).peer),
    PlanMoves(4, (PlannedMove((1, 2), 1, 2), PlannedMove((4095,), 2, 1))),
    PlanMoves(4, tuple(PlannedMove((slot,), 1, 2) for slot in range(MOVES_MAX))),
    BeginMove(1 << 40),
    DecideMove(1 << 40, False),
    FinishMove(1 << 40),
    SetSlotMap(hex_id(3), (1,) * SLOT_COUNT, (5, 1 << 40), 7, 1 << 41),
]


@pytest.mark.parametrize("command", EACH, ids=lambda command: command.kind)
def test_what_is_written_is_read(command: Command) -> None:
    body = encode(command)
    assert decode(body) == command
    assert body == json.dumps(json.loads(body), sort_keys=True, separators=(",", ":")).encode()


def test_each_kind_is_tried() -> None:
    assert {command.kind for command in EACH} == set(KINDS)


def test_what_stands_in_the_log() -> None:
    assert encode(DecideMove(65_536, True)) == b'{"commit":true,"kind":"decide","move_id":65536}'
    assert encode(PlanMoves(1, (PlannedMove((7,), 1, 2),))) == (
        b'{"kind":"plan","map_version":1,"moves":[{"destination":2,"slots":[7],"source":1}]}'
    )


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (registering(1, name=""), "name ''"),
        (registering(1, name="N"), "name 'N'"),
        (registering(1, name="n" * 64), "name"),
        (registering(1, name="ü"), "name"),
        (registering(1, new_cluster="B"), "new_cluster"),
        (registering(1, server_id="1"), "server_id '1': it must be 32"),
        (registering(1, fresh_id=""), "fresh_id"),
        (registering(1, cluster_id="x", replica_id=1), "cluster_id"),
        (registering(1, cluster_id=hex_id(1)), "brings both, or neither"),
        (registering(1, replica_id=1), "brings both, or neither"),
        (registering(1, listen=""), "listen ''"),
        (registering(1, listen="no-port"), "HOST:PORT"),
        (registering(1, listen="a b:1"), "HOST:PORT"),
        (registering(1, listen="\ud800:1"), "HOST:PORT"),
        (registering(1, peer="h" * 300 + ":1"), "300 bytes"),
        (registering(1, peer=registering(1).listen), "cannot be both"),
        (registering(1, format=0), "format 0: it must be a number from 1"),
        (registering(1, version="\n"), "version"),
        (registering(1, version="1" * 65), "64 bytes"),
        (registering(1, replica_id=True), "replica_id True"),
        (SetCluster("b", hex_id(1), REPLICAS_WANTED_MAX + 1), "replicas_wanted 65"),
        (SetCluster("b", hex_id(1), -1), "replicas_wanted -1"),
        (ReportMembership(hex_id(9), hex_id(1), 1, 1, (*MEMBERS, Seated(hex_id(999), 999))), "1 to 256"),
        (PlanMoves(1, ()), "moves"),
        (PlanMoves(0, (PlannedMove((1,), 1, 2),)), "map_version 0"),
        (PlanMoves(1, (PlannedMove((), 1, 2),)), "1 to 64 slots"),
        (PlanMoves(1, (PlannedMove(tuple(range(MOVE_SLOTS_MAX + 1)), 1, 2),)), "1 to 64 slots"),
        (PlanMoves(1, (PlannedMove((2, 1), 1, 2),)), "ascending"),
        (PlanMoves(1, (PlannedMove((1, 1), 1, 2),)), "ascending"),
        (PlanMoves(1, (PlannedMove((4096,), 1, 2),)), "from 0 to 4095"),
        (PlanMoves(1, (PlannedMove((1,), 1, 1),)), "to itself"),
        (PlanMoves(1, (PlannedMove((1,), 0, 1),)), "source 0"),
        (PlanMoves(1, (PlannedMove((1,), 1, 65_536),)), "destination 65536"),
        (PlanMoves(1, (PlannedMove((1,), 1, 2), PlannedMove((1,), 1, 3))), "a slot twice"),
        (BeginMove(0), "move_id 0"),
        (BeginMove(1 << 63), "move_id"),
    ],
)
def test_bounds(command: Command, words: str) -> None:
    with pytest.raises(CommandFormError) as told:
        encode(command)
    assert words in str(told.value)
    assert len(str(told.value)) < 300


def changed(**fields: Any) -> bytes:
    value = {**json.loads(encode(registering(1))), **fields}
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"{}",
        b'{"kind":7}',
        b'{"kind":"finish"}',
        b'{"kind":"finish","move_id":1.0}',
        b'{"kind":"finish","move_id":NaN}',
        b'{"kind":"finish","move_id":"1"}',
        b'{"kind":"finish","move_id":1,"move_id":1}',
        b'{"kind":"finish", "move_id":1}',
        b'{"move_id":1,"kind":"finish"}',
        b'{"kind":"finish","move_id":' + b"9" * 5_000 + b"}",
        b"[" * 100_000,
        b'{"kind":"plan","map_version":1,"moves":[7]}',
        b'{"kind":"membership","cluster_id":"","config_index":1,"leader_id":"","members":{},"term":1}',
        changed(name=None),
        changed(version=3),
        b" " * (BODY_BYTES_MAX + 1),
    ],
)
def test_what_is_no_command_is_refused_and_changes_nothing(body: bytes) -> None:
    with pytest.raises(CommandFormError):
        decode(body)
    admin = Admin()
    before = admin.state.content()
    (outcome,) = admin.entry(body)
    assert json.loads(outcome.value)["reason"] == Reason.INVALID_ARGUMENT
    assert {**admin.state.content(), "HISTORY": []} == {**before, "HISTORY": []}


@pytest.mark.parametrize(
    "body",
    [
        b'{"kind":"split","slot":1}',
        changed(zone="b"),
        encode(PlanMoves(1, (PlannedMove((7,), 1, 2),))).replace(b'"source"', b'"size":1,"source"'),
    ],
)
def test_what_a_later_version_wrote_stops(body: bytes) -> None:
    with pytest.raises(UnknownCommandError, match=r"directory.*upgrade this server"):
        decode(body)


def test_commands_in_words() -> None:
    def line(body: bytes) -> str:
        (one,) = described(envelope.payload([envelope.group([envelope.directory(body)])]))
        assert (one.word, one.keys) == ("directory", ())
        return one.line

    assert line(encode(DecideMove(65_536, True))) == "decide commit=true move_id=65536"
    assert line(encode(RemoveCluster("b"))) == "remove-cluster name=b"
    assert line(encode(replace(registering(1), version=""))) == (
        "register format=3 fresh_id=00000000 listen=10.0.0.1:7400 name=n1 peer=10.0.0.1:7401 replica_id=0 server_id=00000000"
    )
    assert line(encode(EACH[11])) == "plan map_version=4 moves: 4096"
    assert line(b"\xff{") == "unreadable: \\xff{"
    assert line(b"[1]") == "unreadable: [1]"
    assert len(line(b"x" * 1_000)) < 200
    assert line(b'{"kind":"later","why":["' + b"y" * 500 + b'"]}') == "later why: 1"
