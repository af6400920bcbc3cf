"""What is told, and what is not told again."""

from __future__ import annotations

from ravel_node.raft import Index, ReplicaId, Term
from ravel_node.replica.chronicle import Chronicle
from ravel_node.replica.events import EventLog

PEER = ReplicaId(2)


class Story:
    def __init__(self) -> None:
        self.events = EventLog("b", lambda: 0.0)
        self.chronicle = Chronicle(self.events, clock=lambda: 0.0, name_of=lambda one: f"n{one}", leads=lambda: True)

    @property
    def names(self) -> list[str]:
        return [event.name for event in self.events.since(0)]


def test_a_snapshot_that_fails_again_and_again_is_told_once() -> None:
    story = Story()
    for attempt in range(5):
        story.chronicle.snapshot_sending(PEER, Index(10 + attempt), 100)
        story.chronicle.snapshot_sent(PEER, Index(10 + attempt), 1.0, delivered=attempt == 4)
    assert story.names == ["snapshot-sending", "snapshot-failed", "snapshot-sent"]
    story.chronicle.snapshot_sending(PEER, Index(20), 100)
    assert story.names[-1] == "snapshot-sending"


def test_a_refusal_is_told_once_for_each_reason() -> None:
    story = Story()
    for why in ("disk full", "disk full", "damaged"):
        story.chronicle.snapshot_refused(PEER, Index(10), why)
    assert story.names == ["snapshot-refused"] * 2


def test_a_transfer_that_goes_on_is_received_once() -> None:
    story = Story()
    for index in (10, 10, 11):
        story.chronicle.snapshot_receiving(PEER, Index(index), 100)
    assert story.names == ["snapshot-receiving"] * 2


def test_the_same_leader_in_a_new_term_is_news_and_in_the_same_is_none() -> None:
    story = Story()
    for leader, term in ((0, 1), (2, 1), (2, 1), (2, 3), (0, 3), (0, 4)):
        story.chronicle.leader(ReplicaId(leader), Term(term))
    assert story.names == ["leader-known", "leader-known", "leader-lost"]
    assert [event.text for event in story.events.since(0)][-1] == "no leader is known; n2 led in term 3"
