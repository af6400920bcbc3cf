"""`python -m ravelctl`."""

from __future__ import annotations

import sys

from ravelctl.cli import main

if __name__ == "__main__":
    sys.exit(main())
