"""Mistakes in the gateway and in the link to the admin."""

from __future__ import annotations

from tests.mutation.mistake import Mistake, Room

ROOM = Room(
    "daemon",
    tests=(
        "gateway",
        "test_admin_link.py",
    ),
    mistakes=(
        Mistake(
            "a learner is reported as a voter",
            "ravel_node/admin_link.py",
            old="learner=replica_id not in voters",
            new="learner=False",
            first=("test_admin_link.py",),
        ),
        Mistake(
            "a report carries no membership index",
            "ravel_node/admin_link.py",
            old=("        config_index=machine.config_index,\n        members"),
            new="        members",
            first=("test_admin_link.py",),
        ),
        Mistake(
            "the pause between attempts at the admin has no bound",
            "ravel_node/admin_link.py",
            old="min(RETRY_MAX_S, 1.5 * self._wait_s)",
            new="1.5 * self._wait_s",
            first=("test_admin_link.py",),
        ),
        Mistake(
            "the pause stays long once an admin has answered",
            "ravel_node/admin_link.py",
            old="        self._answered()\n        self._wait_s = RETRY_S\n        if answer.register:",
            new="        self._answered()\n        if answer.register:",
            first=("test_admin_link.py",),
        ),
        Mistake(
            "a server that was superseded goes on",
            "ravel_node/admin_link.py",
            old=(
                "            if error.reason is Reason.SUPERSEDED:\n"
                "                self._turned_out(NoPlaceError(error.message))\n"
            ),
            new="",
            first=("test_admin_link.py",),
        ),
        Mistake(
            "a stale report counts as an admin that is away",
            "ravel_node/admin_link.py",
            old="            if error.reason is not Reason.STALE_REPORT:  #",
            new="            if True:  #",
            first=("test_admin_link.py",),
        ),
        Mistake(
            "the head of a second request counts for the first",
            "ravel_node/gateway/connection.py",
            old=("        self._head_bytes = self._unheard_bytes = 0\n        self._in_head = True"),
            new="        self._in_head = True",
            first=("gateway/test_connection.py",),
        ),
        Mistake(
            "a head may have any size",
            "ravel_node/gateway/connection.py",
            old=(
                "        if self._head_bytes > HEAD_BYTES_MAX:\n            self._refusal = _head_too_large()\n            raise"
            ),
            new=("        if False:\n            raise"),
            first=("gateway/test_connection.py",),
        ),
        Mistake(
            "who takes no answer keeps the connection",
            "ravel_node/gateway/connection.py",
            old="        self._untaken = self.loop.call_later(UNTAKEN_TIMEOUT_S, self.transport.abort)",
            new="        pass",
            first=("gateway/test_connection.py",),
        ),
    ),
)
