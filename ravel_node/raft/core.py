"""One replica's part in Raft: a state machine that is fed messages and ticks and says what to send and to save.

A replica is follower, pre-candidate, candidate or leader (paper, figure 4; thesis 9.6 for the pre-candidate). This
module holds the state that all of them share and the moves between them; `follower`, `candidate` and `leader` hold what
each does with a message, `election` and `local` what all do alike, and `table` says which function takes which message.

Terms are the clock (paper 5.1): `step` compares a message's term with ours before anything else. A newer term makes any
replica a follower of it; an older one is not acted upon. Polls before an election (pre-votes) are exempt, since they
must not disturb anybody, and so are forwarded proposals and reads, which belong to no term.

Nothing here performs anything. What is to be sent stands in `messages`; votes and acknowledgements, which promise that
something is on disk, stand in `messages_after_append` until it is. A replica's answers to itself go the same way, so a
leader counts its own log only once that is durable, like any other's.

A peer is not trusted to be correct: what no correct peer can send is ignored and reported as a SafetyEvent, before it
can touch an invariant. An InvariantError from here means that this replica's own state is broken, and it must stop.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from ravel_node.raft import leader as leading
from ravel_node.raft.election import TRANSFER_CONTEXT
from ravel_node.raft.errors import ConfChangeError, InvariantError, ProposalDroppedError, invariant
from ravel_node.raft.events import (
    ConfChangeIgnored,
    LeaderChanged,
    MembershipChanged,
    RaftEvent,
    RoleChanged,
    SafetyEvent,
    SteppedDown,
    TransferAborted,
    VoteRejected,
)
from ravel_node.raft.limits import EVENTS_MAX, NUMBER_MAX
from ravel_node.raft.log import RaftLog
from ravel_node.raft.read_only import ReadOnly
from ravel_node.raft.table import SUSPECT, handler_for
from ravel_node.raft.tracker import Membership, ProgressTracker
from ravel_node.raft.types import (
    NO_REPLICA,
    ConfChange,
    ConfChangeV2,
    ConfState,
    Entry,
    HardState,
    Index,
    Message,
    MessageType,
    ReadState,
    ReplicaId,
    Role,
    SoftState,
    Term,
)

if TYPE_CHECKING:
    from random import Random

    from ravel_node.raft.confchange import MembershipChange
    from ravel_node.raft.config import RaftConfig
    from ravel_node.raft.storage import Storage

TERMLESS: Final = (MessageType.PROPOSE, MessageType.READ_INDEX, MessageType.STORAGE_APPLY_RESPONSE)
"""Messages that belong to no term: requests on their way to whoever leads, and what was applied, which holds in any."""


class Raft:
    """The state of one replica. `RawNode` is the way in; nobody else calls this."""

    def __init__(self, config: RaftConfig, storage: Storage, rng: Random) -> None:
        hard_state, conf_state = storage.initial_state()
        self.config: Final = config
        self.id: Final = config.id
        self._rng: Final = rng
        self.log: Final = RaftLog(storage, config.committed_bytes_max)

        self.term = hard_state.term  # never falls
        self.vote = hard_state.vote  # set at most once a term
        self.role = Role.FOLLOWER
        self.leader = NO_REPLICA  # of this term, as far as known
        self.tracker: Final = ProgressTracker(config.inflight_messages_max, config.inflight_bytes_max)
        self.is_learner = False
        self.membership_index = self.config.applied  # the membership is that of this index, or of a later one

        self.election_elapsed = 0  # ticks since the leader was heard, or, at a leader, since the last quorum check
        self.silent_ticks = config.silent_ticks  # since any leader was heard: goes on over terms and roles
        self.heartbeat_elapsed = 0
        self.election_timeout = config.election_ticks  # drawn from [T, 2T - 1] (paper 5.2)

        # Of a leader only.
        self.transferee = NO_REPLICA  # who is to take over; while it is set, proposals are refused
        self.pending_conf_index = Index(0)  # no membership change is appended until this is applied
        self.uncommitted_bytes = 0  # payload appended in this term and not applied yet
        self.reads = ReadOnly()
        self.early_reads: list[Message] = []  # asked before anything was committed in this term

        self.messages: list[Message] = []
        self.messages_after_append: list[Message] = []  # may leave once everything appended so far is durable
        self.read_states: list[ReadState] = []
        self.events: list[RaftEvent] = []

        self._load(hard_state, conf_state)

    def _load(self, hard_state: HardState, conf_state: ConfState) -> None:
        log = self.log
        commit = max(hard_state.commit, self.config.applied, log.committed)
        invariant(commit <= log.last_index, f"commit {commit} lies beyond the log, which ends at {log.last_index}")
        log.commit_to(commit)
        if self.config.applied:
            log.applied_to(self.config.applied, 0)
        try:
            membership = Membership.from_conf_state(conf_state)
        except ConfChangeError as error:
            raise InvariantError(f"the stored membership cannot be: {error}") from error
        self.tracker.adopt(membership, (), log.last_index)
        self._note_own_seat()
        self._reset(self.term)

    # What others see.

    @property
    def hard_state(self) -> HardState:
        return HardState(self.term, self.vote, self.log.committed)

    @property
    def soft_state(self) -> SoftState:
        return SoftState(self.leader, self.role)

    @property
    def promotable(self) -> bool:
        """Whether this replica may become leader: a voter whose log is whole."""
        return self.id in self.tracker.progress and not self.is_learner and self.log.unstable.snapshot is None

    @property
    def election_due(self) -> bool:
        return self.election_elapsed >= self.election_timeout

    @property
    def committed_in_term(self) -> bool:
        """Whether the commit index is known to be current: something of this term is committed (thesis 6.4)."""
        return self.log.matches(self.log.committed, self.term)

    # Messages out.

    def send(self, message: Message) -> None:
        """Send `message` in our term, or, if it promises durability, as soon as it may."""
        message.from_ = self.id
        message.term = self.term
        self.messages.append(message)

    def send_after_append(self, message: Message) -> None:
        """Send an answer that must not leave before everything appended so far, term and vote are durable."""
        message.from_ = self.id
        self.messages_after_append.append(message)

    def forward(self, message: Message) -> None:
        """Pass on, to the leader, what belongs to no term. The caller's message stays as it is."""
        sender = message.from_ or self.id
        self.messages.append(Message(message.type, to=self.leader, from_=sender, entries=message.entries))

    def emit(self, event: RaftEvent) -> None:
        if len(self.events) < EVENTS_MAX:
            self.events.append(event)

    def suspect(self, message: Message, reason: str) -> None:
        """Report a message that no correct replica sends. The caller does nothing else with it."""
        self.emit(SafetyEvent(message.type, message.from_, message.term, reason))

    # Messages in.

    def step(self, message: Message) -> None:
        """Take a message. Raises ProposalDroppedError for a proposal that cannot be taken."""
        if message.type not in TERMLESS:
            if message.term < self.term:
                self._answer_lower_term(message)
                return
            if self._breaks_promise(message):
                self.emit(VoteRejected(message.from_, message.term, message.type is MessageType.PRE_VOTE, "a leader is alive"))
                return
            if message.term > self.term and not self._admit_higher_term(message):
                return
        self.dispatch(message)

    def dispatch(self, message: Message) -> None:
        """Hand a message of our term, or of none, to the function that takes it in our role."""
        handler = handler_for(self.role, message.type)
        if handler is not None:
            handler(self, message)
        elif (self.role, message.type) in SUSPECT:
            self.suspect(message, f"a {self.role.name.lower()} of the same term cannot be sent this")

    def _admit_higher_term(self, message: Message) -> bool:
        """Follow `message` into its term, where it has that power; False if it is to be ignored."""
        kind = message.type
        if message.term >= NUMBER_MAX:
            self.suspect(message, "no cluster reaches this term")
            return False
        if kind is MessageType.PRE_VOTE:
            return True  # a poll moves nobody's term
        if kind is MessageType.PRE_VOTE_RESPONSE and not message.reject:
            return True  # a grant names the term that we asked about; a refusal names a term that we lag behind
        of_leader = kind in (MessageType.APPEND, MessageType.HEARTBEAT, MessageType.SNAPSHOT)
        self.become_follower(message.term, message.from_ if of_leader else NO_REPLICA)
        return True

    def _breaks_promise(self, message: Message) -> bool:
        """Whether to grant this vote would break the promise of `promises`. The leader itself asks for that of a transfer."""
        if message.type is not MessageType.VOTE and message.type is not MessageType.PRE_VOTE:
            return False
        if message.context == TRANSFER_CONTEXT:
            return False
        return self.promises and (message.term > self.term or not self.config.as_etcd)

    @property
    def promises(self) -> bool:
        """Whether a leader was heard within the shortest timeout, so that nobody may be elected (thesis 4.2.3).

        A leader's lease rests on this. So it counts from the last sign of *any* leader, whatever term or role this
        replica has gone to since: a term alone is no reason to believe that the leader's lease is over.
        """
        config = self.config
        if not config.check_quorum:
            return False
        if config.as_etcd:  # only as long as the leader of the present term is known
            return self.leader != NO_REPLICA and self.election_elapsed < config.election_ticks
        return self.role is Role.LEADER or self.silent_ticks < config.election_ticks

    def _answer_lower_term(self, message: Message) -> None:
        """Ignore a message of an older term, but tell its sender where silence would leave it stuck.

        A replica that campaigned while cut off has a higher term than the leader. With pre-vote or check-quorum its
        requests are not heard, so it answers the leader's messages, and the answer's term makes the leader step down
        and the election proper. A poll is refused aloud, for the same reason.
        """
        kind = message.type
        if kind is MessageType.HEARTBEAT or kind is MessageType.APPEND:
            if self.config.check_quorum or self.config.pre_vote:
                self.acknowledge(message.from_, Index(0))
        elif kind is MessageType.PRE_VOTE:
            self.emit(VoteRejected(message.from_, message.term, True, "its term is over"))
            answer = Message(MessageType.PRE_VOTE_RESPONSE, to=message.from_, term=self.term, reject=True)
            self.send_after_append(answer)
        elif kind is MessageType.STORAGE_APPEND_RESPONSE and message.snapshot is not None:
            # Entries of an older term may have been replaced meanwhile; a snapshot holds what is committed in any term.
            self.applied_snapshot(message.snapshot.index)

    def acknowledge(self, to: ReplicaId, index: Index) -> None:
        """Answer that our log matches the leader's up to `index`, once that is durable."""
        self.send_after_append(Message(MessageType.APPEND_RESPONSE, to=to, term=self.term, index=index))

    # Time.

    def tick(self) -> None:
        """Let one tick pass."""
        self.election_elapsed += 1
        self.silent_ticks += 1
        if self.role is Role.LEADER:
            self._tick_leader()
        elif self.promotable and self.election_due:
            self.election_elapsed = 0
            self.dispatch(Message(MessageType.HUP, from_=self.id))

    def _tick_leader(self) -> None:
        self.heartbeat_elapsed += 1
        if self.election_elapsed >= self.config.election_ticks:
            self.election_elapsed = 0
            if self.config.check_quorum:
                self.dispatch(Message(MessageType.CHECK_QUORUM, from_=self.id))
            if self.role is Role.LEADER:
                self.abort_transfer("it took longer than an election timeout")
        if self.role is Role.LEADER and self.heartbeat_elapsed >= self.config.heartbeat_ticks:
            self.heartbeat_elapsed = 0
            self.dispatch(Message(MessageType.BEAT, from_=self.id))

    # Roles.

    def become_follower(self, term: Term, leader: ReplicaId) -> None:
        self._reset(term)
        self.role = Role.FOLLOWER
        self.leader = leader
        self.emit(RoleChanged(self.role, self.term, self.log.last_index))
        if leader != NO_REPLICA:
            self.silent_ticks = 0
            self.emit(LeaderChanged(leader, term))

    def become_pre_candidate(self) -> None:
        """Poll before standing: neither term nor vote nor timer changes."""
        invariant(self.role is not Role.LEADER, "a leader cannot become pre-candidate")
        self.tracker.reset_votes()
        self.role = Role.PRE_CANDIDATE
        self.leader = NO_REPLICA
        self.emit(RoleChanged(self.role, self.term, self.log.last_index))

    def become_candidate(self) -> None:
        """Stand for election: a new term, and our own vote in it (paper 5.2)."""
        invariant(self.role is not Role.LEADER, "a leader cannot become candidate")
        self._reset(Term(self.term + 1))
        self.vote = self.id
        self.role = Role.CANDIDATE
        self.emit(RoleChanged(self.role, self.term, self.log.last_index))

    def become_leader(self) -> None:
        """Lead the term that was won, beginning with an empty entry: it commits what others left (paper 5.4.2, 8)."""
        invariant(self.role is not Role.FOLLOWER, "a follower cannot become leader")
        self._reset(self.term)
        self.role = Role.LEADER
        self.leader = self.id
        own = self.tracker.progress[self.id]
        own.become_replicate()
        own.heard()
        # Whatever was inherited may hold a membership change: none is appended until all of it is applied.
        self.pending_conf_index = self.log.last_index
        leading.append_entries(self, [Entry(self.term, Index(self.log.last_index + 1))])
        self.emit(RoleChanged(self.role, self.term, self.log.last_index))

    def _reset(self, term: Term) -> None:
        """Forget what belongs to the role that ends; and the vote, if the term ends too."""
        self._end_transfer("the leader stepped down")
        if term != self.term:
            invariant(term > self.term, f"term {self.term} cannot fall to {term}")
            self.term = term
            self.vote = NO_REPLICA
        self.leader = NO_REPLICA
        self.election_elapsed = self.heartbeat_elapsed = 0
        self.election_timeout = self.config.election_ticks + self._rng.randrange(self.config.election_ticks)
        self.tracker.reset_votes()
        self.tracker.restart(Index(self.log.last_index + 1))
        if (own := self.tracker.progress.get(self.id)) is not None:
            own.acknowledge(self.log.last_index)
        self.pending_conf_index = Index(0)
        self.uncommitted_bytes = 0
        self.reads = ReadOnly()
        self.early_reads = []

    def follow(self, leader: ReplicaId) -> None:
        """Note a sign of life from the leader of our term."""
        self.election_elapsed = self.silent_ticks = 0
        if leader != self.leader:
            self.leader = leader
            self.emit(LeaderChanged(leader, self.term))

    def abort_transfer(self, reason: str) -> None:
        """End a transfer that did not succeed, if there is one; proposals are taken again."""
        if self._end_transfer(reason) and not self.config.as_etcd:
            self._leave_joint()  # refused until now

    def _end_transfer(self, reason: str) -> bool:
        if self.transferee == NO_REPLICA:
            return False
        self.emit(TransferAborted(self.transferee, self.term, reason))
        self.transferee = NO_REPLICA
        return True

    # What took effect.

    def applied_to(self, index: Index, size: int) -> None:
        """Note that the state machine has everything up to `index`; leave a joint configuration whose time has come."""
        self.log.applied_to(max(index, self.log.applied), size)
        self._leave_joint()

    def _leave_joint(self) -> None:
        """Propose the end of a joint configuration that ends by itself, once it is in use.

        Refused while a transfer goes on: the end of the transfer tries again, or the next leader's first entry does.
        """
        if self.tracker.membership.auto_leave and self.role is Role.LEADER and self.log.applied >= self.pending_conf_index:
            with suppress(ProposalDroppedError):
                leading.propose_leave(self)

    def applied_snapshot(self, index: Index) -> None:
        self.log.stable_snapshot_to(index)
        self.applied_to(index, 0)

    def reduce_uncommitted(self, size: int) -> None:
        """Give back the quota of applied payload; entries of earlier terms never took any."""
        self.uncommitted_bytes = max(0, self.uncommitted_bytes - size)

    # Membership.

    def change_membership(self, change: ConfChange | ConfChangeV2, index: Index | None) -> ConfState:
        """Take the committed membership change at `index` into use. One that cannot be is passed over, by all alike.

        A snapshot may have come in while the change was on its way to the state machine. Its membership includes the
        change, and others after it: made again now, the change would undo them. Without the index this shows only until
        the snapshot is saved.
        """
        if index is None:
            pending = self.log.unstable.snapshot is not None
            index = self.membership_index if pending else Index(self.membership_index + 1)
        if index <= self.membership_index:
            return self.tracker.membership.conf_state()
        self.membership_index = index
        try:
            outcome = leading.outcome_of(self, change)
        except ConfChangeError as error:
            self.emit(ConfChangeIgnored(index, str(error)))
            return self.tracker.membership.conf_state()
        return self.switch_membership(outcome)

    def switch_membership(self, outcome: MembershipChange) -> ConfState:
        self.tracker.adopt(outcome.membership, outcome.forgotten, self.log.last_index)
        self._note_own_seat()
        conf_state = outcome.membership.conf_state()
        self.emit(MembershipChanged(conf_state))
        if self.role is Role.LEADER:
            self._lead_new_membership()
        return conf_state

    def _note_own_seat(self) -> None:
        own = self.tracker.progress.get(self.id)
        self.is_learner = own is not None and own.is_learner

    def _lead_new_membership(self) -> None:
        """A leader that was removed leads on without counting itself, unless told to step down (thesis 4.2.2)."""
        if self.id not in self.tracker.progress or self.is_learner:
            if self.config.step_down_on_removal:
                self.emit(SteppedDown(self.term, "it is no voter any more"))
                self.become_follower(self.term, NO_REPLICA)
            return
        leading.lead_new_membership(self)
        if self.transferee not in self.tracker.membership.all_voters:
            self.abort_transfer("the target is no voter any more")

    def restore_membership(self, membership: Membership, index: Index) -> None:
        """Take the membership of the snapshot at `index`, forgetting all that was known of its members."""
        self.membership_index = index
        self.tracker.adopt(membership, self.tracker.ids, self.log.last_index)
        self._note_own_seat()
        if (own := self.tracker.progress.get(self.id)) is not None:
            own.acknowledge(Index(own.next - 1))
        self.emit(MembershipChanged(membership.conf_state()))
