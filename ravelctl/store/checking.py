"""`log verify` and `store check`: everything is read, by the daemon itself or out of its directory, and what is wrong is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ravelctl.cli.exit_codes import ExitCode
from ravelctl.cli.output import U64, Table, View, columns, count_text
from ravelctl.config.settings import TRANSFER_TIMEOUT_S

if TYPE_CHECKING:
    from ravelctl.cli.app import App, Progress


@dataclass(slots=True)
class Findings:
    """What the steps of one check have told so far."""

    progress: Progress
    done: dict[str, int] = field(default_factory=dict)  # by part
    problems: list[str] = field(default_factory=list)

    def step(self, part: str, done: int, total: int, problems: Sequence[str]) -> None:
        self.done[part] = done
        self.problems += problems
        found = f", {count_text(len(self.problems), 'problem')}" if self.problems else ""
        self.progress.amount(done, total, f"{part}{found}")


def check_directory(app: App, data_dir: str, *, log_only: bool) -> View:
    """Read the directory. Raises CommandError where it cannot be read at all."""
    from ravelctl.offline.directory import check

    with app.progress(f"checking {data_dir}:") as progress:
        found = Findings(progress)
        for step in check(Path(data_dir), log_only=log_only):
            found.step(step.part, step.done, step.total, step.problems)
    return _view(data_dir, found, log_only=log_only)


async def check_replica(app: App, replica: str | None, *, log_only: bool) -> View:
    """Have the replica check itself while it serves."""
    import asyncio

    from ravelctl.cli import dial
    from ravelctl.client.errors import DeadlineError
    from ravelctl.cluster.sources import source

    chosen = await source(app, replica)
    try:
        async with asyncio.timeout(app.settings.wait_timeout_s(TRANSFER_TIMEOUT_S)), dial.inspect(app) as client:
            with app.progress(f"checking {chosen.name}:") as progress:
                found = Findings(progress)
                async for step in client.check_store(chosen.address, log_only=log_only):
                    if not step.finished:
                        found.step(step.part, step.done, step.total, step.problems)
    except TimeoutError:
        raise DeadlineError(
            f"{chosen.name} was not checked within {app.settings.wait_timeout_s(TRANSFER_TIMEOUT_S):g}s"
        ) from None
    return _view(chosen.name, found, log_only=log_only)


def _view(source: str, found: Findings, *, log_only: bool) -> View:
    what = {"log": "entry", "state": "record", "positions": "", "snapshots": "byte"}
    plural = {"log": "entries"}
    read = [f"{part} {count_text(done, what[part], plural.get(part, ''))}" for part, done in found.done.items() if what.get(part)]
    summary = f"{source}: {', '.join(read)} read, {count_text(len(found.problems), 'problem')}"
    return View(
        kind="LogCheck" if log_only else "StoreCheck",
        data={
            "source": source,
            "ok": not found.problems,
            "read": {part: U64(done) for part, done in found.done.items()},
            "problems": list(found.problems),
        },
        body=Table(columns=columns("PROBLEM"), rows=tuple((problem,) for problem in found.problems), below=(summary,)),
        names=(source,),
        code=ExitCode.DAMAGED if found.problems else ExitCode.DONE,
    )
