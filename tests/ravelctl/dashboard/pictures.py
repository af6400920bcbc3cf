"""Makes the pictures of docs/top.md from the recorded session of a real cluster: `make pictures`.

`python -m tests.e2e.session FILE` records another session.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from ravelctl.client import ClusterClient, InspectClient
from ravelctl.dashboard.app import TopApp
from ravelctl.dashboard.recording import Player, Recording
from ravelctl.dashboard.session import Options, Replayed, Target
from ravelctl.dashboard.widgets.replica_table import RowTable

FOLDER = Path(__file__).parents[3] / "docs" / "pictures"
SESSION = FOLDER / "session.rvtop"
NOWHERE = Target((), lambda endpoints: ClusterClient(tuple(endpoints)), InspectClient)


def moments(recording: Path) -> dict[str, int]:
    """Times, in ms, of what the pictures show: found in the recording, so that another session will do."""
    player = Player(Recording(recording))
    found: dict[str, int] = {}
    fewest = 1_000
    for block in player.recording.blocks:
        player.step(1)
        view, at_ms = player.picture.view, player.at_ms
        down = [row for row in view.replicas if row.freshness == "down"]
        worries = len(player.picture.alarms)
        if view.leader is not None and not down and 8_000 < at_ms < 40_000 and worries < fewest:
            found["main"], fewest = at_ms, worries
        if view.leader is None and down and view.answering:
            found.setdefault("no-leader", at_ms)
        if view.leader is not None and down and player.picture.alarms and down[0].age_s > 5:
            found.setdefault("down", at_ms)
        if block is player.recording.blocks[-1] or at_ms >= player.recording.length_ms:
            found["replica"] = at_ms
    return found


async def picture(name: str, at_ms: int, size: tuple[int, int], theme: str, keys: tuple[str, ...] = ()) -> None:
    app = TopApp(Options(NOWHERE, replay=SESSION, theme=theme))
    async with app.run_test(size=size) as pilot:
        source = app.source
        assert isinstance(source, Replayed)
        source.player.playing = False
        source.player.seek(at_ms)
        await pilot.press("right_square_bracket", "left_square_bracket")
        if name == "replica":
            table = app.screen.query_one(RowTable)
            table.cursor = next(row.key for row in source.picture.view.replicas if row.role != "LEADER")
        await pilot.press(*keys)
        await pilot.pause()
        (FOLDER / f"{name}.svg").write_text(app.export_screenshot(title="ravelctl top"))


async def main() -> None:
    at = moments(SESSION)
    await picture("main", at["main"], (120, 24), "ravel-dark")
    await picture("down", at["down"], (120, 24), "ravel-dark")
    await picture("narrow", at["down"], (80, 24), "ravel-dark")
    await picture("replica", at["replica"], (120, 30), "ravel-dark", ("enter",))
    await picture("light", at["main"], (120, 24), "ravel-light")
    if "no-leader" in at:
        await picture("no-leader", at["no-leader"], (120, 24), "ravel-dark")
    print("\n".join(f"{name} at {ms / 1000:.0f} s" for name, ms in at.items()), file=sys.stderr)


if __name__ == "__main__":
    asyncio.run(main())
