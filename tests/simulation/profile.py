"""What one seed draws before anything happens: how large the cluster is, how its clocks run, and what may go wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from random import Random

from ravel_node.replica.options import ReplicaOptions
from ravel_node.replica.reads import ReadMode
from ravel_node.storage.store import StoreOptions
from tests.simulation.clients import Habits

TICK_S = 0.1


class Fault(Enum):
    """A kind of misfortune. A seed draws which of them its world knows: few at once show more than all at once."""

    CRASH = "crash"
    CRASH_AT_A_STEP = "crash at a storage step"
    PAUSE = "pause"
    SLEEP = "sleep"
    CUT = "cut"
    ONE_WAY = "one-way cut"
    BAD_NETWORK = "bad network"
    SLOW_DISK = "slow disk"
    SLOW_FLUSH = "slow flush of the applied state"
    FAILING_DISK = "failing disk"
    TRANSFER = "transfer of leadership"
    RESTART = "orderly restart"
    MEMBERSHIP = "change of membership"
    LOST_LEADER = "a leader is stopped and cut off, and wakes while it is"
    FORGOTTEN_PROMISE = "a voter is restarted when its leader is cut off"
    LOST_TRANSFER = "a leader is cut off just after it has handed over"
    RESTORED = "a backup of a data directory is put back"
    LATE_REFUSAL = "a voter that hears its leader again is told of a later term"


PLOTS = (Fault.LOST_LEADER, Fault.FORGOTTEN_PROMISE, Fault.LOST_TRANSFER, Fault.SLOW_FLUSH, Fault.LATE_REFUSAL)
"""Misfortunes in the order that hurts reads."""


@dataclass(frozen=True, slots=True)
class Profile:
    servers: int
    writers: int
    readers: int
    faults: tuple[Fault, ...]
    suffering_s: float  # world time for which things go wrong
    calm_max_s: float  # between two misfortunes
    down_max_s: float  # how long a dead process stays dead
    leases: bool  # reads use them
    rates: tuple[float, float]  # of the servers' clocks, seconds of their own for one of the world
    apart: bool  # the first server's clock is as slow as may be, all others' as fast
    timings: tuple[int, ...]  # election ticks of the servers, in turn: they need not be configured alike
    writing: Habits
    reading: Habits
    replica: ReplicaOptions
    store: StoreOptions

    @property
    def election_timeout_s(self) -> float:
        """The shortest election timeout of the slowest clock, in world time."""
        return max(self.timings) * self.replica.tick_s / self.rates[0]

    @classmethod
    def draw(cls, rng: Random) -> Profile:
        # Leases hold while clock rates differ by less than a tenth: where they differ more, reads take the round.
        steady = rng.random() < 0.7
        modes = (ReadMode.LINEARIZABLE,) * 5 + (ReadMode.QUORUM,) if steady else (ReadMode.QUORUM,)
        faults = _draw_faults(rng, steady)
        keys = tuple(b"key-%d" % number for number in range(rng.randint(1, 4)))
        drawn = cls(
            servers=rng.choice((3, 3, 3, 4, 5)),
            writers=rng.randint(1, 4),
            readers=rng.randint(1, 2),
            faults=faults,
            suffering_s=rng.uniform(10.0, 25.0),
            calm_max_s=rng.choice((0.5, 2.0, 4.0)),
            down_max_s=rng.choice((0.2, 1.0, 4.0)),
            leases=steady,
            rates=(0.955, 1.045) if steady else (0.5, 2.0),
            apart=steady and rng.random() < 0.5,
            timings=(),
            writing=Habits(
                keys=keys,
                modes=modes,
                pause_max_s=rng.choice((0.1, 0.3, 0.6)),
                reads=rng.choice((0.2, 0.5)),
                restless=rng.choice((0.02, 0.2, 0.5)),
            ),
            # Readers that stay with who answers them, and readers that ask anybody: some meet a leader that is none any more.
            reading=Habits(
                keys=keys, modes=modes, pause_max_s=rng.choice((0.04, 0.15)), reads=1.0, restless=rng.choice((0.01, 0.5, 1.0))
            ),
            replica=_replica_options(rng),
            store=_store_options(rng, congested=Fault.SLOW_FLUSH in faults),
        )
        # Last, so that worlds keep what they drew before it: entries that wait for each other's rounds hide faults of the lease.
        drawn = replace(drawn, replica=replace(drawn.replica, gather_s=rng.choice((0.0, 0.0, 0.05))))
        drawn = replace(drawn, store=replace(drawn.store, major_faults=_faults(rng)))
        ticks = drawn.replica.election_ticks
        return replace(drawn, timings=rng.choice(((ticks,), (ticks,), (ticks,), (12, 6), (6, 12, 6))))


def _draw_faults(rng: Random, steady: bool) -> tuple[Fault, ...]:
    """A few kinds, and where leases are used more often than not a plot against them."""
    faults = rng.sample(tuple(Fault), rng.randint(1, 4))
    if steady and rng.random() < 0.7:
        faults.append(rng.choice(PLOTS))
    return tuple(dict.fromkeys(faults))


def _faults(rng: Random) -> Callable[[], int]:
    """Count waits for the disk that nobody has: where they are many, every read and every entry is paged in first."""
    share = rng.choice((0.0, 0.0, 0.01, 0.5))
    chance, waits = Random(rng.random()), 0

    def faults() -> int:
        nonlocal waits
        waits += chance.random() < share
        return waits

    return faults


def _replica_options(rng: Random) -> ReplicaOptions:
    return ReplicaOptions(
        tick_s=TICK_S,
        heartbeat_ticks=rng.choice((1, 2, 2)),
        election_ticks=rng.choice((6, 8, 10)),
        batch_commands_max=rng.choice((1, 4, 256)),
        apply_commands_max=rng.choice((1, 8, 512)),
        append_message_bytes_max=rng.choice((0, 300, 1 << 20)),
        inflight_messages_max=rng.choice((1, 4, 64)),
        inflight_bytes_max=1 << 20,
        committed_bytes_max=rng.choice((300, 4 << 20)),
        log_retain_entries=rng.choice((5, 50, 10_000)),
        log_retain_bytes_max=rng.choice((1, 1 << 30)),
        checksum_interval_s=2.0,  # of world time: hashes of states are compared many times in each world
    )


def _store_options(rng: Random, *, congested: bool) -> StoreOptions:
    """Small bounds, so that everything happens. With `congested` a slow flush soon keeps a replica from applying."""
    return StoreOptions(
        segment_bytes_max=rng.choice((500, 4_000, 4 << 20)),
        unflushed_bytes_max=300 if congested else rng.choice((2_000, 64 << 20)),
        flush_interval_s=rng.choice((0.05, 0.3)) if congested else rng.choice((0.05, 0.3, 1.0)),
        log_tail_bytes_max=rng.choice((1, 2_000, 16 << 20)),
        log_retain_bytes_max=rng.choice((1, 1 << 30)),
        compact_records_max=rng.choice((7, 1_000)),
        snapshots_kept=rng.choice((1, 2)),
        snapshot_retry_s=0.5,
    )
