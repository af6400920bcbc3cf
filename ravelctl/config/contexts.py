"""The file of contexts: what is known of each cluster under a name, so that nobody has to repeat it.

    current = "prod"                                   # `ravelctl context use`

    [contexts.prod]
    endpoints = ["10.0.0.1:7400", "10.0.0.2:7400"]
    cacert = "/etc/ravel/ca.pem"
    cluster = "1e2597d6..."                            # its id: a daemon of another cluster is not listened to

People may write it by hand. So it is changed line by line: comments, order and the other entries stay, and the new text is read
back before it takes the old file's place. It says which daemons are believed: it belongs to one person, with mode 0600.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from ravelctl.cli.errors import CommandError, usage_error
from ravelctl.cli.exit_codes import ExitCode
from ravelctl.config.settings import Color, Consistency, Output, duration_s, endpoint

FILE_MODE: Final = 0o600
FILE_BYTES_MAX: Final = 1 << 20
CONTEXTS_MAX: Final = 1000

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,63}")
_CLUSTER_ID: Final = re.compile(r"[0-9a-f]{32}")


# --- what stands in a context


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is not a text")
    return value


def _addresses(value: Any) -> tuple[str, ...]:
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not listed:
        raise ValueError(f"{value!r} is not a list of addresses")
    return tuple(dict.fromkeys(endpoint(_text(one)) for one in listed))


def _file(value: Any) -> Path:
    path = Path(_text(value)).expanduser()
    if not path.is_absolute():
        raise ValueError(f"{value!r} is not an absolute path")
    return path


def _cluster_id(value: Any) -> str:
    if not _CLUSTER_ID.fullmatch(_text(value)):
        raise ValueError(f"{value!r} is not a cluster id of 32 lower-case hex digits")
    return str(value)


def _member(kind: type[Output] | type[Consistency] | type[Color]) -> Callable[[Any], Any]:
    def parse(value: Any) -> Any:
        try:
            return kind(value)
        except ValueError:
            raise ValueError(f"{value!r} is not one of {', '.join(kind)}") from None

    return parse


FIELDS: Final[Mapping[str, tuple[str, Callable[[Any], Any]]]] = {
    "endpoints": ("endpoints", _addresses),
    "cacert": ("cacert", _file),
    "cert": ("tls_cert", _file),
    "key": ("tls_key", _file),
    "cluster": ("cluster_id", _cluster_id),
    "timeout": ("timeout_s", lambda value: duration_s(_text(value))),
    "output": ("output", _member(Output)),
    "consistency": ("consistency", _member(Consistency)),
    "color": ("color", _member(Color)),
}
"""Keys of a context: the field of `Settings` that each sets, and how its value is read."""


@dataclass(frozen=True, slots=True)
class Context:
    name: str
    values: Mapping[str, Any]  # by the names of the fields of `Settings`


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong in the file. `line` counts from 1; 0: it is not known, or no line of the file is to blame."""

    line: int
    key: str
    what: str

    def sentence(self, path: Path) -> str:
        where = f"{path}, line {self.line}" if self.line else str(path)
        return f"{where}: {self.key}: {self.what}" if self.key else f"{where}: {self.what}"


@dataclass(frozen=True, slots=True)
class ContextFile:
    """What the file said when it was read. Without a file: no text and no contexts."""

    path: Path
    text: str
    raw: Mapping[str, Any]
    current: str
    contexts: Mapping[str, Context]

    def find(self, name: str) -> Context:
        """Raises CommandError (2) that tells what there is."""
        if name in self.contexts:
            return self.contexts[name]
        from difflib import get_close_matches

        if near := get_close_matches(name, self.contexts, n=1):
            step = f"did you mean {near[0]!r}?"
        elif self.contexts:
            step = "see `ravelctl context list`"
        else:
            step = f"make it with `ravelctl context add {name} --endpoints ADDRESS`"
        raise usage_error(f"there is no context {name!r} in {self.path}", step)


# --- reading


