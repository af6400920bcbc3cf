"""Mistakes in ravel_node/transport."""

from __future__ import annotations

from tests.mutation.mistake import Mistake, Room

ROOM = Room(
    "transport",
    tests=(
        "transport",
        "server/test_raft.py",
    ),
    mistakes=(
        Mistake(
            "the bytes that wait for a peer are never given back",
            "ravel_node/transport/peer.py",
            old="                self._bulk_bytes -= bulk_size\n",
            new="",
            first=("transport/test_peer.py",),
        ),
        Mistake(
            "the bytes of emptied queues stay counted",
            "ravel_node/transport/peer.py",
            old=("        self._bulk_bytes = 0\n        self._hurried"),
            new="        self._hurried",
            first=("transport/test_peer.py",),
        ),
        Mistake(
            "the bytes of an overtaken message stay counted",
            "ravel_node/transport/peer.py",
            old="                self._bulk_bytes -= self._bulk.pop()[0]",
            new="                self._bulk.pop()",
            first=("transport/test_peer.py",),
        ),
        Mistake(
            "what waits for a peer has no limit of bytes",
            "ravel_node/transport/peer.py",
            old=" or self._bulk_bytes + size > options.bulk_bytes_max)",
            new=")",
            first=("transport/test_peer.py",),
        ),
        Mistake(
            "urgent messages have no limit",
            "ravel_node/transport/peer.py",
            old="            if len(self._urgent) >= URGENT_MESSAGES_MAX:",
            new="            if False:",
            first=("transport/test_peer.py",),
        ),
        Mistake(
            "tidings alone never leave",
            "ravel_node/transport/peer.py",
            old=("        self._lingering = False\n        if self._bulk:\n            self._hurry()"),
            new="        self._lingering = False",
            first=("transport/test_peer.py",),
        ),
        Mistake(
            "the promise of a follower is lost on the wire",
            "ravel_node/transport/wire.py",
            old="        promise_us=wire.promise_us,\n",
            new="",
            first=("transport/test_wire.py",),
        ),
        Mistake(
            "entries of a later term than their sender are taken",
            "ravel_node/transport/wire.py",
            old="not term <= entry.term <= message.term:",
            new="not term <= entry.term:",
            first=("transport/test_wire.py",),
        ),
        Mistake(
            "a transfer of a snapshot begins again from the start",
            "ravel_node/transport/snapshot_stream.py",
            old="self._write_from(call, progress.received_bytes)",
            new="self._write_from(call, 0)",
            first=("transport/test_snapshot_stream.py",),
        ),
        Mistake(
            "a transfer that gets on fails all the same",
            "ravel_node/transport/snapshot_stream.py",
            old="failures = failures + 1 if self._stats.snapshot_sent_bytes <= before else 1",
            new="failures = failures + 1",
            first=("transport/test_snapshot_stream.py",),
        ),
        Mistake(
            "a transfer that does not get on never fails",
            "ravel_node/transport/snapshot_stream.py",
            old="                if failures >= ATTEMPTS_MAX:",
            new="                if False:",
            first=("transport/test_snapshot_stream.py",),
        ),
        Mistake(
            "a verified file is not compared with what was announced",
            "ravel_node/transport/snapshot_stream.py",
            old="    if snapshot.id != expected.id or snapshot.conf_state != expected.conf_state:",
            new="    if snapshot.id != expected.id:",
            first=("transport/test_snapshot_stream.py",),
        ),
        Mistake(
            "the terms of hashes are lost on the wire",
            "ravel_node/transport/grpc_transport.py",
            old="HashAt(Index(one.index), Term(one.term), one.sha256, one.problem)",
            new="HashAt(Index(one.index), Term(0), one.sha256, one.problem)",
            first=(
                "transport/test_peer.py",
                "transport/test_wire.py",
                "server/test_raft.py",
            ),
        ),
        Mistake(
            "another replica answers for the one that was asked",
            "ravel_node/transport/grpc_transport.py",
            old="    if (theirs.cluster_id, theirs.from_replica_id) != (hello.cluster_id, peer):",
            new="    if theirs.cluster_id != hello.cluster_id:",
            first=("transport/test_peer.py",),
        ),
    ),
)
