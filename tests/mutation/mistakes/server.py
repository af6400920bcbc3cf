"""Mistakes in ravel_node/server."""

from __future__ import annotations

from tests.mutation.mistake import Mistake, Room

ROOM = Room(
    "server",
    tests=("server",),
    mistakes=(
        Mistake(
            "the held bytes of a Session are never released",
            "ravel_node/server/session.py",
            old="                self._held_bytes -= self._waiting.popleft().held_bytes\n",
            new="                self._waiting.popleft()\n",
            first=("server/test_session.py",),
        ),
        Mistake(
            "only the bytes of the request are released",
            "ravel_node/server/session.py",
            old="        waiting.held_bytes += size\n",
            new="        waiting.held_bytes = waiting.held_bytes or size\n",
            first=("server/test_session.py",),
        ),
        Mistake(
            "the values read for a request are not held",
            "ravel_node/server/session.py",
            old="            self._hold(waiting, len(found.value))\n",
            new="",
            first=("server/test_session.py",),
        ),
        Mistake(
            "the bytes of a request are not held",
            "ravel_node/server/session.py",
            old="            self._hold(waiting, request.ByteSize())\n",
            new="",
            first=("server/test_session.py",),
        ),
        Mistake(
            "the oldest request waits for room too",
            "ravel_node/server/session.py",
            old="            if self._crowded() and self._waiting[0] is not waiting:",
            new="            if self._crowded():",
            first=("server/test_session.py",),
        ),
        Mistake(
            "a request that reads does not wait for room",
            "ravel_node/server/session.py",
            old="            if self._crowded() and self._waiting[0] is not waiting:",
            new="            if False:",
            first=("server/test_session.py",),
        ),
        Mistake(
            "room is looked for only before the barrier",
            "ravel_node/server/session.py",
            old="            if self._crowded() and self._waiting[0] is not waiting:",
            new="            if not passed and self._crowded() and self._waiting[0] is not waiting:",
            first=("server/test_session.py",),
        ),
        Mistake(
            "the lease is not looked at after the last wait",
            "ravel_node/server/session.py",
            old=(
                "                await replica.page_in([request.key for _, request in requests])\n                paged_in = True"
            ),
            new=(
                "                await replica.page_in([request.key for _, request in requests])\n"
                "                paged_in = passed = True"
            ),
            first=("server/test_session.py",),
        ),
        Mistake(
            "nobody is told that a request was answered",
            "ravel_node/server/session.py",
            old=("popleft().held_bytes\n                self._changed.set()"),
            new="popleft().held_bytes",
            first=("server/test_session.py",),
        ),
        Mistake(
            "a Session reads one request too many",
            "ravel_node/server/session.py",
            old="len(self._waiting) >= limits.session_requests_max",
            new="len(self._waiting) > limits.session_requests_max",
            first=("server/test_session.py",),
        ),
        Mistake(
            "a Session reads on although it is crowded",
            "ravel_node/server/session.py",
            old=" or (self._waiting and self._crowded()):",
            new=":",
            first=("server/test_session.py",),
        ),
        Mistake(
            "every proposal of a Session says that it grows",
            "ravel_node/server/session.py",
            old="grows=any(write.grows for write in writes)",
            new="grows=True",
            first=("server/test_session.py",),
        ),
        Mistake(
            "no proposal of a Session says that it grows",
            "ravel_node/server/session.py",
            old="grows=any(write.grows for write in writes)",
            new="grows=False",
            first=("server/test_session.py",),
        ),
        Mistake(
            "a full store fails the deletes of a batch too",
            "ravel_node/server/session.py",
            old=(
                "            _fail([results[write.position] for write in writes if write.grows], error)\n"
                "            shrinking = [write for write in writes if not write.grows]\n"
                "            await self._propose(replica, shrinking, results, once)"
            ),
            new="            _fail([results[write.position] for write in writes], error)",
            first=("server/test_session.py",),
        ),
        Mistake(
            "a write of a Session loses its offset",
            "ravel_node/server/session.py",
            old="once, [write.position for write in writes])",
            new="once, list(range(len(writes))))",
            first=("server/test_session.py",),
        ),
        Mistake(
            "the answer to one Session request has no limit of bytes",
            "ravel_node/server/session.py",
            old="                if found is not None and 0 < waiting.answer_bytes > most - len(found.value):",
            new="                if False:",
            first=("server/test_session.py",),
        ),
        Mistake(
            "a read of a Session skips the check of the owner",
            "ravel_node/server/session.py",
            old=("                if ownership is not None:\n                    check_owned(ownership, request.key)\n"),
            new="",
            first=(
                "server/test_session.py",
                "server/test_slots.py",
            ),
        ),
        Mistake(
            "an unknown command of a Session fails the whole request",
            "ravel_node/server/session.py",
            old=("            except InputError as error:\n                _fail([results[position]], error)\n        try:"),
            new=(
                "            except ZeroDivisionError as error:\n                _fail([results[position]], error)\n        try:"
            ),
            first=("server/test_session.py",),
        ),
        Mistake(
            "a put says that it does not grow the store",
            "ravel_node/server/commands.py",
            old="    return envelope.put(key, value), True",
            new="    return envelope.put(key, value), False",
            first=(
                "server/test_kv.py",
                "server/test_session.py",
            ),
        ),
        Mistake(
            "a delete says that it grows the store",
            "ravel_node/server/commands.py",
            old="    return envelope.delete(request.key), False",
            new="    return envelope.delete(request.key), True",
            first=(
                "server/test_kv.py",
                "server/test_session.py",
            ),
        ),
        Mistake(
            "a compare-and-swap says that it does not grow the store",
            "ravel_node/server/commands.py",
            old="request.expected_revision, request.value), True",
            new="request.expected_revision, request.value), False",
            first=(
                "server/test_kv.py",
                "server/test_session.py",
            ),
        ),
        Mistake(
            "a Write of deletes says that it grows the store",
            "ravel_node/server/commands.py",
            old="any(value is not None for value in operations.values())",
            new="True",
            first=(
                "server/test_kv.py",
                "server/test_session.py",
            ),
        ),
        Mistake(
            "a Write of puts says that it does not grow the store",
            "ravel_node/server/commands.py",
            old="any(value is not None for value in operations.values())",
            new="False",
            first=(
                "server/test_kv.py",
                "server/test_session.py",
            ),
        ),
        Mistake(
            "the forgotten result of a batch names the first sequence",
            "ravel_node/server/commands.py",
            old="once.sequence + offset if once",
            new="once.sequence if once",
            first=("server/test_session.py",),
        ),
        Mistake(
            "acked_below of a write is dropped",
            "ravel_node/server/commands.py",
            old="return Once(once.client_id, once.sequence, once.acked_below)",
            new="return Once(once.client_id, once.sequence)",
            first=(
                "server/test_kv.py",
                "server/test_session.py",
            ),
        ),
        Mistake(
            "a moving slot is answered as a wrong one",
            "ravel_node/server/commands.py",
            old="        raise SlotMovingError(refused_slot(outcome), outcome.revision)",
            new="        raise WrongSlotError(refused_slot(outcome), outcome.revision)",
            first=(
                "server/test_slots.py",
                "server/test_kv.py",
                "server/test_errors.py",
            ),
        ),
        Mistake(
            "a refusal of a slot carries no version of the map",
            "ravel_node/server/commands.py",
            old="        raise WrongSlotError(refused_slot(outcome), outcome.revision)",
            new="        raise WrongSlotError(refused_slot(outcome), 0)",
            first=(
                "server/test_slots.py",
                "server/test_kv.py",
            ),
        ),
        Mistake(
            "a unary put drops its once",
            "ravel_node/server/kv.py",
            old=(
                "(outcome,) = await replica.propose(envelope.group((command,), once), 1, grows=grows)\n"
                "        check_outcome(outcome, once)\n"
                "        response = kv_pb2.PutResponse()"
            ),
            new=(
                "(outcome,) = await replica.propose(envelope.group((command,)), 1, grows=grows)\n"
                "        check_outcome(outcome, once)\n"
                "        response = kv_pb2.PutResponse()"
            ),
            first=("server/test_kv.py",),
        ),
        Mistake(
            "a get skips the check of the owner",
            "ravel_node/server/kv.py",
            old="            check_owned(ownership, key)\n",
            new="            pass\n",
            first=(
                "server/test_slots.py",
                "server/test_kv.py",
            ),
        ),
        Mistake(
            "a scan passes the barrier for its first page only",
            "ravel_node/server/kv.py",
            old=(
                "            if not replica.barrier_free(mode):\n"
                "                await replica.read_barrier(mode)\n"
                "            ownership"
            ),
            new=(
                "            if start == request.start and not replica.barrier_free(mode):\n"
                "                await replica.read_barrier(mode)\n"
                "            ownership"
            ),
            first=("server/test_kv.py",),
        ),
        Mistake(
            "a scan forgets how many keys it gave",
            "ravel_node/server/kv.py",
            old="                left -= len(page.items)\n",
            new="                pass\n",
            first=("server/test_kv.py",),
        ),
        Mistake(
            "a scan says more after its limit",
            "ravel_node/server/kv.py",
            old="            more = page.more and left != 0",
            new="            more = page.more",
            first=("server/test_kv.py",),
        ),
        Mistake(
            "a scan tells no slots",
            "ravel_node/server/kv.py",
            old='slots=b"" if ownership is None else ownership.owned',
            new='slots=b""',
            first=(
                "server/test_slots.py",
                "server/test_kv.py",
            ),
        ),
        Mistake(
            "a scan shows keys of foreign slots",
            "ravel_node/server/kv.py",
            old="keys_only=request.keys_only, ownership=ownership)",
            new="keys_only=request.keys_only, ownership=None)",
            first=(
                "server/test_slots.py",
                "server/test_kv.py",
            ),
        ),
        Mistake(
            "the limit of a request is ignored",
            "ravel_node/server/limits.py",
            old="        if size > self.request_bytes_max:",
            new="        if False:",
            first=(
                "server/test_session.py",
                "server/test_kv.py",
                "server/test_app.py",
            ),
        ),
        Mistake(
            "progress_ms is taken for seconds",
            "ravel_node/server/limits.py",
            old="return (progress_ms or PROGRESS_MS_DEFAULT) / 1_000",
            new="return float(progress_ms or PROGRESS_MS_DEFAULT)",
            first=(
                "server/test_watch.py",
                "server/test_kv.py",
            ),
        ),
        Mistake(
            "the watch's cache never counts down",
            "ravel_node/server/watch.py",
            old="            self._cache_bytes -= dropped.size\n",
            new="            pass\n",
            first=("server/test_watch.py",),
        ),
        Mistake(
            "an entry that is read again counts twice in the watch's cache",
            "ravel_node/server/watch.py",
            old="                self._cache_bytes -= old.size\n",
            new="                pass\n",
            first=("server/test_watch.py",),
        ),
        Mistake(
            "the watch's cache is not counted",
            "ravel_node/server/watch.py",
            old="            self._cache_bytes += entry.size\n",
            new="            pass\n",
            first=("server/test_watch.py",),
        ),
        Mistake(
            "shared messages are never forgotten",
            "ravel_node/server/watch.py",
            old="        self._shared.clear()\n",
            new="",
            first=("server/test_watch.py",),
        ),
        Mistake(
            "the bytes of shared messages are never released",
            "ravel_node/server/watch.py",
            old=("        self._shared.clear()\n        self._shared_bytes = 0\n"),
            new="        self._shared.clear()\n",
            first=("server/test_watch.py",),
        ),
        Mistake(
            "a watcher that left stays counted",
            "ravel_node/server/watch.py",
            old=("        finally:\n            self._count -= 1"),
            new=("        finally:\n            pass"),
            first=("server/test_watch.py",),
        ),
        Mistake(
            "one watch too many is served",
            "ravel_node/server/watch.py",
            old="        if self._count >= self._watches_max:",
            new="        if self._count > self._watches_max:",
            first=("server/test_watch.py",),
        ),
        Mistake(
            "a revision is cut between two messages",
            "ravel_node/server/watch.py",
            old=(
                "                if size >= READ_BYTES_MAX:\n"
                '                    return _Collected(b"".join(parts), position, seen)'
            ),
            new=(
                "                if size >= READ_BYTES_MAX:\n"
                '                    return _Collected(b"".join(parts), entry.next, seen)'
            ),
            first=("server/test_watch.py",),
        ),
        Mistake(
            "events before the asked revision are sent",
            "ravel_node/server/watch.py",
            old=("                if revision <= seen:\n                    continue\n"),
            new="",
            first=("server/test_watch.py",),
        ),
        Mistake(
            "a sleeper that nobody woke skips to the head",
            "ravel_node/server/watch.py",
            old="            cursor.position = looked\n",
            new="            cursor.position = self._feed.head()\n",
            first=("server/test_watch.py",),
        ),
        Mistake(
            "a watcher is not woken when slots come or leave",
            "ravel_node/server/watch.py",
            old="        turned = viewed is not self._viewed\n",
            new="        turned = False\n",
            first=(
                "server/test_watch.py",
                "server/test_slot_subscription.py",
            ),
        ),
        Mistake(
            "a watcher without a leader is never sent elsewhere",
            "ravel_node/server/watch.py",
            old="LEADERLESS_ELECTIONS: Final = 4.0",
            new="LEADERLESS_ELECTIONS: Final = 4_000.0",
            first=("server/test_watch.py",),
        ),
        Mistake(
            "a watch of a named slot is told of all slots",
            "ravel_node/server/watch.py",
            old="holds = cursor.range.names if cursor.range.slots else cursor.range.holds",
            new="holds = cursor.range.holds",
            first=(
                "server/test_watch.py",
                "server/test_slot_subscription.py",
            ),
        ),
        Mistake(
            "progress of a watch is told too late",
            "ravel_node/server/watch.py",
            old="await self._sleep(cursor, told_at + progress_s)",
            new="await self._sleep(cursor, told_at + 1_000 * progress_s)",
            first=("server/test_watch.py",),
        ),
        Mistake(
            "a slot that came back is watched with a hole",
            "ravel_node/server/slot_subscription.py",
            old="            if tenure.came != self._view.tenure(slot).came:",
            new="            if False:",
            first=("server/test_slot_subscription.py",),
        ),
        Mistake(
            "a watch from before a slot came is accepted",
            "ravel_node/server/slot_subscription.py",
            old="else 0 < from_revision <= tenure.came",
            new="else 0 < from_revision < tenure.came",
            first=("server/test_slot_subscription.py",),
        ),
        Mistake(
            "a slot leaves before all of it was told",
            "ravel_node/server/slot_subscription.py",
            old="            if revision <= seen:",
            new="            if True:",
            first=("server/test_slot_subscription.py",),
        ),
        Mistake(
            "a slot that left is told at the revision seen",
            "ravel_node/server/slot_subscription.py",
            old="                self._leaving[slot] = tenure.left or seen",
            new="                self._leaving[slot] = seen",
            first=("server/test_slot_subscription.py",),
        ),
        Mistake(
            "a status stream that ended stays counted",
            "ravel_node/server/watching.py",
            old=("        finally:\n            self._watchers -= 1"),
            new=("        finally:\n            pass"),
            first=("server/test_watching.py",),
        ),
        Mistake(
            "the interval of a status stream is taken for seconds",
            "ravel_node/server/watching.py",
            old="interval_s = _interval_ms(request.interval_ms) / 1_000",
            new="interval_s = float(_interval_ms(request.interval_ms))",
            first=(
                "server/test_watching.py",
                "server/test_app.py",
            ),
        ),
        Mistake(
            "a step of a move drops its revision",
            "ravel_node/server/slots.py",
            old=("        request.revision,\n        mover="),
            new=("        0,\n        mover="),
            first=("server/test_slots.py",),
        ),
        Mistake(
            "a chunk drops the revisions of its keys",
            "ravel_node/server/slots.py",
            old="MovedKey(moved.key, moved.value, moved.revision) for moved",
            new="MovedKey(moved.key, moved.value, 0) for moved",
            first=("server/test_slots.py",),
        ),
        Mistake(
            "a step of a move drops the number of its chunk",
            "ravel_node/server/slots.py",
            old="        request.chunk,\n",
            new="        0,\n",
            first=("server/test_slots.py",),
        ),
        Mistake(
            "a step of a move drops the version of the map",
            "ravel_node/server/slots.py",
            old=("        request.map_version,\n        request.chunk"),
            new=("        0,\n        request.chunk"),
            first=("server/test_slots.py",),
        ),
        Mistake(
            "a step of a move drops its mover",
            "ravel_node/server/slots.py",
            old="        mover=request.mover,\n",
            new="        mover=0,\n",
            first=("server/test_slots.py",),
        ),
        Mistake(
            "a page of moved keys drops their revisions",
            "ravel_node/server/slots.py",
            old="slots_pb2.MovedKey(key=key, value=value, revision=revision) for",
            new="slots_pb2.MovedKey(key=key, value=value, revision=page.revision) for",
            first=("server/test_slots.py",),
        ),
        Mistake(
            "the answer to a step has no revision",
            "ravel_node/server/slots.py",
            old="            revision=result.revision,\n            next_chunk",
            new="            revision=0,\n            next_chunk",
            first=("server/test_slots.py",),
        ),
        Mistake(
            "a chunk may hold any number of bytes",
            "ravel_node/server/slots.py",
            old="    if size > MOVED_BYTES_MAX and len(keys) > 1:",
            new="    if False:",
            first=("server/test_slots.py",),
        ),
        Mistake(
            "keys of a foreign slot are shown to a mover",
            "ravel_node/server/slots.py",
            old="        if own.marks[slot] == Mark.FOREIGN and slot not in moving:",
            new="        if False:",
            first=("server/test_slots.py",),
        ),
        Mistake(
            "the owner is told without a barrier",
            "ravel_node/server/slots.py",
            old=("        await replica.read_barrier(ReadMode.LINEARIZABLE)\n        own = replica.machine"),
            new="        own = replica.machine",
            first=("server/test_slots.py",),
        ),
        Mistake(
            "a message of another replica is taken",
            "ravel_node/server/raft.py",
            old="    if message.from_ != hello.from_replica_id or message.to != hello.to_replica_id:",
            new="    if False:",
            first=("server/test_raft.py",),
        ),
        Mistake(
            "a removed replica is heard on an open stream",
            "ravel_node/server/raft.py",
            old="            if (record := self._host.machine.members.get(peer)) is not None and record.removed:",
            new="            if False:",
            first=("server/test_raft.py",),
        ),
        Mistake(
            "a caller may take for ever to say hello",
            "ravel_node/server/raft.py",
            old="        async with asyncio.timeout(HELLO_TIMEOUT_S):",
            new="        async with asyncio.timeout(None):",
            first=("server/test_raft.py",),
        ),
        Mistake(
            "a receipt blocks the next one for ever",
            "ravel_node/server/raft.py",
            old=("            self._install = None\n            self._installed.set()"),
            new="            self._installed.set()",
            first=("transport/test_snapshot_stream.py",),
        ),
        Mistake(
            "a status tells seconds for milliseconds",
            "ravel_node/server/status.py",
            old="    return max(0, int(seconds * 1000))",
            new="    return max(0, int(seconds))",
            first=(
                "server/test_cluster.py",
                "server/test_watching.py",
                "server/test_app.py",
            ),
        ),
        Mistake(
            "the lag in bytes is told as the lag in entries",
            "ravel_node/server/status.py",
            old="        lag_bytes=peer.lag.bytes,",
            new="        lag_bytes=peer.lag.entries,",
            first=("server/test_cluster.py",),
        ),
        Mistake(
            "a peer never heard of counts as one of now",
            "ravel_node/server/status.py",
            old="        contacted=peer.contact_age_s is not None,",
            new="        contacted=True,",
            first=("server/test_cluster.py",),
        ),
        Mistake(
            "a status tells the commit index as the applied one",
            "ravel_node/server/status.py",
            old="        applied_index=status.applied_index,",
            new="        applied_index=status.commit_index,",
            first=(
                "server/test_cluster.py",
                "server/test_app.py",
            ),
        ),
        Mistake(
            "the map of a store is told as what is used",
            "ravel_node/server/status.py",
            old="        db_map_bytes=status.db_map_bytes,",
            new="        db_map_bytes=status.db_used_bytes,",
            first=(
                "server/test_cluster.py",
                "server/test_app.py",
            ),
        ),
        Mistake(
            "voters that refused count as granted",
            "ravel_node/server/status.py",
            old="granted_by=sorted(voter for voter, granted in status.votes.items() if granted)",
            new="granted_by=sorted(status.votes)",
            first=("server/test_cluster.py",),
        ),
        Mistake(
            "a snapshot of an older state is given as new",
            "ravel_node/server/inspect.py",
            old="if snapshots and snapshots[0].header.index >= store.applied.index:",
            new="if snapshots:",
            first=("server/test_inspect.py",),
        ),
        Mistake(
            "a snapshot is saved on an outdated view",
            "ravel_node/server/inspect.py",
            old="        self._check_view(request.expect)\n",
            new="",
            first=("server/test_inspect.py",),
        ),
        Mistake(
            "a dry run compacts the log",
            "ravel_node/server/inspect.py",
            old="await replica.compact(request.keep, dry_run=request.dry_run)",
            new="await replica.compact(request.keep, dry_run=False)",
            first=("server/test_inspect.py",),
        ),
        Mistake(
            "a call that means another cluster is served",
            "ravel_node/server/cluster_check.py",
            old="        if own and meant != own:",
            new="        if False:",
            first=("server/test_cluster_check.py",),
        ),
        Mistake(
            "a fatal error of a handler does not stop the daemon",
            "ravel_node/server/binding.py",
            old="            self._on_fatal(error)",
            new="            pass",
            first=(
                "server/test_kv.py",
                "server/test_app.py",
            ),
        ),
        Mistake(
            "a wait after the interrupt does not end",
            "ravel_node/server/interrupts.py",
            old=("        if self._error is not None:\n            if asyncio"),
            new=("        if False:\n            if asyncio"),
            first=(
                "server/test_session.py",
                "server/test_app.py",
                "server/test_watch.py",
            ),
        ),
    ),
)
