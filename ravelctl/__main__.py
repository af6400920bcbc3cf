"""Where every run begins: the installed `ravelctl`, and `python -m ravelctl`. Tab is answered before anything else is loaded."""

from __future__ import annotations

import gc
import os
import sys

TYPE_CHECKING = False  # as type checkers know it: `typing` takes longer to load than Tab takes for the rest
if TYPE_CHECKING:
    from typing import Final

COMPLETE_VARIABLE: Final = "_RAVELCTL_COMPLETE"
"""Set by the shell's completion script to what it wants: `bash_complete`."""
LINE_VARIABLE: Final = "_RAVELCTL_LINE"
"""The command line up to the cursor, as typed."""

FEWEST_FOR_GARBAGE: Final = 50_000
"""New objects before Python looks for garbage. With its own 700 it looks often while a command loads, all of which stays."""


def main() -> int:
    """Run the command line of this process and return the exit code."""
    if instruction := os.environ.get(COMPLETE_VARIABLE):
        from ravelctl.completion.tab import complete

        return complete(instruction, os.environ.get(LINE_VARIABLE, ""))
    gc.set_threshold(FEWEST_FOR_GARBAGE)
    from ravelctl.cli import root

    code = root.main()
    gc.freeze()  # the process ends, and all its memory with it
    return code


if __name__ == "__main__":
    sys.exit(main())
