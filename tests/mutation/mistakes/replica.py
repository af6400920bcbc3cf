"""Mistakes in ravel_node/replica."""

from __future__ import annotations

from tests.mutation.mistake import Mistake, Room

ROOM = Room(
    "replica",
    tests=(
        "replica",
        "server/test_slots.py",
        "simulation/test_seeds.py",
    ),
    mistakes=(
        Mistake(
            "a term that is not durable leaves in a message",
            "ravel_node/replica/driver.py",
            old="            elif message.term > durable_term and message.type not in _PRE_VOTES:",
            new="            elif False:",
            first=(
                "replica/test_driver.py",
                "simulation/test_seeds.py",
            ),
        ),
        Mistake(
            "the lease outlives a transfer",
            "ravel_node/replica/driver.py",
            old="            self.reads.bar_lease(self._raw.term)\n",
            new="",
            first=(
                "replica/test_reads.py",
                "replica/test_replica.py",
                "replica/test_driver.py",
            ),
        ),
        Mistake(
            "the lease outlives a membership change",
            "ravel_node/replica/driver.py",
            old=("        self._store.applied_to(entry.id)\n        self.reads.end_lease()\n"),
            new="        self._store.applied_to(entry.id)\n",
            first=(
                "replica/test_driver.py",
                "replica/test_replica.py",
            ),
        ),
        Mistake(
            "a hanging save never costs the leadership",
            "ravel_node/replica/driver.py",
            old="        if saving_s > 2 * timeout:",
            new="        if False:",
            first=(
                "replica/test_driver.py",
                "replica/test_replica.py",
            ),
        ),
        Mistake(
            "a congested flush never costs the leadership",
            "ravel_node/replica/driver.py",
            old="        elif max(saving_s, congested_s) <= timeout:",
            new="        elif saving_s <= timeout:",
            first=(
                "replica/test_driver.py",
                "replica/test_replica.py",
            ),
        ),
        Mistake(
            "a transfer begins again at every tick",
            "ravel_node/replica/driver.py",
            old="            self._stalled = True\n",
            new="",
            first=("replica/test_driver.py",),
        ),
        Mistake(
            "waiting commands survive the end of the leadership",
            "ravel_node/replica/driver.py",
            old="            self.waiters.fail_all(LeadershipLostError())",
            new="            pass",
            first=(
                "replica/test_driver.py",
                "replica/test_replica.py",
                "replica/test_waiters.py",
            ),
        ),
        Mistake(
            "waiting reads survive the end of the leadership",
            "ravel_node/replica/driver.py",
            old=("        if after.role is not Role.LEADER:\n            self.reads.fail_all(self.not_leader())\n"),
            new="",
            first=(
                "replica/test_reads.py",
                "replica/test_driver.py",
                "replica/test_replica.py",
            ),
        ),
        Mistake(
            "reads expire after milliseconds",
            "ravel_node/replica/driver.py",
            old="            2 * self._options.election_timeout_s,\n",
            new="            0.002 * self._options.election_timeout_s,\n",
            first=(
                "replica/test_reads.py",
                "replica/test_driver.py",
                "replica/test_replica.py",
            ),
        ),
        Mistake(
            "reads never expire",
            "ravel_node/replica/driver.py",
            old=("        self.reads.expire(\n            2 * self._options.election_timeout_s,"),
            new=("        self.reads.expire(\n            2_000 * self._options.election_timeout_s,"),
            first=(
                "replica/test_reads.py",
                "replica/test_driver.py",
                "replica/test_replica.py",
            ),
        ),
        Mistake(
            "a busy disk takes proposals",
            "ravel_node/replica/driver.py",
            old=("        if self._store.congested:\n            _fail("),
            new=("        if False:\n            _fail("),
            first=(
                "replica/test_driver.py",
                "replica/test_replica.py",
            ),
        ),
        Mistake(
            "a batch ignores the limit of bytes",
            "ravel_node/replica/driver.py",
            old=" or size + len(proposal.group) > bytes_max:",
            new=":",
            first=("replica/test_driver.py",),
        ),
        Mistake(
            "entries that wait are applied after a snapshot",
            "ravel_node/replica/driver.py",
            old=(
                "                for response in item.responses:\n"
                "                    self._deliver(response)\n"
                "        self._to_apply.clear()\n"
            ),
            new=("                for response in item.responses:\n                    self._deliver(response)\n"),
            first=(
                "replica/test_driver.py",
                "simulation/test_seeds.py",
            ),
        ),
        Mistake(
            "the heir is the voter that has the least of the log",
            "ravel_node/replica/driver.py",
            old="ReplicaId(-max(heirs)[1])",
            new="ReplicaId(-min(heirs)[1])",
            first=(
                "replica/test_driver.py",
                "replica/test_replica.py",
            ),
        ),
        Mistake(
            "the inbox never gives its bytes back",
            "ravel_node/replica/inbox.py",
            old=("        self.proposals_count = self.proposals_bytes = 0\n        return taken"),
            new=("        self.proposals_count = 0\n        return taken"),
            first=("replica/test_inbox.py",),
        ),
        Mistake(
            "the inbox never gives its count back",
            "ravel_node/replica/inbox.py",
            old=("        self.proposals_count = self.proposals_bytes = 0\n        return taken"),
            new=("        self.proposals_bytes = 0\n        return taken"),
            first=("replica/test_inbox.py",),
        ),
        Mistake(
            "the inbox takes messages without a bound",
            "ravel_node/replica/inbox.py",
            old="            messages = messages[: max(room, 0)]\n",
            new="",
            first=("replica/test_inbox.py",),
        ),
        Mistake(
            "the inbox ignores the bytes that wait",
            "ravel_node/replica/inbox.py",
            old="            or self.proposals_bytes + len(proposal.group) > self._proposals_bytes_max\n",
            new="",
            first=(
                "replica/test_inbox.py",
                "replica/test_replica.py",
            ),
        ),
        Mistake(
            "the quota is ignored",
            "ravel_node/replica/replica.py",
            old="        if grows and self._store.db_used_bytes",
            new="        if False and self._store.db_used_bytes",
            first=("replica/test_replica.py",),
        ),
        Mistake(
            "a full store refuses deletes too",
            "ravel_node/replica/replica.py",
            old="        if grows and self._store.db_used_bytes",
            new="        if self._store.db_used_bytes",
            first=("replica/test_replica.py",),
        ),
        Mistake(
            "a restart shortens the promise of the start before it",
            "ravel_node/replica/replica.py",
            old="Boot(before.number + 1, self.boot_id, max(own_us, before.promise_us))",
            new="Boot(before.number + 1, self.boot_id, own_us)",
            first=(
                "replica/test_replica.py",
                "replica/test_admission.py",
                "simulation/test_seeds.py",
            ),
        ),
        Mistake(
            "a removal is not recorded",
            "ravel_node/replica/replica.py",
            old="            await self._store.mark_removed()\n",
            new="",
            first=(
                "replica/test_replica.py",
                "replica/test_admission.py",
            ),
        ),
        Mistake(
            "a replica that lags far says it is ready",
            "ravel_node/replica/replica.py",
            old="            and self._raw.commit - self._store.applied.index <= self.options.log_retain_entries\n",
            new="",
            first=("replica/test_replica.py",),
        ),
        Mistake(
            "the lease lasts as long as the whole promise",
            "ravel_node/replica/reads.py",
            old="LEASE_SHARE: Final = 0.9",
            new="LEASE_SHARE: Final = 1.0",
            first=("replica/test_reads.py",),
        ),
        Mistake(
            "the promise of a lease is taken for milliseconds",
            "ravel_node/replica/reads.py",
            old="* min(state.promise_us, self._lease_max_us) / 1e6",
            new="* min(state.promise_us, self._lease_max_us) / 1e3",
            first=("replica/test_reads.py",),
        ),
        Mistake(
            "a read under a lease does not wait for the commit index",
            "ravel_node/replica/reads.py",
            old="return applied >= commit and self._clock() < self._lease_until",
            new="return self._clock() < self._lease_until",
            first=(
                "replica/test_reads.py",
                "replica/test_replica.py",
            ),
        ),
        Mistake(
            "a round of an ended lease grants a new one",
            "ravel_node/replica/reads.py",
            old=("        self._rounds = {context: asked._replace(term=Term(0)) for context, asked in self._rounds.items()}\n"),
            new="",
            first=("replica/test_reads.py",),
        ),
        Mistake(
            "a lease is granted though the cluster has switched leases off",
            "ravel_node/replica/reads.py",
            old=" and self._allowed:",
            new=":",
            first=(
                "replica/test_reads.py",
                "replica/test_replica.py",
            ),
        ),
        Mistake(
            "a read is served before its index is applied",
            "ravel_node/replica/reads.py",
            old=("            if index > applied:\n                still"),
            new=("            if index > applied + 1:\n                still"),
            first=("replica/test_reads.py",),
        ),
        Mistake(
            "a failed read of a confirmed round waits for ever",
            "ravel_node/replica/reads.py",
            old="*(f for _, f in self._confirmed)]",
            new="[]]",
            first=("replica/test_reads.py",),
        ),
        Mistake(
            "any error of a hash is kept as a problem of the comparison",
            "ravel_node/replica/integrity.py",
            old="        if isinstance(error, StoreError) and not isinstance(error, DamagedError):",
            new="        if isinstance(error, StoreError):",
            first=(
                "replica/test_integrity_times.py",
                "replica/test_integrity.py",
            ),
        ),
        Mistake(
            "a failure while hashing is swallowed by the replica",
            "ravel_node/replica/integrity.py",
            old=("            self._failure = error\n            self._wake.set()\n"),
            new="            pass\n",
            first=(
                "replica/test_integrity_times.py",
                "replica/test_integrity.py",
            ),
        ),
        Mistake(
            "leadership lost in the middle of a comparison goes unnoticed",
            "ravel_node/replica/integrity.py",
            old=(
                "        if self._replica.term != term or not self._replica.is_leader:\n"
                "            raise self._replica.not_leader()\n"
                "        return self._settle"
            ),
            new="        return self._settle",
            first=(
                "replica/test_integrity_times.py",
                "replica/test_integrity.py",
            ),
        ),
        Mistake(
            "a comparison waits for ever for a replica that is behind",
            "ravel_node/replica/integrity.py",
            old="        return behind if waited_s > CATCH_UP_S else None",
            new="        return None",
            first=(
                "replica/test_integrity_times.py",
                "replica/test_integrity.py",
            ),
        ),
        Mistake(
            "a comparison gives up a hash that is being made after 0.9 s",
            "ravel_node/replica/integrity.py",
            old="HASH_S: Final = 900.0",
            new="HASH_S: Final = 0.9",
            first=(
                "replica/test_integrity_times.py",
                "replica/test_integrity.py",
            ),
        ),
        Mistake(
            "those who asked for a comparison are not answered when the leader is lost",
            "ravel_node/replica/integrity.py",
            old=("                self.end(self._replica.not_leader())\n                continue"),
            new="                continue",
            first=(
                "replica/test_integrity_times.py",
                "replica/test_integrity.py",
            ),
        ),
        Mistake(
            "a caller that is cut off in the middle of a comparison is forgotten",
            "ravel_node/replica/integrity.py",
            old=(
                "            self._asked += [done for done in asked if not done.done()]  # cancelled in the middle:"
                " `end` answers them"
            ),
            new="            pass",
            first=(
                "replica/test_integrity_times.py",
                "replica/test_integrity.py",
            ),
        ),
        Mistake(
            "a half of the replicas counts as most of them",
            "ravel_node/replica/integrity.py",
            old="2 * counts[0][1] > len(hashes)",
            new="2 * counts[0][1] >= len(hashes)",
            first=(
                "replica/test_integrity_times.py",
                "replica/test_integrity.py",
            ),
        ),
        Mistake(
            "a replica keeps hashes without a bound",
            "ravel_node/replica/integrity.py",
            old=("        for index in list(self._kept)[:-KEPT]:\n            del self._kept[index]\n"),
            new="",
            first=(
                "replica/test_integrity_times.py",
                "replica/test_integrity.py",
            ),
        ),
        Mistake(
            "an older directory is admitted",
            "ravel_node/replica/peer_marks.py",
            old="        if hello.last_index < acked:",
            new="        if False:",
            first=("replica/test_admission.py",),
        ),
        Mistake(
            "a directory that counts fewer starts is admitted",
            "ravel_node/replica/peer_marks.py",
            old="        if hello.boot_number < mark.boot_number:",
            new="        if False:",
            first=("replica/test_admission.py",),
        ),
        Mistake(
            "a start of a peer is not made durable",
            "ravel_node/replica/peer_marks.py",
            old=("        if self._marks[peer] != before:\n            await self._store"),
            new=("        if False:\n            await self._store"),
            first=("replica/test_admission.py",),
        ),
        Mistake(
            "a copy of a directory is admitted",
            "ravel_node/replica/admission.py",
            old="        if answer.server_id == hello.server_id and answer.boot_id != hello.boot_id:",
            new="        if False:",
            first=("replica/test_admission.py",),
        ),
        Mistake(
            "a replica that nobody vouches for is admitted",
            "ravel_node/replica/admission.py",
            old='        raise WrongIdentityError(f"no member that answers knows replica {peer} of this cluster")',
            new='        return MemberAddress("", "", False)',
            first=("replica/test_admission.py",),
        ),
        Mistake(
            "one breach raises an alarm",
            "ravel_node/replica/alarms.py",
            old="BREACHES_TO_RAISE: Final = 2",
            new="BREACHES_TO_RAISE: Final = 1",
            first=("replica/test_alarms.py",),
        ),
        Mistake(
            "an alarm is cleared by the first look without a breach",
            "ravel_node/replica/alarms.py",
            old="now - standing.breached_at >= CALM_S",
            new="now - standing.breached_at >= CALM_S / 1_000",
            first=("replica/test_alarms.py",),
        ),
        Mistake(
            "breaches with a pause between them add up",
            "ravel_node/replica/alarms.py",
            old="            standing.breaches = 0\n",
            new="",
            first=("replica/test_alarms.py",),
        ),
        Mistake(
            "the rules of the look stop at the first breach of the store",
            "ravel_node/replica/alarms.py",
            old=("        if used >= QUOTA_CRITICAL * most:\n            yield"),
            new=(
                "        if used >= QUOTA_WARN * most:\n"
                "            return\n"
                "        if used >= QUOTA_CRITICAL * most:\n"
                "            yield"
            ),
            first=("replica/test_alarms.py",),
        ),
        Mistake(
            "what a leader alone sees stays after its leadership",
            "ravel_node/replica/alarms.py",
            old=("        for key in [key for key in self._all if KIND_OF[key[0]].leader_only]:\n            self._clear(key)"),
            new="        pass",
            first=("replica/test_alarms.py",),
        ),
        Mistake(
            "a stalled snapshot is never noticed",
            "ravel_node/replica/alarms.py",
            old=("            self._snapshots[peer.replica_id] = (peer.snapshot_index, peer.snapshot_sent_bytes, since)"),
            new="            self._snapshots[peer.replica_id] = (peer.snapshot_index, peer.snapshot_sent_bytes, now)",
            first=("replica/test_alarms.py",),
        ),
        Mistake(
            "a refused snapshot stays under way",
            "ravel_node/replica/snapshots.py",
            old="        if (sending := self.sending.pop(peer, None)) is not None:",
            new="        if (sending := self.sending.get(peer)) is not None:",
            first=(
                "replica/test_snapshots.py",
                "replica/test_replica.py",
            ),
        ),
        Mistake(
            "a sent snapshot holds the log for ever",
            "ravel_node/replica/snapshots.py",
            old="            self._store.release(sending.index)\n",
            new="",
            first=(
                "replica/test_snapshots.py",
                "replica/test_replica.py",
            ),
        ),
        Mistake(
            "a failed build of a snapshot ends the replica",
            "ravel_node/replica/snapshots.py",
            old=("            except StoreError:\n                await asyncio.sleep(BUILD_RETRY_S)\n"),
            new=("            except StoreError:\n                raise\n"),
            first=(
                "replica/test_snapshots.py",
                "replica/test_replica.py",
            ),
        ),
        Mistake(
            "a snapshot that was not delivered is not looked at",
            "ravel_node/replica/snapshots.py",
            old="            self._undelivered.put_nowait(peer)  #",
            new="            self._ended(peer, delivered)  #",
            first=(
                "replica/test_snapshots.py",
                "replica/test_replica.py",
            ),
        ),
        Mistake(
            "the log is dropped beyond a follower that answers",
            "ravel_node/replica/compaction.py",
            old="        target = min([flushed, last - stay, *matches])",
            new="        target = min([flushed, last - stay])",
            first=("replica/test_compaction.py",),
        ),
        Mistake(
            "the log is dropped beyond what is flushed",
            "ravel_node/replica/compaction.py",
            old="        target = min([flushed, last - stay, *matches])",
            new="        target = min([last - stay, *matches])",
            first=("replica/test_compaction.py",),
        ),
        Mistake(
            "a large log ignores its limit of bytes",
            "ravel_node/replica/compaction.py",
            old="    if log_bytes <= retain_bytes_max:",
            new="    if True:",
            first=("replica/test_compaction.py",),
        ),
        Mistake(
            "a round of catching up never fails for its time",
            "ravel_node/replica/membership.py",
            old="return last is not None and last < within_s and now - self._rounds[peer][1] < within_s",
            new="return last is not None",
            first=("replica/test_membership.py",),
        ),
        Mistake(
            "a change is made on an outdated view",
            "ravel_node/replica/membership.py",
            old=(
                "            try:\n"
                "                self._check_view(expect)\n"
                "            except ReplicaError as error:\n"
                "                future.set_exception(error)\n"
                "                return\n"
            ),
            new="",
            first=(
                "replica/test_membership.py",
                "replica/test_replica.py",
            ),
        ),
        Mistake(
            "a pending change waits for ever when the replica ends",
            "ravel_node/replica/membership.py",
            old="            self._pending.set_exception(why)",
            new="            pass",
            first=(
                "replica/test_membership.py",
                "replica/test_replica.py",
            ),
        ),
        Mistake(
            "a joint configuration is not waited for",
            "ravel_node/replica/membership.py",
            old="        while self._replica.conf_state.voters_outgoing:",
            new="        while False:",
            first=(
                "replica/test_membership.py",
                "replica/test_replica.py",
            ),
        ),
        Mistake(
            "bytes of a replaced log stay in the trail",
            "ravel_node/replica/trail.py",
            old="            self._bytes = run.bytes_before + int(share * (self._bytes - run.bytes_before))",
            new="            pass",
            first=("replica/test_trail.py",),
        ),
        Mistake(
            "the trail grows without a bound",
            "ravel_node/replica/trail.py",
            old="            self._coarsen(now)\n",
            new="            pass\n",
            first=("replica/test_trail.py",),
        ),
        Mistake(
            "a waiter of another term gets the outcome",
            "ravel_node/replica/waiters.py",
            old="        if batch.term != at.term:",
            new="        if False:",
            first=("replica/test_waiters.py",),
        ),
        Mistake(
            "outcomes of a batch go to the wrong proposals",
            "ravel_node/replica/waiters.py",
            old=("            start = end\n        return batch"),
            new="        return batch",
            first=("replica/test_waiters.py",),
        ),
        Mistake(
            "an import of slots is not counted as a raise of the revision",
            "ravel_node/replica/feed.py",
            old="self.before + len(self.changes) + self.raised)",
            new="self.before + len(self.changes))",
            first=("replica/test_feed.py",),
        ),
        Mistake(
            "revisions counted back ignore what was raised",
            "ravel_node/replica/feed.py",
            old=("                revision -= len(_changes(reader, entry)) + history.read_raise(reader.get, entry.index)"),
            new="                revision -= len(_changes(reader, entry))",
            first=("replica/test_feed.py",),
        ),
        Mistake(
            "appends that wait for an answer are unbounded",
            "ravel_node/replica/acks.py",
            old="        if len(waiting) < WAITING_MAX:",
            new="        if True:",
            first=("replica/test_acks.py",),
        ),
        Mistake(
            "a refusal is timed as an answer",
            "ravel_node/replica/acks.py",
            old=("            waiting.clear()\n            return"),
            new="            return",
            first=("replica/test_acks.py",),
        ),
        Mistake(
            "the last hour is 3.6 s long",
            "ravel_node/replica/past_hour.py",
            old="WINDOW_S: Final = 3_600.0",
            new="WINDOW_S: Final = 3.6",
            first=("replica/test_past_hour.py",),
        ),
        Mistake(
            "ages of events are in milliseconds",
            "ravel_node/replica/past_hour.py",
            old="(now_ms - event.wall_ms) / 1000)",
            new="(now_ms - event.wall_ms))",
            first=("replica/test_past_hour.py",),
        ),
        Mistake(
            "a step of a move says that it does not grow the store",
            "ravel_node/replica/slots.py",
            old="len(commands), grows=is_chunk)",
            new="len(commands), grows=False)",
            first=("server/test_slots.py",),
        ),
        Mistake(
            "every step of a move says that it grows the store",
            "ravel_node/replica/slots.py",
            old="len(commands), grows=is_chunk)",
            new="len(commands), grows=True)",
            first=("server/test_slots.py",),
        ),
        Mistake(
            "the last purge does not verify the index",
            "ravel_node/replica/slots.py",
            old="        del left[: await seat.verify_slots(left, VERIFIED_KEYS)]",
            new="        left.clear()",
            first=("server/test_slots.py",),
        ),
        Mistake(
            "notes of a move that was purged stay",
            "ravel_node/replica/slots.py",
            old=("    if side is Side.RELEASED:\n        await _settle(seat, command.move, REVISION_MAX)\n"),
            new="",
            first=("server/test_slots.py",),
        ),
    ),
)
