"""The table that answers Tab, made from the tree of commands by `make completions`."""

from __future__ import annotations

import sys
from importlib import import_module

import click

from ravelctl.cli.command import GlobalOption
from ravelctl.cli.root import COMMANDS, root

HEAD = '''\
"""What Tab knows of the commands. Made from them by `make completions`; never edited.

A command: what it does; its options; its arguments; its verbs. An option: its names; the kind of its value; whether it may be
said again; what it does. An argument: its kind; whether more of them follow. A kind: a word that `tab` knows, or all values.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, TypeAlias

    Option: TypeAlias = tuple[tuple[str, ...], str | tuple[str, ...], bool, str]
    Command: TypeAlias = tuple[str, tuple[Option, ...], tuple[tuple[str | tuple[str, ...], bool], ...], dict[str, "Command"]]

'''

Kind = str | tuple[str, ...]


def made() -> str:
    """The module's source."""
    shared = [_option(p) for p in root.params if isinstance(p, GlobalOption)]
    shared.append(_option(_help_option(root)))
    verbs = {name: _command(import_module(module).command, short) for name, (module, short) in COMMANDS.items()}
    lines = ["GLOBAL: Final[tuple[Option, ...]] = (", *(f"    {option!r}," for option in shared), ")", ""]
    about, options, arguments, _ = _command(root, "")
    lines += [f"ROOT: Final[Command] = ({about!r}, {options!r}, {arguments!r}, {{", *_lines(verbs, 1), "})", ""]
    return HEAD + "\n".join(lines)


def _lines(commands: dict[str, tuple[object, ...]], depth: int) -> list[str]:
    """As source, an option and a verb a line."""
    indent, found = "    " * depth, []
    for name, (about, options, arguments, verbs) in commands.items():
        assert isinstance(options, tuple)
        assert isinstance(verbs, dict)
        found += [f"{indent}{name!r}: ({about!r}, (", *(f"{indent}    {option!r}," for option in options)]
        found += [f"{indent}), {arguments!r}, {{", *_lines(verbs, depth + 1), f"{indent}}}),"]
    return found


def _command(command: click.Command, short: str) -> tuple[object, ...]:
    own = [p for p in command.params if not isinstance(p, GlobalOption)]
    options = tuple(_option(p) for p in own if isinstance(p, click.Option) and not p.hidden)
    arguments = tuple((_kind(p), p.nargs == -1) for p in own if isinstance(p, click.Argument))
    verbs = sorted(command.commands.items()) if isinstance(command, click.Group) else []  # none of the root: it loads them lazily
    return short, options, arguments, {name: _command(verb, verb.get_short_help_str()) for name, verb in verbs}


def _option(param: click.Parameter) -> tuple[tuple[str, ...], Kind, bool, str]:
    assert isinstance(param, click.Option)
    return (*param.opts, *param.secondary_opts), _kind(param), param.multiple, " ".join((param.help or "").split())


def _help_option(command: click.Command) -> click.Parameter:
    with click.Context(command, help_option_names=["-h", "--help"]) as ctx:
        found = command.get_help_option(ctx)
        assert found is not None
        return found


def _kind(param: click.Parameter) -> Kind:
    if isinstance(param, click.Option) and param.is_flag:
        return "flag"
    if isinstance(param.type, click.Choice):
        return tuple(param.type.choices)
    if isinstance(param.type, click.Path):
        return "dir" if param.type.dir_okay and not param.type.file_okay else "file"
    return str(getattr(param.type, "tab", "text"))


if __name__ == "__main__":
    sys.stdout.write(made())
