"""What the revisions of a whole history must obey, whatever keys they are of: one counter of the store, up by one a change.

Keys can be checked one by one for their values; the counter is what ties them together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ravelctl.linearizability.history import Kind, Operation, Outcome


class Claim(NamedTuple):
    """An answer that names the change which has this revision: the key got the value, or went (None)."""

    revision: int
    key: bytes
    value: bytes | None
    operation: Operation
    is_own: bool  # the operation made the change itself


class Clash(NamedTuple):
    sentence: str
    operations: tuple[Operation, ...]


def clashes(history: Sequence[Operation], *, only_writers: bool) -> Iterator[Clash]:
    """Each breach found. With `only_writers` nobody else changed the store: every revision must belong to some operation."""
    claims = [claim for operation in history if (claim := _claim(operation)) is not None]
    yield from _shared(history, claims)
    yield from _out_of_time(history, claims)
    if only_writers:
        yield from _nobodys(history, claims)


def _claim(operation: Operation) -> Claim | None:
    if operation.outcome is not Outcome.DONE or not operation.revision:
        return None
    revision, key = operation.revision, operation.key
    match operation.kind:
        case Kind.PUT:
            return Claim(revision, key, operation.value, operation, True)
        case Kind.COMPARE_AND_SWAP if operation.swapped:
            return Claim(revision, key, operation.value, operation, True)
        case Kind.DELETE:
            # One of a batch need not have changed anything; then its revision says nothing of its key.
            return Claim(revision, key, None, operation, True) if operation.found else None
        case _:
            return Claim(revision, key, operation.answer, operation, False) if operation.answer is not None else None


def _shared(history: Sequence[Operation], claims: list[Claim]) -> Iterator[Clash]:
    """Different changes with one revision. Only the changes of one atomic batch, one a key, may share theirs."""
    batches: dict[tuple[bytes, bytes | None], set[int]] = defaultdict(set)
    for operation in history:
        if operation.batch is not None:
            batches[operation.key, operation.value].add(operation.batch)
    first: dict[int, Claim] = {}
    owners: dict[tuple[int, bytes], Claim] = {}
    for claim in claims:
        if claim.is_own and (owner := owners.setdefault((claim.revision, claim.key), claim)) is not claim:
            yield Clash(f"two changes have revision {claim.revision}", (owner.operation, claim.operation))
            continue
        other = first.setdefault(claim.revision, claim)
        if (other.key, other.value) == (claim.key, claim.value):
            continue
        together = batches[other.key, other.value] & batches[claim.key, claim.value]
        for each in (other, claim):
            if each.is_own:
                together &= {each.operation.batch} if each.operation.batch is not None else set()
        if other.key == claim.key or not together:
            yield Clash(f"revision {claim.revision} is of two different changes", (other.operation, claim.operation))


def _out_of_time(history: Sequence[Operation], claims: list[Claim]) -> Iterator[Clash]:
    """A change that began after an answer told of a revision has a higher one.

    A delete that found nothing tells the store's revision as well: one not lower than any told before.
    """
    seen = [(claim.operation.completed_s or 0.0, claim.revision, claim.operation) for claim in claims]
    late = [(claim.operation.invoked_s, claim.revision, claim.operation) for claim in claims if claim.is_own]
    for operation in history:
        if operation.outcome is Outcome.DONE and operation.kind is Kind.DELETE and not operation.found and operation.revision:
            seen.append((operation.completed_s or 0.0, operation.revision, operation))
            late.append((operation.invoked_s, operation.revision + 1, operation))
    seen.sort(key=lambda each: each[0])
    late.sort(key=lambda each: each[0])
    highest, witness, place = 0, None, 0
    for begin_s, revision, operation in late:
        while place < len(seen) and seen[place][0] < begin_s:
            if seen[place][1] > highest:
                _, highest, witness = seen[place]
            place += 1
        if witness is not None and revision <= highest:
            yield Clash(f"revision {operation.revision} was given out after revision {highest} was", (witness, operation))


def _nobodys(history: Sequence[Operation], claims: list[Claim]) -> Iterator[Clash]:
    """Revisions below the highest one that are told of no change, beyond those that changes of untold revision can have.

    A write that was done twice shows here even if nobody read what the second time left.
    """
    told = {claim.revision for claim in claims}
    missing = [revision for revision in range(1, max(told, default=0)) if revision not in told]
    able = [operation for operation in history if _may_have_one_untold(operation)]
    batches = {operation.batch for operation in able if operation.batch is not None}
    count = len(batches) + sum(operation.batch is None for operation in able)
    if len(missing) > count:
        shown = ", ".join(str(revision) for revision in missing[:10]) + (", ..." if len(missing) > 10 else "")
        yield Clash(
            f"{len(missing)} revisions belong to no known change ({shown}), and only {count} operations can have made one", ()
        )


def _may_have_one_untold(operation: Operation) -> bool:
    if operation.outcome is Outcome.UNKNOWN:
        return operation.kind is not Kind.GET
    if operation.outcome is Outcome.FAILED:
        return False
    match operation.kind:
        case Kind.GET_AND_DELETE:
            return operation.answer is not None
        case Kind.DELETE:
            return operation.found is None or (operation.found and not operation.revision)
        case Kind.PUT:
            return not operation.revision
        case Kind.COMPARE_AND_SWAP:
            return bool(operation.swapped) and not operation.revision
        case Kind.GET:
            return False
