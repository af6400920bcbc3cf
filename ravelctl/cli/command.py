"""The frame of every command: options that all of them take, lazy groups, and what happens to the value a command returns.

A command is a function that takes an `App` and its own arguments and returns a `View`, or a coroutine of one: then its words are
checked before an event loop is loaded. Nothing here, and nothing that a command's module imports at its top, may import
grpc, rich, yaml or asyncio: `--help`, errors and Tab never pay for them.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from enum import Enum, auto
from functools import cache
from importlib import import_module
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import click
from click.core import ParameterSource

from ravelctl.cli.app import App
from ravelctl.cli.errors import CommandError, usage_error
from ravelctl.cli.exit_codes import ExitCode
from ravelctl.config.settings import Color, Consistency, Output, duration_s, endpoint, endpoint_list, moment_ms

if TYPE_CHECKING:
    from pathlib import Path

    from ravelctl.cli.output import View

ENVIRONMENT_PREFIX: Final = "RAVELCTL_"
_WATCH_KEY: Final = "ravelctl.watch_s"
_CONTEXT: Final = {"help_option_names": ["-h", "--help"]}
U64_MAX: Final = 2**64 - 1
_SHORT_HELP_MAX: Final = 200  # characters: more than any first sentence has
_COLUMNS: Final = 80  # where there is no terminal
_HELP_COLUMNS_MIN: Final = 50
_HELP_COLUMNS_MAX: Final = 110

Work: TypeAlias = "Coroutine[Any, Any, View]"
"""What a command returns that has checked its words and has yet to dial."""

pass_app = click.make_pass_decorator(App)


class Effect(Enum):
    """What a command does to the world, and so what --dry-run means to it."""

    READS = auto()  # --dry-run changes nothing about it
    PLANS = auto()  # --dry-run stops it before the change
    CHANGES = auto()  # it cannot tell beforehand: --dry-run is refused rather than ignored


# --- types of values


class DurationType(click.ParamType[float]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, float):
            return value
        try:
            return duration_s(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class MomentType(click.ParamType[int]):
    """A time, in milliseconds since 1970."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return moment_ms(value, time.time())
        except ValueError as error:
            self.fail(str(error), param, ctx)


