"""`ravelctl log` on data directories: nobody is dialled."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ravel_node.machine import envelope
from ravel_node.raft.types import Entry, Index, Term
from ravelctl.cli.app import App
from ravelctl.config.settings import Output
from ravelctl.store.log_entries import LogQuery
from ravelctl.store.log_follow import Printer, follow_directory
from ravelctl.store.log_source import directory_log
from tests.ravelctl.conftest import Ctl
from tests.ravelctl.offline.support import edit_log, edit_state, flip_log_byte, make, puts


@pytest.fixture
def path(tmp_path: Path) -> Path:
    entries = [[], *puts(1, 9), [envelope.delete(b"users/1"), envelope.put(b"users/2", b"x")], *puts(10, 20)]
    return make(tmp_path / "n1", entries, snapshot_at=8)


def test_entries_are_shown_and_filtered(ctl: Ctl, path: Path) -> None:
    ran = ctl("log", "show", "--data-dir", path, "--to", 3)
    assert (ran.code, ran.out) == (
        0,
        "INDEX  TERM  TYPE  BYTES  SUMMARY\n"
        "2      3     noop  0      -\n"
        "3      3     put   31     orders/1 = 10 bytes\n"
        f"first 2  snapshot 8@3  commit 23  last 23  source {path}\n",
    )

    def shown(*words: object) -> list[str]:
        return ctl("log", "show", "--data-dir", path, "-o", "name", *words).out.split()

    assert shown("--prefix", "users/") == ["12"]
    assert shown("--type", "noop", "--type", "delete") == ["2", "12"]
    assert shown("--type", "put", "--limit", 2, "--tail") == ["22", "23"]
    assert shown("--tail", "--limit", 3) == ["21", "22", "23"]
    assert shown("--from", 21) == ["21", "22", "23"]
    assert shown("--term", 4) == []
    assert ctl("log", "show", "--data-dir", path, "--from", 1).code == 1
    assert ctl("log", "show", "--data-dir", path, "--type", "pot").code == 2
    assert ctl("log", "show", "--data-dir", path, "--replica", "n1").code == 2
    told = ctl("log", "show", "--data-dir", path, "--prefix", "users/1", "-o", "json").json
    assert told["entries"][0]["commands"] == ["delete users/1"]


NOON_MS = 1_772_452_800_000  # 2026-03-02T12:00:00Z


def test_entries_have_a_time_and_are_chosen_by_it(ctl: Ctl, tmp_path: Path) -> None:
    """The clock jumps back by two seconds, and entry 2 is an older version's."""
    path = make(tmp_path / "n1", puts(1, 5), times=[0, *(NOON_MS + ms for ms in (0, 3_000, 1_000, 3_500))])
    ran = ctl("log", "show", "--data-dir", path, "-o", "wide")
    assert ran.out.splitlines()[:4] == [
        "INDEX  TERM  TIME                      TYPE  BYTES  SUMMARY",
        "2      3     -                         put   31     orders/1 = 10 bytes",
        "3      3     2026-03-02T12:00:00Z      put   39     orders/2 = 10 bytes",
        "4      3     2026-03-02T12:00:03Z      put   39     orders/3 = 10 bytes",
    ]
    assert "12:00:00" not in ctl("log", "show", "--data-dir", path).out
    told = ctl("log", "show", "--data-dir", path, "-o", "json").json
    assert [entry["time"] for entry in told["entries"]][::4] == [None, "2026-03-02T12:00:03.500Z"]

    def chosen(*words: object) -> tuple[list[str], str]:
        ran = ctl("log", "show", "--data-dir", path, "-o", "name", *words)
        assert ran.code == 0, ran.err
        return ran.out.split(), ran.err.strip()

    left_out = "1 entry carries no time and is left out"
    assert chosen("--since", "2026-03-02T12:00:02Z") == (["4", "6"], left_out)
    assert chosen("--since", "2026-03-02T13:00:00+01:00", "--until", "2026-03-02T12:00:01Z") == (["3", "5"], left_out)
    assert chosen("--since", "2026-03-02T12:00:01Z", "--tail", "--limit", 2) == (["5", "6"], left_out)
    assert chosen("--since", "10m") == ([], left_out)
    assert chosen("--until", "10m", "--from", 5) == (["5", "6"], "")
    assert ctl("log", "show", "--data-dir", path, "--since", "10m", "-o", "json").json["untimed"] == "1"
    for wrong in ("yesterday", "2026-03-02T12:00:02", "1960-01-01T00:00:00Z"):
        ran = ctl("log", "show", "--data-dir", path, "--since", wrong)
        assert (ran.code, "neither a duration such as 10m nor a time with its zone" in ran.err) == (2, True)


def test_following_begins_at_the_first_entry_of_a_time(ctl: Ctl, tmp_path: Path) -> None:
    path = make(tmp_path / "n1", puts(1, 20), times=[NOON_MS, NOON_MS + 5_000, 0, NOON_MS + 1_000])
    words = ("log", "follow", "--data-dir", path, "--limit", 3, "--since", "2026-03-02T12:00:04Z")
    assert ctl(*words, "-o", "name").out.split() == ["3", "4", "5"]
    assert ctl(*words, "-o", "wide").out.splitlines()[1:3] == [
        "3         3     2026-03-02T12:00:05Z      put       39      orders/2 = 10 bytes",
        "4         3     -                         put       31      orders/3 = 10 bytes",
    ]


