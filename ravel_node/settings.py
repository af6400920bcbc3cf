"""Where a daemon's configuration comes from: a TOML file, RAVEL_* variables and flags, in rising strength.

A setting has one name everywhere: `tick_ms` is the key `tick_ms` in section `[timing]` of the file, the variable RAVEL_TICK_MS,
and the flag --tick-ms. `load` joins the three, tells everything that is wrong at once, and remembers where each value came from.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Final, NamedTuple

from ravel_node import certificates
from ravel_node.config import (
    NAME_CHARACTERS_MAX,
    BatchingConfig,
    ConfigError,
    LimitsConfig,
    LoggingConfig,
    PeerTlsConfig,
    Problem,
    ServerConfig,
    StorageConfig,
    TimingConfig,
    TlsConfig,
)
from ravel_node.forms import ADDRESSES, BOOLEAN, MIB, NUMBER, PORT_MAX, Address, Form, format_size

CONFIG_FILE_BYTES_MAX: Final = MIB
DEFAULT_LISTEN: Final = Address("127.0.0.1", 7400)
_ADDRESSES_NEEDED: Final = ("listen", "peer_listen", "advertise", "peer_advertise")


class Setting(NamedTuple):
    """One setting as people name it. `section` is empty for those at the top of the file."""

    section: str
    name: str
    form: Form
    help: str
    words: tuple[str, ...]
    default: Any  # MISSING where it follows from others, or must be given

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return "RAVEL_" + self.name.upper()


def _settings_of(section: str, part: type[Any]) -> Iterator[Setting]:
    for one in fields(part):
        if "form" in one.metadata:
            about = one.metadata
            yield Setting(section, one.name, about["form"], about["help"], about["words"], one.default)


_PARTS: Final[dict[str, type[Any]]] = {
    "timing": TimingConfig,
    "limits": LimitsConfig,
    "storage": StorageConfig,
    "batching": BatchingConfig,
    "logging": LoggingConfig,
    "tls": TlsConfig,
    "peer_tls": PeerTlsConfig,
}

SETTINGS: Final[dict[str, Setting]] = {
    setting.name: setting for section, part in (("", ServerConfig), *_PARTS.items()) for setting in _settings_of(section, part)
}
"""Every setting by its name, which is unique over all sections; in the order in which people are shown them."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration and where each of its values came from (by setting name), with notes for the operator."""

    config: ServerConfig
    origins: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def describe(self) -> str:
        """The full effective configuration as a file that would give it, each value with its origin."""
        return described(self.config, SETTINGS, self.origins) + "".join(f"# note: {note}\n" for note in self.notes)


def described(config: object, settings: Mapping[str, Setting], origins: Mapping[str, str]) -> str:
    """All of these settings as a file that would give this configuration, each value with its origin."""
    width = 48
    lines: list[str] = []
    section = ""
    for setting in settings.values():
        if setting.section != section:
            section = setting.section
            lines += ["", f"[{section}]"]
        value = getattr(getattr(config, section) if section else config, setting.name)
        text = f"# {setting.name} is not set" if value is None else f"{setting.name} = {_toml(setting.form, value)}"
        lines.append(f"{text:<{width}} # {origins[setting.name]}")
    return "\n".join(lines) + "\n"


def _toml(form: Form, value: Any) -> str:
    if form in (NUMBER, BOOLEAN):
        return form.show(value)
    if form is ADDRESSES:
        return "[" + ", ".join(json.dumps(str(address)) for address in value) + "]"
    return json.dumps(form.show(value), ensure_ascii=False)


def load(flags: Mapping[str, object], environ: Mapping[str, str], *, hostname: str) -> Loaded:
    """Join file, variables and flags, in rising strength, and check the whole.

    `flags` holds raw values by setting name, None or absent where a flag was not given; `config` names the file, as does the
    variable RAVEL_CONFIG. An empty variable counts as absent. Raises ConfigError with everything that is wrong.
    """
    reader = _Reader()
    if path := flags.get("config") or environ.get("RAVEL_CONFIG"):
        reader.take_file(Path(str(path)))
    reader.take_environment(environ)
    reader.take_flags(flags)
    reader.parse()
    reader.derive(hostname)
    return reader.build()


