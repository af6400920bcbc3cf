"""--cacert, --cert and --key: flags and variables, what goes together, and that the playground heeds none of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ravelctl.cli import dial
from ravelctl.cli.app import App
from ravelctl.cli.errors import CommandError
from tests.ravelctl.conftest import Ctl


@pytest.mark.parametrize(
    ("given", "words", "step"),
    [
        ({"tls_cert": Path("c")}, "belong together", "give --key too"),
        ({"tls_key": Path("k"), "cacert": Path("a")}, "belong together", "give --cert too"),
        ({"tls_cert": Path("c"), "tls_key": Path("k")}, "only shown with TLS", "--cacert"),
    ],
)
def test_options_that_do_not_go_together(given: dict[str, Path], words: str, step: str) -> None:
    with pytest.raises(CommandError, match=words) as refused:
        dial.tls(App(given=dict(given)))
    assert refused.value.code == 2
    assert step in refused.value.next_step


def test_without_an_authority_everything_is_plain_text() -> None:
    assert dial.tls(App()) is None


def test_files_that_cannot_be_read_are_wrong_usage(ctl: Ctl, tmp_path: Path) -> None:
    ran = ctl("kv", "get", "key", "--cacert", tmp_path / "none.pem")
    assert (ran.code, ran.out) == (2, "")
    assert f"{tmp_path}/none.pem cannot be read: no such file or directory" in ran.err


def test_variables_name_the_files_too(ctl: Ctl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAVELCTL_CACERT", str(tmp_path / "a.pem"))
    monkeypatch.setenv("RAVELCTL_CERT", str(tmp_path / "c.pem"))
    assert "give --key too" in ctl("status").err
    monkeypatch.setenv("RAVELCTL_KEY", str(tmp_path / "k.pem"))
    assert "c.pem cannot be read" in ctl("status").err
    ran = ctl("playground", "start", "n1", "--dir", tmp_path)
    assert "there is no playground" in ran.err
