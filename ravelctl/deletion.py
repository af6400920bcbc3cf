"""Deleting many keys: those that were counted, as they were counted, in atomic batches.

A key that is written after the count has a higher revision than any counted one, and one that is written between a page and
its batch breaks its condition: neither is deleted, since nobody agreed to that.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from ravelctl.client import KeyValue, RavelClient

BATCH_KEYS: Final = 1_000
"""Keys that go in one atomic write; a server takes 1,024."""


class Counted(NamedTuple):
    """How many keys there were, and the highest revision among them."""

    keys: int
    revision: int


async def count_prefix(client: RavelClient, prefix: bytes) -> Counted:
    keys = newest = 0
    async with aclosing(client.scan(prefix=prefix, keys_only=True)) as found:
        async for item in found:
            keys += 1
            newest = max(newest, item.revision)
    return Counted(keys, newest)


async def delete_prefix(client: RavelClient, prefix: bytes, counted: Counted, progress: Callable[[int], None]) -> tuple[int, int]:
    """Delete what was counted; how many keys are gone, and how many stayed because they changed. Raises RavelError.

    `progress` is told how many are gone so far. After an error those stay gone; repeating deletes the rest.
    """
    deleted = left = 0
    batch: list[KeyValue] = []
    async with aclosing(client.scan(prefix=prefix, keys_only=True, page_keys_max=BATCH_KEYS)) as found:
        async for item in found:
            if item.revision > counted.revision:
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
    """Delete these keys at once, but for those that have changed, which are taken out of the batch; how many went."""
    from ravelctl.client import Condition, Delete

    while batch:
        written = await client.write(
            [Delete(item.key) for item in batch], conditions=[Condition(item.key, item.revision) for item in batch]
        )
        if written.done:
            break
        batch[:] = [item for item in batch if item.key != written.failed_key]
    return len(batch)