def read_file(path: Path, settings: Mapping[str, Setting]) -> tuple[dict[str, tuple[object, str]], list[str]]:
    """What a TOML file says of these settings, each raw value with the place where it was written; and what is wrong with it."""
    try:
        with path.open("rb") as file:
            text = file.read(CONFIG_FILE_BYTES_MAX + 1)
        if len(text) > CONFIG_FILE_BYTES_MAX:
            raise ValueError(f"it is larger than {format_size(CONFIG_FILE_BYTES_MAX)}")
        tree = tomllib.loads(text.decode())
    except OSError as error:
        return {}, [f"config file {path} cannot be read: {error.strerror}"]
    except ValueError as error:  # not TOML, not UTF-8, too large
        return {}, [f"config file {path} is not TOML: {error}"]
    raw: dict[str, tuple[object, str]] = {}
    return raw, list(_take_table("", tree, f"file {path}", settings, raw))


def _take_table(
    section: str, table: Mapping[str, object], origin: str, settings: Mapping[str, Setting], raw: dict[str, tuple[object, str]]
) -> Iterator[str]:
    """Add what one section has to `raw`; yields what is wrong with it."""
    sections = dict.fromkeys(setting.section for setting in settings.values() if setting.section)
    where = f"section [{section}] of {origin}" if section else origin
    for key, value in table.items():
        setting = settings.get(key)
        if not section and key in sections:
            if isinstance(value, dict):
                yield from _take_table(key, value, origin, settings, raw)
            else:
                yield f"{key} in {where} is a section: write [{key}] and its settings below it"
        elif setting is not None and setting.section == section:
            raw[key] = (value, origin)
        elif setting is not None:
            place = f"section [{setting.section}]" if setting.section else "the top, above all sections"
            yield f"{key} in {where} is in the wrong place: it belongs in {place}"
        else:
            known = [name for name, one in settings.items() if one.section == section] + ([] if section else [*sections])
            yield f"{key} in {where} is not a setting{_suggestion(key, known)}"


