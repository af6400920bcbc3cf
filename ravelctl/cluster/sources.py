"""Which replica is asked for what lies on its own disk."""

from __future__ import annotations

from typing import NamedTuple

from ravelctl.cli import dial
from ravelctl.cli.app import App
from ravelctl.cli.errors import CommandError
from ravelctl.cli.exit_codes import ExitCode
from ravelctl.cluster.overview import chief, find_member, replies, require_answer, survey
from ravelctl.completion.names import remember


class Source(NamedTuple):
    name: str
    address: str


async def source(app: App, replica: str | None) -> Source:
    """The member called `replica` (a name or an id), else the first endpoint that answers and is in a cluster.

    Raises CommandError: 1 unknown member, 3 nobody answers, 4 the daemons are blank.
    """
    async with dial.cluster(app) as client:
        answers = await survey(client, app.settings.endpoints, timeout_s=app.settings.timeout_s)
    require_answer(answers)
    remember(app, answers.values())
    if replica is not None and (status := chief(answers)) is not None:
        member = find_member(status.members, replica)
        return Source(member.server.name, member.server.addresses.listen)
    for address, status in replies(answers).items():
        if not status.blank and not status.removed:
            return Source(status.server.name, address)
    raise CommandError(
        f"the daemons at {', '.join(answers)} belong to no cluster yet",
        code=ExitCode.NO_LEADER,
        next_step="make one with `ravelctl bootstrap`",
        reason="BLANK",
    )
