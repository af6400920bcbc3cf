"""`ravelctl kv`: keys and values."""

from __future__ import annotations

import sys
from typing import IO, Any, Final

import click

from ravelctl.app import App
from ravelctl.command import Effect, RavelGroup, Work, pass_app
from ravelctl.config import Output
from ravelctl.errors import CommandError, usage_error
from ravelctl.exit_codes import ExitCode
from ravelctl.output import ABSENT, U64, Table, View, columns, printable

_CELL_MAX: Final = 64  # characters of a value that a table shows; -o wide and json show all
_VALUE_FILE_BYTES_MAX: Final = (
    64 << 20
)  # far above any server's limit, which tells its own error; it keeps a wrong file out of memory


class KeyType(click.ParamType[bytes]):
    """A key or value as the shell gives it. Bytes that are not UTF-8 pass unchanged."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        return value if isinstance(value, bytes) else str(value).encode(errors="surrogateescape")


KEY: Final = KeyType()

_value_argument = click.argument("value", type=KEY, required=False)
_file_option = click.option("--file", "file", type=click.Path(dir_okay=False), help="Take the value from this file.")


@click.group("kv", cls=RavelGroup)
def command() -> None:
    """Get, put, delete, swap and list keys."""


@command.command("get")
@click.argument("key", type=KEY)
@click.option("--raw", is_flag=True, help="Print the value's bytes and nothing after them.")
@pass_app
async def get(app: App, key: bytes, raw: bool) -> View:
    """Print the value of KEY, and a newline. Exits 1 if the key is not there."""
    from ravelctl import dial
    from ravelctl.client import Consistency

    async with dial.keys(app) as client:
        found = await client.get(key, consistency=Consistency[app.settings.consistency.name])
    if found is None:
        raise CommandError(f"there is no key {printable(key)!r}", next_step="see `ravelctl kv list`", reason="NOT_FOUND")
    return View(
        kind="Key",
        data={"key": key, "value": found.value, "revision": U64(found.revision)},
        body=found.value if raw else found.value + b"\n",
        names=(printable(key),),
    )


@command.command("put", effect=Effect.CHANGES)
@click.argument("key", type=KEY)
@_value_argument
@_file_option
@pass_app
def put(app: App, key: bytes, value: bytes | None, file: str | None) -> Work:
    """Write VALUE under KEY; `-` reads the value from stdin, as it is."""
    return _put(app, key, _content(value, file))


async def _put(app: App, key: bytes, content: bytes) -> View:
    from ravelctl import dial

    async with dial.keys(app) as client:
        written = await client.put(key, content)
    return View(
        kind="Put",
        data={"key": key, "revision": U64(written.revision)},
        body=f"revision {written.revision}",
        names=(printable(key),),
    )


@command.command("del", effect=Effect.CHANGES)
@click.argument("key", type=KEY)
@pass_app
async def delete(app: App, key: bytes) -> View:
    """Delete KEY. A key that is not there is no error."""
    from ravelctl import dial

    async with dial.keys(app) as client:
        gone = await client.delete(key)
    return View(
        kind="Delete",
        data={"key": key, "found": gone.found, "revision": U64(gone.revision)},
        body=f"deleted, revision {gone.revision}" if gone.found else "not there, nothing deleted",
        names=(printable(key),),
    )


@command.command("cas", effect=Effect.CHANGES)
@click.argument("key", type=KEY)
@_value_argument
@_file_option
@click.option(
    "--revision", type=click.IntRange(min=0), required=True, help="The key's revision must be this; 0: it must not be there."
)
@pass_app
def cas(app: App, key: bytes, value: bytes | None, file: str | None, revision: int) -> Work:
    """Write VALUE under KEY if its revision is still the one given.

    If it is not, nothing is written and the exit code is 1; the actual value and revision are told.
    """
    return _cas(app, key, _content(value, file), revision)


async def _cas(app: App, key: bytes, content: bytes, revision: int) -> View:
    from ravelctl import dial

    async with dial.keys(app) as client:
        swap = await client.compare_and_swap(key, content, expected_revision=revision)
    data: dict[str, Any] = {"key": key, "swapped": swap.swapped, "revision": U64(swap.revision)}
    if swap.swapped:
        return View(kind="Swap", data=data, body=f"revision {swap.revision}", names=(printable(key),))
    if swap.actual is None:
        return View(
            kind="Swap", data={**data, "found": False}, body=f"not swapped: {printable(key)} is not there", code=ExitCode.FAILED
        )
    return View(
        kind="Swap",
        data={**data, "found": True, "value": swap.actual.value},
        body=f"not swapped: revision {swap.revision} value {printable(swap.actual.value, _CELL_MAX)}",
        code=ExitCode.FAILED,
    )


@command.command("list")
@click.argument("prefix", type=KEY, required=False)
@click.option("--start", type=KEY, help="First key, inclusive.")
@click.option("--end", type=KEY, help="Last key, exclusive.")
@click.option("--limit", type=click.IntRange(min=0), default=0, help="So many keys at most; 0: all.", show_default=True)
@click.option("--keys-only", is_flag=True, help="Leave the values out.")
@pass_app
def list_keys(app: App, prefix: bytes | None, start: bytes | None, end: bytes | None, limit: int, keys_only: bool) -> Work:
    """List keys in byte order: all, those that begin with PREFIX, or those from --start to --end."""
    if prefix is not None and (start is not None or end is not None):
        raise usage_error("a prefix and --start or --end exclude each other", "give one of them")
    # A table of names needs no values: they stay where they are.
    return _list(app, prefix, start, end, limit, keys_only or app.settings.output is Output.NAME)


async def _list(app: App, prefix: bytes | None, start: bytes | None, end: bytes | None, limit: int, keys_only: bool) -> View:
    from ravelctl import dial
    from ravelctl.client import Consistency

    consistency = Consistency[app.settings.consistency.name]
    async with dial.keys(app) as client:
        pages = client.scan(prefix=prefix, start=start or b"", end=end, limit=limit, keys_only=keys_only, consistency=consistency)
        found = [item async for item in pages]
    wide = app.settings.output is Output.WIDE
    items: list[dict[str, Any]] = [
        {"key": i.key, "revision": U64(i.revision)} | ({} if keys_only else {"value": i.value}) for i in found
    ]
    cells = tuple(
        (printable(i.key), str(i.revision), ABSENT if keys_only else printable(i.value, None if wide else _CELL_MAX))
        for i in found
    )
    titles = columns("KEY", "REVISION") if keys_only else columns("KEY", "REVISION", "VALUE")
    return View(
        kind="KeyList",
        data={"items": items},
        body=Table(columns=titles, rows=tuple(row[: len(titles)] for row in cells)),
        names=tuple(row[0] for row in cells),
    )


def _content(value: bytes | None, file: str | None) -> bytes:
    """The value from the one place that was named. Raises CommandError (exit 2)."""
    if (value is None) == (file is None):
        raise usage_error("the value is given either as an argument or with --file", "`-` as the argument reads it from stdin")
    try:
        if file is not None:
            with open(file, "rb") as stream:
                return _bounded(stream, file)
        if value == b"-":
            return _bounded(sys.stdin.buffer, "stdin")
    except OSError as error:
        raise usage_error(f"cannot read {file or 'stdin'}: {error.strerror}") from error
    return value or b""


def _bounded(stream: IO[bytes], name: str) -> bytes:
    content = stream.read(_VALUE_FILE_BYTES_MAX + 1)
    if len(content) > _VALUE_FILE_BYTES_MAX:
        raise usage_error(
            f"{name} has more than {_VALUE_FILE_BYTES_MAX} bytes, which no value may have", "split it over several keys"
        )
    return content