class _Reader:
    """What is known of each setting while a configuration is put together."""

    def __init__(self) -> None:
        self.raw: dict[str, tuple[object, str]] = {}  # what was written, and where; the strongest so far
        self.values: dict[str, Any] = {}
        self.origins: dict[str, str] = {}
        self.found: list[Problem] = []
        self.unusable: set[str] = set()  # settings whose problems were told, and those that follow from them
        self.notes: list[str] = []

    def take_file(self, path: Path) -> None:
        raw, refusals = read_file(path, SETTINGS)
        self.raw |= raw
        for refusal in refusals:
            self._refuse(refusal)

    def take_environment(self, environ: Mapping[str, str]) -> None:
        """Unknown variables are noted, not refused: Kubernetes sets RAVEL_PORT and more for a service called ravel."""
        by_variable = {setting.variable: setting.name for setting in SETTINGS.values()}
        for variable in sorted(environ):
            if not variable.startswith("RAVEL_") or not environ[variable] or variable == "RAVEL_CONFIG":
                continue
            if name := by_variable.get(variable):
                self.raw[name] = (environ[variable], f"variable {variable}")
            elif guess := _suggestion(variable, list(by_variable)):
                self.notes.append(f"the variable {variable} is not a setting{guess}")

    def take_flags(self, flags: Mapping[str, object]) -> None:
        for name, value in flags.items():
            if name in SETTINGS and value is not None and value != ():
                self.raw[name] = (value, f"flag {SETTINGS[name].flag}")

    def parse(self) -> None:
        for name, setting in SETTINGS.items():
            if name not in self.raw:
                if setting.default is not MISSING:
                    self.values[name], self.origins[name] = setting.default, "default"
                continue
            value, self.origins[name] = self.raw[name]
            try:
                self.values[name] = setting.form.parse(value)
            except ValueError as error:
                self._refuse(f"{name}: {error} ({self.origins[name]})", name)

    def derive(self, hostname: str) -> None:
        """Fill in what follows from other settings."""
        if "data_dir" not in self.values and "data_dir" not in self.unusable:
            self._refuse("data_dir is missing: say where this server keeps its data with --data-dir", "data_dir")
        self._follow("listen", (), lambda: DEFAULT_LISTEN, "default")
        if "peer_listen" not in self.raw and "listen" in self.values and self.values["listen"].port == PORT_MAX:
            why = f"peer_listen is missing: listen ({self.values['listen']}) has no port after it, so say --peer-listen"
            self._refuse(why, "peer_listen")
        self._follow("peer_listen", ("listen",), self._port_after_listen, "from listen")
        self._follow("advertise", ("listen",), lambda: self.values["listen"], "from listen")
        self._follow("peer_advertise", ("advertise", "peer_listen"), self._peer_advertise, "from advertise and peer_listen")
        self._follow(
            "name", ("listen",), lambda: _default_name(hostname, self.values["listen"].port), "from host name and listen"
        )

    def _follow(self, name: str, sources: tuple[str, ...], value: Callable[[], Any], origin: str) -> None:
        if name in self.values or name in self.unusable:
            return
        if self.unusable.intersection(sources):
            self.unusable.add(name)
            return
        self.values[name], self.origins[name] = value(), origin

    def _port_after_listen(self) -> Address:
        listen: Address = self.values["listen"]
        return Address(listen.host, listen.port + 1)

    def _peer_advertise(self) -> Address:
        return Address(self.values["advertise"].host, self.values["peer_listen"].port)

    def build(self) -> Loaded:
        """The tree, or every problem: also those of the settings that could be read, where others could not."""
        required = {"data_dir": Path(), "name": "unknown"} | dict.fromkeys(_ADDRESSES_NEEDED, DEFAULT_LISTEN)
        top = {name: self.values.get(name, stand_in) for name, stand_in in required.items()}
        top |= {name: self.values[name] for name in self._usable("") if name not in required}
        parts = {section: part(**{name: self.values[name] for name in self._usable(section)}) for section, part in _PARTS.items()}
        try:
            config = ServerConfig(**top, **parts)
        except ConfigError as error:
            self.found += [self._located(problem) for problem in error.found if not self.unusable.intersection(problem.names)]
        self.found += [self._located(problem) for problem in self._file_problems(top, parts["tls"], parts["peer_tls"])]
        if self.found:
            raise ConfigError(self.found)
        return Loaded(config, self.origins, tuple(self.notes))

    def _file_problems(self, top: Mapping[str, Any], tls: TlsConfig, peer_tls: PeerTlsConfig) -> Iterator[Problem]:
        """What is wrong with certificates and keys. What rests on a setting that was refused is not judged."""
        told = {name for problem in self.found for name in problem.names} | self.unusable
        hosts = {name: None if name in told else top[name].host for name in ("advertise", "peer_advertise")}
        yield from certificates.client_problems(tls, hosts["advertise"])
        yield from certificates.peer_problems(peer_tls, None if "peer_tls_name" in told else hosts["peer_advertise"])

    def _located(self, problem: Problem) -> Problem:
        """The same problem, with the places where its values were written."""
        places = dict.fromkeys(self.raw[name][1] for name in problem.names if name in self.raw)
        return problem._replace(message=f"{problem.message} ({', '.join(places)})") if places else problem

    def _usable(self, section: str) -> list[str]:
        return [name for name, setting in SETTINGS.items() if setting.section == section and name in self.values]

    def _refuse(self, message: str, name: str = "") -> None:
        self.found.append(Problem((name,) if name else (), message))
        if name:
            self.unusable.add(name)


def _suggestion(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.75)
    return f"; did you mean {close[0]}?" if close else ""


def _default_name(hostname: str, port: int) -> str:
    """Host name and port, cut and mended to what a name may hold."""
    suffix = f"-{port}"
    cleaned = re.sub(r"[^a-z0-9._-]+", "-", hostname.lower()).strip("-._")
    return (cleaned[: NAME_CHARACTERS_MAX - len(suffix)] or "server") + suffix