def read(path: Path) -> tuple[ContextFile, tuple[Problem, ...]]:
    """The file and all that is wrong with it, which is left out of the contexts. Raises CommandError if it cannot be read."""
    text = _read_text(path)
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return ContextFile(path, text, {}, "", {}), (_syntax_problem(error, text),)
    problems = [
        Problem(_line_of(text, "", key), key, "is not known here")
        for key in raw
        if key not in ("current", "contexts")
    ]  # fmt: skip
    tables = raw.get("contexts", {})
    if not isinstance(tables, dict):
        problems.append(Problem(_line_of(text, "", "contexts"), "contexts", "is not a table"))
        tables = {}
    contexts = {name: _context(text, name, table, problems) for name, table in tables.items()}
    current = raw.get("current", "")
    if not isinstance(current, str) or (current and current not in contexts):
        problems.append(Problem(_line_of(text, "", "current"), "current", f"there is no context {current!r}"))
        current = ""
    return ContextFile(path, text, raw, current, contexts), tuple(problems)


def load(path: Path) -> ContextFile:
    """As `read`, for use: raises CommandError (2) at the first thing that is wrong, (9) if others may write the file."""
    check_owner(path)
    file, problems = read(path)
    if problems:
        more = f" ({len(problems) - 1} more)" if len(problems) > 1 else ""
        raise usage_error(
            problems[0].sentence(path) + more, "mend the file; `ravelctl config check` tells all that is wrong with it"
        )
    return file


def check_owner(path: Path) -> None:
    """Whoever can write the file decides which daemons are believed. Raises CommandError (9) where others can."""
    try:
        found = path.stat()
    except OSError:
        return  # there is none, or reading it tells what is wrong
    if found.st_mode & 0o022:
        raise CommandError(
            f"{path} can be written by others (mode {found.st_mode & 0o777:04o})",
            code=ExitCode.NOT_ALLOWED,
            next_step=f"see that nobody has changed it, then `chmod 600 {path}`",
        )


def is_open(path: Path) -> bool:
    """Whether others may read it: it tells them where the clusters are."""
    try:
        return bool(path.stat().st_mode & 0o077)
    except OSError:
        return False


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            raw = stream.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise usage_error(
            f"cannot read {path}: {_reason(error)}", "mend that, or name another file in RAVELCTL_CONFIG"
        ) from error
    if len(raw) > FILE_BYTES_MAX:
        raise usage_error(f"{path} has more than {FILE_BYTES_MAX} bytes", "is it a file of contexts?")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise usage_error(f"{path}, line {line}: this is not UTF-8", "mend the file, or remove it") from error


def _syntax_problem(error: tomllib.TOMLDecodeError, text: str) -> Problem:
    sentence = str(error)
    at = re.search(r"\(at (?:line (\d+), column \d+|end of document)\)", sentence)
    what = sentence[: at.start()].strip() if at else sentence
    line = int(at[1]) if at and at[1] else len(text.splitlines())
    return Problem(line, "", what[:1].lower() + what[1:])


def _context(text: str, name: str, table: Any, problems: list[Problem]) -> Context:
    def blame(key: str, what: str) -> None:
        problems.append(Problem(_line_of(text, name, key), f"contexts.{name}" + (f".{key}" if key else ""), what))

    if not isinstance(table, dict):
        blame("", "is not a table")
        return Context(name, {})
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in FIELDS:
            blame(key, f"is not known; a context has {', '.join(FIELDS)}")
            continue
        field, parse = FIELDS[key]
        try:
            values[field] = parse(value)
        except ValueError as error:
            blame(key, str(error))
    if "endpoints" not in table:
        blame("", "has no endpoints")
    return Context(name, values)


_HEADER: Final = re.compile(r"^\s*\[\s*(?:contexts)\s*\.\s*(?:\"([^\"]*)\"|'([^']*)'|([A-Za-z0-9_-]+))\s*\]\s*(?:#.*)?$")
_ANY_HEADER: Final = re.compile(r"^\s*\[")


def _header_name(line: str) -> str | None:
    found = _HEADER.match(line)
    return next((part for part in found.groups() if part is not None), None) if found else None


