"""`ravelctl`: the root of the commands, and how a run ends.

A command joins the tree by one line in `COMMANDS`; its module offers `command` and is imported only when it is named.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from errno import EDQUOT, ENOSPC
from itertools import pairwise
from typing import Final

import click

from ravelctl.cli.app import PROGRAM, App
from ravelctl.cli.command import LazyGroup, tell_error
from ravelctl.cli.errors import CommandError
from ravelctl.cli.exit_codes import ExitCode
from ravelctl.store.guard import guarded, reads_files

COMMANDS: Final[Mapping[str, tuple[str, str]]] = {
    "bootstrap": ("ravelctl.commands.bootstrap", "Turn blank daemons into a new cluster."),
    "join": ("ravelctl.commands.join", "Take a blank daemon into a cluster."),
    "leave": ("ravelctl.commands.leave", "Take a replica out for good."),
    "status": ("ravelctl.commands.status", "Show how the cluster does, at one look."),
    "health": ("ravelctl.commands.health", "Say in one line whether the cluster is healthy."),
    "top": ("ravelctl.commands.top", "Show terms, leaders and lag, live."),
    "record": ("ravelctl.commands.record", "Record a cluster, for `top --replay`."),
    "doctor": ("ravelctl.commands.doctor", "Say why there is no leader, or what is at risk."),
    "member": ("ravelctl.commands.member", "List, promote, demote, replace, remove, update members."),
    "settings": ("ravelctl.commands.settings", "Show and change the settings of the whole cluster."),
    "leader": ("ravelctl.commands.leader", "Show, transfer or give up leadership."),
    "events": ("ravelctl.commands.events", "Show what has happened: elections, changes, alarms."),
    "log": ("ravelctl.commands.log", "Show, follow, compare and verify logs."),
    "store": ("ravelctl.commands.store", "Measure, check, compare and compact what lies on disks."),
    "snapshot": ("ravelctl.commands.snapshot", "Save, inspect, verify and restore snapshots."),
    "recover": ("ravelctl.commands.recover", "Make a new cluster of what a lost quorum left."),
    "verify": ("ravelctl.commands.verify", "Test whether a live cluster is linearizable."),
    "kv": ("ravelctl.commands.kv", "Get, put, delete, swap, list and watch keys."),
    "admin": ("ravelctl.commands.admin", "List clusters, servers and slots; move slots."),
    "playground": ("ravelctl.commands.playground", "Run a real cluster on this machine."),
    "bench": ("ravelctl.commands.bench", "Put load on a live cluster and measure it."),
    "context": ("ravelctl.commands.context", "Keep clusters under names, and choose among them."),
    "config": ("ravelctl.commands.config", "Show which settings hold, and check their file."),
    "completion": ("ravelctl.commands.completion", "Print a shell's completion script."),
    "version": ("ravelctl.commands.version", "Print the version."),
    "help": ("ravelctl.commands.help", "Tell about ravelctl, or about one command."),
}

_FULL: Final = frozenset({ENOSPC, EDQUOT})


def _print_version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        from ravelctl.commands.version import own_version

        print(f"{PROGRAM} {own_version()}")
        ctx.exit()


_VERSION: Final = click.Option(
    ["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show the version and exit."
)
root = LazyGroup(PROGRAM, lazy=COMMANDS, params=[_VERSION], help="Operate ravel, a fault-tolerant replicated key-value store.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (`sys.argv` by default) and return the exit code. Prints; never exits."""
    if None in (sys.stdin, sys.stdout, sys.stderr):
        from ravelctl.cli.streams import stand_in

        stand_in()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None and reads_files(words):
        return guarded(lambda: main(words), lambda name: _crashed(name, words))
    app = App()
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # read when grpc loads: what goes wrong is told in our words, once
    try:
        with root.make_context(PROGRAM, words, obj=app) as ctx:
            code = root.invoke(ctx)
        sys.stdout.flush()
        return int(code)
    except CommandError as error:
        return tell_error(error, app, as_json=_wants_json(app, words))
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        return ExitCode.USAGE
    except click.UsageError as error:
        return tell_error(_from_click(error), app, as_json=_wants_json(app, words))
    except (KeyboardInterrupt, click.Abort):
        if arguments is None:
            _end_at_the_next_interrupt()
        if sys.stderr.isatty():
            print(file=sys.stderr)  # the terminal has put ^C where the line would begin
        what = "interrupted: nothing was done" if app.unsent else "interrupted"
        return tell_error(CommandError(what, code=ExitCode.INTERRUPTED), app, as_json=_wants_json(app, words))
    except BrokenPipeError:
        # Whoever read the output has seen enough, as `| head` does.
        from ravelctl.cli.streams import leave_stdout

        leave_stdout()
        return ExitCode.DONE
    except OSError as error:
        if error.errno is None:
            raise
        from ravelctl.cli.streams import leave_stdout

        leave_stdout()
        return tell_error(_from_system(error), app, as_json=_wants_json(app, words))
    finally:
        app.close()


def _end_at_the_next_interrupt() -> None:
    """Whoever presses Ctrl-C again, while connections are closed, wants the program gone, and not its stack."""
    import signal

    signal.signal(signal.SIGINT, lambda *_: os._exit(ExitCode.INTERRUPTED))


def _crashed(name: str, words: Sequence[str]) -> int:
    """The process that read the files was killed by what it found in them."""
    error = CommandError(
        f"the files cannot be read: LMDB ran into pages that are none of its own ({name})",
        code=ExitCode.DAMAGED,
        next_step="take another replica's directory or another snapshot; this one's disk, or a copy of it, is not whole",
        reason="DAMAGED",
    )
    return tell_error(error, App(), as_json=_wants_json(App(), words))


def _from_click(error: click.UsageError) -> CommandError:
    path = error.ctx.command_path if error.ctx else PROGRAM
    if isinstance(error, click.NoSuchOption):
        from difflib import get_close_matches

        # Without the dashes, which would make all options resemble each other.
        near = get_close_matches(error.option_name.lstrip("-"), [name.lstrip("-") for name in error.possibilities or ()], n=1)
        step = f"did you mean `{path} --{near[0]}`?" if near else f"see `{path} --help`"
        return CommandError(f"{path} has no option {error.option_name}", code=ExitCode.USAGE, next_step=step)
    sentence = " ".join(error.format_message().split()).removesuffix(".")
    return CommandError(sentence[:1].lower() + sentence[1:], code=ExitCode.USAGE, next_step=f"see `{path} --help`")


def _from_system(error: OSError) -> CommandError:
    """What the system refused: of files that commands open by themselves they tell more; what is left is the output."""
    why = (error.strerror or str(error)).lower()
    if error.filename is not None:
        return CommandError(f"cannot use {error.filename}: {why}")
    step = "see whether there is room on the disk that it goes to" if error.errno in _FULL else ""
    return CommandError(f"cannot write the output: {why}", next_step=step)


def _wants_json(app: App, words: Sequence[str]) -> bool:
    """Whether errors are for a program. A line that could not be parsed is searched for the words that say so."""
    if "output" in app.given:
        return bool(app.given["output"] == "json")
    pairs = pairwise(words)
    return any(word in {"-ojson", "-o=json", "--output=json"} for word in words) or any(
        flag in {"-o", "--output"} and value == "json" for flag, value in pairs
    )
