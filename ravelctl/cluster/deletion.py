"""Deleting many keys: those that were counted, as they were counted, in atomic batches.

A key that is written after the count has a higher revision than any counted one of its slot (revisions of several clusters cannot
be compared, those of a slot can, wherever it moves), and one that is written between a page and its batch breaks its condition:
neither is deleted, since nobody agreed to that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Final, NamedTuple

from ravelpb.slots import slot_of

if TYPE_CHECKING:
    from ravelctl.client import KeyValue, RavelClient

BATCH_KEYS: Final = 1_000
"""Keys that go in one atomic write; a server takes 1,024."""


class Counted(NamedTuple):
    """How many keys there were, and the highest revision among those of each slot."""

    keys: int
    newest: Mapping[int, int]


async def count_prefix(client: RavelClient, prefix: bytes) -> Counted:
    keys = 0
    newest: dict[int, int] = {}
    async with aclosing(client.scan(prefix=prefix, keys_only=True)) as found:
        async for item in found:
            keys += 1
            slot = slot_of(item.key)
            newest[slot] = max(newest.get(slot, 0), item.revision)
    return Counted(keys, newest)


async def delete_prefix(client: RavelClient, prefix: bytes, counted: Counted, progress: Callable[[int], None]) -> tuple[int, int]:
    """Delete what was counted; how many keys are gone, and how many stayed because they changed. Raises RavelError.

    `progress` is told how many are gone so far. After an error those stay gone; repeating deletes the rest.
    """
    deleted = left = 0
    batch: list[KeyValue] = []
    async with aclosing(client.scan(prefix=prefix, keys_only=True, page_keys_max=BATCH_KEYS)) as found:
        async for item in found:
            if item.revision > counted.newest.get(slot_of(item.key), 0):
                left += 1
                continue
            batch.append(item)
            if len(batch) == BATCH_KEYS:
                deleted += await _delete_batch(client, batch)
                left += BATCH_KEYS - len(batch)
                batch.clear()
                progress(deleted)
    size = len(batch)
    deleted += await _delete_batch(client, batch)
    return deleted, left + size - len(batch)


async def _delete_batch(client: RavelClient, batch: list[KeyValue]) -> int:
    """Delete these keys, those of each cluster at once; how many went. Those that have changed are taken out of the batch."""
    from ravelctl.client import InvalidArgumentError

    found = {item.key: item for item in batch}
    left: list[KeyValue] = []
    for keys in client.groups(found):
        group = [found[key] for key in keys]
        try:
            await _delete_together(client, group)
        except InvalidArgumentError:
            if len(group) == 1:
                raise
            alone = [[item] for item in group]  # a slot has moved: they are not in one cluster any more
            for one in alone:
                await _delete_together(client, one)
            group = [item for one in alone for item in one]
        left += group
    batch[:] = left
    return len(batch)


async def _delete_together(client: RavelClient, group: list[KeyValue]) -> None:
    """Delete these keys at once, but for those that have changed, which are taken out of the group."""
    from ravelctl.client import Condition, Delete

    while group:
        written = await client.write(
            [Delete(item.key) for item in group], conditions=[Condition(item.key, item.revision) for item in group]
        )
        if written.done:
            break
        group[:] = [item for item in group if item.key != written.failed_key]
