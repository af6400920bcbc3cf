"""`ravelctl top --web`: the same application in a browser, on loopback and read-only, through textual-serve."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

HOST: Final = "127.0.0.1"
PAGE: Final = Path(__file__).with_name("page")


def serve(words: Sequence[str], port: int) -> None:
    """Serve until interrupted. `words` is the command line after `ravelctl`, without what writes."""
    from textual_serve.server import Server

    command = shlex.join([sys.executable, "-m", "ravelctl", *words])
    print(f"ravel top: http://{HOST}:{port}/  (Ctrl-C ends it)", file=sys.stderr, flush=True)
    Server(command, host=HOST, port=port, title="ravel top", templates_path=PAGE).serve()
