"""`ravelctl admin reconcile`: registry and clusters agree again about who owns which slot. Shown, confirmed, done to the end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from ravelctl.admin.directory import owners_of, ranges_text
from ravelctl.cli import dial
from ravelctl.cli.app import App, Progress
from ravelctl.cli.errors import CommandError, usage_error
from ravelctl.cli.exit_codes import ExitCode
from ravelctl.cli.output import U64, View, count_text
from ravelctl.client.errors import RavelError
from ravelpb.slots import SLOT_COUNT
from ravelpb.v1 import admin_pb2 as pb

if TYPE_CHECKING:
    from ravelctl.client import AdminClient

PATIENCE_S: Final = 30.0
"""How long nothing may get on, unless --timeout says otherwise."""

LOOK_S: Final = 10.0
"""How long all clusters may take to be asked, unless --timeout says otherwise: one that hangs is given up after 3 s."""

CARRY_OUT_S: Final = 20.0
"""How long one call may take that changes things, for about two seconds and what it waits for."""

AGAIN_S: Final = 0.5
ALL: Final = "all"


def read_slots(text: str) -> list[int]:
    """`0-99,200` or `all` as slots, ascending. Raises CommandError for anything else."""
    if text == ALL:
        return list(range(SLOT_COUNT))
    slots: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        low, high = (first, last) if dash else (first, first)
        if not (low.isdecimal() and high.isdecimal() and int(low) <= int(high) < SLOT_COUNT):
            raise usage_error(
                f"{part.strip()!r} names no slots: they are 0 to {SLOT_COUNT - 1}, such as 0-99,200, or {ALL}",
                "`ravelctl admin reconcile --dry-run` tells which slots would lose keys",
            )
        slots.update(range(int(low), int(high) + 1))
    return sorted(slots)


def slots_word(slots: Iterable[int]) -> str:
    """Slots as --accept-loss takes them: one word."""
    return ranges_text(slots).replace(" ", "")


async def reconcile(app: App, accept_loss: str | None) -> View:
    """Look, show, ask, and do what is to be done until nothing is left."""
    accepted = read_slots(accept_loss) if accept_loss is not None else []
    async with dial.admin(app) as admin:
        found = await admin.reconcile(accepted, dry_run=True, timeout_s=app.settings.wait_timeout_s(LOOK_S))
        away = await _about_away(admin, found, accept_loss)
        nothing = found.done and not found.losses
        if app.settings.dry_run or found.done:
            said = _agree(found) if nothing else "\n".join(told(found)) or "nothing can be done yet"
            notes = (*away, *(("dry run: nothing was changed",) if app.settings.dry_run and not found.done else ()))
            _check_losses(found, app)
            return _view(found, said, changed=False, notes=notes)
        app.say("\n".join((*told(found), *map(_loss_told, _open(found)), *away)))
        app.confirm("make it so?")
        with app.progress("reconcile:") as progress:
            last, deleted = await _carried_out(admin, accepted, found.plan, progress, app.settings.wait_timeout_s(PATIENCE_S))
        away = await _about_away(admin, last, accept_loss)
    _check_losses(last, app, done=f"what needs no consent is done, by map version {last.map_version}")
    found.done, found.map_version, found.keys_deleted = last.done, last.map_version, deleted
    said = f"{_agree(last)}, by map version {last.map_version}"
    if deleted:
        said += f"; deleted where they no longer belong: {count_text(deleted, 'key')}"
    return _view(found, said, changed=True, notes=away)


async def _carried_out(
    admin: AdminClient, accepted: Sequence[int], plan: str, progress: Progress, patience_s: float
) -> tuple[pb.ReconcileResponse, int]:
    """Until nothing is left; with the keys that were deleted. Raises CommandError where nothing gets on any more."""
    loop = asyncio.get_running_loop()
    deleted, stuck_since, obstacle = 0, loop.time(), ""
    while True:
        try:
            answer = await admin.reconcile(accepted, plan=plan, timeout_s=CARRY_OUT_S)
        except RavelError as error:
            if plan:  # not begun: what the refusal or the silence says is the answer
                raise
            obstacle = error.message
        else:
            plan, obstacle = "", answer.obstacle
            if answer.done:
                return answer, deleted + answer.keys_deleted
            if answer.keys_deleted or not answer.obstacle:
                stuck_since = loop.time()
            deleted += answer.keys_deleted
        progress.update(obstacle or f"{count_text(deleted, 'key')} deleted")
        if loop.time() - stuck_since > patience_s:
            raise CommandError(
                f"registry and clusters do not agree yet: {obstacle}",
                code=ExitCode.TIMED_OUT,
                next_step="what was done stays done: repeat `ravelctl admin reconcile` once the clusters answer",
            )
        if obstacle:
            await asyncio.sleep(AGAIN_S)


def _agree(found: pb.ReconcileResponse) -> str:
    return "registry and clusters agree" if not found.away else "the registry and all clusters that answer agree"


def told(found: pb.ReconcileResponse) -> Iterator[str]:
    """What would be done, line by line, and what would not without consent."""
    if found.slots_decided:
        yield f"the registry's map gives another owner to {count_text(found.slots_decided, 'slot')}"
    if found.moves_struck:
        yield f"struck, since it cannot go on: {count_text(len(found.moves_struck), 'move')}"
    for change in found.changes:
        yield f"cluster {change.name}: " + "; ".join(_change_told(change))
    for loss in found.losses:
        slots = f"{count_text(len(loss.slots), 'slot')} ({ranges_text(loss.slots)})"
        if loss.accepted:
            yield f"cluster {loss.name} opens {slots}, as accepted: {loss.reason}"


def _change_told(change: pb.OwnershipChange) -> Iterator[str]:
    if change.gained:
        yield f"gets {count_text(len(change.gained), 'slot')} ({ranges_text(change.gained)})"
    if change.lost:
        held = len(change.lost_with_keys)
        keys = f", and deletes what it has in {held} of them" if held else ", none of which has keys"
        yield f"loses {count_text(len(change.lost), 'slot')} ({ranges_text(change.lost)}){keys}"
    if change.moves_ended:
        yield f"ends {count_text(len(change.moves_ended), 'move')}"
    if change.moves_to_purge:
        yield f"deletes what it still holds of {count_text(len(change.moves_to_purge), 'move')} that ended"
    if not (change.gained or change.lost or change.moves_ended or change.moves_to_purge):
        yield "is told which slots it owns"


def _check_losses(found: pb.ReconcileResponse, app: App, done: str = "") -> None:
    """Raise CommandError for slots that stay closed, or in doubt, until somebody accepts what is lost with them."""
    open_losses = _open(found)
    if not open_losses or (app.settings.dry_run and not found.done):
        for loss in open_losses:
            app.say(_loss_told(loss))
        return
    slots = sorted(slot for loss in open_losses for slot in loss.slots)
    raise CommandError(
        "; ".join((*((done,) if done else ()), *map(_loss_told, open_losses))),
        code=ExitCode.FAILED if done else ExitCode.REFUSED,
        next_step="if a cluster that holds them can still be brought back, do that first; to give up what is lost: "
        f"ravelctl admin reconcile --accept-loss {slots_word(slots)}",
    )


def _open(found: pb.ReconcileResponse) -> list[pb.SlotsLoss]:
    """The losses that nobody has accepted."""
    return [loss for loss in found.losses if not loss.accepted]


def _loss_told(loss: pb.SlotsLoss) -> str:
    return (
        f"cluster {loss.name} would open {count_text(len(loss.slots), 'slot')} ({ranges_text(loss.slots)}) "
        f"only with consent: {loss.reason}"
    )


async def _about_away(admin: AdminClient, found: pb.ReconcileResponse, accept_loss: str | None) -> tuple[str, ...]:
    if not found.away:
        return ()
    owners = owners_of(await admin.slot_map())
    notes = []
    for away in found.away:
        slots = [slot for slot, owner in enumerate(owners) if owner == away.number]
        said = f"cluster {away.name} does not tell what it owns ({away.reason})"
        if slots:
            said += f": its {count_text(len(slots), 'slot')} stay as they are"
            if accept_loss is None:
                said += (
                    f"; if it is gone for good, `ravelctl admin reconcile --accept-loss {slots_word(slots)}` "
                    "opens them elsewhere, empty"
                )
        notes.append(said)
    return tuple(notes)


def _view(found: pb.ReconcileResponse, said: str, *, changed: bool, notes: tuple[str, ...]) -> View:
    data = {
        "map_version": U64(found.map_version),
        "changed": changed,
        "done": found.done,
        "slots_decided": found.slots_decided,
        "keys_deleted": U64(found.keys_deleted),
        "moves_struck": [U64(move) for move in found.moves_struck],
        "changes": [
            {
                "cluster": change.name,
                "gained": slots_word(change.gained),
                "lost": slots_word(change.lost),
                "lost_with_keys": slots_word(change.lost_with_keys),
                "moves_ended": [U64(move) for move in change.moves_ended],
                "moves_to_purge": [U64(move) for move in change.moves_to_purge],
            }
            for change in found.changes
        ],
        "losses": [
            {"cluster": loss.name, "slots": slots_word(loss.slots), "reason": loss.reason, "accepted": loss.accepted}
            for loss in found.losses
        ],
        "away": [{"cluster": away.name, "reason": away.reason} for away in found.away],
    }
    names = tuple(change.name for change in found.changes)
    return View(kind="AdminReconcile", data=data, body=said, names=names, notes=notes)
