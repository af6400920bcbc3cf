"""Configuration: every setting has one name everywhere, the stronger source wins, and everything wrong is told at once."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravel_node.config import ConfigError, LimitsConfig, ServerConfig, StorageConfig, TimingConfig
from ravel_node.forms import GIB, KIB, MIB, Address, format_size, parse_integer, parse_size
from ravel_node.settings import CONFIG_FILE_BYTES_MAX, SETTINGS, Loaded, load
from tests.security.certificates import Authority

DATA: Mapping[str, object] = {"data_dir": "/data"}


def _load(flags: Mapping[str, object] = DATA, environ: Mapping[str, str] | None = None, hostname: str = "host") -> Loaded:
    return load(flags, environ or {}, hostname=hostname)


def _problems(flags: Mapping[str, object], environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as refused:
        _load(flags, environ)
    return refused.value.problems


def _file(tmp_path: Path, text: str) -> str:
    path = tmp_path / "ravel.toml"
    path.write_text(text)
    return str(path)


# --- forms


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:7400", "127.0.0.1", 7400),
        ("[::1]:7400", "::1", 7400),
        ("db-1.example.com:1", "db-1.example.com", 1),
        ("localhost:65535", "localhost", 65535),
        ("0.0.0.0:7400", "0.0.0.0", 7400),
    ],
)
def test_an_address_is_read_and_shown_alike(text: str, host: str, port: int) -> None:
    address = Address.parse(text)
    assert (address.host, address.port, str(address)) == (host, port, text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("localhost", "has no port"),
        (":7400", "has no host; write 0.0.0.0:7400"),
        ("::1:7400", "in brackets"),
        ("[localhost]:7400", "no IPv6 address between its brackets"),
        ("[127.0.0.1]:7400", "no IPv6 address between its brackets"),
        ("a:0", "port 0, which means any free one"),
        ("a:65536", "a port is 1 to 65535"),
        ("a:99999999999999999999999", "a port is 1 to 65535"),
        ("a:-1", "no port in digits"),
        ("a:", "no port in digits"),
        ("a:\u0667", "no port in digits"),
        ("a b:1", "names no host"),
        ("-a:1", "names no host"),
        ("http://a:1", "ambiguous"),
        ("1.2.3:1", "no IPv4 address"),
        ("1.2.3.256:1", "no IPv4 address"),
        (7400, "is not an address"),
    ],
)
def test_a_bad_address_says_what_is_wrong(text: object, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Address.parse(text)


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_a_refusal(text: str) -> None:
    try:
        address = Address.parse(text)
    except ValueError:
        return
    assert Address.parse(str(address)) == address


def test_addresses_know_who_can_reach_them() -> None:
    assert all(Address.parse(text).is_loopback for text in ("127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1"))
    assert not any(Address.parse(text).is_loopback for text in ("10.0.0.1:1", "0.0.0.0:1", "[::]:1", "my-laptop:1"))
    assert all(Address.parse(text).is_wildcard for text in ("0.0.0.0:1", "[::]:1"))
    assert not Address.parse("127.0.0.1:1").is_wildcard


@pytest.mark.parametrize(
    ("raw", "size"),
    [("8GiB", 8 * GIB), ("8 gib", 8 * GIB), ("64KiB", 64 * KIB), ("0", 0), ("17B", 17), (12, 12), (" 3MiB ", 3 * MIB)],
)
def test_a_size(raw: object, size: int) -> None:
    assert parse_size(raw) == size


@pytest.mark.parametrize("raw", ["8GB", "1.5GiB", "-1", "", "GiB", "8GiBs", True, 1.5, None, "9" * 40])
def test_a_bad_size_names_the_units(raw: object) -> None:
    with pytest.raises(ValueError, match="KiB, MiB, GiB or TiB"):
        parse_size(raw)


@given(st.integers(min_value=0, max_value=1 << 59))
def test_a_size_is_shown_as_it_can_be_read(size: int) -> None:
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize("raw", ["x", "", "1.0", True, None, "1e3", "\u0663", "9" * 30])
def test_a_bad_number(raw: object) -> None:
    with pytest.raises(ValueError, match="not a whole number"):
        parse_integer(raw)


# --- defaults and what follows from other settings


def test_defaults() -> None:
    config = _load().config
    assert config.data_dir == Path("/data")
    assert str(config.listen) == str(config.advertise) == "127.0.0.1:7400"
    assert str(config.peer_listen) == str(config.peer_advertise) == "127.0.0.1:7401"
    assert (config.name, config.join, config.insecure, config.metrics_listen) == ("host-7400", (), False, None)
    assert (config.timing.tick_s, config.timing.election_timeout_s) == (0.05, 0.8)
    assert config.storage.db_size_max == 8 * GIB
    assert (config.batching.batch_commands_max, config.batching.batch_bytes_max) == (1_024, 256 * KIB)
    assert config.limits.value_bytes_max == MIB


def test_the_tree_is_frozen() -> None:
    config = _load().config
    with pytest.raises(FrozenInstanceError):
        config.timing.tick_ms = 1  # type: ignore[misc]


def test_the_peer_address_follows_the_client_address() -> None:
    config = _load({**DATA, "listen": "[::1]:9000"}).config
    assert (str(config.peer_listen), str(config.peer_advertise)) == ("[::1]:9001", "[::1]:9001")


def test_what_peers_dial_is_the_advertised_host_with_the_peer_port() -> None:
    flags = {**DATA, "listen": "0.0.0.0:9000", "advertise": "db1:80", "peer_listen": "0.0.0.0:9100", "insecure": True}
    config = _load(flags).config
    assert (str(config.advertise), str(config.peer_advertise)) == ("db1:80", "db1:9100")


@pytest.mark.parametrize(
    ("hostname", "name"),
    [
        ("Web_1.Example.com", "web_1.example.com-7400"),
        ("--ä--", "server-7400"),
        ("a" * 100, "a" * 58 + "-7400"),
        ("", "server-7400"),
    ],
)
def test_the_default_name_is_made_of_what_a_name_may_hold(hostname: str, name: str) -> None:
    assert _load(hostname=hostname).config.name == name


# --- sources


def test_flag_is_stronger_than_variable_than_file(tmp_path: Path) -> None:
    file = _file(tmp_path, "[timing]\ntick_ms = 10\nheartbeat_ticks = 3\nelection_ticks = 30\n")
    loaded = _load({**DATA, "config": file, "tick_ms": "30"}, {"RAVEL_TICK_MS": "20", "RAVEL_HEARTBEAT_TICKS": "4"})
    assert loaded.config.timing == TimingConfig(tick_ms=30, heartbeat_ticks=4, election_ticks=30)
    assert loaded.origins["tick_ms"] == "flag --tick-ms"
    assert loaded.origins["heartbeat_ticks"] == "variable RAVEL_HEARTBEAT_TICKS"
    assert loaded.origins["election_ticks"] == f"file {file}"
    assert loaded.origins["db_size_max"] == "default"
    assert loaded.origins["peer_listen"] == "from listen"


def test_a_bad_value_that_a_stronger_source_replaces_does_no_harm() -> None:
    assert _load({**DATA, "tick_ms": "30"}, {"RAVEL_TICK_MS": "fast"}).config.timing.tick_ms == 30


def test_the_file_may_be_named_by_a_variable(tmp_path: Path) -> None:
    file = _file(tmp_path, 'data_dir = "/elsewhere"\nname = "n7"\njoin = ["10.0.0.1:7400", "[fe80::1]:7400"]\n')
    config = _load({}, {"RAVEL_CONFIG": file}).config
    assert (config.data_dir, config.name) == (Path("/elsewhere"), "n7")
    assert [str(address) for address in config.join] == ["10.0.0.1:7400", "[fe80::1]:7400"]


def test_every_setting_can_be_set_in_all_three_ways(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    pair = authority.issue("server", ("127.0.0.1", "peers.example"))
    tls = {"tls_cert": pair.cert, "tls_key": pair.key, "tls_ca": authority.cert, "tls_client_ca": authority.cert}
    peer_tls = {"peer_tls_cert": pair.cert, "peer_tls_key": pair.key, "peer_tls_ca": authority.cert}
    peer_tls_name = {"peer_tls_name": "peers.example"}
    admin = {"admin": "127.0.0.1:7410", "new_cluster": "orders"}
    flags = {**DATA, "metrics_listen": "127.0.0.1:7402", "http": "127.0.0.1:7480", **admin, **tls, **peer_tls, **peer_tls_name}
    described = tomllib.loads(_load(flags).describe())
    flat = {key: value for section in described.values() if isinstance(section, dict) for key, value in section.items()}
    flat |= {key: value for key, value in described.items() if not isinstance(value, dict)}
    assert flat.keys() == SETTINGS.keys()
    texts = {name: ",".join(value) if isinstance(value, list) else str(value) for name, value in flat.items()}
    by_flags = _load(texts)
    by_variables = _load({}, {SETTINGS[name].variable: text for name, text in texts.items()})
    by_file = _load({"config": _file(tmp_path, by_flags.describe())})
    assert by_flags.config == by_variables.config == by_file.config
    assert {by_file.origins[name].partition(" ")[0] for name in SETTINGS} == {"file"}


def test_addresses_to_join_may_be_repeated_or_joined_by_commas() -> None:
    ports = [address.port for address in _load({**DATA, "join": ("a:1,b:2", "c:3")}).config.join]
    assert ports == [1, 2, 3]


def test_an_empty_variable_counts_as_absent() -> None:
    assert _load(DATA, {"RAVEL_JOIN": "", "RAVEL_TICK_MS": ""}).origins["tick_ms"] == "default"


def test_unknown_variables_are_noted_where_they_resemble_ours() -> None:
    loaded = _load(DATA, {"RAVEL_LISTNE": "x", "RAVEL_SERVICE_HOST": "10.0.0.1", "RAVELCTL_TIMEOUT": "1", "PATH": "/"})
    assert loaded.notes == ("the variable RAVEL_LISTNE is not a setting; did you mean RAVEL_LISTEN?",)
    assert "# note: the variable RAVEL_LISTNE" in loaded.describe()


# --- problems


def test_all_problems_are_told_at_once_with_their_places(tmp_path: Path) -> None:
    top = 'lisen = "a:1"\ntick_ms = 3\nlimits = 7\n'
    sections = '[timing]\ntick_ms = "x"\nelection_ticks = 4\n[logging]\nlog_format = "xml"\n[limit]\n'
    file = _file(tmp_path, top + sections)
    found = _problems({"config": file, "listen": "10.0.0.1:7400"}, {"RAVEL_VALUE_BYTES_MAX": "8MiB"})
    assert list(found) == [
        f"lisen in file {file} is not a setting; did you mean listen?",
        f"tick_ms in file {file} is in the wrong place: it belongs in section [timing]",
        f"limits in file {file} is a section: write [limits] and its settings below it",
        f"limit in file {file} is not a setting; did you mean limits?",
        f"tick_ms: 'x' is not a whole number (file {file})",
        "data_dir is missing: say where this server keeps its data with --data-dir",
        f"log_format ('xml') must be one of auto, json, text (file {file})",
        "election_ticks (4) must be at least three times heartbeat_ticks (2), or one lost heartbeat starts an election "
        f"(file {file})",
        "request_bytes_max (4MiB) must hold a value of value_bytes_max (8MiB) and its key: at least 8196KiB "
        "(variable RAVEL_VALUE_BYTES_MAX)",
        "other machines could connect to listen (10.0.0.1:7400) and peer_listen (10.0.0.1:7401), and nothing encrypts or "
        "authenticates them: give --tls-cert and --peer-tls-cert, bind a loopback address, or accept that with --insecure "
        "(flag --listen)",
    ]


def test_what_rests_on_an_unreadable_value_is_not_judged() -> None:
    assert _problems({**DATA, "listen": "nowhere", "join": ("127.0.0.1:7400",)}) == (
        "listen: 'nowhere' has no port; write it as host:port, for example 127.0.0.1:7400 (flag --listen)",
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a = ", "is not TOML"),
        ("x" * (CONFIG_FILE_BYTES_MAX + 1), "larger than 1MiB"),
        ("[timing]\ntikc_ms = 1\n", "tikc_ms in section [timing] of file {file} is not a setting; did you mean tick_ms?"),
        ('[timing]\ndata_dir = "/"\n', "belongs in the top, above all sections"),
        ("[timing]\ntick_ms = true\n", "tick_ms: True is not a whole number"),
        ("join = 5\n", "join: 5 is not a list of addresses"),
        ("join = [5]\n", "join: 5 is not an address"),
        ("insecure = 2\n", "insecure: 2 is neither true nor false"),
        ("name = 2\n", "name: 2 is not text"),
        ("data_dir = 2\n", "data_dir: 2 is not a path"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, why: str) -> None:
    file = _file(tmp_path, text)
    found = _problems({"config": file})
    assert any(why.format(file=file) in problem and file in problem for problem in found), found


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    assert "cannot be read: No such file or directory" in _problems({**DATA, "config": str(tmp_path / "none")})[0]
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    assert "is not TOML" in _problems({**DATA, "config": str(binary)})[0]


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        ({"name": "Has Space"}, "name ('Has Space') must be 1 to 63 of"),
        ({"name": "a" * 64}, "must be 1 to 63 of"),
        ({"peer_listen": "127.0.0.1:7400"}, "listen (127.0.0.1:7400) and peer_listen (127.0.0.1:7400) must not share a port"),
        (
            {"http": "0.0.0.0:7480"},
            "other machines could connect to http (0.0.0.0:7480), and nothing encrypts or authenticates them: give --tls-cert, "
            "bind a loopback address, or accept that with --insecure",
        ),
        (
            {"metrics_listen": "0.0.0.0:7401"},
            "peer_listen (127.0.0.1:7401) and metrics_listen (0.0.0.0:7401) must not share a port",
        ),
        ({"listen": "0.0.0.0:7400", "insecure": True}, "advertise (0.0.0.0:7400) means every interface, which nobody can dial"),
        ({"peer_advertise": "[::]:7401"}, "peer_advertise ([::]:7401) means every interface"),
        ({"peer_advertise": "127.0.0.1:7400"}, "must differ: they are two services"),
        ({"listen": "127.0.0.1:65535"}, "listen (127.0.0.1:65535) has no port after it, so say --peer-listen"),
        ({"join": ("127.0.0.1:7400",)}, "join (127.0.0.1:7400) is this server itself"),
        ({"admin": ("127.0.0.1:7401",)}, "admin (127.0.0.1:7401) is this server itself: name an admin server"),
        ({"admin": ("a:1",), "join": ("b:1",)}, "admin (a:1) and join (b:1) exclude each other"),
        ({"new_cluster": "orders"}, "new_cluster (orders) has no meaning without --admin"),
        ({"admin": ("a:1",), "new_cluster": "No"}, "new_cluster ('No') must be 1 to 63 of a-z"),
        ({"advertise": "db1:7400", "join": ("db1:7400",)}, "join (db1:7400) is this server itself"),
        ({"tick_ms": "1000", "election_ticks": "61"}, "is 61000 ms: a cluster without a leader must notice within 60000 ms"),
        ({"tick_ms": "4"}, "tick_ms (4) must be 5 to 1000"),
        ({"db_size_max": "1KiB"}, "db_size_max (1KiB) must be 1MiB to 16TiB"),
        ({"segment_bytes_max": "64MiB"}, "unflushed_bytes_max (64MiB) must hold two segments of segment_bytes_max (64MiB)"),
        ({"proposals_waiting_bytes_max": "1MiB"}, "(1MiB) must not be below request_bytes_max (4MiB)"),
        ({"listen": "example.com:7400"}, "other machines could connect to listen (example.com:7400)"),
        ({"peer_listen": "0.0.0.0:7401"}, "other machines could connect to peer_listen (0.0.0.0:7401), and"),
    ],
)
def test_one_problem(flags: Mapping[str, object], why: str) -> None:
    found = _problems({**DATA, **flags})
    assert len(found) == 1
    assert why in found[0]


def test_metrics_may_be_reached_from_other_machines() -> None:
    assert _load({**DATA, "metrics_listen": "0.0.0.0:9090"}).config.metrics_listen == Address("0.0.0.0", 9090)


def test_a_tree_made_by_hand_is_checked_too() -> None:
    config = _load().config
    assert replace(config, name="other").name == "other"
    with pytest.raises(ConfigError) as refused:
        replace(
            config,
            timing=TimingConfig(heartbeat_ticks=20),
            limits=LimitsConfig(session_requests_max=0),
            storage=StorageConfig(snapshots_kept=0),
        )
    assert refused.value.problems == (
        "session_requests_max (0) must be 1 to 4096",
        "snapshots_kept (0) must be 1 to 100",
        "election_ticks (16) must be at least three times heartbeat_ticks (20), or one lost heartbeat starts an election",
    )


def test_names_of_settings_are_unique_and_explained() -> None:
    assert len({setting.flag for setting in SETTINGS.values()}) == len(SETTINGS)
    assert all(setting.help and setting.help[0].islower() for setting in SETTINGS.values())
    assert isinstance(_load().config, ServerConfig)
