"""Tab: click's completion, mended where its scripts give wrong answers.

Click's own scripts fail on `--option=value` (bash and fish offer nothing, zsh replaces the whole word) and, in bash, on values
with a colon, because bash breaks words at `=` and `:` and click sees the pieces. Here the scripts hand over the whole line up to
the cursor, the words are split by us, and what is offered is told in the form in which the shell will insert it.

What comes back is one line an offer: kind, a tab, the text to insert, a tab, its description. Kinds: `plain`; `file` and `dir`,
where the shell completes the path that is given as text.
"""

from __future__ import annotations

import os
import sys
from typing import ClassVar, Final

import click
from click.shell_completion import CompletionItem, ShellComplete, split_arg_string

from ravelctl.app import COMPLETE_VARIABLE, PROGRAM
from ravelctl.exit_codes import ExitCode

LINE_VARIABLE: Final = "_RAVELCTL_LINE"
"""The command line up to the cursor, as typed."""

_BASH: Final = """\
# Completion of %(prog_name)s for bash 4.4 and later. Made by `%(prog_name)s completion bash`.
%(complete_func)s() {
    local kind text about
    COMPREPLY=()
    while IFS=$'\\t' read -r kind text about; do
        case $kind in
            plain) COMPREPLY+=("$text") ;;
            file) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$text") ;;
            dir) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "$text") ;;
        esac
    done < <(%(line_var)s="${COMP_LINE:0:COMP_POINT}" %(complete_var)s=bash_complete "$1" 2>/dev/null)
    # Readline replaces only what follows the last = or : it breaks words at.
    local word=${COMP_LINE:0:COMP_POINT}
    word=${word##*[[:space:]]}
    local head=${word%%"${word##*[=:]}"} i
    if [[ -n $head && $COMP_WORDBREAKS == *[=:]* ]]; then
        for i in "${!COMPREPLY[@]}"; do COMPREPLY[i]=${COMPREPLY[i]#"$head"}; done
    fi
    [[ ${COMPREPLY[0]} == *= ]] && compopt -o nospace
    return 0
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""

_ZSH: Final = """\
#compdef %(prog_name)s
# Completion of %(prog_name)s for zsh. Made by `%(prog_name)s completion zsh`.
%(complete_func)s() {
    local kind text about
    local -a texts abouts
    while IFS=$'\\t' read -r kind text about; do
        case $kind in
            plain) texts+=("$text"); abouts+=("${text}${about:+  -- $about}") ;;
            file) compset -P '*='; _path_files ;;
            dir) compset -P '*='; _path_files -/ ;;
        esac
    done < <(%(line_var)s="${(j: :)words[1,CURRENT-1]} $PREFIX" %(complete_var)s=zsh_complete ${words[1]} 2>/dev/null)
    (( ${#texts} )) && compadd -U -l -V offers -d abouts -a texts
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""

_FISH: Final = """\
# Completion of %(prog_name)s for fish. Made by `%(prog_name)s completion fish`.
function %(complete_func)s
    set -l line (commandline -cp | string collect)
    for offer in (env %(line_var)s="$line" %(complete_var)s=fish_complete %(prog_name)s 2>/dev/null)
        set -l parts (string split \\t -- $offer)
        switch $parts[1]
            case plain
                printf '%%s\\t%%s\\n' $parts[2] $parts[3]
            case file
                set -l head (string match -r '^--[^=]*=' -- (commandline -ct))
                for path in (__fish_complete_path $parts[2])
                    printf '%%s%%s\\n' "$head" $path
                end
            case dir
                set -l head (string match -r '^--[^=]*=' -- (commandline -ct))
                for path in (__fish_complete_directories $parts[2])
                    printf '%%s%%s\\n' "$head" $path
                end
        end
    end
end
complete --no-files --command %(prog_name)s --arguments "(%(complete_func)s)"
"""


class RavelComplete(ShellComplete):
    """Completion from the line as typed. What is offered after `--option=` carries that prefix: it is one word."""

    prefix = ""

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ.get(LINE_VARIABLE, "")
        words = split_arg_string(line)[1:]
        incomplete = "" if not line or line[-1].isspace() or not words else words.pop()
        if incomplete.startswith("--") and "=" in incomplete:
            self.prefix = incomplete.partition("=")[0] + "="
        return words, incomplete

    def format_completion(self, item: CompletionItem[str]) -> str:
        about = " ".join((item.help or "").split())
        prefix = self.prefix if item.type == "plain" else ""
        return f"{item.type}\t{prefix}{item.value}\t{about}"

    def source_vars(self) -> dict[str, str]:  # type: ignore[override]  # click's own type allows no variables beside its own
        return {
            "complete_func": f"_{self.prog_name}",
            "complete_var": self.complete_var,
            "line_var": LINE_VARIABLE,
            "prog_name": self.prog_name,
        }


class BashComplete(RavelComplete):
    name: ClassVar[str] = "bash"
    source_template: ClassVar[str] = _BASH


class ZshComplete(RavelComplete):
    name: ClassVar[str] = "zsh"
    source_template: ClassVar[str] = _ZSH


class FishComplete(RavelComplete):
    name: ClassVar[str] = "fish"
    source_template: ClassVar[str] = _FISH


SHELLS: Final[dict[str, type[RavelComplete]]] = {kind.name: kind for kind in (BashComplete, ZshComplete, FishComplete)}


def script(root: click.Command, shell: str) -> str:
    """The script to source in a shell; the same each time."""
    return SHELLS[shell](root, {}, PROGRAM, COMPLETE_VARIABLE).source()


def complete(root: click.Command, instruction: str) -> int:
    """Answer a shell that asks. Whatever goes wrong, nothing is said but what can be offered."""
    shell, _, what = instruction.partition("_")
    if shell not in SHELLS or what != "complete":
        return ExitCode.USAGE
    offers = SHELLS[shell](root, {}, PROGRAM, COMPLETE_VARIABLE).complete()
    if offers:
        sys.stdout.write(offers + "\n")
    return ExitCode.DONE
