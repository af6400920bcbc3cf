"""`ravelctl kv`: keys and values."""

from __future__ import annotations

import sys
from typing import IO, TYPE_CHECKING, Any, Final

import click

from ravelctl.cli.app import App
from ravelctl.cli.byte_forms import ByteForm, byte_form_options, chosen_form
from ravelctl.cli.command import Effect, RavelGroup, Whole, Work, pass_app
from ravelctl.cli.errors import CommandError, usage_error
from ravelctl.cli.exit_codes import ExitCode
from ravelctl.cli.output import ABSENT, U64, Table, View, columns, count_text
from ravelctl.config.settings import Output

if TYPE_CHECKING:
    from ravelctl.client import KeyValue, WatchEvent

_CELL_MAX: Final = 64  # characters of a value that a table shows; -o wide and json show all
POSITION_PREFIX: Final = "w1."  # of every position of a watch
_VALUE_FILE_BYTES_MAX: Final = (
    64 << 20
)  # far above any server's limit, which tells its own error; it keeps a wrong file out of memory


class KeyType(click.ParamType[bytes]):
    """A key or value as the shell gives it. Bytes that are not UTF-8 pass unchanged."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        return value if isinstance(value, bytes) else str(value).encode(errors="surrogateescape")


KEY: Final = KeyType()


class PlaceType(Whole):
    """A revision, or a position that an earlier watch printed."""

    name = "place"

    def __init__(self) -> None:
        super().__init__(1)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if str(value).startswith(POSITION_PREFIX) else super().convert(value, param, ctx)


PLACE: Final = PlaceType()

_value_argument = click.argument("value", type=KEY, required=False)
_file_option = click.option("--file", "file", type=click.Path(dir_okay=False), help="Take the value from this file.")


@click.group("kv", cls=RavelGroup)
def command() -> None:
    """Get, put, delete, swap, list and watch keys.

    Where the endpoints are those of an admin group, each key is found in its cluster, and lists merge those of all clusters.
    """


@command.command("get")
@click.argument("key", type=KEY)
@click.option("--raw", is_flag=True, help="Print the value's bytes and nothing after them.")
@byte_form_options
@pass_app
def get(app: App, key: bytes, raw: bool) -> Work:
    """Print the value of KEY, and a newline. Exits 1 if the key is not there."""
    form = chosen_form()
    if raw and form is not ByteForm.TEXT:
        raise usage_error("--raw prints the bytes as they are", f"leave out --{form.value}")
    return _get(app, form.read(key, "key"), raw, form)


async def _get(app: App, key: bytes, raw: bool, form: ByteForm) -> View:
    from ravelctl.cli import dial
    from ravelctl.client import Consistency

    async with dial.keys(app) as client:
        found = await client.get(key, consistency=Consistency[app.settings.consistency.name])
    if found is None:
        raise CommandError(f"there is no key {form.show(key)!r}", next_step="see `ravelctl kv list`", reason="NOT_FOUND")
    shown = found.value if form is ByteForm.TEXT else form.show(found.value).encode()
    return View(
        kind="Key",
        data={**form.fields(key=key, value=found.value), "revision": U64(found.revision)},
        body=shown if raw else shown + b"\n",
        names=(form.show(key),),
    )


@command.command("put", effect=Effect.PLANS)
@click.argument("key", type=KEY)
@_value_argument
@_file_option
@byte_form_options
@pass_app
def put(app: App, key: bytes, value: bytes | None, file: str | None) -> Work:
    """Write VALUE under KEY; `-` reads the value from stdin, as it is."""
    form = chosen_form()
    app.unsent = True
    return _put(app, form.read(key, "key"), _content(value, file, form), form)


async def _put(app: App, key: bytes, content: bytes, form: ByteForm) -> View:
    from ravelctl.cli import dial

    async with dial.keys(app) as client:
        if app.settings.dry_run:
            return _would_write("Put", key, content, form, await client.get(key), writes=True)
        written = await client.put(key, content)
    return View(
        kind="Put",
        data={**form.fields(key=key), "revision": U64(written.revision)},
        body=f"revision {written.revision}",
        names=(form.show(key),),
    )


def _would_write(kind: str, key: bytes, content: bytes, form: ByteForm, found: KeyValue | None, *, writes: bool) -> View:
    """What --dry-run tells of a write: whether it would happen, and what is there now."""
    now = f"which has revision {found.revision} now" if found else "which is not there now"
    would = "would write" if writes else "would not write"
    return View(
        kind=kind,
        data={
            **form.fields(key=key),
            "found": found is not None,
            "revision": U64(found.revision if found else 0),
            "writes": writes,
            "dry_run": True,
        },
        body=f"{would} {count_text(len(content), 'byte')} under {form.show(key)}, {now}",
        names=(form.show(key),),
        code=ExitCode.DONE if writes else ExitCode.FAILED,
        notes=("dry run: nothing was changed",),
    )


@command.command("del", effect=Effect.PLANS)
@click.argument("key", type=KEY, required=False)
@click.option("--prefix", type=KEY, help="Delete all keys that begin so, after a look at how many there are.")
@byte_form_options
@pass_app
def delete(app: App, key: bytes | None, prefix: bytes | None) -> Work:
    """Delete KEY, or all keys with a prefix. A key that is not there is no error.

    With --prefix the keys are counted first and you are asked. They go in atomic batches of 1,000; keys that are written
    while it goes on stay. An empty prefix stands for every key.
    """
    if (key is None) == (prefix is None):
        raise usage_error("either a key or --prefix says what to delete", "give one of them")
    form = chosen_form()
    if prefix is not None:
        return _delete_prefix(app, form.read(prefix, "prefix"), form)
    app.unsent = True
    return _delete(app, form.read(key or b"", "key"), form)


async def _delete(app: App, key: bytes, form: ByteForm) -> View:
    from ravelctl.cli import dial

    async with dial.keys(app) as client:
        if app.settings.dry_run:
            found = await client.get(key)
            body = f"would delete {form.show(key)}" if found else "not there, nothing to delete"
            data: dict[str, Any] = {"found": found is not None, "dry_run": True}
        else:
            gone = await client.delete(key)
            body = f"deleted, revision {gone.revision}" if gone.found else "not there, nothing deleted"
            data = {"found": gone.found, "revision": U64(gone.revision)}
    return View(kind="Delete", data={**form.fields(key=key), **data}, body=body, names=(form.show(key),))


async def _delete_prefix(app: App, prefix: bytes, form: ByteForm) -> View:
    from ravelctl.cli import dial
    from ravelctl.cluster.deletion import count_prefix, delete_prefix

    named = f"keys that begin with {form.show(prefix)!r}" if prefix else "keys: every one there is"
    async with dial.keys(app) as client:
        counted = await count_prefix(client, prefix)
        data = {**form.fields(prefix=prefix), "counted": counted.keys}
        if not counted.keys or app.settings.dry_run:
            body = f"would delete {counted.keys:,} {named}" if counted.keys else f"there are no {named.partition(':')[0]}"
            return View(kind="DeletePrefix", data={**data, "deleted": 0, "left": 0, "dry_run": app.settings.dry_run}, body=body)
        app.confirm(f"delete {counted.keys:,} {named}?")
        with app.progress("deleting") as progress:
            deleted, left = await delete_prefix(
                client, prefix, counted, lambda done: progress.amount(done, counted.keys, f"{done:,} keys")
            )
    body = f"deleted {count_text(deleted, 'key')}"
    if left:
        body += f", left {count_text(left, 'key')} that changed meanwhile"
    return View(kind="DeletePrefix", data={**data, "deleted": deleted, "left": left, "dry_run": False}, body=body)


@command.command("cas", effect=Effect.PLANS)
@click.argument("key", type=KEY)
@_value_argument
@_file_option
@click.option("--revision", type=Whole(0), required=True, help="The key's revision must be this; 0: it must not be there.")
@byte_form_options
@pass_app
def cas(app: App, key: bytes, value: bytes | None, file: str | None, revision: int) -> Work:
    """Write VALUE under KEY if its revision is still the one given.

    If it is not, nothing is written and the exit code is 1; the actual value and revision are told.
    """
    form = chosen_form()
    app.unsent = True
    return _cas(app, form.read(key, "key"), _content(value, file, form), revision, form)


async def _cas(app: App, key: bytes, content: bytes, revision: int, form: ByteForm) -> View:
    from ravelctl.cli import dial

    async with dial.keys(app) as client:
        if app.settings.dry_run:
            found = await client.get(key)
            return _would_write("Swap", key, content, form, found, writes=(found.revision if found else 0) == revision)
        swap = await client.compare_and_swap(key, content, expected_revision=revision)
    data: dict[str, Any] = {**form.fields(key=key), "swapped": swap.swapped, "revision": U64(swap.revision)}
    if swap.swapped:
        return View(kind="Swap", data=data, body=f"revision {swap.revision}", names=(form.show(key),))
    if swap.actual is None:
        return View(
            kind="Swap", data={**data, "found": False}, body=f"not swapped: {form.show(key)} is not there", code=ExitCode.FAILED
        )
    return View(
        kind="Swap",
        data={**data, "found": True, **form.fields(value=swap.actual.value)},
        body=f"not swapped: revision {swap.revision} value {form.show(swap.actual.value, _CELL_MAX)}",
        code=ExitCode.FAILED,
    )


@command.command("list")
@click.argument("prefix", type=KEY, required=False)
@click.option("--prefix", "named", type=KEY, help="The same as PREFIX, as `del` and `watch` spell it.")
@click.option("--start", type=KEY, help="First key, inclusive.")
@click.option("--end", type=KEY, help="Last key, exclusive.")
@click.option("--limit", type=Whole(0), default=0, help="So many keys at most; 0: all.", show_default=True)
@click.option("--keys-only", is_flag=True, help="Leave the values out.")
@byte_form_options
@pass_app
def list_keys(
    app: App,
    prefix: bytes | None,
    named: bytes | None,
    start: bytes | None,
    end: bytes | None,
    limit: int,
    keys_only: bool,
) -> Work:
    """List keys in byte order: all, those that begin with PREFIX, or those from --start to --end."""
    if prefix is not None and named is not None:
        raise usage_error("a prefix is given twice, as an argument and with --prefix", "leave one of them out")
    prefix = named if prefix is None else prefix
    if prefix is not None and (start is not None or end is not None):
        raise usage_error("a prefix and --start or --end exclude each other", "give one of them")
    form = chosen_form()
    bounds = {
        name: None if word is None else form.read(word, name)
        for name, word in (("prefix", prefix), ("start", start), ("end", end))
    }
    # A table of names needs no values: they stay where they are.
    return _list(app, bounds, limit, keys_only or app.settings.output is Output.NAME, form)


async def _list(app: App, bounds: dict[str, bytes | None], limit: int, keys_only: bool, form: ByteForm) -> View:
    from ravelctl.cli import dial
    from ravelctl.client import Consistency

    async with dial.keys(app) as client:
        pages = client.scan(
            prefix=bounds["prefix"],
            start=bounds["start"] or b"",
            end=bounds["end"],
            limit=limit,
            keys_only=keys_only,
            consistency=Consistency[app.settings.consistency.name],
        )
        found = [item async for item in pages]
    wide = app.settings.output is Output.WIDE
    items: list[dict[str, Any]] = [
        form.fields(key=i.key) | {"revision": U64(i.revision)} | ({} if keys_only else form.fields(value=i.value)) for i in found
    ]
    cells = tuple(
        (form.show(i.key), str(i.revision), ABSENT if keys_only else form.show(i.value, None if wide else _CELL_MAX))
        for i in found
    )
    titles = columns("KEY", "REVISION") if keys_only else columns("KEY", "REVISION", "VALUE")
    return View(
        kind="KeyList",
        data={"items": items},
        body=Table(columns=titles, rows=tuple(row[: len(titles)] for row in cells)),
        names=tuple(row[0] for row in cells),
    )


@command.command("watch")
@click.argument("key", type=KEY, required=False)
@click.option("--prefix", type=KEY, help="All keys that begin so.")
@click.option(
    "--from",
    "place",
    type=PLACE,
    help="First revision to print, or the position that an earlier watch printed when it ended. [default: from now on]",
)
@click.option("--limit", type=Whole(0), default=0, help="End after so many changes; 0: never.", show_default=True)
@byte_form_options
@pass_app
def watch(app: App, key: bytes | None, prefix: bytes | None, place: int | str | None, limit: int) -> Work:
    """Print every change of KEY, of the keys with a prefix, or of all keys, as it happens; with -o json a line each.

    Any replica serves it; when one is lost the watch goes on at another. Ctrl-C ends it (exit 130) and prints where to go on:
    nothing is missed in between, as long as the log reaches back so far.

    At an admin group it watches all clusters, and follows keys to other clusters. Changes of one key come in order. At a cluster
    whose keys leave for another one, or which gets some, it ends with an error.
    """
    if key is not None and prefix is not None:
        raise usage_error("a key and --prefix exclude each other", "give one of them")
    form = chosen_form()
    wanted = {name: form.read(word, name) for name, word in (("key", key), ("prefix", prefix)) if word is not None}
    return _watch(app, wanted, place, limit, form)


async def _watch(app: App, wanted: dict[str, bytes], place: int | str | None, limit: int, form: ByteForm) -> View:
    import asyncio

    from ravelctl.cli import dial
    from ravelctl.cli.output import emit
    from ravelctl.client import CompactedError, RavelError, WrongClusterError

    told = 0
    async with (
        dial.keys(app) as client,
        client.watch(
            key=wanted.get("key"),
            prefix=wanted.get("prefix"),
            from_revision=place if isinstance(place, int) else None,
            after=place if isinstance(place, str) else None,
        ) as changes,
    ):
        in_one = changes.counts_alone or changes.revision
        app.say(f"watching from revision {changes.revision + 1}" if in_one else "watching all clusters of the admin group")
        try:
            async for event in changes:
                emit(_event_view(event, form, wide=app.settings.output is Output.WIDE), app.settings, sys.stdout, one_line=True)
                told += 1
                if told == limit:
                    break
        except (asyncio.CancelledError, RavelError) as ended:
            if not isinstance(ended, (CompactedError, WrongClusterError)):
                further = changes.revision + 1 if changes.counts_alone else changes.position
                app.say(f"to go on without a gap: --from {further}")
            raise
    return View(kind="", data={}, silent=True)


def _event_view(event: WatchEvent, form: ByteForm, *, wide: bool) -> View:
    data: dict[str, Any] = {"event": "delete" if event.value is None else "put", **form.fields(key=event.key)}
    words = [str(event.revision), data["event"], form.show(event.key)]
    if event.value is not None:
        data |= form.fields(value=event.value)
        words.append(form.show(event.value, None if wide else _CELL_MAX))
    return View(
        kind="KeyEvent",
        data={**data, "revision": U64(event.revision), "more": event.more},
        body="  ".join(words).rstrip(),
        names=(form.show(event.key),),
    )


def _content(value: bytes | None, file: str | None, form: ByteForm) -> bytes:
    """The value from the one place that was named. Raises CommandError (exit 2)."""
    if value is None and file is None:
        raise usage_error("there is no value", "give it as an argument, as `-` to read it from stdin, or with --file")
    if value is not None and file is not None:
        raise usage_error("the value is given twice, as an argument and with --file", "leave one of them out")
    try:
        if file is not None:
            with open(file, "rb") as stream:
                return _bounded(stream, file)
        if value == b"-":
            return _bounded(sys.stdin.buffer, "stdin")
    except OSError as error:
        raise usage_error(f"cannot read {file or 'stdin'}: {error.strerror}") from error
    return form.read(value or b"", "value")


def _bounded(stream: IO[bytes], name: str) -> bytes:
    content = stream.read(_VALUE_FILE_BYTES_MAX + 1)
    if len(content) > _VALUE_FILE_BYTES_MAX:
        raise usage_error(
            f"{name} has more than {_VALUE_FILE_BYTES_MAX} bytes, which no value may have", "split it over several keys"
        )
    return content
