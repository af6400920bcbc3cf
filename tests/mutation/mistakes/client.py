"""Mistakes in ravelctl/client."""

from __future__ import annotations

from tests.mutation.mistake import Mistake, Room

ROOM = Room(
    "client",
    tests=(
        "ravelctl/client",
        "ravelctl/commands/test_kv_addresses.py",
        "ravelctl/commands/test_kv_interrupts.py",
        "ravelctl/commands/test_kv_routed.py",
    ),
    mistakes=(
        Mistake(
            "the batcher never releases its bytes in flight",
            "ravelctl/client/session/batcher.py",
            old="        self._bytes_in_flight -= batch.size_bytes\n",
            new="",
            first=("ravelctl/client/test_batcher.py",),
        ),
        Mistake(
            "the batcher keeps the bytes of a lost stream",
            "ravelctl/client/session/batcher.py",
            old=("        self._in_flight.clear()\n        self._bytes_in_flight = 0\n"),
            new="        self._in_flight.clear()\n",
            first=("ravelctl/client/test_batcher.py",),
        ),
        Mistake(
            "the batcher never counts its bytes in flight",
            "ravelctl/client/session/batcher.py",
            old="        self._bytes_in_flight += batch.size_bytes\n",
            new="",
            first=("ravelctl/client/test_batcher.py",),
        ),
        Mistake(
            "the batcher's queue takes one call too many",
            "ravelctl/client/session/batcher.py",
            old="len(self._waiting) >= WAITING_MAX and not self._drop_settled()",
            new="len(self._waiting) > WAITING_MAX and not self._drop_settled()",
            first=("ravelctl/client/test_batcher.py",),
        ),
        Mistake(
            "calls that were given up fill the batcher's queue",
            "ravelctl/client/session/batcher.py",
            old="len(self._waiting) >= WAITING_MAX and not self._drop_settled()",
            new="len(self._waiting) >= WAITING_MAX",
            first=("ravelctl/client/test_batcher.py",),
        ),
        Mistake(
            "expired calls stay in the batcher's queue",
            "ravelctl/client/session/batcher.py",
            old=("        self._drop_settled()\n        self._set_alarm"),
            new="        self._set_alarm",
            first=("ravelctl/client/test_batcher.py",),
        ),
        Mistake(
            "the batcher has one request more in flight",
            "ravelctl/client/session/batcher.py",
            old="len(self._in_flight) < IN_FLIGHT_MAX",
            new="len(self._in_flight) <= IN_FLIGHT_MAX",
            first=("ravelctl/client/test_batcher.py",),
        ),
        Mistake(
            "calls expire in grains of 20 s for 20 ms",
            "ravelctl/client/session/batcher.py",
            old="EXPIRY_GRAIN_S: Final = 0.02",
            new="EXPIRY_GRAIN_S: Final = 20",
            first=("ravelctl/client/test_batcher.py",),
        ),
        Mistake(
            "the timeout of a batched call is taken for milliseconds",
            "ravelctl/client/session/batcher.py",
            old="deadline = loop.time() + timeout_s\n",
            new="deadline = loop.time() + timeout_s * 1000\n",
            first=("ravelctl/client/test_batcher.py",),
        ),
        Mistake(
            "an earlier deadline does not move the batcher's timer",
            "ravelctl/client/session/batcher.py",
            old=("        if deadline < self._alarm_at:\n            self._set_alarm(deadline)\n"),
            new=("        if self._alarm is None:\n            self._set_alarm(deadline)\n"),
            first=("ravelctl/client/test_batcher.py",),
        ),
        Mistake(
            "a stream that never answers is not noticed",
            "ravelctl/client/session/batcher.py",
            old=("        if len(self._in_flight) == 1:\n            self._expect_progress()\n"),
            new="",
            first=("ravelctl/client/test_batcher.py",),
        ),
        Mistake(
            "answers do not count as progress of the stream",
            "ravelctl/client/session/batcher.py",
            old=("        self._wake.set()\n        self._expect_progress()\n"),
            new="        self._wake.set()\n",
            first=("ravelctl/client/test_batcher.py",),
        ),
        Mistake(
            "a call without time is sent",
            "ravelctl/client/session/batcher.py",
            old=("        if not timeout_s > 0:\n            raise no_time(timeout_s)\n"),
            new="",
            first=("ravelctl/client/test_batcher.py",),
        ),
        Mistake(
            "progress does not reset the backoff of the batcher",
            "ravelctl/client/session/batcher.py",
            old=("                if self._done != done:\n                    attempts.progressed()\n"),
            new="",
            first=("ravelctl/client/test_batcher.py",),
        ),
        Mistake(
            "a write leaves before its cluster is known",
            "ravelctl/client/session/batcher.py",
            old=(
                "                if not self._connections.cluster_id:\n"
                "                    # No command leaves before it is known which cluster would run it.\n"
                "                    self._meet(endpoint, await stream.initial_metadata())\n"
            ),
            new="",
            first=(
                "ravelctl/client/test_cluster_id.py",
                "ravelctl/client/test_batcher.py",
            ),
        ),
        Mistake(
            "a batch forgets that its outcome is uncertain",
            "ravelctl/client/session/batcher.py",
            old=("            batch.uncertain |= not proved\n                _mark_sent"),
            new=("            batch.uncertain = False\n                _mark_sent"),
            first=(
                "ravelctl/client/test_cluster_id.py",
                "ravelctl/client/test_batcher.py",
            ),
        ),
        Mistake(
            "a sent write counts as never sent",
            "ravelctl/client/session/batcher.py",
            old=("            _mark_sent(batch, True)\n        self._in_flight"),
            new=("            pass\n        self._in_flight"),
            first=(
                "ravelctl/client/test_interrupts.py",
                "ravelctl/client/test_batcher.py",
            ),
        ),
        Mistake(
            "the deadline of attempts is taken for milliseconds",
            "ravelctl/client/connection/attempts.py",
            old="        self._deadline = now + timeout_s\n",
            new="        self._deadline = now + timeout_s / 1000\n",
            first=(
                "ravelctl/client/test_attempts.py",
                "ravelctl/client/test_unary.py",
                "ravelctl/client/test_batcher.py",
            ),
        ),
        Mistake(
            "the deadline is checked only after a wait",
            "ravelctl/client/connection/attempts.py",
            old=(
                "        if self.backoff.is_over:\n"
                "            raise self.obstacles.deadline_error(self.backoff.timeout_s)\n"
                "        if not at_once"
            ),
            new="        if not at_once",
            first=(
                "ravelctl/client/test_attempts.py",
                "ravelctl/client/test_unary.py",
                "ravelctl/client/test_batcher.py",
            ),
        ),
        Mistake(
            "retry_after_ms of a busy server is ignored",
            "ravelctl/client/connection/attempts.py",
            old="error.retry_after_s if isinstance(error, BusyError) else 0.0",
            new="0.0",
            first=(
                "ravelctl/client/test_attempts.py",
                "ravelctl/client/test_unary.py",
                "ravelctl/client/test_batcher.py",
            ),
        ),
        Mistake(
            "progress does not reset the backoff",
            "ravelctl/client/connection/attempts.py",
            old=("self._failures = 0\n        self.backoff.waits = 0"),
            new="self._failures = 0",
            first=(
                "ravelctl/client/test_attempts.py",
                "ravelctl/client/test_unary.py",
                "ravelctl/client/test_batcher.py",
            ),
        ),
        Mistake(
            "a client with wrong addresses only tries for ever",
            "ravelctl/client/connection/attempts.py",
            old=("        if self.connections.hopeless:\n            raise error\n"),
            new="",
            first=(
                "ravelctl/client/test_attempts.py",
                "ravelctl/client/test_unary.py",
                "ravelctl/client/test_batcher.py",
            ),
        ),
        Mistake(
            "hints of leaders are followed without an end",
            "ravelctl/client/connection/connections.py",
            old="return attempt <= self._retry.redirects_free",
            new="return True",
            first=(
                "ravelctl/client/test_connections.py",
                "ravelctl/client/test_cluster_id.py",
                "ravelctl/client/test_attempts.py",
                "ravelctl/client/test_unary.py",
                "ravelctl/client/test_batcher.py",
                "ravelctl/client/test_faults.py",
            ),
        ),
        Mistake(
            "the first cluster pins a client that named none",
            "ravelctl/client/connection/connections.py",
            old=("        if not cluster_id or cluster_id == self._cluster_id or not self._pins:\n            return\n"),
            new=("        if not cluster_id or cluster_id == self._cluster_id:\n            return\n"),
            first=(
                "ravelctl/client/test_connections.py",
                "ravelctl/client/test_cluster_id.py",
                "ravelctl/client/test_attempts.py",
                "ravelctl/client/test_unary.py",
                "ravelctl/client/test_batcher.py",
                "ravelctl/client/test_faults.py",
            ),
        ),
        Mistake(
            "calls carry no cluster ID",
            "ravelctl/client/connection/connections.py",
            old="return ClusterChannel(channel, self._meant_by_hand if named else self._meant)",
            new="return ClusterChannel(channel, lambda: '')",
            first=(
                "ravelctl/client/test_connections.py",
                "ravelctl/client/test_cluster_id.py",
                "ravelctl/client/test_attempts.py",
                "ravelctl/client/test_unary.py",
                "ravelctl/client/test_batcher.py",
                "ravelctl/client/test_faults.py",
            ),
        ),
        Mistake(
            "an address of another cluster is asked again",
            "ravelctl/client/connection/connections.py",
            old="            self._wrong.add(endpoint)\n",
            new="",
            first=(
                "ravelctl/client/test_connections.py",
                "ravelctl/client/test_cluster_id.py",
                "ravelctl/client/test_attempts.py",
                "ravelctl/client/test_unary.py",
                "ravelctl/client/test_batcher.py",
                "ravelctl/client/test_faults.py",
            ),
        ),
        Mistake(
            "a change of unknown outcome is repeated",
            "ravelctl/client/services/unary.py",
            old=(
                "        if not repeatable and not rule_of(answer).nothing_done:\n"
                '            raise unknown_outcome("the change", answer, next_step=LOOK_FIRST)\n'
            ),
            new="",
            first=("ravelctl/client/test_unary.py",),
        ),
        Mistake(
            "a repeatable call is not repeated",
            "ravelctl/client/services/unary.py",
            old="        if not repeatable and not rule_of(answer).nothing_done:",
            new="        if not rule_of(answer).nothing_done:",
            first=("ravelctl/client/test_unary.py",),
        ),
        Mistake(
            "an endless stream ends after the timeout",
            "ravelctl/client/services/unary.py",
            old="limit_s = None if endless else timeout_s",
            new="limit_s = timeout_s",
            first=("ravelctl/client/test_unary.py",),
        ),
        Mistake(
            "a stream has no deadline",
            "ravelctl/client/services/unary.py",
            old="limit_s = None if endless else timeout_s",
            new="limit_s = None",
            first=("ravelctl/client/test_unary.py",),
        ),
        Mistake(
            "connecting does not count for the timeout",
            "ravelctl/client/services/unary.py",
            old="left_s = None if limit_s is None else limit_s - (loop.time() - began)",
            new="left_s = limit_s",
            first=("ravelctl/client/test_unary.py",),
        ),
        Mistake(
            "a question without time is sent",
            "ravelctl/client/services/unary.py",
            old=("    if not timeout_s > 0:\n        raise no_time(timeout_s)\n    answer"),
            new="    answer",
            first=("ravelctl/client/test_unary.py",),
        ),
        Mistake(
            "a watch waits 5000 s for a silent server",
            "ravelctl/client/session/message_stream.py",
            old="SILENCE_S: Final = 5.0",
            new="SILENCE_S: Final = 5000.0",
            first=(
                "ravelctl/client/test_watch_times.py",
                "ravelctl/client/test_watch.py",
            ),
        ),
        Mistake(
            "outage_max_s of a watch is ignored",
            "ravelctl/client/session/message_stream.py",
            old="        self._begin_trouble(self._outage_max_s)\n",
            new="        self._begin_trouble(None)\n",
            first=(
                "ravelctl/client/test_watch_times.py",
                "ravelctl/client/test_watch.py",
            ),
        ),
        Mistake(
            "the first answer of a watch has no deadline",
            "ravelctl/client/session/message_stream.py",
            old="            self._begin_trouble(self._timeout_s)\n",
            new="            self._begin_trouble(None)\n",
            first=(
                "ravelctl/client/test_watch_times.py",
                "ravelctl/client/test_watch.py",
            ),
        ),
        Mistake(
            "an outage of a watch never ends",
            "ravelctl/client/session/message_stream.py",
            old="        self._backoff.restart(None)\n        self._behind.clear()",
            new="        self._behind.clear()",
            first=(
                "ravelctl/client/test_watch_times.py",
                "ravelctl/client/test_watch.py",
            ),
        ),
        Mistake(
            "an attempt of a watch ignores the deadline",
            "ravelctl/client/session/message_stream.py",
            old="limit_s = min(limit_s, left_s)",
            new="pass",
            first=(
                "ravelctl/client/test_watch_times.py",
                "ravelctl/client/test_watch.py",
            ),
        ),
        Mistake(
            "a watch notes no progress",
            "ravelctl/client/session/message_stream.py",
            old="""                    if answer.events or not self._fresh or not self.begun:
                        self._end_trouble()
""",
            new="",
            first=(
                "ravelctl/client/test_watch_times.py",
                "ravelctl/client/test_watch.py",
            ),
        ),
        Mistake(
            "a scan skips past a key of full length",
            "ravelctl/client/session/scan.py",
            old="    if len(key) < KEY_BYTES_MAX:",
            new="    if len(key) <= KEY_BYTES_MAX:",
            first=("ravelctl/client/test_scan.py",),
        ),
        Mistake(
            "a resumed scan forgets how many keys it gave",
            "ravelctl/client/session/scan.py",
            old="self._request.limit = max(0, self._request.limit - len(page.items))",
            new="pass",
            first=("ravelctl/client/test_scan.py",),
        ),
        Mistake(
            "a page of a scan has no deadline",
            "ravelctl/client/session/scan.py",
            old="timeout_s=self._timeout_s, any_replica=any_replica",
            new="timeout_s=None, any_replica=any_replica",
            first=("ravelctl/client/test_scan.py",),
        ),
        Mistake(
            "a moving slot gets all of the time again",
            "ravelctl/client/session/cluster_store.py",
            old="left_s = answer.deadline - asyncio.get_running_loop().time()",
            new="left_s = timeout_s",
            first=(
                "ravelctl/client/test_routing_times.py",
                "ravelctl/client/test_batcher.py",
            ),
        ),
        Mistake(
            "a write that was never sent counts as unknown",
            "ravelctl/client/session/cluster_store.py",
            old="    if answer is not None and answer.may_have_happened:",
            new="    if answer is not None:",
            first=(
                "ravelctl/client/test_interrupts.py",
                "ravelctl/client/test_routing_times.py",
                "ravelctl/client/test_batcher.py",
            ),
        ),
        Mistake(
            "an unused store retires after 30 ms",
            "ravelctl/client/routing/routed_store.py",
            old="RETIRE_S: Final = 30.0",
            new="RETIRE_S: Final = 0.03",
            first=(
                "ravelctl/client/test_routing_times.py",
                "ravelctl/client/test_routed_store.py",
            ),
        ),
        Mistake(
            "a routed call never gives up",
            "ravelctl/client/routing/routed_store.py",
            old=("        if backoff.is_over:\n            raise backoff.gave_up(refusal)\n"),
            new="",
            first=(
                "ravelctl/client/test_routing_times.py",
                "ravelctl/client/test_routed_store.py",
            ),
        ),
        Mistake(
            "a renewal of the map has no deadline",
            "ravelctl/client/routing/slot_map_cache.py",
            old="timeout=max(0.0, timeout_s)",
            new="timeout=None",
            first=(
                "ravelctl/client/test_slot_map.py",
                "ravelctl/client/test_routing_times.py",
            ),
        ),
        Mistake(
            "a merged scan waits before it asks for the map",
            "ravelctl/client/routing/merged_scan.py",
            old=("if not at_once:\n            await backoff.wait()"),
            new=("if True:\n            await backoff.wait()"),
            first=("ravelctl/client/test_routing_times.py",),
        ),
        Mistake(
            "a cluster that was away stays away for ever",
            "ravelctl/client/routing/outages.py",
            old="            del self._errors[key], self._asking[key]",
            new="            del self._asking[key]",
            first=("ravelctl/client/test_routing_times.py",),
        ),
        Mistake(
            "SHUTTING_DOWN counts as an unknown outcome",
            "ravelctl/client/connection/rules.py",
            old="Reason.SHUTTING_DOWN: Rule(Next.ELSEWHERE, _NOTHING)",
            new="Reason.SHUTTING_DOWN: Rule(Next.ELSEWHERE, _MAYBE)",
            first=("ravelctl/client/test_rules.py",),
        ),
        Mistake(
            "the progress timeout is 1500 s",
            "ravelctl/client/connection/retry.py",
            old="progress_timeout_s: float = 1.5",
            new="progress_timeout_s: float = 1500",
            first=(
                "ravelctl/client/test_retry.py",
                "ravelctl/client/test_attempts.py",
            ),
        ),
        Mistake(
            "a suspect address is asked again after 1 ms",
            "ravelctl/client/connection/retry.py",
            old="suspicion_s: float = 1.0",
            new="suspicion_s: float = 0.001",
            first=(
                "ravelctl/client/test_unary.py",
                "ravelctl/client/test_retry.py",
                "ravelctl/client/test_attempts.py",
            ),
        ),
        Mistake(
            "a timeout of 0 means the default",
            "ravelctl/client/client.py",
            old="return self._timeout_s if timeout_s is None else timeout_s",
            new="return timeout_s or self._timeout_s",
            first=(
                "ravelctl/client/test_routing_times.py",
                "ravelctl/client/test_client.py",
                "ravelctl/client/test_retry.py",
            ),
        ),
        Mistake(
            "the default timeout of RavelClient is 5000 s",
            "ravelctl/client/client.py",
            old=("timeout_s: float = 5.0,\n        exactly_once"),
            new=("timeout_s: float = 5000.0,\n        exactly_once"),
            first=(
                "ravelctl/client/test_unary.py",
                "ravelctl/client/test_client.py",
                "ravelctl/client/test_retry.py",
            ),
        ),
        Mistake(
            "the default timeout of services is 5000 s",
            "ravelctl/client/services/service_client.py",
            old="timeout_s: float = 5.0",
            new="timeout_s: float = 5000.0",
            first=(
                "ravelctl/client/test_retry.py",
                "ravelctl/client/test_unary.py",
            ),
        ),
        Mistake(
            "the interval of a status stream does not count for its limit",
            "ravelctl/client/services/cluster.py",
            old="limit_s = interval_s + self._limit_s(timeout_s)",
            new="limit_s = self._limit_s(timeout_s)",
            first=(
                "ravelctl/client/test_unary.py",
                "ravelctl/client/test_cluster.py",
                "ravelctl/client/test_retry.py",
            ),
        ),
        Mistake(
            "the interval of a status stream is sent in seconds",
            "ravelctl/client/services/cluster.py",
            old="interval_ms=round(interval_s * 1000)",
            new="interval_ms=round(interval_s)",
            first=(
                "ravelctl/client/test_cluster.py",
                "ravelctl/client/test_retry.py",
            ),
        ),
        Mistake(
            "the window of sequences is twice as large",
            "ravelctl/client/session/sequence_window.py",
            old="WINDOW_MAX: Final = 1024",
            new="WINDOW_MAX: Final = 2048",
            first=("ravelctl/client/test_sequence_window.py",),
        ),
        Mistake(
            "retry_after_ms is taken for seconds",
            "ravelctl/client/errors.py",
            old="return _number(self.metadata.get(Field.RETRY_AFTER_MS)) / 1000",
            new="return _number(self.metadata.get(Field.RETRY_AFTER_MS))",
            first=("ravelctl/client/test_errors.py",),
        ),
        Mistake(
            "an interrupt loses the outcome",
            "ravelctl/client/blocking.py",
            old="            self.outcome = cancelled.__cause__\n",
            new="",
            first=(
                "ravelctl/client/test_blocking.py",
                "ravelctl/client/test_interrupts.py",
            ),
        ),
        Mistake(
            "a leave gives up after 5 ms without a quorum",
            "ravelctl/client/services/leaving.py",
            old="NO_QUORUM_S: Final = 5.0",
            new="NO_QUORUM_S: Final = 0.005",
            first=("ravelctl/client/test_leaving.py",),
        ),
        Mistake(
            "a rebalance is given up after 15 ms of silence",
            "ravelctl/client/services/admin.py",
            old="REBALANCE_SILENCE_S: Final = 15.0",
            new="REBALANCE_SILENCE_S: Final = 0.015",
            first=(
                "ravelctl/client/test_unary.py",
                "ravelctl/client/test_retry.py",
                "ravelctl/client/test_admin.py",
            ),
        ),
    ),
)