def test_damage_is_shown_verified_and_compared(ctl: Ctl, path: Path, tmp_path: Path) -> None:
    assert ctl("log", "verify", "--data-dir", path).code == 0
    flip_log_byte(path, 15)
    ran = ctl("log", "show", "--data-dir", path, "--from", 14, "--to", 16)
    assert (ran.code, ran.out.splitlines()[2].split()[:3]) == (8, ["15", "-", "damaged"])
    ran = ctl("log", "verify", "--data-dir", path, "-o", "json")
    assert (ran.code, ran.json["ok"], len(ran.json["problems"])) == (8, False, 1)
    assert ran.json["problems"][0].startswith("raft/data.mdb: entry 15 is damaged")
    whole = make(tmp_path / "n2", [[], *puts(1, 9), [envelope.delete(b"users/1"), envelope.put(b"users/2", b"x")], *puts(10, 20)])
    for sides in ((path, whole), (whole, path)):
        ran = ctl("log", "diff", *sides, "-o", "json")
        assert (ran.code, ran.json["index"], ran.json["damage"]) == (8, "15", True)


def test_a_divergence_with_right_check_sums_is_found_by_its_index(ctl: Ctl, tmp_path: Path) -> None:
    a, b = (make(tmp_path / name, puts(1, 1500), replica=number) for number, name in enumerate(("n1", "n2"), 1))
    ran = ctl("log", "diff", a, b)
    assert (ran.code, ran.out) == (0, f"1500 entries from 2 to 1501 are the same on {a} and {b}\n")
    edit_log(b, 1234, lambda entry: entry._replace(data=entry.data.replace(b"value", b"velue")))
    ran = ctl("log", "diff", a, b)
    assert (ran.code, ran.out.splitlines()[0]) == (8, "entry 1234 is the first that differs")
    assert ctl("log", "diff", a, b, "--to", 1233).code == 0
    assert ctl("log", "diff", a, b, "-o", "name").out == "1234\n"
    assert ctl("log", "verify", "--data-dir", b).code == 0, "each log by itself is whole"


def test_states_that_differ_though_their_logs_do_not(ctl: Ctl, tmp_path: Path) -> None:
    a = make(tmp_path / "n1", puts(1, 20))
    b = make(tmp_path / "n2", puts(1, 20), replica=2, unapplied=5)
    ran = ctl("log", "diff", a, b, "--state")
    assert (ran.code, ran.out.splitlines()[-1]) == (0, "the states at entry 21 are the same"), ran.err
    edit_state(b, b"orders/9", b"something else")
    assert ctl("log", "diff", a, b).code == 0
    assert ctl("store", "check", "--data-dir", b).code == 0, "by itself it is whole"
    ran = ctl("log", "diff", a, b, "--state")
    assert (ran.code, ran.out.splitlines()[-1]) == (8, "the states at entry 21 differ first in database kv, record orders/9")
    told = ctl("log", "diff", b, a, "--state", "-o", "json").json
    assert (told["same"], told["state"]["database"], told["state"]["key"]) == (False, "kv", "orders/9")
    assert ctl("log", "diff", "n1", b, "--state").code == 2


def test_an_uncommitted_tail_is_told_from_damage(ctl: Ctl, tmp_path: Path) -> None:
    a = make(tmp_path / "n1", puts(1, 5), raw=[Entry(Term(4), Index(7), data=b"")])
    b = make(tmp_path / "n2", puts(1, 5), raw=[Entry(Term(5), Index(7), data=b"")])
    ran = ctl("log", "diff", a, b)
    assert (ran.code, "a leader will replace one of them" in ran.out) == (1, True)
    edit_log(b, 6, lambda entry: entry._replace(term=Term(2)))
    ran = ctl("log", "diff", a, b, "-o", "json")
    assert (ran.code, ran.json["index"], ran.json["why"]) == (8, "6", "both replicas know it as committed")


def test_logs_without_a_common_entry(ctl: Ctl, tmp_path: Path) -> None:
    a, b = make(tmp_path / "n1", puts(1, 5)), make(tmp_path / "n2", [])
    ran = ctl("log", "diff", a, b)
    assert (ran.code, "have no entry in common" in ran.out) == (1, True)
    assert ctl("log", "diff", a, tmp_path / "none").code == 2


def test_a_directory_is_followed_while_it_grows_and_is_cut(ctl: Ctl, tmp_path: Path) -> None:
    path = make(tmp_path / "n1", puts(1, 12))
    assert ctl("log", "follow", "--data-dir", path, "--limit", 10, "-o", "name").out.split() == [str(i) for i in range(4, 14)]
    assert ctl("log", "follow", "--data-dir", path, "--from", 2, "--limit", 2).out == (
        "INDEX     TERM  TYPE      BYTES   SUMMARY\n"
        "2         3     put       31      orders/1 = 10 bytes\n"
        "3         3     put       31      orders/2 = 10 bytes\n"
    )


async def test_what_a_new_leader_replaced_is_told_and_shown_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = await asyncio.to_thread(make, tmp_path / "n1", puts(1, 12))
    source = directory_log(str(path))
    printer = Printer(App({"output": Output.NAME}), 6)
    following = asyncio.create_task(follow_directory(source, LogQuery(from_index=10), printer))
    while printer.left > 2:
        await asyncio.sleep(0.01)
    for index in (13, 12):
        edit_log(path, index, lambda entry: entry._replace(term=Term(7)))
    await following
    out, err = capfd.readouterr()
    assert out.split() == ["10", "11", "12", "13", "12", "13"]
    assert "a new leader replaced the entries from 12 on" in err


def test_a_directory_that_is_none_of_ours_gets_one_advice(ctl: Ctl, tmp_path: Path) -> None:
    (tmp_path / "passwd").write_text("root")
    ran = ctl("log", "verify", "--data-dir", tmp_path)
    assert ran.code == 2
    assert "it is no data directory of ravel\n" in ran.err
    assert ran.err.count("give --data-dir") == 1