def _line_of(text: str, context: str, key: str) -> int:
    """Where a key stands, counted from 1: in this context's table, or above all tables. Its table's line if it is not found."""
    inside, head = not context, 0
    pattern = re.compile(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=")
    for number, line in enumerate(text.splitlines(), start=1):
        if _ANY_HEADER.match(line):
            inside = bool(context) and _header_name(line) == context
            head = number if inside else head
            if not context and key and re.match(rf"\s*\[+\s*{re.escape(key)}\b", line):
                return number
        elif inside and key and pattern.match(line):
            return number
    return head


# --- writing


def add(file: ContextFile, name: str, values: Mapping[str, Any], *, use: bool) -> str:
    """The text with this context, in place of one of that name. `values` by the keys of the file."""
    if not _NAME.fullmatch(name):
        raise usage_error(f"{name!r} is no name for a context", "use letters, digits, - and _, at most 63 of them")
    if len(file.contexts) >= CONTEXTS_MAX and name not in file.contexts:
        raise usage_error(f"{file.path} holds {CONTEXTS_MAX} contexts", "remove some with `ravelctl context remove`")
    block = [f"[contexts.{name}]", *(f"{key} = {_toml(value)}" for key, value in values.items())]
    kept = _without_table(file.text.splitlines(), name)
    while kept and not kept[-1].strip():
        kept.pop()
    lines = [*kept, *([""] if kept else []), *block]
    current = name if use else file.current
    wanted = {**file.raw, "contexts": {**file.raw.get("contexts", {}), name: dict(values)}}
    return _checked(file, _with_current(lines, current), wanted, current)


def remove(file: ContextFile, name: str) -> str:
    """The text without this context. If it was the current one, there is none afterwards."""
    file.find(name)
    current = "" if file.current == name else file.current
    lines = _with_current(_without_table(file.text.splitlines(), name), current)
    rest = {other: table for other, table in file.raw["contexts"].items() if other != name}
    return _checked(file, lines, {**file.raw, "contexts": rest}, current)


def use(file: ContextFile, name: str) -> str:
    """The text in which this context is the current one."""
    file.find(name)
    return _checked(file, _with_current(file.text.splitlines(), name), dict(file.raw), name)


def save(path: Path, text: str) -> None:
    """Written beside, synced, then renamed: the old file stays whole until the new one is. Raises CommandError (1)."""
    target = path.resolve()  # a file that is kept elsewhere and linked from here stays so
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE)
            with open(descriptor, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise CommandError(f"cannot write {path}: {_reason(error)}", next_step="the old file is as it was") from error


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _toml(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    # A basic string of TOML is one of JSON, but for DEL.
    import json

    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def _without_table(lines: list[str], name: str) -> list[str]:
    """All lines but those from this context's header up to the next one. Comments right above the next header are its own."""
    kept: list[str] = []
    gone: list[str] = []
    inside = False
    for line in lines:
        if _ANY_HEADER.match(line):
            if inside:
                kept += _trailing_comments(gone)
            inside, gone = _header_name(line) == name, []
        (gone if inside else kept).append(line)
    return kept


def _trailing_comments(lines: list[str]) -> list[str]:
    start = len(lines)
    while start > 1 and lines[start - 1].lstrip().startswith("#"):
        start -= 1
    return lines[start:]


def _with_current(lines: list[str], current: str) -> list[str]:
    """The lines with the one that says which context is current, where it stands or at the top; without it, if there is none."""
    first = next((number for number, line in enumerate(lines) if _ANY_HEADER.match(line)), len(lines))
    at = next((number for number in range(first) if re.match(r"\s*[\"']?current[\"']?\s*=", lines[number])), None)
    said = [f"current = {_toml(current)}"] if current else []
    if at is not None:
        return [*lines[:at], *said, *lines[at + 1 :]]
    return [*said, *([""] if said and not first else []), *lines]


def _checked(file: ContextFile, lines: list[str], wanted: dict[str, Any], current: str) -> str:
    """The lines as a text, if it says exactly what is wanted. Raises CommandError (2) where the file has another form."""
    text = "".join(f"{line}\n" for line in lines)
    wanted.pop("current", None)
    if current:
        wanted["current"] = current
    if not wanted.get("contexts"):
        wanted.pop("contexts", None)
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        _by_hand(file)
    if not found.get("contexts"):
        found.pop("contexts", None)
    if found != wanted:
        _by_hand(file)
    return text


def _by_hand(file: ContextFile) -> NoReturn:
    raise usage_error(
        f"{file.path} is not written in the form that `ravelctl context add` gives it, a table [contexts.NAME] for each",
        "change it by hand, or bring it into that form; nothing was changed",
    )
