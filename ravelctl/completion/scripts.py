"""The scripts that shells source to complete our command lines.

Click's own fail on `--option=value` (bash and fish offer nothing, zsh replaces the whole word) and, in bash, on values with a
colon, because bash breaks words at `=` and `:` and click sees the pieces. These hand over the whole line up to the cursor; what
can stand there is the affair of `ravelctl.completion.tab`, which also says what its answers mean.
"""

from __future__ import annotations

from typing import Final

from ravelctl.__main__ import COMPLETE_VARIABLE, LINE_VARIABLE
from ravelctl.cli.app import PROGRAM

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


SCRIPTS: Final = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def script(shell: str) -> str:
    """The script to source in a shell; the same each time."""
    words = {"complete_func": f"_{PROGRAM}", "complete_var": COMPLETE_VARIABLE, "line_var": LINE_VARIABLE, "prog_name": PROGRAM}
    return SCRIPTS[shell] % words
