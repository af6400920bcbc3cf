"""What the admin's directory says, printed; slots on the move; servers that leave."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ravelctl.admin.directory import ranges_text
from ravelctl.completion.tab import offers
from ravelpb.errors import Reason
from ravelpb.slots import slot_of
from ravelpb.v1 import admin_pb2 as pb
from tests.ravelctl.conftest import Ctl, Ran
from tests.ravelctl.fake import FakeCluster
from tests.ravelctl.fake_admin import FakeAdmin, FakeDirectory, fake_admin


@pytest.fixture
def directory() -> FakeDirectory:
    """Two clusters: one with a server that is down, one with a learner on its way."""
    made = FakeDirectory()
    orders, users = made.cluster("orders", range(2048)), made.cluster("users", range(2048, 4096), term=12)
    for name in ("n1", "n2", "n3"):
        made.server(orders, name)
    made.servers[2].down, made.servers[2].heard_age_ms = True, 14_000
    made.server(users, "n1")
    made.server(users, "n2", seat=pb.SEAT_LEARNER)
    made.server(users, "n10", seat=pb.ASSIGNED, replica_id=0, heard=False)
    made.addresses = {1: ["10.0.1.1:7400"], 2: ["10.0.2.4:7400"]}
    return made


@pytest.fixture
def admin(directory: FakeDirectory) -> Iterator[FakeAdmin]:
    made = fake_admin(directory)
    yield made
    made.stop()


def asked(ctl: Ctl, admin: FakeAdmin, *words: object) -> Ran:
    return ctl("admin", *words, "-e", admin.address)


# --- lists


def test_clusters(ctl: Ctl, admin: FakeAdmin) -> None:
    ran = asked(ctl, admin, "clusters")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == (
        "NAME    NUMBER  LEADER  TERM  REPLICAS  SLOTS  SHARE  STATE\n"
        "orders  1       n1      7     2/3       2048   50.0%  DEGRADED\n"
        "users   2       n1      12    2/3       2048   50.0%  DEGRADED\n"
    )
    assert asked(ctl, admin, "clusters", "-o", "name").out == "orders\nusers\n"
    assert "00000001cccc" in asked(ctl, admin, "clusters", "-o", "wide").out
    told = asked(ctl, admin, "clusters", "-o", "json").json
    assert (told["kind"], told["map_version"]) == ("AdminClusters", "3")
    assert told["clusters"][0] | {"cluster_id": ""} == {
        "number": 1, "name": "orders", "cluster_id": "", "state": "DEGRADED", "leader": "n1", "leader_address": "10.0.1.1:7400",
        "term": "7", "live": 2, "servers": 3, "wanted": 3, "slots": 2048, "share": 0.5, "emptying": False,
    }  # fmt: skip


def test_servers_that_were_seen_are_kept_for_tab(
    ctl: Ctl, admin: FakeAdmin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the shortest words that name one server."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for words in (["clusters"], ["servers"], ["forget", "n10", "--dry-run"]):
        (tmp_path / "ravelctl" / "servers").unlink(missing_ok=True)
        assert asked(ctl, admin, *words).code == 0
        offered = [text for _, text, _ in offers(f"ravelctl admin leave -e {admin.address} ")]
        assert offered == ["orders/n1", "orders/n2", "n3", "users/n1", "users/n2", "n10"]


@pytest.mark.parametrize(
    ("down", "fields", "state"),
    [
        (0, {}, "HEALTHY"),
        (1, {}, "DEGRADED"),
        (2, {}, "NO QUORUM"),
        (0, {"replicas_wanted": 5}, "DEGRADED"),
        (0, {"emptying": True}, "EMPTYING"),
        (0, {"emptying": True, "slots": 0}, "EMPTY"),
        (2, {"emptying": True}, "NO QUORUM"),
        (0, {"founded": False}, "FOUNDING"),
    ],
)
def test_the_state_of_a_cluster(ctl: Ctl, admin: FakeAdmin, down: int, fields: dict[str, int], state: str) -> None:
    for place, server in enumerate(admin.directory.servers[:3]):
        server.down = place < down
    for name, value in fields.items():
        setattr(admin.directory.clusters[0], name, value)
    assert asked(ctl, admin, "clusters", "-o", "json").json["clusters"][0]["state"] == state


def test_without_clusters_the_way_to_one_is_told(ctl: Ctl, admin: FakeAdmin) -> None:
    admin.directory.clusters, admin.directory.servers = [], []
    assert "the first replica that is started with --admin founds one" in asked(ctl, admin, "clusters").out
    assert "none was started with --admin" in asked(ctl, admin, "servers").out
    admin.directory.cluster("orders", range(0), founded=False, term=0)
    assert asked(ctl, admin, "clusters").out.splitlines()[1].split() == [
        "orders",
        "1",
        "-",
        "-",
        "0/3",
        "0",
        "0%",
        "NO",
        "SERVERS",
    ]


def test_servers(ctl: Ctl, admin: FakeAdmin) -> None:
    ran = asked(ctl, admin, "servers")
    assert ran.out == (
        "NAME  CLUSTER  ID  SEAT      ADDRESS        VERSION  HEARD\n"
        "n1    orders   1   leader    10.0.1.1:7400  0.1.0    400ms\n"
        "n2    orders   2   voter     10.0.1.2:7400  0.1.0    400ms\n"
        "n3    orders   3   voter     10.0.1.3:7400  0.1.0    DOWN 14.0s\n"
        "n1    users    4   leader    10.0.2.4:7400  0.1.0    400ms\n"
        "n2    users    5   learner   10.0.2.5:7400  0.1.0    400ms\n"
        "n10   users    -   assigned  10.0.2.6:7400  0.1.0    -\n"
    )
    assert asked(ctl, admin, "servers", "--cluster", "users", "-o", "name").out == "n1\nn2\nn10\n"
    unknown = asked(ctl, admin, "servers", "--cluster", "user")
    assert (unknown.code, "there are orders, users" in unknown.err) == (1, True)
    told = asked(ctl, admin, "servers", "-o", "json").json["servers"][5]
    assert (told["heard_s"], told["replica_id"], told["seat"], told["down"]) == (None, "0", "assigned", False)


def test_the_documents_of_clusters_and_servers(ctl: Ctl, admin: FakeAdmin) -> None:
    """Field by field: scripts read them."""
    found = asked(ctl, admin, "clusters", "-o", "json").json
    assert found == {
        "apiVersion": "ravel/v1",
        "kind": "AdminClusters",
        "map_version": "3",
        "clusters": [
            {
                "number": number, "name": name, "cluster_id": f"{number:08d}" + "c" * 24, "state": "DEGRADED", "leader": "n1",
                "leader_address": address, "term": term, "live": 2, "servers": 3, "wanted": 3, "slots": 2048, "share": 0.5,
                "emptying": False,
            }
            for number, name, address, term in ((1, "orders", "10.0.1.1:7400", "7"), (2, "users", "10.0.2.4:7400", "12"))
        ],
    }  # fmt: skip
    found = asked(ctl, admin, "servers", "--cluster", "orders", "-o", "json").json
    assert (found["kind"], len(found["servers"])) == ("AdminServers", 3)
    assert found["servers"][2] == {
        "name": "n3", "cluster": "orders", "replica_id": "3", "seat": "voter", "leads": False, "leaving": False,
        "address": "10.0.1.3:7400", "peer": "10.0.1.3:7401", "version": "0.1.0", "heard_s": 14.0, "down": True,
        "server_id": "d0000000000000000000000000000003",
    }  # fmt: skip
    found = asked(ctl, admin, "slots", "-o", "json").json
    assert found == {
        "apiVersion": "ravel/v1",
        "kind": "AdminSlots",
        "map_version": "3",
        "slots": 4096,
        "clusters": [
            {"number": 1, "name": "orders", "slots": 2048, "ranges": [[0, 2047]]},
            {"number": 2, "name": "users", "slots": 2048, "ranges": [[2048, 4095]]},
        ],
        "moves": [],
    }


def test_watching_repeats_and_json_is_a_line_each(ctl: Ctl, admin: FakeAdmin) -> None:
    """Stopped from outside, as by Ctrl-C."""
    timer = threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    ran = asked(ctl, admin, "servers", "--watch=200ms", "-o", "json")
    assert ran.code == 130
    assert len(ran.out.splitlines()) >= 2
    assert all(line.startswith('{"apiVersion"') for line in ran.out.splitlines())


# --- slots


def test_slots(ctl: Ctl, admin: FakeAdmin) -> None:
    directory = admin.directory
    directory.owners[0], directory.owners[7], directory.owners[9] = 2, 2, 0
    directory.moves.append(
        pb.DirectoryMove(move=65536, slots=range(8, 72), source=1, destination=2, phase=pb.COPYING, keys_copied=1204)
    )
    assert "orders -> users: 64 slots (8-71) copying, 1,204 keys copied\n" in asked(ctl, admin, "slots").out
    directory.moves[0].copying.CopyFrom(
        pb.CopyProgress(
            bytes_copied=120 << 10,
            keys_done=1_300,
            keys_expected=15_600,
            bytes_expected=1536 << 10,
            keys_per_s=900,
            bytes_per_s=90 << 10,
            ms_left=15_900,
        )
    )
    directory.moves.append(
        pb.DirectoryMove(move=65537, slots=[80], source=1, destination=2, phase=pb.PLANNED, obstacle="users is down")
    )
    ran = asked(ctl, admin, "slots")
    assert ran.out == (
        "map 3, 4096 slots\n"
        "CLUSTER   SLOTS  SHARE  RANGES\n"
        "orders    2045   49.9%  1-6, 8, 10-2047\n"
        "users     2050   50.0%  0, 7, 2048-4095\n"
        "(nobody)  1      0.0%   9\n"
        "orders -> users: 64 slots (8-71) copying, 1,300 of about 15,600 keys, 120KiB of about 1.5MiB, 900 keys/s, 90KiB/s, "
        "about 15.9s left\n"
        "orders -> users: 1 slot (80) planned; waits: users is down\n"
    )
    for move in range(30):
        directory.moves.append(pb.DirectoryMove(move=65540 + move, slots=[90 + move], source=1, destination=2, phase=pb.PLANNED))
    assert asked(ctl, admin, "slots").out == ran.out + "orders -> users: 30 slots planned\n", "what waits is one line"
    del directory.moves[2:]
    told = asked(ctl, admin, "slots", "-o", "json").json
    assert told["clusters"][0] == {"number": 1, "name": "orders", "slots": 2045, "ranges": [[1, 6], [8, 8], [10, 2047]]}
    assert (told["moves"][0]["move"], told["moves"][0]["slots"], told["moves"][0]["phase"]) == ("65536", 64, "copying")
    assert told["moves"][0]["copying"] == {
        "bytes_copied": "122880",
        "keys_done": "1300",
        "keys_expected": "15600",
        "bytes_expected": "1572864",
        "keys_per_s": "900",
        "bytes_per_s": "92160",
        "seconds_left": 15.9,
    }
    assert told["moves"][1]["copying"]["keys_expected"] is None, "nobody has counted them yet"
    assert "65 slots on the move" in asked(ctl, admin, "clusters").out


def test_the_slot_of_a_key(ctl: Ctl, admin: FakeAdmin) -> None:
    slot = slot_of(b"orders/17")
    owner = "orders" if slot < 2048 else "users"
    ran = asked(ctl, admin, "slots", "orders/17")
    assert ran.out == f"orders/17 is in slot {slot}, of cluster {owner} at {'10.0.1.1' if slot < 2048 else '10.0.2.4'}:7400\n"
    told = asked(ctl, admin, "slots", b"orders/17".hex(), "--hex", "-o", "json").json
    assert (told["slot"], told["cluster"]["name"], told["key"], told["key_encoding"]) == (slot, owner, b"orders/17".hex(), "hex")
    admin.directory.moves.append(pb.DirectoryMove(move=1, slots=[slot], source=1, destination=2, phase=pb.COMMITTED))
    assert "the slot moves from orders to users: committed" in asked(ctl, admin, "slots", "orders/17").out
    admin.directory.owners[slot] = 0
    assert f"slot {slot}, which no cluster owns" in asked(ctl, admin, "slots", "orders/17").out
    assert ctl("admin", "slots", "", "-e", "127.0.0.1:1").code == 2
    assert ctl("admin", "slots", "xyz", "--hex", "-e", "127.0.0.1:1").code == 2


def test_ranges() -> None:
    assert ranges_text([]) == ""
    assert ranges_text([5, 3, 4, 9]) == "3-5, 9"
    assert ranges_text(range(0, 20, 2), 3) == "0, 2, 4, and 7 more"


# --- rebalance


def planned(directory: FakeDirectory) -> None:
    directory.plan = pb.PlanRebalanceResponse(
        map_version=3,
        moves=[
            pb.DirectoryMove(slots=range(64), source=1, destination=2),
            pb.DirectoryMove(slots=[100], source=1, destination=2),
        ],
        shares=[
            pb.ClusterShare(number=1, name="orders", slots_before=2048, slots_after=1983),
            pb.ClusterShare(number=2, name="users", slots_before=2048, slots_after=2113),
        ],
    )
    directory.told = [
        pb.RebalanceResponse(slots_moved=0, slots_left=65, map_version=3),
        pb.RebalanceResponse(slots_moved=64, slots_left=1, keys_moved=1200, map_version=4),
        pb.RebalanceResponse(
            slots_moved=65, slots_left=0, keys_moved=1234, map_version=5, copying=pb.CopyProgress(bytes_copied=123 << 10)
        ),
    ]


PLAN = (
    "CLUSTER  SLOTS  AFTER  CHANGE  SHARE\n"
    "orders   2048   1983   -65     48.4%\n"
    "users    2048   2113   +65     51.6%\n"
    "65 slots of 4096 would move\n"
    "orders -> users: 65 slots\n"
)


@pytest.mark.parametrize("words", [[], ["--plan"], ["--apply", "--dry-run"]])
def test_a_plan_changes_nothing(ctl: Ctl, admin: FakeAdmin, words: list[str]) -> None:
    planned(admin.directory)
    ran = asked(ctl, admin, "rebalance", *words)
    assert (ran.code, ran.out, admin.directory.asked) == (0, PLAN, [])
    told = asked(ctl, admin, "rebalance", *words, "-o", "json").json
    assert (told["kind"], told["slots"], told["map_version"], len(told["moves"])) == ("RebalancePlan", 65, "3", 2)
    assert told["clusters"] == [
        {"number": 1, "name": "orders", "slots_before": 2048, "slots_after": 1983},
        {"number": 2, "name": "users", "slots_before": 2048, "slots_after": 2113},
    ]


def test_the_plan_says_how_it_is_applied(ctl: Ctl, admin: FakeAdmin) -> None:
    planned(admin.directory)
    ran = asked(ctl, admin, "rebalance", "--empty", "orders")
    assert ran.err == "`ravelctl admin rebalance --apply --empty orders` moves them\n"
    admin.directory.plan.ClearField("moves")
    ran = asked(ctl, admin, "rebalance")
    assert ("balanced: nothing would move" in ran.out, ran.err) == (True, "")


def test_a_plan_is_applied_as_it_was_shown(ctl: Ctl, admin: FakeAdmin) -> None:
    planned(admin.directory)
    ran = asked(ctl, admin, "rebalance", "--apply")
    assert (ran.code, ran.err) == (0, PLAN)
    assert ran.out.startswith("moved 65 slots with 1,234 keys (123KiB) in ")
    (request,) = admin.directory.asked
    assert (request.map_version, request.watch_only, list(request.empty_clusters)) == (3, False, [])
    told = asked(ctl, admin, "rebalance", "--apply", "--empty", "users", "-o", "json")
    assert (told.err, told.json["slots_moved"], told.json["keys_moved"]) == ("", 65, "1234")
    assert told.json["bytes_moved"] == str(123 << 10)
    assert list(admin.directory.asked[-1].empty_clusters) == ["users"]


def test_nothing_to_move_is_said_and_nothing_asked(ctl: Ctl, admin: FakeAdmin) -> None:
    ran = asked(ctl, admin, "rebalance", "--apply")
    assert (ran.code, ran.out, admin.directory.asked) == (0, "balanced: nothing would move\n", [])
    assert asked(ctl, admin, "rebalance", "--follow").out == "nothing is on the move\n"


def test_a_lost_admin_is_looked_for_again(ctl: Ctl, admin: FakeAdmin) -> None:
    planned(admin.directory)
    admin.directory.break_at = 1
    ran = asked(ctl, admin, "rebalance", "--apply")
    assert (ran.code, "moved 65 slots" in ran.out) == (0, True), ran.err
    assert [request.watch_only for request in admin.directory.asked] == [False, True]


def test_what_was_begun_is_not_begun_twice_when_the_first_answer_is_lost(ctl: Ctl, admin: FakeAdmin) -> None:
    planned(admin.directory)
    admin.directory.break_at = 0
    ran = asked(ctl, admin, "rebalance", "--apply")
    assert ran.code == 0
    assert [request.watch_only for request in admin.directory.asked] == [False, False], "nothing moved, so it is asked again"
    admin.directory.asked.clear()
    admin.directory.break_at = 0
    admin.directory.moves.append(pb.DirectoryMove(move=1, slots=[1], source=1, destination=2, phase=pb.COPYING))
    assert asked(ctl, admin, "rebalance", "--apply").code == 0
    assert [request.watch_only for request in admin.directory.asked] == [False, True]


def test_moves_that_end_early_are_no_success(ctl: Ctl, admin: FakeAdmin) -> None:
    planned(admin.directory)
    del admin.directory.told[2]
    admin.directory.told[1].obstacle = "users has no leader"
    ran = asked(ctl, admin, "rebalance", "--apply")
    assert (ran.code, ran.out) == (1, "")
    assert "1 slot of 65 stayed where they were: users has no leader" in ran.err


def test_a_map_that_has_changed_is_told(ctl: Ctl, admin: FakeAdmin) -> None:
    planned(admin.directory)
    admin.directory.refusal = (Reason.STALE_VIEW, "the map is of version 4, the plan was for 3", {})
    ran = asked(ctl, admin, "rebalance", "--apply", "-o", "json")
    assert (ran.code, ran.error["reason"], ran.error["next_step"]) == (5, "STALE_VIEW", "look again and repeat the command")


def test_ctrl_c_ends_the_watching_and_says_how_to_go_on(ctl: Ctl, admin: FakeAdmin) -> None:
    planned(admin.directory)
    admin.directory.hang = threading.Event()

    def interrupt(place: int) -> None:
        if place == 1:
            os.kill(os.getpid(), signal.SIGINT)

    admin.directory.between = interrupt
    with suppress(KeyboardInterrupt):
        ran = asked(ctl, admin, "rebalance", "--apply")
    assert (ran.code, ran.out) == (130, "")
    assert "the moves go on: `ravelctl admin rebalance --follow` looks again" in ran.err
    assert "--stop` calls them off" in ran.err


def test_a_timeout_ends_the_watching_too(ctl: Ctl, admin: FakeAdmin) -> None:
    planned(admin.directory)
    del admin.directory.told[1:]
    admin.directory.hang = threading.Event()
    ran = asked(ctl, admin, "rebalance", "--apply", "--timeout", "2s")
    assert (ran.code, "65 slots of 65 were not moved within 2s" in ran.err, "--follow" in ran.err) == (124, True, True)


def test_stop(ctl: Ctl, admin: FakeAdmin) -> None:
    assert asked(ctl, admin, "rebalance", "--stop").out == "nothing to call off\n"
    admin.directory.moves += [
        pb.DirectoryMove(move=1, slots=[1], source=1, destination=2, phase=phase)
        for phase in (pb.COMMITTED, pb.COPYING, pb.PLANNED)
    ]
    assert asked(ctl, admin, "rebalance", "--stop", "--dry-run").out == "would call off 2 moves\n"
    assert asked(ctl, admin, "rebalance", "--stop").out == "called off 2 moves; what was moved before stays moved\n"


@pytest.mark.parametrize(
    "words", [["--apply", "--stop"], ["--plan", "--follow"], ["--stop", "--empty", "users"], ["--follow", "--empty", "users"]]
)
def test_ways_that_exclude_each_other(ctl: Ctl, words: list[str]) -> None:
    assert ctl("admin", "rebalance", *words, "-e", "127.0.0.1:1").code == 2


# --- leaving


@pytest.fixture
def seated(cluster: FakeCluster, directory: FakeDirectory) -> FakeDirectory:
    """A third cluster, whose daemons can be asked."""
    cluster.found(3, name="stock")
    directory.seat(directory.cluster("stock", range(0)), cluster)
    return directory


def test_leave_marks_leaves_and_waits_for_the_record(
    ctl: Ctl, admin: FakeAdmin, cluster: FakeCluster, seated: FakeDirectory
) -> None:
    ran = asked(ctl, admin, "leave", "stock/n3", "--yes")
    assert (ran.code, ran.out) == (0, "stock/n3 has left its cluster\n"), ran.err
    assert "before  n1,n2,n3  -         2       3     3          1 failure" in ran.err
    assert [type(request).__name__ for request in seated.asked] == ["MarkLeavingRequest"]
    assert [list(request.replica_ids) for request in cluster.asked] == [[3]]
    again = asked(ctl, admin, "leave", "stock/n3", "--yes")
    assert (again.code, "no server 'stock/n3'" in again.err) == (1, True)


def test_leave_goes_on_where_it_was_interrupted(ctl: Ctl, admin: FakeAdmin, cluster: FakeCluster, seated: FakeDirectory) -> None:
    """It is out of the cluster, and on the list."""
    del cluster.members[3]
    ran = asked(ctl, admin, "leave", "stock/n3", "--yes")
    assert (ran.code, cluster.asked) == (0, [])
    assert [type(request).__name__ for request in seated.asked] == ["MarkLeavingRequest"]


@pytest.mark.parametrize("extra", [["--dry-run"], []])
def test_leave_asks_first(ctl: Ctl, admin: FakeAdmin, cluster: FakeCluster, seated: FakeDirectory, extra: list[str]) -> None:
    ran = asked(ctl, admin, "leave", "stock/n3", *extra)
    assert (ran.code, seated.asked, cluster.asked) == (0 if extra else 2, [], [])
    assert "before  n1,n2,n3" in ran.out + ran.err


def test_leave_is_refused_by_the_cluster_before_it_is_marked(
    ctl: Ctl, admin: FakeAdmin, cluster: FakeCluster, seated: FakeDirectory
) -> None:
    cluster.unsafe = "1 of 2 voters would be live, and 2 are needed"
    ran = asked(ctl, admin, "leave", "stock/n3", "--yes")
    assert (ran.code, seated.asked, cluster.asked) == (5, [], [])


def test_a_record_that_stays_is_waited_for(ctl: Ctl, admin: FakeAdmin, seated: FakeDirectory) -> None:
    seated.keeps_records = True
    ran = asked(ctl, admin, "leave", "stock/n3", "--yes", "--timeout", "3s")
    assert (ran.code, "n3 of cluster stock has not left yet" in ran.err) == (124, True)


def test_the_last_one_goes_with_its_cluster(ctl: Ctl, admin: FakeAdmin, directory: FakeDirectory) -> None:
    directory.server(directory.cluster("stock", range(0)), "s1")
    dry = asked(ctl, admin, "leave", "s1", "--dry-run")
    assert (dry.code, "goes with it" in dry.out, directory.asked) == (0, True, [])
    ran = asked(ctl, admin, "leave", "s1", "--yes")
    assert (ran.code, ran.out) == (0, "stock/s1 and cluster stock are off the list\n")
    assert [one.name for one in directory.clusters] == ["orders", "users"]


def test_the_last_one_of_a_cluster_with_slots_is_refused(ctl: Ctl, admin: FakeAdmin) -> None:
    step = "`ravelctl admin rebalance --apply --empty orders`"
    admin.directory.refusal = (Reason.LAST_REPLICA, "n3 is the last server of orders, which owns 2048 slots", {"next_step": step})
    ran = asked(ctl, admin, "leave", "n3", "--yes", "-o", "json")
    assert (ran.code, ran.error["reason"], ran.error["next_step"]) == (5, "LAST_REPLICA", step)


def test_a_name_that_means_several_is_not_guessed(ctl: Ctl, admin: FakeAdmin) -> None:
    ran = asked(ctl, admin, "leave", "n1", "--yes")
    assert (ran.code, "'n1' means several servers: orders/n1, users/n1" in ran.err) == (2, True)


def test_forget(ctl: Ctl, admin: FakeAdmin) -> None:
    assert asked(ctl, admin, "forget", "n10", "--dry-run").out == "would forget users/n10\n"
    assert asked(ctl, admin, "forget", "n10").code == 2
    assert admin.directory.asked == []
    assert asked(ctl, admin, "forget", "n10", "--yes").out == "users/n10 is off the list\n"
    assert admin.directory.found("n10") is None


# --- clusters


def test_clusters_are_added_changed_and_removed(ctl: Ctl, admin: FakeAdmin) -> None:
    assert asked(ctl, admin, "add-cluster", "stock", "--dry-run").out == "would add cluster stock\n"
    added = asked(ctl, admin, "add-cluster", "stock")
    assert added.out == "cluster stock wants 3 replicas; it is number 3\n"
    assert added.err == "its servers: ravel_node start --admin ADDRESS --new-cluster stock\n"
    assert asked(ctl, admin, "add-cluster", "orders", "--replicas", 5).out == "cluster orders wants 5 replicas\n"
    (orders,) = [one for one in admin.directory.clusters if one.name == "orders"]
    orders.emptying = True
    asked(ctl, admin, "add-cluster", "orders", "--replicas", 3)
    assert orders.emptying, "only what was said is changed"
    asked(ctl, admin, "add-cluster", "orders")
    assert not orders.emptying
    assert asked(ctl, admin, "remove-cluster", "stock").out == "cluster stock is off the list\n"
    assert asked(ctl, admin, "remove-cluster", "stock").code == 1
    admin.directory.refusal = (Reason.CLUSTER_IN_USE, "orders has 3 servers and 2048 slots", {})
    refused = asked(ctl, admin, "remove-cluster", "orders")
    assert (refused.code, "orders has 3 servers and 2048 slots" in refused.err) == (5, True)
    assert asked(ctl, admin, "add-cluster", "stock", "--replicas", 0).code == 2


# --- whom one asks


def test_a_daemon_that_is_no_admin_server(ctl: Ctl, cluster: FakeCluster) -> None:
    address, *_ = cluster.found(1)
    for words in (["clusters"], ["slots"], ["rebalance"], ["leave", "n1"]):
        ran = ctl("admin", *words, "-e", address, "-o", "json")
        assert (ran.code, ran.error["reason"]) == (5, "NOT_ADMIN")
        assert address in ran.error["message"]
        assert "ravel_node admin" in ran.error["next_step"]


def test_nobody_there(ctl: Ctl) -> None:
    ran = ctl("admin", "clusters", "-e", "127.0.0.1:1", "--timeout", "3s")
    assert (ran.code, ran.out, "127.0.0.1:1" in ran.err) == (3, "", True)
