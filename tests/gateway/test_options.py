"""What a gateway is told, and what of it cannot work."""

from __future__ import annotations

from pathlib import Path

import pytest

from ravel_node.config import ConfigError
from ravel_node.forms import Address
from ravel_node.gateway.options import GATEWAY_SETTINGS, load_gateway


def problems(flags: dict[str, object], environ: dict[str, str] | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_gateway(flags, environ or {})
    return caught.value.problems


def test_flags_are_stronger_than_variables_and_these_than_defaults() -> None:
    config = load_gateway(
        {"admin": ("127.0.0.1:7400,127.0.0.1:7410",), "timeout_ms": "70", "log_level": None},
        {"RAVEL_TIMEOUT_MS": "80", "RAVEL_BODY_BYTES_MAX": "1KiB", "RAVEL_LOG_LEVEL": "debug", "RAVEL_INSECURE": ""},
    ).config
    assert config.admin == (Address("127.0.0.1", 7400), Address("127.0.0.1", 7410))
    assert (config.timeout_ms, config.body_bytes_max, config.requests_max) == (70, 1024, 1024)
    assert (config.logging.log_level, config.insecure, str(config.listen)) == ("debug", False, "127.0.0.1:8080")
    assert config.cluster_tls is None


def test_a_file_is_weakest_and_what_is_shown_is_such_a_file(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text('admin = ["127.0.0.1:7400"]\ntimeout_ms = 60\naccess_log = true\n[logging]\nlog_level = "warning"\n')
    loaded = load_gateway({"config": str(file), "timeout_ms": "70"}, {"RAVEL_LOG_LEVEL": "debug"})
    assert (loaded.config.timeout_ms, loaded.config.access_log, loaded.config.logging.log_level) == (70, True, "debug")
    shown = tmp_path / "shown.toml"
    shown.write_text(loaded.describe())
    assert f"file {file}" in loaded.describe()
    assert load_gateway({}, {"RAVEL_CONFIG": str(shown)}).config == loaded.config


def test_what_is_wrong_in_a_file_is_told_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text('admin = "127.0.0.1:7400"\ntimeout = 5\nlog_level = "info"\nbody_bytes_max = "much"\n')
    found = problems({"config": file})
    assert any("timeout in file" in one and "did you mean timeout_ms?" in one for one in found)
    assert any("log_level in file" in one and "section [logging]" in one for one in found)
    assert any("body_bytes_max: " in one and str(file) in one for one in found)
    assert any("cannot be read" in one for one in problems({"config": tmp_path / "none.toml"}))


def test_everything_wrong_is_told_at_once() -> None:
    found = problems({"listen": "nowhere", "timeout_ms": "1", "log_level": "loud"})
    assert len(found) == 4
    assert any("listen: 'nowhere' has no port" in one for one in found)
    assert any("admin is missing" in one for one in found)
    assert any("timeout_ms (1) must be 10 to 600000" in one for one in found)
    assert any("log_level ('loud')" in one for one in found)


def test_beyond_loopback_only_with_tls_or_insecure(tmp_path: Path) -> None:
    flags: dict[str, object] = {"admin": ("127.0.0.1:7400",), "listen": "0.0.0.0:8080"}
    (found,) = problems(flags)
    assert "other machines could connect to listen (0.0.0.0:8080)" in found
    assert load_gateway({**flags, "insecure": True}, {}).config.insecure
    told = problems({**flags, "tls_cert": str(tmp_path / "c.pem")})
    assert any("tls_cert" in one and "--tls-key" in one for one in told)


def test_every_setting_has_a_flag_of_its_own() -> None:
    assert {"admin", "listen", "tls_cert", "cluster_ca", "requests_max", "log_format"} <= set(GATEWAY_SETTINGS)
