"""What goes wrong, and when: one misfortune after the other, some of them at the same time, until the world is healed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from ravel_node.raft import Message, MessageType, Role
from tests.simulation.profile import Fault

if TYPE_CHECKING:
    from tests.simulation.server import Server
    from tests.simulation.world import World


class Nemesis:
    """Draws misfortunes from the seed and ends each after a while."""

    def __init__(self, world: World, rng: Random) -> None:
        self._world = world
        self._rng = rng
        self._alone_until = 0.0  # world time until which nothing else is to go wrong
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
            Fault.LATE_REFUSAL: self._refuse_late,
            Fault.RESTORED: self._restore,
        }

    async def run(self) -> None:
        profile, rng = self._world.profile, self._rng
        while True:
            await asyncio.sleep(rng.uniform(0.0, profile.calm_max_s))
            if self._world.timeline.now < self._alone_until:
                continue
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

    def _restore(self) -> None:
        """Keep a copy of a data directory, start its server again, and put the copy back once every member has heard of that.

        Before that a member may have been away for as long as the replica has run on what the copy does not hold: nobody can then
        notice (docs/operations.md, "A data directory that was restored").
        """
        world, rng = self._world, self._rng
        members = world.members()
        if world.restored or len(members) < 3:
            return
        server = rng.choice(members)
        if server.running is None or server.replica is None:
            return
        world.restored.add(server)
        backup, boots = server.disk.backup(), server.boots
        world.tell(f"a copy of {server.name}'s disk is kept")
        late = world.timeline.now + 8 * world.profile.election_timeout_s

        def restart() -> None:
            if server.running is not None and server.boots == boots:
                server.crash("and is started again at once")
                server.boot()
            self._after(0.05, put_back)

        def put_back() -> None:
            replica, others = server.replica, [member for member in world.members() if member is not server]
            if world.timeline.now > late or replica is None or len(others) < 2:
                world.restored.discard(server)
                return
            known = [other.disk.peer_marks().get(replica.id) for other in others]
            if server.boots == boots or any(mark is None or mark.boot_number <= backup.boot_number() for mark in known):
                self._after(0.05, put_back)
                return
            server.crash("and its disk is replaced by the copy")
            world.checker.restored(server)
            server.disk.restore(backup)
            server.boot()
            world.replace_restored(server)
            leader = self._leader()
            if leader not in (None, server) and rng.random() < 0.6:
                # Those that are left may lack what the leader has committed with the help of the one that was restored.
                self._isolate(leader, world.profile.election_timeout_s * rng.uniform(2.0, 5.0))

        self._after(rng.uniform(0.0, 1.0), restart)

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
        """A replica that applies late, because its table is full, and is to lead all the same, more often than not."""
        world, rng, leader = self._world, self._rng, self._leader()
        server = rng.choice([server for server in world.servers if server is not leader])
        faults, length = server.disk.faults, world.profile.election_timeout_s * rng.uniform(2.0, 5.0)
        faults.flush_max_s = rng.choice((0.1, 0.5, 2.0, 2.0))
        late = world.timeline.now + length

        def end() -> None:
            faults.flush_max_s = 0.0

        def hand_over_once_behind() -> None:
            replica = server.replica
            if replica is not None and replica.applied.index < replica._raw.commit:
                self._hand_over(server)
            elif world.timeline.now < late:
                self._after(0.01, hand_over_once_behind)

        world.timeline.after(length + world.profile.election_timeout_s, end)
        if rng.random() < 0.7:
            self._after(rng.uniform(0.0, 0.3) * length, hand_over_once_behind)

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
        """A leader sleeps through its own end, if it sleeps, and wakes where nobody tells it. Somebody may wait for that."""
        leader, rng = self._leader(), self._rng
        if leader is None:
            return
        network, timeout = self._world.network, self._world.profile.election_timeout_s

        def strike() -> None:
            if rng.random() < 0.7:
                self._after(rng.uniform(0.0, 0.005), lambda: self._stop(leader, timeout * rng.uniform(1.0, 4.0)))
            self._after(rng.uniform(0.0, 0.01), lambda: self._isolate(leader, timeout * rng.uniform(2.0, 6.0)))

        def strike_in_a_round() -> None:
            def watch(source: str, message: Message) -> None:
                if source == leader.address and message.type is MessageType.HEARTBEAT:
                    network.watch = None
                    self._after(0.0, strike)

            network.watch = watch  # strike while the answers to a round are under way

        struck = strike_in_a_round if rng.random() < 0.7 else strike
        if rng.random() < 0.7:
            self._deafen(leader, lambda deaf: struck())
        else:
            struck()

    def _stop(self, server: Server, for_s: float) -> None:
        """Stop a process; its machine may be asleep meanwhile."""
        if server.running is not None and not server.running.process.paused:
            server.pause()
            slept_s = self._rng.choice((0.0, for_s))
            self._world.timeline.after(for_s, lambda: server.resume(slept_s))

    def _forget_promise(self) -> None:
        """Those that did hear the leader are started again just when another one asks for votes, and hear it no more either; or
        they are stopped for a while, hear it once more, and then no more.
        """
        world, rng, leader = self._world, self._rng, self._leader()
        if leader is None:
            return
        timeout = world.profile.election_timeout_s

        def start_again(others: list[Server]) -> None:
            self._isolate(leader, timeout)
            for server in others:
                if server.running is not None:
                    server.crash("and is started again at once")
                    server.boot()

        def stop(others: list[Server]) -> None:
            for_s = timeout * rng.uniform(0.3, 0.8)  # less than makes the leader step down
            for server in others:
                self._stop(server, for_s)
            self._after(for_s + rng.uniform(0.0, 0.03), lambda: self._isolate(leader, timeout))

        act = start_again if rng.random() < 0.6 else stop
        self._deafen(leader, lambda deaf: act([server for server in world.servers if server not in (leader, deaf)]))

    def _deafen(self, leader: Server, strike: Callable[[Server], None]) -> None:
        """One voter does not hear the leader for long, while nobody writes, so that its log is as good as any. Once it has begun
        to ask for votes it asks again and again, to have them at the first moment they may be given; `strike` is done then.
        """
        world, rng = self._world, self._rng
        timeout = world.profile.election_timeout_s
        deaf = rng.choice([server for server in world.servers if server is not leader])
        end = self._alone_until = world.timeline.now + 8 * timeout

        def rest(for_s: float) -> None:
            for client in world.clients:
                if not client.only_reads:
                    client.resting_until = world.timeline.now + for_s

        def stop_hearing() -> None:
            if deaf.replica is None or leader.replica is None or world.timeline.now > end:
                self._alone_until = 0.0
                return
            if deaf.replica._raw._raft.log.last_id != leader.replica._raw._raft.log.last_id:
                self._after(0.05, stop_hearing)
                return
            self._lose({(leader.address, deaf.address), (deaf.address, leader.address)}, 8 * timeout)
            strike_when_due()

        def strike_when_due() -> None:
            if deaf.replica is None or leader.replica is None or not leader.replica.is_leader or world.timeline.now > end:
                self._alone_until = 0.0
                return  # something else has come in between
            if deaf.replica._raw._raft.role is Role.PRE_CANDIDATE:
                self._hurry(deaf, world.timeline.now + 3 * timeout)
                self._after(rng.uniform(0.0, 0.3), struck)
            else:
                self._after(0.02, strike_when_due)

        def struck() -> None:
            rest(0.0)
            self._alone_until = world.timeline.now + 2 * timeout
            strike(deaf)

        rest(8 * timeout)
        self._after(rng.uniform(0.1, 0.5), stop_hearing)

    def _hurry(self, server: Server, until: float) -> None:
        """As long as it hears of no leader, and so has promised nothing to anybody, a server polls all the time."""
        replica = server.replica
        if replica is not None and replica._raw._raft.role is Role.PRE_CANDIDATE:
            replica._driver.inbox.call(lambda raw: raw.campaign())
        if self._world.timeline.now < until:
            self._after(self._rng.uniform(0.005, 0.02), lambda: self._hurry(server, until))

    def _refuse_late(self) -> None:
        """A leader is silent until one follower stands in the next term, without getting its votes, and another one polls. The
        first refuses, naming its term; before that arrives the second hears the leader again and confirms its lease.
        """
        world, rng, leader = self._world, self._rng, self._leader()
        if leader is None or leader.running is None or leader.running.process.paused:
            return
        network, timeout = world.network, world.profile.election_timeout_s
        end = self._alone_until = world.timeline.now + 6 * timeout
        candidate: list[Server] = []

        def rest(for_s: float) -> None:
            for client in world.clients:
                if not client.only_reads:
                    client.resting_until = world.timeline.now + for_s

        def give_up() -> None:
            network.watch = None
            leader.resume()
            rest(0.0)
            self._alone_until = 0.0

        def watch(source: str, message: Message) -> None:
            if message.type is not MessageType.VOTE or source == leader.address:
                return
            network.watch = None
            candidate.extend(server for server in world.servers if server.address == source)
            stood = candidate[0]
            others = [server for server in world.servers if server not in (stood, leader)]
            self._lose({(stood.address, other.address) for other in others}, 0.01)  # its requests are lost
            self._lose({(stood.address, leader.address), (leader.address, stood.address)}, end - world.timeline.now)
            self._after(0.01, lambda: hold(stood, others))

        def hold(stood: Server, others: list[Server]) -> None:
            for other in others:
                network.hold((stood.address, other.address))
            wake_when_refused(stood, others)

        def wake_when_refused(stood: Server, others: list[Server]) -> None:
            polls = [
                other for other in others if other.replica is not None and other.replica._raw._raft.role is Role.PRE_CANDIDATE
            ]
            if world.timeline.now > end or leader.running is None or stood.replica is None:
                for other in others:
                    network.let_go((stood.address, other.address))
                give_up()
            elif polls:
                self._after(rng.uniform(0.005, 0.02), lambda: wake(stood, others))
            else:
                self._after(0.01, lambda: wake_when_refused(stood, others))

        def wake(stood: Server, others: list[Server]) -> None:
            leader.resume()
            self._after(rng.uniform(0.0, 2.0) * world.profile.replica.tick_s + 0.02, lambda: tell(stood, others))

        def tell(stood: Server, others: list[Server]) -> None:
            links = {link for other in others for link in ((leader.address, other.address), (other.address, leader.address))}
            self._lose(links, 2 * timeout)  # or the later term would end the leader's
            for other in others:
                network.let_go((stood.address, other.address))
            self._hurry(stood, world.timeline.now + 2 * timeout)
            rest(0.0)
            self._alone_until = world.timeline.now + 2 * timeout

        rest(6 * timeout)
        network.watch = watch
        leader.pause()
        self._after(5 * timeout, lambda: give_up() if network.watch is watch else None)

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