class EndpointType(click.ParamType[str]):
    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return endpoint(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class EndpointsType(click.ParamType[tuple[str, ...]]):
    name = "address[,address]"
    tab = "addresses"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        try:
            return endpoint_list(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class NameType(click.ParamType[str]):
    """A name, or what else is taken in its place, such as an id. `tab`: what Tab offers, a kind of `ravelctl.completion.tab`."""

    def __init__(self, name: str, tab: str) -> None:
        self.name = name
        self.tab = tab


class Whole(click.IntRange):
    """A whole number from `least` to `most`, by default as large as the protocol can say it. Its errors name both bounds."""

    name = "integer"

    def __init__(self, least: int, most: int = U64_MAX) -> None:
        super().__init__(least, most)
        self._least, self._most = least, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number = int(value)
        except ValueError:
            number = self._least - 1
        if not self._least <= number <= self._most:
            self.fail(f"{str(value)!r} is not a whole number from {self._least:,} to {self._most:,}", param, ctx)
        return number

    def _describe_range(self) -> str:
        """What --help says of it."""
        return f"{self._least:,} or more" if self._most == U64_MAX else f"{self._least:,} to {self._most:,}"


DURATION: Final = DurationType()
MOMENT: Final = MomentType()
ENDPOINT: Final = EndpointType()
ENDPOINTS: Final = EndpointsType()
CONTEXT: Final = NameType("context", "context")
REPLICA: Final = NameType("replica", "replica")


# --- options that every command takes, before and after its name


def _joined(value: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(address for group in value for address in group))


def _path(value: str) -> Path:
    from pathlib import Path

    return Path(value)


TLS_OPTIONS: Final = ("cacert", "tls_cert", "tls_key")

_PARSED: Final[Mapping[str, Callable[[Any], Any]]] = {
    "endpoints": _joined,
    "output": Output,
    "consistency": Consistency,
    "color": Color,
    **dict.fromkeys(TLS_OPTIONS, _path),
}


def _remember(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Keep what was said. Groups are parsed before their commands, so that the later word wins."""
    name = str(param.name)
    source = ctx.get_parameter_source(name)
    if source in {ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT}:
        app = ctx.ensure_object(App)
        app.given[name] = _PARSED.get(name, lambda same: same)(value)
        by_flag = source is ParameterSource.COMMANDLINE
        app.origins[name] = f"flag {param.opts[-1]}" if by_flag else f"variable {param.envvar}"


class GlobalOption(click.Option):
    """An option of all commands. Its variable is read once, at the root."""

    def __init__(self, name: str, *flags: str, root: bool, **rest: Any) -> None:
        variable = ENVIRONMENT_PREFIX + flags[-1].lstrip("-").upper().replace("-", "_") if root else None
        super().__init__([name, *flags], envvar=variable, expose_value=False, callback=_remember, **rest)


@cache
def global_options(*, root: bool) -> Sequence[click.Parameter]:
    """Those of the root also read `RAVELCTL_*`. The others are the same objects for all commands: making them is not free."""

    def option(name: str, *flags: str, **rest: Any) -> GlobalOption:
        return GlobalOption(name, *flags, root=root, **rest)

    def file(name: str, flag: str, text: str) -> GlobalOption:
        return option(name, flag, type=click.Path(dir_okay=False), metavar="FILE", help=text)

    def choice(kind: type[Output] | type[Consistency] | type[Color]) -> click.Choice[str]:
        return click.Choice([str(member.value) for member in kind])

    return [
        option("context", "--context", type=CONTEXT, metavar="NAME", help="Which cluster, by its context."),
        option("endpoints", "-e", "--endpoints", type=ENDPOINTS, multiple=True, help="Where the cluster is reached."),
        file("cacert", "--cacert", "Use TLS; this authority signed the daemons' certificates."),
        file("tls_cert", "--cert", "The certificate to show to daemons that ask for one."),
        file("tls_key", "--key", "The private key of --cert."),
        option("timeout_s", "--timeout", type=DURATION, help="How long to wait: 500ms, 2s, 1m."),
        option("output", "-o", "--output", type=choice(Output), help="How to print."),
        option("consistency", "--consistency", type=choice(Consistency), help="What a read may show."),
        option("dry_run", "--dry-run", is_flag=True, help="Show what would be done, and stop."),
        option("yes", "-y", "--yes", is_flag=True, help="Do not ask."),
        option("quiet", "-q", "--quiet", is_flag=True, help="No prose and no progress on stderr."),
        option("verbose", "-v", "--verbose", is_flag=True, help="Say more about errors."),
        option("color", "--color", type=choice(Color), help="When to colour; NO_COLOR is heeded."),
    ]


def _remember_watch(ctx: click.Context, param: click.Parameter, value: float | None) -> None:
    if value is not None:
        ctx.meta[_WATCH_KEY] = value


def watched() -> bool:
    """Whether the command that is running was given --watch."""
    return _WATCH_KEY in click.get_current_context().meta


def _watch_option() -> click.Option:
    return click.Option(
        ["--watch"], type=DURATION, is_flag=False, flag_value="2s", expose_value=False, callback=_remember_watch,
        help="Repeat, every 2s or as told with --watch=DURATION.",
    )  # fmt: skip


# --- commands and groups


class _Context(click.Context):
    """Click's, which asks for the width of the terminal through shutil, and that loads three compressors."""

    def make_formatter(self) -> click.HelpFormatter:
        return click.HelpFormatter(width=max(min(_terminal_columns(), _HELP_COLUMNS_MAX) - 2, _HELP_COLUMNS_MIN))


def _terminal_columns() -> int:
    said = os.environ.get("COLUMNS", "")
    if said.isdecimal() and int(said):
        return int(said)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or _COLUMNS
    except (OSError, ValueError):
        return _COLUMNS


class _Frame(click.Command):
    """What commands and groups share: the options of all, and a help that shows them apart."""

    context_class = _Context
    is_root = False

    def __init__(self, name: str | None, **rest: Any) -> None:
        rest["context_settings"] = {**_CONTEXT, **(rest.get("context_settings") or {})}
        super().__init__(name, **rest)
        self.params += global_options(root=self.is_root)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if isinstance(self, click.Group) and not self.is_root:
            self.format_commands(ctx, formatter)
        own = [p for p in self.get_params(ctx) if isinstance(p, click.Option) and not isinstance(p, GlobalOption)]
        shared = [p for p in self.get_params(ctx) if isinstance(p, GlobalOption)]
        if rows := [row for p in own if (row := p.get_help_record(ctx))]:
            with formatter.section("Options"):
                formatter.write_dl(rows)
        if self.is_root:
            with formatter.section("Options of every command, before or after its name"):
                formatter.write_dl([row for p in shared if (row := p.get_help_record(ctx))])
        else:
            names = ", ".join(p.opts[-1] for p in shared)
            formatter.write_paragraph()
            formatter.write_text(f"Also {names}: see `ravelctl --help`.")


class RavelCommand(_Frame):
    """A command whose function returns a `View`. `watchable` ones take --watch; `local` ones heed no context."""

    def __init__(
        self, name: str | None, *, effect: Effect = Effect.READS, watchable: bool = False, local: bool = False, **rest: Any
    ) -> None:
        super().__init__(name, **rest)
        self.effect = effect
        self.local = local
        if watchable:
            self.params.insert(0, _watch_option())

    def invoke(self, ctx: click.Context) -> int:
        app = ctx.ensure_object(App)
        app.local = app.local or self.local
        if self.effect is Effect.CHANGES and app.settings.dry_run:
            raise usage_error(f"{ctx.command_path} cannot tell beforehand what it would do", "leave out --dry-run")
        every_s = ctx.meta.get(_WATCH_KEY)
        if every_s is None:
            return _show(app, self._view(ctx, app))
        while True:
            self._look_again(ctx, app)
            time.sleep(every_s)

    def _view(self, ctx: click.Context, app: App) -> View:
        found = super().invoke(ctx)
        if isinstance(found, CoroutineType):
            from ravelctl.cli import dial

            found = dial.run(app, found)
        return cast("View", found)

    def _look_again(self, ctx: click.Context, app: App) -> None:
        """One look of many: one that failed is told, and the next is taken all the same, unless it must fail again."""
        try:
            view = self._view(ctx, app)
        except CommandError as error:
            if error.code in _FAILS_AGAIN:
                raise
            tell_error(error, app, as_json=app.settings.output is Output.JSON, one_line=True)
        else:
            if sys.stdout.isatty() and app.settings.output in _FOR_PEOPLE:
                sys.stdout.write("\x1b[H\x1b[J")
            _show(app, view, one_line=True)


_FAILS_AGAIN: Final = frozenset({ExitCode.USAGE, ExitCode.DAMAGED, ExitCode.NOT_ALLOWED})
_FOR_PEOPLE: Final = frozenset({Output.TABLE, Output.WIDE})


def tell_error(error: CommandError, app: App, *, as_json: bool, one_line: bool = False) -> ExitCode:
    """Tell an error on stderr, as JSON or as a sentence and what to do next. Returns its exit code."""
    if as_json:
        from ravelctl.cli.output import API_VERSION, json_text

        told = {
            "apiVersion": API_VERSION,
            "kind": "Error",
            "message": error.message,
            "next_step": error.next_step,
            "reason": error.reason,
            "exit_code": int(error.code),
            "metadata": error.metadata,
        }
        print(json_text(told, one_line=one_line), file=sys.stderr, flush=True)
        return error.code
    lines = [f"error: {error.message}"]
    if error.next_step and not one_line:
        lines.append(f"next: {error.next_step}")
    if app.given.get("verbose"):
        values = "".join(f" {name}={value}" for name, value in sorted(error.metadata.items()))
        lines.append(f"reason: {error.reason}{values}")
    print("\n".join(lines), file=sys.stderr, flush=True)
    return error.code


def _show(app: App, view: View, *, one_line: bool = False) -> int:
    from ravelctl.cli.output import emit

    emit(view, app.settings, sys.stdout, one_line=one_line)
    for note in view.notes:
        app.say(note)
    return view.code


class RavelGroup(_Frame, click.Group):
    """A noun with its verbs."""

    command_class = RavelCommand

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name.startswith("-") or name in self.list_commands(ctx):
            return super().resolve_command(ctx, args)
        raise usage_error(f"{ctx.command_path} has no command {name!r}", self._suggestion(ctx, name))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Each with its first sentence to the end, on as many lines as that takes."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, one.get_short_help_str(_SHORT_HELP_MAX)) for name, one in commands if one is not None]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def _suggestion(self, ctx: click.Context, name: str) -> str:
        from difflib import get_close_matches

        near = get_close_matches(name, self.list_commands(ctx), n=1)
        return f"did you mean `{ctx.command_path} {near[0]}`?" if near else f"see `{ctx.command_path} --help`"


class LazyGroup(RavelGroup):
    """The root: its commands are modules, imported when one is named. Their short helps are known without."""

    is_root = True

    def __init__(self, name: str | None, *, lazy: Mapping[str, tuple[str, str]], **rest: Any) -> None:
        super().__init__(name, **rest)
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._lazy:
            return None
        module, _ = self._lazy[cmd_name]
        return cast(click.Command, import_module(module).command)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from ravelctl.cli import page

        self.format_usage(ctx, formatter)
        page.write_about(formatter)
        page.write_commands(formatter, {name: short for name, (_, short) in self._lazy.items()})
        self.format_options(ctx, formatter)
        page.write_end(formatter)
