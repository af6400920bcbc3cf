"""Bounds of the core that are not settings: nobody should ever meet them, and nothing may grow past them."""

from __future__ import annotations

from typing import Final

NUMBER_MAX: Final = 1 << 62
"""Terms and indexes stay below this: no correct cluster gets there, and who names higher ones is not believed."""

EVENTS_MAX: Final = 1024
"""Events that may wait to be fetched; the ones after that are lost."""

READS_PENDING_MAX: Final = 65_536
"""Reads that may wait at one leader; the ones after that are dropped, as lost messages would be."""
