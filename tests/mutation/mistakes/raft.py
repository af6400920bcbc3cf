"""Mistakes in ravel_node/raft."""

from __future__ import annotations

from tests.mutation.mistake import Mistake, Room

ROOM = Room(
    "raft",
    tests=("raft",),
    mistakes=(
        Mistake(
            "an entry of an older term is committed by counting copies",
            "ravel_node/raft/leader.py",
            old="raft.log.commit_if_term(raft.tracker.committed_index(), raft.term)",
            new=("raft.log.commit_if_term(raft.tracker.committed_index(), raft.log.term(raft.tracker.committed_index()))"),
            first=(
                "raft/test_paper.py",
                "raft/test_leader.py",
            ),
        ),
        Mistake(
            "the uncommitted bytes are never given back",
            "ravel_node/raft/core.py",
            old="        self.uncommitted_bytes = max(0, self.uncommitted_bytes - size)",
            new="        pass",
            first=(
                "raft/test_leader.py",
                "raft/test_raw_node.py",
            ),
        ),
        Mistake(
            "the uncommitted bytes of an old term count in the next",
            "ravel_node/raft/core.py",
            old=("        self.uncommitted_bytes = 0\n        self.reads = ReadOnly()\n        self.early_reads = []\n"),
            new=("        self.reads = ReadOnly()\n        self.early_reads = []\n"),
            first=(
                "raft/test_leader.py",
                "raft/test_core.py",
            ),
        ),
        Mistake(
            "the first proposal is refused too where it exceeds the quota",
            "ravel_node/raft/leader.py",
            old="if size and raft.uncommitted_bytes and raft.uncommitted_bytes + size",
            new="if size and raft.uncommitted_bytes + size",
            first=("raft/test_leader.py",),
        ),
        Mistake(
            "a refused append takes quota",
            "ravel_node/raft/leader.py",
            old=(
                "    if size and raft.uncommitted_bytes and raft.uncommitted_bytes + size >"
                " raft.config.uncommitted_bytes_max:\n"
                "        return False\n"
                "    raft.uncommitted_bytes += size\n"
            ),
            new=(
                "    raft.uncommitted_bytes += size\n"
                "    if size and raft.uncommitted_bytes != size and raft.uncommitted_bytes >"
                " raft.config.uncommitted_bytes_max:\n"
                "        return False\n"
            ),
            first=("raft/test_leader.py",),
        ),
        Mistake(
            "early reads survive a change of term",
            "ravel_node/raft/core.py",
            old=("        self.reads = ReadOnly()\n        self.early_reads = []\n"),
            new="        self.reads = ReadOnly()\n",
            first=(
                "raft/test_core.py",
                "raft/test_read_only.py",
                "raft/test_leader.py",
            ),
        ),
        Mistake(
            "a vote is forgotten within its term",
            "ravel_node/raft/core.py",
            old=('        self._end_transfer("the leader stepped down")\n        if term != self.term:'),
            new=(
                '        self._end_transfer("the leader stepped down")\n'
                "        self.vote = NO_REPLICA\n"
                "        if term != self.term:"
            ),
            first=(
                "raft/test_paper.py",
                "raft/test_core.py",
                "raft/test_follower.py",
            ),
        ),
        Mistake(
            "a new term keeps the old vote",
            "ravel_node/raft/core.py",
            old=("            self.term = term\n            self.vote = NO_REPLICA\n"),
            new="            self.term = term\n",
            first=(
                "raft/test_paper.py",
                "raft/test_core.py",
            ),
        ),
        Mistake(
            "a follower does not note that it heard a leader",
            "ravel_node/raft/core.py",
            old="        self.election_elapsed = self.silent_ticks = 0",
            new="        self.election_elapsed = 0",
            first=(
                "raft/test_follower.py",
                "raft/test_promises.py",
            ),
        ),
        Mistake(
            "a promise ends with the term",
            "ravel_node/raft/core.py",
            old="return self.promises and (message.term > self.term or not self.config.as_etcd)",
            new="return self.promises and (message.term == self.term or self.config.as_etcd)",
            first=("raft/test_promises.py",),
        ),
        Mistake(
            "a leader gives its vote away",
            "ravel_node/raft/core.py",
            old="return self.role is Role.LEADER or self.silent_ticks < config.election_ticks",
            new="return self.silent_ticks < config.election_ticks",
            first=("raft/test_promises.py",),
        ),
        Mistake(
            "the promise is one tick too short",
            "ravel_node/raft/core.py",
            old="return self.role is Role.LEADER or self.silent_ticks < config.election_ticks",
            new="return self.role is Role.LEADER or self.silent_ticks < config.election_ticks - 1",
            first=("raft/test_promises.py",),
        ),
        Mistake(
            "a replica that starts has promised nothing",
            "ravel_node/raft/core.py",
            old=("        self.silent_ticks = config.silent_ticks  # since any leader was heard: goes on over terms and roles"),
            new="        self.silent_ticks = config.election_ticks",
            first=("raft/test_promises.py",),
        ),
        Mistake(
            "an old term is answered with nothing",
            "ravel_node/raft/core.py",
            old=(
                "            if self.config.check_quorum or self.config.pre_vote:\n"
                "                self.acknowledge(message.from_, Index(0))"
            ),
            new="            pass",
            first=(
                "raft/test_core.py",
                "raft/test_paper.py",
                "raft/test_follower.py",
            ),
        ),
        Mistake(
            "a leader never checks its quorum",
            "ravel_node/raft/core.py",
            old=(
                "            if self.config.check_quorum:\n"
                "                self.dispatch(Message(MessageType.CHECK_QUORUM, from_=self.id))"
            ),
            new="            pass",
            first=(
                "raft/test_leader.py",
                "raft/test_paper.py",
            ),
        ),
        Mistake(
            "a transfer never ends",
            "ravel_node/raft/core.py",
            old=(
                "            if self.role is Role.LEADER:\n"
                '                self.abort_transfer("it took longer than an election timeout")'
            ),
            new="            pass",
            first=("raft/test_leader.py",),
        ),
        Mistake(
            "a peer that was active once stays active",
            "ravel_node/raft/leader.py",
            old="        raft.tracker.progress[peer].recent_active = False",
            new="        pass",
            first=(
                "raft/test_leader.py",
                "raft/test_paper.py",
            ),
        ),
        Mistake(
            "a heartbeat commits beyond the match",
            "ravel_node/raft/leader.py",
            old="        commit = min(progress.match, raft.log.committed)",
            new="        commit = raft.log.committed",
            first=(
                "raft/test_interaction.py",
                "raft/test_leader.py",
                "raft/test_paper.py",
            ),
        ),
        Mistake(
            "a follower commits beyond what the append holds",
            "ravel_node/raft/follower.py",
            old="    log.commit_to(min(message.commit, last))",
            new="    log.commit_to(min(message.commit, log.last_index))",
            first=(
                "raft/test_follower.py",
                "raft/test_paper.py",
            ),
        ),
        Mistake(
            "a follower takes entries without a match",
            "ravel_node/raft/follower.py",
            old="    elif not log.matches(message.index, message.log_term):",
            new="    elif message.index > log.last_index:",
            first=(
                "raft/test_follower.py",
                "raft/test_paper.py",
            ),
        ),
        Mistake(
            "an append is acknowledged before it is durable",
            "ravel_node/raft/core.py",
            old=("        self.send_after_append(Message(MessageType.APPEND_RESPONSE, to=to, term=self.term, index=index))"),
            new="        self.send(Message(MessageType.APPEND_RESPONSE, to=to, index=index))",
            first=(
                "raft/test_follower.py",
                "raft/test_raw_node.py",
            ),
        ),
        Mistake(
            "a heartbeat is answered without the promise",
            "ravel_node/raft/follower.py",
            old="            promise_us=raft.config.vote_promise_us,\n",
            new="",
            first=(
                "raft/test_promises.py",
                "raft/test_follower.py",
            ),
        ),
        Mistake(
            "a heartbeat is answered without its context",
            "ravel_node/raft/follower.py",
            old=("            context=message.context,\n            promise_us"),
            new="            promise_us",
            first=(
                "raft/test_follower.py",
                "raft/test_read_only.py",
                "raft/test_leader.py",
            ),
        ),
        Mistake(
            "a divergence in committed entries goes unnoticed",
            "ravel_node/raft/follower.py",
            old="        _require_same_commits(raft, message)\n",
            new="",
            first=(
                "raft/test_follower.py",
                "raft/test_core.py",
            ),
        ),
        Mistake(
            "an unknown replica takes a snapshot without itself",
            "ravel_node/raft/follower.py",
            old=(
                "    if raft.id not in membership.all_voters | membership.learners:\n"
                '        return "this replica is not in its membership"\n'
            ),
            new="",
            first=("raft/test_follower.py",),
        ),
        Mistake(
            "a snapshot that the log already holds replaces it",
            "ravel_node/raft/follower.py",
            old=(
                "    if raft.log.matches(snapshot.index, snapshot.term):\n"
                "        raft.log.commit_to(snapshot.index)\n"
                '        return "the log holds all of it"\n'
            ),
            new="",
            first=("raft/test_follower.py",),
        ),
        Mistake(
            "membership changes below a snapshot are made again",
            "ravel_node/raft/core.py",
            old="        if index <= self.membership_index:",
            new="        if False:",
            first=(
                "raft/test_follower.py",
                "raft/test_confchange.py",
                "raft/test_raw_node.py",
                "raft/test_core.py",
            ),
        ),
        Mistake(
            "a snapshot does not move the membership index",
            "ravel_node/raft/core.py",
            old=("        self.membership_index = index\n        self.tracker.adopt(membership, self.tracker.ids"),
            new="        self.tracker.adopt(membership, self.tracker.ids",
            first=(
                "raft/test_follower.py",
                "raft/test_raw_node.py",
                "raft/test_confchange.py",
                "raft/test_core.py",
            ),
        ),
        Mistake(
            "a new leader takes a change while one may be pending",
            "ravel_node/raft/core.py",
            old="        self.pending_conf_index = self.log.last_index\n",
            new="",
            first=(
                "raft/test_paper.py",
                "raft/test_leader.py",
                "raft/test_confchange.py",
                "raft/test_core.py",
            ),
        ),
        Mistake(
            "two membership changes in a row are accepted",
            "ravel_node/raft/leader.py",
            old=("    if change_index:\n        raft.pending_conf_index = change_index\n"),
            new="",
            first=(
                "raft/test_leader.py",
                "raft/test_raw_node.py",
                "raft/test_core.py",
            ),
        ),
        Mistake(
            "the second change of one proposal is not refused",
            "ravel_node/raft/leader.py",
            old="    if another and raft.config.conf_change_validation:",
            new="    if False:",
            first=(
                "raft/test_leader.py",
                "raft/test_core.py",
            ),
        ),
        Mistake(
            "a removed leader goes on",
            "ravel_node/raft/core.py",
            old="            if self.config.step_down_on_removal:",
            new="            if not self.config.step_down_on_removal:",
            first=(
                "raft/test_leader.py",
                "raft/test_core.py",
                "raft/test_confchange.py",
            ),
        ),
        Mistake(
            "a transfer goes on to a voter that was removed",
            "ravel_node/raft/core.py",
            old=(
                "        if self.transferee not in self.tracker.membership.all_voters:\n"
                '            self.abort_transfer("the target is no voter any more")'
            ),
            new="        pass",
            first=(
                "raft/test_leader.py",
                "raft/test_confchange.py",
            ),
        ),
        Mistake(
            "a read is served before anything of the term is committed",
            "ravel_node/raft/leader.py",
            old="    elif not raft.committed_in_term:",
            new="    elif False:",
            first=(
                "raft/test_leader.py",
                "raft/test_read_only.py",
                "raft/test_paper.py",
            ),
        ),
        Mistake(
            "more reads wait than may",
            "ravel_node/raft/leader.py",
            old="        if len(raft.early_reads) < READS_PENDING_MAX:",
            new="        if True:",
            first=(
                "raft/test_leader.py",
                "raft/test_read_only.py",
            ),
        ),
        Mistake(
            "a snapshot in progress ends at any acknowledgement",
            "ravel_node/raft/leader.py",
            old="        if progress.match + 1 >= raft.log.first_index:",
            new="        if True:",
            first=(
                "raft/test_leader.py",
                "raft/test_progress.py",
            ),
        ),
        Mistake(
            "the window of a follower is never freed",
            "ravel_node/raft/leader.py",
            old=("    else:\n        progress.inflights.free_to(index)\n"),
            new=("    else:\n        pass\n"),
            first=(
                "raft/test_leader.py",
                "raft/test_progress.py",
            ),
        ),
        Mistake(
            "a follower that was reported unreachable is not probed",
            "ravel_node/raft/leader.py",
            old=("        progress.become_probe()\n        raft.emit(PeerUnreachable"),
            new="        raft.emit(PeerUnreachable",
            first=("raft/test_leader.py",),
        ),
        Mistake(
            "a learner is handed the leadership",
            "ravel_node/raft/leader.py",
            old=('    if progress.is_learner:\n        return "it is a learner"\n'),
            new="",
            first=(
                "raft/test_leader.py",
                "raft/test_paper.py",
            ),
        ),
        Mistake(
            "a target that lags is told to stand at once",
            "ravel_node/raft/leader.py",
            old=(
                "    if progress.match == raft.log.last_index:\n"
                "        _send_timeout_now(raft, target)\n"
                "    else:\n"
                "        maybe_send_append(raft, target)"
            ),
            new="    _send_timeout_now(raft, target)",
            first=(
                "raft/test_leader.py",
                "raft/test_paper.py",
            ),
        ),
        Mistake(
            "a transfer has only the rest of a timeout",
            "ravel_node/raft/leader.py",
            old="    raft.election_elapsed = 0  # the transfer has one election timeout to succeed\n",
            new="",
            first=("raft/test_leader.py",),
        ),
        Mistake(
            "a lost log still counts for the leader",
            "ravel_node/raft/raw_node.py",
            old="            progress.forget(Index(raft.log.last_index + 1))",
            new="            pass",
            first=(
                "raft/test_leader.py",
                "raft/test_raw_node.py",
                "raft/test_progress.py",
            ),
        ),
        Mistake(
            "a save that changes only the vote is not synced",
            "ravel_node/raft/raw_node.py",
            old="            ready.must_sync |= hard_state.term != old.term or hard_state.vote != old.vote",
            new="            ready.must_sync |= hard_state.term != old.term",
            first=("raft/test_raw_node.py",),
        ),
        Mistake(
            "the answer of a save carries no term",
            "ravel_node/raft/raw_node.py",
            old="to=raft.id, from_=LOCAL_APPEND, term=raft.term)",
            new="to=raft.id, from_=LOCAL_APPEND)",
            first=(
                "raft/test_raw_node.py",
                "raft/test_core.py",
            ),
        ),
        Mistake(
            "a proposal is accepted by a follower",
            "ravel_node/raft/raw_node.py",
            old=("        if not self.is_leader:\n            raise ProposalDroppedError\n        return leading"),
            new="        return leading",
            first=(
                "raft/test_follower.py",
                "raft/test_raw_node.py",
            ),
        ),
    ),
)
