"""Each rule, on a picture made by hand: the code that it must give, and no other."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import replace

import click
import pytest

from ravelctl.cli.exit_codes import ExitCode
from ravelctl.cli.root import root
from ravelctl.diagnosis.codes import CODES, HIDES, OWN_CODES
from ravelctl.diagnosis.seen import Damage, Door, Happening, Reach
from ravelpb.alarms import KIND_OF, Severity
from ravelpb.v1 import cluster_pb2 as pb
from tests.ravelctl.diagnosis.scene import CLUSTER, GIB, Scene, directory, server

Change = Callable[[Scene], object]
CASES: list[tuple[str, ExitCode, Change]] = []


def case(codes: str, exits: ExitCode) -> Callable[[Change], Change]:
    """A picture and the codes that it must give, all of them."""

    def take(change: Change) -> Change:
        CASES.append((codes, exits, change))
        return change

    return take


@case("", ExitCode.DONE)
def healthy(scene: Scene) -> None:
    pass


@case("", ExitCode.DONE)
def whole_directories_of_live_daemons(scene: Scene) -> None:
    scene.directories = [replace(directory(n), owner=str(100 + n)) for n in (1, 2, 3)]


# --- no leader


@case("RV101", ExitCode.NO_LEADER)
def the_only_one_left(scene: Scene) -> None:
    scene.dies(1)
    scene.dies(2, Reach.SILENT)


@case("RV101 RV108", ExitCode.NO_LEADER)
def one_dead_and_one_hung(scene: Scene) -> None:
    scene.dies(1)
    scene.dies(2, Reach.HANGS)


@case("RV101", ExitCode.NO_LEADER)
def a_leader_that_is_left_alone(scene: Scene) -> None:
    scene.dies(2)
    scene.dies(3)


@case("RV102 RV109", ExitCode.NO_LEADER)
def votes_are_refused(scene: Scene) -> None:
    scene.dies(1)
    scene.status(2).candidacy.refused_by[:] = [3]
    scene.status(3).last_index = 130


@case("RV104", ExitCode.NO_LEADER)
def all_are_blank(scene: Scene) -> None:
    for number, door in scene.doors.items():
        scene.doors[number] = replace(door, status=pb.StatusResponse(server=server(number), blank=True))


@case("RV105", ExitCode.NO_LEADER)
def memberships_differ(scene: Scene) -> None:
    scene.leaderless()
    scene.status(2).config_index = 50
    scene.status(2).members[0].role = pb.LEARNER
    scene.status(2).server.addresses.listen = scene.doors[2].address


@case("RV106", ExitCode.NO_LEADER)
def voters_do_not_hear_each_other(scene: Scene) -> None:
    scene.leaderless()


@case("RV106", ExitCode.NO_LEADER)
def a_leader_that_no_quorum_hears(scene: Scene) -> None:
    scene.unheard(2)
    scene.unheard(3)


@case("RV107", ExitCode.NO_LEADER)
def an_election_goes_on(scene: Scene) -> None:
    scene.leaderless(for_ms=900)


@case("RV108", ExitCode.DEGRADED)
def a_follower_hangs(scene: Scene) -> None:
    scene.dies(3, Reach.HANGS)
    scene.status(1).alarms.add(code="RV201", message="n3 has not answered for 9 s", replica_id=3, severity=pb.CRITICAL)


@case("RV109", ExitCode.DEGRADED)
def a_follower_is_dead(scene: Scene) -> None:
    scene.dies(3)
    scene.status(1).alarms.add(code="RV203", message="n3 is 12 s behind", replica_id=3, severity=pb.CRITICAL)


@case("RV109", ExitCode.DEGRADED)
def only_this_machine_is_cut_off(scene: Scene) -> None:
    scene.door(3, Reach.SILENT)


@case("RV110", ExitCode.UNREACHABLE)
def nobody_answers(scene: Scene) -> None:
    for number in (1, 2, 3):
        scene.door(number, Reach.REFUSED)


@case("RV110 RV111", ExitCode.NO_LEADER)
def nobody_answers_and_the_directories_are_whole(scene: Scene) -> None:
    for number in (1, 2, 3):
        scene.door(number, Reach.REFUSED)
    scene.directories = [directory(1), directory(3)]


@case("RV111", ExitCode.NO_LEADER)
def all_are_stopped(scene: Scene) -> None:
    scene.doors = {}
    scene.directories = [directory(1), replace(directory(2), last_index=119), directory(3)]


@case("RV112", ExitCode.NO_LEADER)
def one_directory_of_three_is_left(scene: Scene) -> None:
    scene.doors = {}
    scene.directories = [directory(2)]


@case("RV112", ExitCode.NO_LEADER)
def a_joint_configuration_needs_both_halves(scene: Scene) -> None:
    scene.doors = {}
    joint = [replace(directory(n, voters=(1, 2, 3)), outgoing=(3, 4, 5)) for n in (1, 2)]
    scene.directories = [*joint]


@case("RV112 RV603", ExitCode.DAMAGED)
def the_only_directory_is_damaged(scene: Scene) -> None:
    scene.doors = {}
    scene.directories = [replace(directory(1), damage=(Damage("RV603", "entry 7 in raft/data.mdb is damaged"),))]


# --- replication and disk


@case("RV201", ExitCode.DEGRADED)
def an_alarm_of_the_leader(scene: Scene) -> None:
    scene.status(1).alarms.add(code="RV201", message="n3 has not answered for 2.1 s", replica_id=3, severity=pb.CRITICAL)


@case("RV201 RV502", ExitCode.DEGRADED)
def not_heard_and_no_tls(scene: Scene) -> None:
    scene.dies(3)
    scene.door(3, Reach.TLS, "127.0.0.1:7430 speaks TLS and this client does not")


@case("RV202", ExitCode.DEGRADED)
def a_follower_lags(scene: Scene) -> None:
    scene.peer(3).lag_ms, scene.peer(3).lag_entries, scene.peer(3).match = 3_000, 400, 20


@case("RV203", ExitCode.DEGRADED)
def the_worse_of_two_alarms_hides_the_other(scene: Scene) -> None:
    scene.peer(3).lag_ms = 12_000
    scene.status(1).alarms.add(code="RV203", message="n3 is 12.0 s behind", replica_id=3, severity=pb.CRITICAL)


@case("RV206", ExitCode.DEGRADED)
def a_follower_answers_but_the_leader_does_not_hear_it(scene: Scene) -> None:
    scene.unheard(3)


@case("RV206", ExitCode.DEGRADED)
def a_follower_hears_no_leader(scene: Scene) -> None:
    scene.status(3).contact_age_ms = 5_000


@case("", ExitCode.DONE)
def a_leader_of_a_moment_has_not_heard_everybody(scene: Scene) -> None:
    scene.status(1).leader_age_ms = 300
    scene.unheard(3)


@case("RV207", ExitCode.DONE)
def a_snapshot_is_installed(scene: Scene) -> None:
    peer = scene.peer(3)
    peer.state, peer.snapshot_index, peer.snapshot_sent_bytes, peer.snapshot_size_bytes = pb.SNAPSHOT, 100, 5, 10


@case("RV208", ExitCode.DEGRADED)
def a_window_is_full_at_two_looks(scene: Scene) -> None:
    scene.peer(3).paused, scene.peer(3).inflight = True, 256
    scene.earlier = copy.deepcopy(scene.doors)


@case("", ExitCode.DONE)
def a_window_is_full_at_one_look(scene: Scene) -> None:
    scene.earlier = copy.deepcopy(scene.doors)
    scene.peer(3).paused, scene.peer(3).inflight = True, 256


@case("RV209", ExitCode.DEGRADED)
def writes_are_slow(scene: Scene) -> None:
    leader = scene.status(1)
    leader.commit.count, leader.commit.p50_us, leader.commit.p99_us = 200, 90_000, 400_000
    ack = scene.peer(2).ack
    ack.count, ack.p50_us, ack.p99_us = 200, 80_000, 390_000


@case("", ExitCode.DONE)
def one_slow_write_of_few(scene: Scene) -> None:
    leader = scene.status(1)
    leader.commit.count, leader.commit.p99_us = 3, 400_000


@case("RV304", ExitCode.DEGRADED)
def a_slow_disk(scene: Scene) -> None:
    own = scene.status(2)
    own.fsync.count, own.fsync.p50_us, own.fsync.p99_us, own.fsync.max_us = 100, 9_000, 31_000, 40_000
    for code, severity in (("RV303", pb.WARNING), ("RV304", pb.CRITICAL)):
        own.alarms.add(code=code, message="the slowest hundredth took 31.0 ms", replica_id=2, severity=severity)


@case("RV999", ExitCode.DEGRADED)
def an_alarm_that_this_ravelctl_does_not_know(scene: Scene) -> None:
    scene.status(2).alarms.add(code="RV999", message="something new", replica_id=2, severity=pb.WARNING)


@case("RV306", ExitCode.DEGRADED)
def no_room_for_a_snapshot(scene: Scene) -> None:
    scene.directories = [replace(directory(1), owner="7", state_bytes=4 * GIB, disk_free_bytes=GIB)]


# --- membership


@case("RV401", ExitCode.DEGRADED)
def four_voters(scene: Scene) -> None:
    scene.doors = Scene.healthy(4).doors
    scene.status(1).alarms.add(code="RV401", message="4 voters bear 1 failure, as 3 would", replica_id=1)


@case("RV402", ExitCode.DONE)
def one_voter(scene: Scene) -> None:
    scene.doors = Scene.healthy(1).doors


@case("RV403", ExitCode.DONE)
def a_learner_waits(scene: Scene) -> None:
    scene.doors = Scene.healthy(3, learners=1).doors
    for member in scene.member(4):
        member.auto_promote = False


@case("RV404", ExitCode.DONE)
def a_removed_replica_runs(scene: Scene) -> None:
    scene.doors = Scene.healthy(4).doors
    scene.status(4).removed = True
    for status in scene.statuses:
        del status.members[3]


@case("RV405", ExitCode.DEGRADED)
def a_joint_configuration_stays(scene: Scene) -> None:
    scene.doors = Scene.healthy(4).doors
    for member in scene.member(4):
        member.role = pb.LEAVING
    scene.earlier = copy.deepcopy(scene.doors)


@case("RV406", ExitCode.DEGRADED)
def a_blank_daemon_at_a_members_address(scene: Scene) -> None:
    wiped = server(3)
    wiped.server_id = "f" * 32
    scene.doors[3] = replace(scene.doors[3], status=pb.StatusResponse(server=wiped, blank=True))
    scene.unheard(3)


@case("RV406", ExitCode.DEGRADED)
def another_clusters_daemon_at_a_members_address(scene: Scene) -> None:
    found = scene.status(3)
    found.server.server_id, found.header.cluster_id, found.cluster_name = "f" * 32, "e" * 32, "other"
    scene.unheard(3)


@case("RV406", ExitCode.DEGRADED)
def the_context_names_another_cluster(scene: Scene) -> None:
    scene.cluster_id = CLUSTER
    scene.dies(3)
    scene.door(3, Reach.OTHER_CLUSTER, "127.0.0.1:7430 belongs to cluster eeeeeeee")


@case("RV407", ExitCode.DEGRADED)
def a_name_twice(scene: Scene) -> None:
    for member in scene.member(3):
        member.server.name = "n2"
    scene.status(3).server.name = "n2"


@case("RV408", ExitCode.DONE)
def a_blank_daemon_waits(scene: Scene) -> None:
    scene.doors[4] = Door(server(4).addresses.listen, Reach.ANSWERS, status=pb.StatusResponse(server=server(4), blank=True))


@case("RV409", ExitCode.DEGRADED)
def a_stranger(scene: Scene) -> None:
    scene.doors = Scene.healthy(4).doors
    for status in scene.statuses:
        del status.members[3]


@case("RV410", ExitCode.DEGRADED)
def a_copied_directory(scene: Scene) -> None:
    scene.directories = [replace(directory(1), owner="7"), replace(directory(1), path="/backup/n1")]


@case("RV410", ExitCode.DEGRADED)
def two_daemons_with_one_identity(scene: Scene) -> None:
    copied = copy.deepcopy(scene.status(3))
    copied.boot_id = "f" * 16
    scene.doors[4] = Door("127.0.0.1:9999", Reach.ANSWERS, status=copied)


@case("", ExitCode.DONE)
def one_daemon_under_two_addresses(scene: Scene) -> None:
    scene.doors[4] = Door("localhost:7430", Reach.ANSWERS, status=copy.deepcopy(scene.status(3)))


@case("RV411", ExitCode.DEGRADED)
def an_address_out_of_date(scene: Scene) -> None:
    scene.status(3).server.addresses.peer = "127.0.0.1:9998"


@case("RV411 RV411", ExitCode.DEGRADED)
def two_addresses_out_of_date(scene: Scene) -> None:
    scene.status(2).server.addresses.listen = "127.0.0.1:9997"
    scene.status(3).server.addresses.peer = "127.0.0.1:9998"


@case("RV407 RV407", ExitCode.DEGRADED)
def two_names_twice(scene: Scene) -> None:
    scene.doors = Scene.healthy(5).doors
    for number, name in ((3, "n2"), (5, "n4")):
        for member in scene.member(number):
            member.server.name = name
        scene.status(number).server.name = name


@case("RV407 RV407", ExitCode.DEGRADED)
def a_name_and_an_address_twice(scene: Scene) -> None:
    a_name_twice(scene)
    for member in scene.member(2):
        member.server.addresses.peer = server(1).addresses.peer
    scene.status(2).server.addresses.peer = server(1).addresses.peer


@case("", ExitCode.DONE)
def one_change_of_membership_after_another(scene: Scene) -> None:
    a_joint_configuration_stays(scene)
    for status in scene.statuses:
        status.config_index += 5


# --- configuration and security


@case("RV501", ExitCode.DEGRADED)
def mixed_versions(scene: Scene) -> None:
    scene.status(2).server.version = "0.2.0"


@case("RV502", ExitCode.DEGRADED)
def one_speaks_tls(scene: Scene) -> None:
    scene.door(3, Reach.TLS, "127.0.0.1:7430 speaks TLS and this client does not", "give --cacert")


@case("RV503", ExitCode.DEGRADED)
def a_certificate_expires(scene: Scene) -> None:
    scene.doors[2] = replace(scene.doors[2], plain=False, certificate_ends_in_s=3 * 86_400.0)


@case("RV503", ExitCode.DEGRADED)
def the_operators_certificate_has_expired(scene: Scene) -> None:
    scene.certificate_ends_in_s = -60.0


@case("RV503 RV503 RV503", ExitCode.DEGRADED)
def several_certificates_expire(scene: Scene) -> None:
    for number in (1, 3):
        scene.doors[number] = replace(scene.doors[number], plain=False, certificate_ends_in_s=3 * 86_400.0)
    scene.certificate_ends_in_s = 86_400.0


@case("RV504", ExitCode.DEGRADED)
def open_without_tls(scene: Scene) -> None:
    scene.status(2).server.addresses.listen_bind = "0.0.0.0:7420"


@case("", ExitCode.DONE)
def open_with_tls(scene: Scene) -> None:
    scene.status(2).server.addresses.listen_bind = "0.0.0.0:7420"
    scene.doors[2] = replace(scene.doors[2], plain=False, certificate_ends_in_s=1e9)


@case("RV514", ExitCode.DEGRADED)
def a_peer_port_is_open_without_tls(scene: Scene) -> None:
    scene.status(2).server.addresses.peer_bind = "0.0.0.0:7421"
    scene.status(2).peer_tls = False


@case("RV514", ExitCode.DEGRADED)
def some_speak_tls_between_replicas(scene: Scene) -> None:
    for number in (1, 2, 3):
        scene.status(number).peer_tls = number != 2


@case("", ExitCode.DONE)
def peer_ports_are_open_with_tls(scene: Scene) -> None:
    for number in (1, 2, 3):
        scene.status(number).server.addresses.peer_bind = "0.0.0.0:7421"
        scene.status(number).peer_tls = True


@case("", ExitCode.DONE)
def a_version_that_does_not_tell_of_its_peer_port(scene: Scene) -> None:
    scene.status(2).server.addresses.peer_bind = "0.0.0.0:7421"


@case("RV515", ExitCode.DEGRADED)
def connections_are_nearly_used_up(scene: Scene) -> None:
    scene.status(3).client_connections, scene.status(3).client_connections_max = 77, 96


@case("", ExitCode.DONE)
def there_is_room_for_connections(scene: Scene) -> None:
    scene.status(3).client_connections, scene.status(3).client_connections_max = 76, 96


@case("RV505", ExitCode.DEGRADED)
def timings_differ(scene: Scene) -> None:
    scene.status(2).election_timeout_ms = 1_600


@case("RV506", ExitCode.DEGRADED)
def quotas_differ(scene: Scene) -> None:
    scene.status(2).db_size_max_bytes = GIB


@case("RV507", ExitCode.DEGRADED)
def one_clock_is_ahead(scene: Scene) -> None:
    for number, door in scene.doors.items():
        scene.status(number).wall_ms = 1_700_000_000_000
        scene.doors[number] = replace(door, clock_off_ms=90_000 if number == 2 else 0)


@case("RV508", ExitCode.DEGRADED)
def an_open_directory(scene: Scene) -> None:
    scene.directories = [replace(directory(1), owner="7", mode=0o755)]


@case("RV510", ExitCode.DONE)
def a_member_of_an_older_format(scene: Scene) -> None:
    for number in (1, 2):
        for member in scene.member(number):
            member.server.format = 2


@case("RV511", ExitCode.DEGRADED)
def an_endpoint_of_another_cluster(scene: Scene) -> None:
    other = copy.deepcopy(scene.status(1))
    other.header.cluster_id, other.server.server_id, other.server.addresses.listen = "e" * 32, "f" * 32, "127.0.0.1:9999"
    other.boot_id = "e" * 16
    scene.doors[4] = Door("127.0.0.1:9999", Reach.ANSWERS, status=other)


@case("RV512", ExitCode.DEGRADED)
def a_dead_endpoint(scene: Scene) -> None:
    scene.doors[4] = Door("127.0.0.1:9999", Reach.REFUSED)


@case("RV109", ExitCode.DEGRADED)
def a_dead_members_address_under_another_name(scene: Scene) -> None:
    scene.dies(3)
    scene.doors[4] = Door("db3.example:7430", Reach.REFUSED)


@case("RV502 RV502 RV502", ExitCode.UNREACHABLE)
def tls_comes_about_with_nobody(scene: Scene) -> None:
    for number in (1, 2, 3):
        scene.door(number, Reach.TLS, "it speaks TLS and this client does not")


@case("RV108 RV108 RV108", ExitCode.UNREACHABLE)
def all_daemons_hang(scene: Scene) -> None:
    for number in (1, 2, 3):
        scene.door(number, Reach.HANGS)


@case("RV513", ExitCode.DEGRADED)
def a_peer_address_was_named(scene: Scene) -> None:
    scene.doors[4] = Door(server(2).addresses.peer, Reach.NOT_OURS, "it does not offer this call")


# --- data


@pytest.mark.parametrize("code", ["RV603", "RV604", "RV605", "RV609"])
def test_damage_keeps_its_code_and_is_told_once_for_each_kind(code: str) -> None:
    scene = Scene.healthy()
    scene.directories = [replace(directory(2), damage=tuple(Damage(code, f"record {n} is damaged") for n in range(9)))]
    [found] = scene.judged().findings
    assert (found.code, found.subject, found.sentence) == (code, "n2", "n2 (/data/n2): record 0 is damaged")
    assert found.seen[-1] == "and 3 more: `ravelctl store check --data-dir /data/n2` tells all"


@case("RV605", ExitCode.DAMAGED)
def a_damaged_snapshot(scene: Scene) -> None:
    scene.directories = [replace(directory(2), damage=(Damage("RV605", "snapshots/a: it has 3 bytes"),), owner="7")]


@case("RV604", ExitCode.DAMAGED)
def a_damaged_state(scene: Scene) -> None:
    scene.directories = [replace(directory(2), damage=(Damage("RV604", "state-1 is missing"),), owner="7")]


@case("RV609", ExitCode.DAMAGED)
def parts_do_not_fit(scene: Scene) -> None:
    scene.directories = [replace(directory(2), damage=(Damage("RV609", "the log ends at entry 5"),), owner="7")]


@case("RV606", ExitCode.DEGRADED)
def a_foreign_directory(scene: Scene) -> None:
    scene.directories = [replace(Blank, damage=(Damage("RV606", "/data/x is no data directory of ravel"),))]


@case("RV607", ExitCode.DEGRADED)
def a_later_format(scene: Scene) -> None:
    scene.directories = [replace(Blank, damage=(Damage("RV607", "/data/x has format 99"),))]


@case("RV608", ExitCode.DEGRADED)
def a_directory_that_may_not_be_read(scene: Scene) -> None:
    scene.directories = [replace(Blank, damage=(Damage("RV608", "/data/x may not be read"),))]


@case("RV610", ExitCode.DAMAGED)
def a_replica_stopped_itself(scene: Scene) -> None:
    scene.door(3, Reach.STOPPED, "the replica stopped: a save failed")


@case("RV611", ExitCode.DONE)
def a_blank_directory(scene: Scene) -> None:
    scene.directories = [replace(Blank, server_id="f" * 32)]


@case("RV612", ExitCode.DEGRADED)
def a_directory_of_another_cluster(scene: Scene) -> None:
    scene.directories = [replace(directory(1), owner="7", cluster_id="e" * 32, server_id="f" * 32)]


Blank = replace(directory(9), path="/data/x", cluster_id="", server_id="", replica_id=0, name="", voters=(), members=())


@pytest.mark.parametrize(("codes", "exits", "change"), CASES, ids=[change.__name__ for _, _, change in CASES])
def test_a_picture_gives_its_codes_and_no_others(codes: str, exits: ExitCode, change: Change) -> None:
    scene = Scene.healthy()
    change(scene)
    found = scene.judged()
    assert sorted(finding.code for finding in found.findings) == codes.split(), found.findings
    assert found.exit is exits
    for finding in found.findings:
        said = " ".join((finding.sentence, *finding.seen))
        assert finding.subject in said or finding.code == "RV502", "it says of whom it speaks"
        assert len({finding.sentence, finding.why, finding.do}) == 3, "sentence, cause and next step are three things"
        for text in (finding.sentence, finding.why, finding.do, *finding.seen):
            assert len(text.split()) > 1
            assert "{" not in text
            assert text.count("`") % 2 == 0
        for words in map(str.split, re.findall(r"`([^`]*)`", finding.do)):
            _check_command(words)


def _check_command(words: list[str]) -> None:
    """A next step can be carried out: what it names is a command of ravelctl with these options, or another program."""
    program, *rest = words
    assert program in ("ravelctl", "ravel_node", "chmod", "kill", "ps", "ss", "timedatectl"), words
    command: click.Command | None = root
    while isinstance(command, click.Group) and rest:
        command, rest = command.get_command(click.Context(command), rest[0]), rest[1:]
    if program == "ravelctl":
        assert command is not None, words
        known = {option for parameter in (*command.params, *root.params) for option in parameter.opts}
        assert known.issuperset(word for word in rest if word.startswith("-")), words


def test_every_code_of_doctor_has_a_picture() -> None:
    told = {code for codes, _, _ in CASES for code in codes.split()}
    assert OWN_CODES - told == {"RV603"} - told


# --- the table


def test_doctors_codes_and_the_alarms_do_not_overlap_and_agree() -> None:
    assert not OWN_CODES & KIND_OF.keys()
    assert OWN_CODES | KIND_OF.keys() == CODES.keys()
    for code, kind in KIND_OF.items():
        assert (CODES[code].severity, CODES[code].title, CODES[code].meaning) == (kind.severity, kind.title, kind.meaning)
    for one in CODES.values():
        assert one.family
        assert not any(text.endswith(".") for text in (one.meaning, one.cause, one.evidence, one.cure))
    assert set(HIDES.values()) <= CODES.keys()


# --- what findings say


@pytest.mark.parametrize(
    ("voters", "said"), [(2, "2 voters bear 0 failures, as 1 would"), (4, "4 voters bear 1 failure, as 3 would")]
)
def test_an_even_number_of_voters_bears_what_one_fewer_would(voters: int, said: str) -> None:
    scene = Scene.healthy(voters)
    [found] = scene.judged().findings
    assert (found.code, found.sentence) == ("RV401", said)


def test_two_of_four_voters_are_no_quorum() -> None:
    scene = Scene.healthy(4)
    scene.dies(3)
    scene.dies(4)
    found = {finding.code: finding for finding in scene.judged().findings}
    assert found["RV101"].sentence == "2 of 4 voters do not take part (n3, n4), and a quorum is 3"


@pytest.mark.parametrize(("lag_ms", "codes"), [(1_999, []), (2_000, ["RV202"])])
def test_a_lag_is_told_from_two_seconds_on(lag_ms: int, codes: list[str]) -> None:
    scene = Scene.healthy()
    scene.peer(3).lag_ms = lag_ms
    assert [finding.code for finding in scene.judged().findings] == codes


@pytest.mark.parametrize("severity", Severity)
def test_an_alarm_of_a_newer_daemon_is_as_severe_as_the_daemon_says(severity: Severity) -> None:
    scene = Scene.healthy()
    scene.status(2).alarms.add(code="RV998", message="n2 does what nobody knows yet", replica_id=2, severity=int(severity))
    scene.status(2).alarms.add(code="RV301", message="the store holds 9 of 10 bytes", replica_id=2, raised_ms=90_000)
    found = {finding.code: finding for finding in scene.judged().findings}
    assert found.keys() == {"RV998", "RV301"}, "one alarm does not hide another"
    assert found["RV998"].severity is severity
    assert found["RV301"].seen[0] == "n2 raises it, for 1m30s"


def test_the_worst_comes_first_and_names_what_was_seen() -> None:
    scene = Scene.healthy()
    scene.status(2).server.version = "0.2.0"
    scene.dies(3)
    scene.happenings = [Happening(1_700_000_000_000, "n1", "n1 leads in term 7")]
    first, second = scene.judged().findings
    assert (first.code, first.severity, second.code, second.severity) == ("RV109", Severity.CRITICAL, "RV501", Severity.WARNING)
    assert first.seen == ("127.0.0.1:7430 refuses connections", "the leader heard it 9.0s ago")
    assert second.sentence == "versions differ: 0.1.0 on n1 n3, 0.2.0 on n2"


def test_a_lost_quorum_tells_the_story_and_who_would_be_enough() -> None:
    scene = Scene.healthy()
    scene.dies(1)
    scene.dies(2)
    scene.directories = [directory(2)]
    scene.happenings = [Happening(1_700_000_000_000, "n3", "no leader is known; n1 led in term 7")]
    [found] = scene.judged().findings
    assert found.sentence == "2 of 3 voters do not take part (n1, n2), and a quorum is 2"
    assert found.seen == (
        "n1 at 127.0.0.1:7410 refuses connections",
        "n2 at 127.0.0.1:7420 refuses connections; its directory /data/n2 is whole: last entry 120 of term 7, commit 120, "
        "open in no process",
        "2023-11-14T22:13:20Z n3: no leader is known; n1 led in term 7",
    )
    assert found.do == "start the daemons on their directories (/data/n2): with them there is a quorum, and nothing is lost"


def test_a_stopped_process_is_named_with_the_command_that_lets_it_go_on() -> None:
    scene = Scene.healthy()
    scene.dies(3, Reach.HANGS)
    scene.directories = [replace(directory(3), owner="4711", owner_stopped=True)]
    [found] = scene.judged().findings
    assert found.seen[1] == "process 4711 has /data/n3 open, and is stopped by a signal"
    assert found.do == "`kill -CONT 4711` lets it go on"


def test_a_lost_quorum_of_directories_leads_to_the_plan() -> None:
    scene = Scene()
    scene.directories = [replace(directory(1), path="n1")]
    [found] = scene.judged().findings
    assert found.do.endswith("else `ravelctl recover plan ./n1` ranks these")


def test_directories_alone_name_the_newest() -> None:
    scene = Scene()
    scene.directories = [replace(directory(1), last_index=119), directory(2), replace(directory(3), last_term=6, last_index=500)]
    [found] = scene.judged().findings
    assert found.do == "start the daemons, each on its directory: /data/n2, /data/n1, /data/n3; the newest is n2"


def test_a_copied_identity_does_not_count_twice() -> None:
    scene = Scene()
    scene.directories = [directory(1), replace(directory(1), path="/backup/n1")]
    assert {finding.code for finding in scene.judged().findings} == {"RV112", "RV410"}


@pytest.mark.parametrize(
    ("reach", "heard", "why"),
    [
        (Reach.SILENT, True, "this machine is cut off from it"),
        (Reach.REFUSED, True, "it died just now, or listens at another address"),
        (Reach.REFUSED, False, "it is down, its host is, or its address is not reachable from here"),
    ],
)
def test_why_a_member_cannot_be_reached(reach: Reach, heard: bool, why: str) -> None:
    scene = Scene.healthy()
    scene.door(3, reach)
    if not heard:
        scene.unheard(3)
    [found] = scene.judged().findings
    assert found.code == "RV109"
    assert why in found.why


def test_if_all_clocks_differ_alike_it_is_this_machines() -> None:
    scene = Scene.healthy()
    for number, door in scene.doors.items():
        scene.status(number).wall_ms = 1_700_000_000_000
        scene.doors[number] = replace(door, clock_off_ms=60_000 + number)
    [found] = scene.judged().findings
    assert found.sentence == "the clock of this machine is at least 1m00s behind those of the daemons"


def test_two_directories_that_were_exchanged() -> None:
    scene = Scene.healthy()
    second, third = copy.deepcopy(scene.status(2)), copy.deepcopy(scene.status(3))
    for status, before in ((second, scene.status(3)), (third, scene.status(2))):
        status.server.name = before.server.name  # the flag of the command line, which has another directory now
        status.server.addresses.CopyFrom(before.server.addresses)
    scene.doors[2] = replace(scene.doors[2], status=third)
    scene.doors[3] = replace(scene.doors[3], status=second)
    for number in (1, 2, 3):
        scene.status(number).role, scene.status(number).leader_id = pb.PRE_CANDIDATE, 0
    found = {finding.code: finding for finding in scene.judged().findings}
    assert "its fellow member" in found["RV406"].sentence
    assert "directories or their addresses were exchanged" in found["RV406"].why
    assert "no record can be changed without a leader" in found["RV411"].do
