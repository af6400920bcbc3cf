"""What goes wrong, and when: one misfortune after the other, some of them at the same time, until the world is healed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from ravel_node.raft import Message, MessageType
from tests.simulation.profile import Fault

if TYPE_CHECKING:
    from tests.simulation.server import Server
    from tests.simulation.world import World


class Nemesis:
    """Draws misfortunes from the seed and ends each after a while."""

    def __init__(self, world: World, rng: Random) -> None:
        self._world = world
        self._rng = rng
        self._acts: dict[Fault, Callable[[], None]] = {
            Fault.CRASH: self._crash,
            Fault.CRASH_AT_A_STEP: self._crash_at_a_step,
            Fault.PAUSE: self._pause,
            Fault.SLEEP: self._sleep,
            Fault.CUT: self._cut,
            Fault.ONE_WAY: self._cut_one_way,
            Fault.BAD_NETWORK: self._bad_network,
            Fault.SLOW_DISK: self._slow_disk,
            Fault.SLOW_FLUSH: self._slow_flush,
            Fault.FAILING_DISK: self._failing_disk,
            Fault.TRANSFER: self._transfer,
            Fault.RESTART: self._restart,
            Fault.MEMBERSHIP: self._change_membership,
            Fault.LOST_LEADER: self._lose_leader,
            Fault.FORGOTTEN_PROMISE: self._forget_promise,
            Fault.LOST_TRANSFER: self._lose_after_transfer,
        }

    async def run(self) -> None:
        profile, rng = self._world.profile, self._rng
        while True:
            await asyncio.sleep(rng.uniform(0.0, profile.calm_max_s))
            act = self._acts[rng.choice(profile.faults)]
            self._world.timeline.after(0.0, lambda act=act: None if self._world.healed else act())  # type: ignore[misc]

    # --- whom and for how long

    def _victim(self) -> Server:
        """Any server, but more often one that leads."""
        world, rng = self._world, self._rng
        leaders = [server for server in world.servers if server.replica is not None and server.replica.is_leader]
        return rng.choice(leaders) if leaders and rng.random() < 0.6 else rng.choice(world.servers)

    def _while(self) -> float:
        """Up to several election timeouts, more often short."""
        timeouts = self._rng.choice((0.3, 1.0, 2.0, 5.0)) * self._rng.uniform(0.2, 1.5)
        return self._world.profile.election_timeout_s * timeouts

    def _later(self, action: Callable[[], None]) -> None:
        self._world.timeline.after(self._while(), action)

    # --- processes

    def _crash(self) -> None:
        world = self._world
        together = self._rng.choice((1, 1, 1, 2, len(world.servers)))
        for server in self._rng.sample(world.servers, together) if together > 1 else [self._victim()]:
            if server.running is not None:
                server.crash("without any reason")
                world.crashed(server)

    def _crash_at_a_step(self) -> None:
        faults = self._victim().disk.faults
        faults.crash = self._rng.choice((0.01, 0.05, 0.3))

        def end() -> None:
            faults.crash = 0.0

        self._later(end)

    def _pause(self) -> None:
        server = self._victim()
        server.pause()
        self._later(server.resume)

    def _sleep(self) -> None:
        server, length = self._victim(), self._while()
        if server.running is not None and not server.running.process.paused:
            server.pause()
            self._world.timeline.after(length, lambda: server.resume(slept_s=length))

    def _restart(self) -> None:
        world, server = self._world, self._victim()

        def gone() -> None:
            server.crash("at the end of an orderly stop")
            world.crashed(server)

        if server.running is not None:
            running = server.running
            world.tell(f"{server.name} is told to stop")
            running.spawn(running.stop()).add_done_callback(
                lambda _: world.timeline.after(0.0, lambda: gone() if server.running is running else None)
            )

    # --- the network

    def _cut(self) -> None:
        """Two sides, or one server that nobody reaches; clients may be on either side, or see everybody."""
        world, rng = self._world, self._rng
        names = [server.address for server in world.servers]
        rng.shuffle(names)
        some = [self._victim().address] if rng.random() < 0.5 else names[: rng.randint(1, len(names) - 1)]
        others = [name for name in names if name not in some]
        if rng.random() < 0.3:
            for client in world.clients:
                rng.choice((some, others)).append(client.name)
        self._lose({(source, target) for a, b in ((some, others), (others, some)) for source in a for target in b})

    def _cut_one_way(self) -> None:
        one, other = self._victim(), self._rng.choice(self._world.servers)
        others = [other] if self._rng.random() < 0.5 else self._world.servers
        links = {(one.address, server.address) for server in others if server is not one}
        self._lose(links if self._rng.random() < 0.5 else {(target, source) for source, target in links})

    def _lose(self, links: set[tuple[str, str]], for_s: float | None = None) -> None:
        world = self._world
        world.tell("cut off: " + ", ".join(f"{source} -> {target}" for source, target in sorted(links)))
        world.network.cuts |= links

        def heal() -> None:
            world.network.cuts -= links
            world.tell("those links are whole again")

        world.timeline.after(self._while() if for_s is None else for_s, heal)

    def _isolate(self, server: Server, for_s: float, but: Server | None = None) -> None:
        """Cut a server off from the others, or from all but one; clients see everybody."""
        others = [other.address for other in self._world.servers if other not in (server, but)]
        self._lose({link for other in others for link in ((server.address, other), (other, server.address))}, for_s)

    def _bad_network(self) -> None:
        faults, rng = self._world.network.faults, self._rng
        faults.drop = rng.choice((0.0, 0.05, 0.3))
        faults.repeat = rng.choice((0.0, 0.05, 0.3))
        faults.reorder = rng.choice((0.0, 0.1, 0.5))
        faults.delay_max_s = rng.choice((0.003, 0.03, 0.2))

        def end() -> None:
            faults.drop = faults.repeat = faults.reorder = 0.0
            faults.delay_max_s = 0.003

        self._later(end)

    # --- disks

    def _slow_disk(self) -> None:
        faults, rng = self._victim().disk.faults, self._rng
        faults.commit_max_s = rng.choice((0.02, 0.2, 1.0))
        faults.stall = rng.choice((0.0, 0.1))

        def end() -> None:
            faults.commit_max_s, faults.stall = 0.003, 0.0

        self._later(end)

    def _slow_flush(self) -> None:
        """A replica that applies late, because its table is full, and is to lead all the same."""
        world, rng = self._world, self._rng
        server = rng.choice(world.servers)
        faults, length = server.disk.faults, world.profile.election_timeout_s * rng.uniform(1.0, 4.0)
        faults.flush_max_s = rng.choice((0.1, 0.5, 2.0))

        def end() -> None:
            faults.flush_max_s = 0.0

        world.timeline.after(length, end)
        if rng.random() < 0.7:
            self._after(length * rng.uniform(0.2, 0.9), lambda: self._hand_over(server))

    def _hand_over(self, server: Server) -> None:
        self._world.spawn(self._world.transfer(server))

    def _failing_disk(self) -> None:
        server, rng = self._victim(), self._rng
        server.disk_was_bad = True
        faults = server.disk.faults
        faults.fail, faults.file_error = rng.choice(((0.2, 0.0), (0.0, 0.1), (0.05, 0.05)))

        def end() -> None:
            faults.fail = faults.file_error = 0.0

        self._later(end)

    # --- plots: what one misfortune alone seldom brings about

    def _leader(self) -> Server | None:
        return next((server for server in self._world.servers if server.replica is not None and server.replica.is_leader), None)

    def _after(self, delay_s: float, action: Callable[[], None]) -> None:
        self._world.timeline.after(delay_s, lambda: None if self._world.healed else action())

    def _lose_leader(self) -> None:
        """A leader sleeps through its own end, if it sleeps, and wakes where nobody tells it."""
        leader, rng = self._leader(), self._rng
        if leader is None:
            return
        network, timeout = self._world.network, self._world.profile.election_timeout_s

        def strike() -> None:
            if rng.random() < 0.7:
                self._after(rng.uniform(0.0, 0.005), leader.pause)
                self._world.timeline.after(timeout * rng.uniform(1.0, 4.0), leader.resume)
            self._after(rng.uniform(0.0, 0.01), lambda: self._isolate(leader, timeout * rng.uniform(2.0, 6.0)))

        def watch(source: str, message: Message) -> None:
            if source == leader.address and message.type is MessageType.HEARTBEAT:
                network.watch = None
                self._after(0.0, strike)

        if rng.random() < 0.5:
            network.watch = watch  # strike while the answers to a round are under way
        else:
            strike()

    def _forget_promise(self) -> None:
        """One voter does not hear the leader for long, while nobody writes, so that its log is as good as any. When it is about
        to ask for votes, those that did hear the leader are started again, and do not hear it any more either.
        """
        world, rng, leader = self._world, self._rng, self._leader()
        if leader is None:
            return
        timeout = world.profile.election_timeout_s
        deaf = rng.choice([server for server in world.servers if server is not leader])

        def rest(resting: bool) -> None:
            for client in world.clients:
                client.resting = resting and not client.only_reads

        def stop_hearing() -> None:
            self._lose({(leader.address, deaf.address), (deaf.address, leader.address)}, 6 * timeout)
            self._after(timeout * rng.uniform(1.0, 3.0), strike_when_due)

        def strike_when_due() -> None:
            raft = None if deaf.replica is None else deaf.replica._raw._raft
            if raft is None or raft.election_timeout - raft.election_elapsed <= 1:
                self._after(rng.uniform(0.0, 0.05), strike)
            else:
                self._after(0.02, strike_when_due)

        def strike() -> None:
            self._isolate(leader, timeout)
            rest(False)
            for server in world.servers:
                if server not in (leader, deaf) and server.running is not None:
                    server.crash("and is started again at once")
                    server.boot()

        rest(True)
        self._after(rng.uniform(0.1, 0.5), stop_hearing)
        world.timeline.after(6 * timeout, lambda: rest(False))

    def _lose_after_transfer(self) -> None:
        world, rng, leader = self._world, self._rng, self._leader()
        if leader is None:
            return
        self._hand_over(rng.choice(world.servers))
        self._after(rng.uniform(0.0, 0.03), lambda: self._isolate(leader, world.profile.election_timeout_s * 2))

    # --- people

    def _transfer(self) -> None:
        self._hand_over(self._rng.choice(self._world.servers))

    def _change_membership(self) -> None:
        world = self._world
        world.spawn(world.change_membership(self._rng))
