"""A store that has reached its quota: writes are refused, everything else goes on, and room that is made is found by itself."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Final

from ravelctl.client import QuotaExceededError
from tests.e2e.cluster import until
from tests.faults.conftest import Trial
from tests.faults.ordeal import Ordeal

QUOTA: Final = "1MiB"
VALUE_BYTES: Final = 20_000
KEYS_MAX: Final = 400
"""Far more than the quota holds: what is applied counts once it is flushed, so some more than fit may be taken."""


async def fill(ordeal: Ordeal, turn: int) -> list[bytes]:
    """Write until the leader refuses; the keys that were written."""
    client = ordeal.workload.recorder.client("filler")
    keys: list[bytes] = []
    while True:
        keys.append(b"fill-%d-%d" % (turn, len(keys)))
        assert len(keys) < KEYS_MAX, "the quota was never reached"
        try:
            await client.put(keys[-1], ordeal.workload.value().ljust(VALUE_BYTES, b"."))
        except QuotaExceededError:
            ordeal.happened()
            return keys[:-1]
        await asyncio.sleep(0.02)


async def alarms(ordeal: Ordeal) -> set[str]:
    status = await ordeal.cluster.status(await ordeal.cluster.leader())
    return {alarm.code for alarm in status.alarms}


async def test_the_map_is_full(trial: Trial) -> None:
    async with trial(f"a full map, --db-size-max {QUOTA}", flags=["--db-size-max", QUOTA]) as ordeal:
        client = ordeal.workload.recorder.client("deleter")
        for turn in range(2):
            await ordeal.progress()
            keys = await fill(ordeal, turn)

            async def told() -> bool:
                return "RV302" in await alarms(ordeal)

            await until("the leader raises an alarm", told, 10.0)
            refused = ordeal.workload.refused
            assert not await ordeal.any_acknowledged(for_s=1.0), "a full store took a write"
            assert ordeal.workload.refused > refused
            assert await client.get(keys[0]) is not None, "reads go on"
            for key in keys:
                assert (await client.delete(key)).found, "deletes go on"
            await ordeal.recovered(monotonic())

            async def clear() -> bool:
                return not {"RV301", "RV302"} & await alarms(ordeal)

            await until("the alarm clears by itself", clear, 10.0)
