"""The store of one cluster for a client that knows no other: it waits where a slot that may move away takes no writes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

from ravelctl.client.errors import SlotMovingError
from ravelctl.client.session.batcher import LAST_MOMENT_S
from ravelctl.client.session.cluster_store import ClusterStore
from ravelpb.v1.kv_pb2 import Command


class PatientStore(ClusterStore):
    """Sends a write that was refused as SLOT_MOVING again, as a new one: nothing was done, and if the move is called off the
    cluster takes it. If not, the next refusal is WRONG_CLUSTER, which is the caller's."""

    async def write(self, keys: Sequence[bytes], command: Command, size_bytes: int, timeout_s: float) -> Any:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        waits = 0
        while True:
            try:
                return await super().write(keys, command, size_bytes, max(0.0, deadline - loop.time()))
            except SlotMovingError:
                waits += 1
                delay_s = self._retry.delay_s(waits, random.random)
                if loop.time() + delay_s >= deadline - min(LAST_MOMENT_S, timeout_s / 4):
                    raise
                await asyncio.sleep(delay_s)
