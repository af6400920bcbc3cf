"""Mistakes in ravel_node/machine."""

from __future__ import annotations

from tests.mutation.mistake import Mistake, Room

ROOM = Room(
    "machine",
    tests=("machine",),
    mistakes=(
        Mistake(
            "a cluster takes OWN whatever has changed since it was asked",
            "ravel_node/machine/ownership.py",
            old="    if command.expected != own.changes:",
            new="    if False:",
            first=("machine/test_ownership.py",),
        ),
        Mistake(
            "a restored cluster goes on with an import",
            "ravel_node/machine/refounding.py",
            old="replace(move, side=Side.DROPPING)",
            new="move",
            first=("machine/test_ownership.py",),
        ),
        Mistake(
            "a restored cluster forgets by which map its slots came",
            "ravel_node/machine/refounding.py",
            old="for slot, version in came_by.items() if version != ownership.since}",
            new="for slot, version in came_by.items() if False}",
            first=("machine/test_ownership.py",),
        ),
        Mistake(
            "an import leaves slots to earlier imports",
            "ravel_node/machine/ownership.py",
            old="    kept = _without_strays(own, command)",
            new="    kept = own",
            first=("machine/test_ownership.py",),
        ),
        Mistake(
            "ACTIVATE ignores the revision of the source",
            "ravel_node/machine/ownership.py",
            old="    return Taken(activated, revision=revision, gains=True)",
            new="    return Taken(activated, gains=True)",
            first=("machine/test_ownership.py",),
        ),
        Mistake(
            "a slot that came starts at revision 0",
            "ravel_node/machine/ownership.py",
            old="Tenure(command.revision, 0, command.map_version)",
            new="Tenure(0, 0, command.map_version)",
            first=("machine/test_ownership.py",),
        ),
        Mistake(
            "a slot that left did so at revision 0",
            "ravel_node/machine/ownership.py",
            old="Tenure(map_version=own.since))._replace(left=revision)",
            new="Tenure(map_version=own.since))._replace(left=0)",
            first=("machine/test_ownership.py",),
        ),
        Mistake(
            "a repeated RELEASE answers the revision of now",
            "ravel_node/machine/ownership.py",
            old="        return Taken(own, left=own.tenures[move.slots[0]].left)",
            new="        return Taken(own, left=revision)",
            first=("machine/test_ownership.py",),
        ),
        Mistake(
            "a chunk does not raise the revision",
            "ravel_node/machine/ownership.py",
            old="next_chunk=grown.next_chunk, taken=True, revision=revision)",
            new="next_chunk=grown.next_chunk, taken=True)",
            first=("machine/test_ownership.py",),
        ),
        Mistake(
            "a chunk gives its keys one revision",
            "ravel_node/machine/ownership.py",
            old="            txn.put(Database.KV, key, _U64.pack(key_revision) + value)",
            new="            txn.put(Database.KV, key, _U64.pack(revision) + value)",
            first=("machine/test_ownership.py",),
        ),
        Mistake(
            "a chunk may hold keys newer than its source",
            "ravel_node/machine/ownership.py",
            old="        if key_revision > revision:\n",
            new="        if False:\n",
            first=("machine/test_ownership.py",),
        ),
        Mistake(
            "a chunk out of its turn is taken",
            "ravel_node/machine/ownership.py",
            old="    if command.chunk != move.next_chunk:",
            new="    if command.chunk < move.next_chunk:",
            first=("machine/test_ownership.py",),
        ),
        Mistake(
            "a chunk that was taken is taken again",
            "ravel_node/machine/ownership.py",
            old="    if command.chunk != move.next_chunk:",
            new="    if command.chunk > move.next_chunk:",
            first=("machine/test_ownership.py",),
        ),
        Mistake(
            "a chunk holds keys of other slots",
            "ravel_node/machine/ownership.py",
            old=("    _check_keys(move, command.keys)\n    for _, _, key_revision"),
            new="    for _, _, key_revision",
            first=("machine/test_ownership.py",),
        ),
        Mistake(
            "a chunk does not delete",
            "ravel_node/machine/ownership.py",
            old=("        else:\n            txn.delete(Database.KV, key)\n    grown"),
            new=("        else:\n            pass\n    grown"),
            first=("machine/test_ownership.py",),
        ),
        Mistake(
            "a write of a frozen slot is taken",
            "ravel_node/machine/ownership.py",
            old=("            if mark == Mark.FROZEN:\n                moving"),
            new=("            if False:\n                moving"),
            first=("machine/test_ownership.py",),
        ),
        Mistake(
            "a write to a moving and a foreign slot says moving",
            "ravel_node/machine/ownership.py",
            old="                return Outcome(Status.WRONG_CLUSTER, self.map_version, value=_U16.pack(slot))",
            new=("                moving = moving or Outcome(Status.WRONG_CLUSTER, self.map_version, value=_U16.pack(slot))"),
            first=("machine/test_ownership.py",),
        ),
        Mistake(
            "a refusal names the map version 0",
            "ravel_node/machine/ownership.py",
            old="Outcome(Status.WRONG_CLUSTER, self.map_version,",
            new="Outcome(Status.WRONG_CLUSTER, 0,",
            first=("machine/test_ownership.py",),
        ),
        Mistake(
            "writes of a slot that is copied leave no note",
            "ravel_node/machine/kv.py",
            old="            if ownership.exported and self._revision != before:",
            new="            if False:",
            first=("machine/test_ownership.py",),
        ),
        Mistake(
            "a note keeps the revision before the write",
            "ravel_node/machine/kv.py",
            old="                ownership.note(keys, self._revision, txn)",
            new="                ownership.note(keys, before, txn)",
            first=("machine/test_ownership.py",),
        ),
        Mistake(
            "a refused write is told to watchers",
            "ravel_node/machine/kv.py",
            old=("            if (refusal := ownership.refusal(keys)) is not None:\n                self._unchanged(stamp)\n"),
            new="            if (refusal := ownership.refusal(keys)) is not None:\n",
            first=("machine/test_ownership.py",),
        ),
        Mistake(
            "a note goes although it is newer than what was copied",
            "ravel_node/machine/ownership.py",
            old="(over or _U64.unpack(noted)[0] <= command.revision)",
            new="(over or True)",
            first=("machine/test_ownership.py",),
        ),
        Mistake(
            "an older mover freezes",
            "ravel_node/machine/ownership.py",
            old=("    _check_mover(move, command)\n    return Taken(_with_move(own, replace(move, side=Side.FROZEN))"),
            new="    return Taken(_with_move(own, replace(move, side=Side.FROZEN))",
            first=("machine/test_ownership.py",),
        ),
        Mistake(
            "an export forgets its mover",
            "ravel_node/machine/ownership.py",
            old="SlotMove(command.move, Side.EXPORTING, command.slots, mover=command.mover)",
            new="SlotMove(command.move, Side.EXPORTING, command.slots)",
            first=("machine/test_ownership.py",),
        ),
        Mistake(
            "a move that is over begins again",
            "ravel_node/machine/ownership.py",
            old=(
                '    if command.move <= own.last_move:\n        raise StepError(\n            f"move {command.move} is over here'
            ),
            new=('    if False:\n        raise StepError(\n            f"move {command.move} is over here'),
            first=("machine/test_ownership.py",),
        ),
        Mistake(
            "a purge ends with keys left",
            "ravel_node/machine/ownership.py",
            old="Taken(_without_move(own, command)) if command.last else Taken(own, more=True)",
            new="Taken(_without_move(own, command))",
            first=("machine/test_ownership.py",),
        ),
        Mistake(
            "moves have no bound",
            "ravel_node/machine/ownership.py",
            old="    if len(own.moves) >= MOVES_MAX:",
            new="    if False:",
            first=("machine/test_ownership.py",),
        ),
        Mistake(
            "what changed of a tenure is not written",
            "ravel_node/machine/ownership.py",
            old="            if before is None or before.tenures.get(slot) != tenure:",
            new="            if before is None:",
            first=("machine/test_ownership.py",),
        ),
        Mistake(
            "the number of the next chunk is not written",
            "ravel_node/machine/ownership.py",
            old="move.mover if move.side in SOURCE else move.next_chunk)",
            new="move.mover if move.side in SOURCE else 1)",
            first=("machine/test_ownership.py",),
        ),
        Mistake(
            "an ended move stays on disk",
            "ravel_node/machine/ownership.py",
            old='            txn.delete(Database.OWNERSHIP, b"m" + _U64.pack(move_id))',
            new="            pass",
            first=("machine/test_ownership.py",),
        ),
        Mistake(
            "slots are active before the end of their entry",
            "ravel_node/machine/kv.py",
            old="        if taken.gains:",
            new="        if False:",
            first=("machine/test_ownership.py",),
        ),
        Mistake(
            "a raise of the revision is not noted for watchers",
            "ravel_node/machine/kv.py",
            old=(
                "            self._history.raised = max(0, self._raise_to - self._revision)\n"
                "            self._revision += self._history.raised"
            ),
            new="            self._revision = max(self._revision, self._raise_to)",
            first=(
                "machine/test_history.py",
                "machine/test_ownership.py",
            ),
        ),
        Mistake(
            "the revision is not written",
            "ravel_node/machine/kv.py",
            old=("        if self._revision != before:\n            write_number"),
            new=("        if self._revision != before + 1:\n            write_number"),
            first=(
                "machine/test_kv.py",
                "machine/test_determinism.py",
            ),
        ),
        Mistake(
            "a delete of nothing moves the revision",
            "ravel_node/machine/kv.py",
            old=(
                "            self._unchanged(stamp)\n"
                "            return Outcome(Status.OK, self._revision)\n"
                "        self._revision += 1"
            ),
            new=(
                "            self._unchanged(stamp)\n"
                "            self._revision += 1\n"
                "            return Outcome(Status.OK, self._revision)\n"
                "        self._revision += 1"
            ),
            first=("machine/test_kv.py",),
        ),
        Mistake(
            "a delete of nothing is told to watchers",
            "ravel_node/machine/kv.py",
            old=("        if txn.get(Database.KV, key) is None:\n            self._unchanged(stamp)\n"),
            new="        if txn.get(Database.KV, key) is None:\n",
            first=("machine/test_history.py",),
        ),
        Mistake(
            "a swap that failed is told to watchers",
            "ravel_node/machine/kv.py",
            old=(
                "        if revision != expected:\n"
                "            self._unchanged(stamp)\n"
                '            return Outcome(Status.CONDITION_FAILED, revision, actual is not None, actual or b"")'
            ),
            new=(
                "        if revision != expected:\n"
                '            return Outcome(Status.CONDITION_FAILED, revision, actual is not None, actual or b"")'
            ),
            first=("machine/test_history.py",),
        ),
        Mistake(
            "a missing delete of a Write is told to watchers",
            "ravel_node/machine/kv.py",
            old=("        if missing:\n            self._unchanged(stamp, missing)\n"),
            new="",
            first=("machine/test_history.py",),
        ),
        Mistake(
            "a repeated command is told to watchers",
            "ravel_node/machine/kv.py",
            old=("            if answer is not None:\n                idle.append((first + at, ()))\n                continue"),
            new=("            if answer is not None:\n                continue"),
            first=("machine/test_history.py",),
        ),
        Mistake(
            "a Write checks its first condition only",
            "ravel_node/machine/kv.py",
            old=("        for key, expected in conditions:\n            revision"),
            new=("        for key, expected in conditions[:1]:\n            revision"),
            first=("machine/test_kv.py",),
        ),
        Mistake(
            "operations of a Write get revisions of their own",
            "ravel_node/machine/kv.py",
            old="                txn.put(Database.KV, key, _pack_revision(revision) + new)",
            new="                txn.put(Database.KV, key, _pack_revision(revision + number) + new)",
            first=("machine/test_kv.py",),
        ),
        Mistake(
            "a page of a scan ignores its bytes",
            "ravel_node/machine/kv.py",
            old=" or size >= bytes_max or",
            new=" or",
            first=("machine/test_kv.py",),
        ),
        Mistake(
            "a page ignores what it passed over",
            "ravel_node/machine/kv.py",
            old=" or hidden == HIDDEN_KEYS_MAX:",
            new=":",
            first=("machine/test_ownership.py",),
        ),
        Mistake(
            "a page of keys alone reads without a bound",
            "ravel_node/machine/kv.py",
            old=" or bytes_read >= PAGE_READ_BYTES_MAX or",
            new=" or",
            first=("machine/test_kv.py",),
        ),
        Mistake(
            "a removed member comes back by a change",
            "ravel_node/machine/kv.py",
            old="replace(record, removed=known is not None and known.removed)",
            new="replace(record, removed=False)",
            first=("machine/test_members.py",),
        ),
        Mistake(
            "a removed server gets an id again",
            "ravel_node/machine/kv.py",
            old="        if replica_id in self._removed:",
            new="        if False:",
            first=("machine/test_members.py",),
        ),
        Mistake(
            "the name of a member is taken twice",
            "ravel_node/machine/kv.py",
            old=("            if other.name == record.name and other.replica_id != record.replica_id and not other.removed:"),
            new="            if False:",
            first=("machine/test_members.py",),
        ),
        Mistake(
            "the answers of a session have no bound of count",
            "ravel_node/machine/sessions.py",
            old="    if session.count + len(new) > RESULTS_MAX:",
            new="    if False:",
            first=("machine/test_sessions.py",),
        ),
        Mistake(
            "acknowledged answers stay counted",
            "ravel_node/machine/sessions.py",
            old="        self.count -= sum(self.lasts[:end]) - sum(self.firsts[:end]) + end\n",
            new="",
            first=("machine/test_sessions.py",),
        ),
        Mistake(
            "acknowledged bytes stay counted",
            "ravel_node/machine/sessions.py",
            old="        self.size -= sum(weights)\n",
            new="",
            first=("machine/test_sessions.py",),
        ),
        Mistake(
            "a part of a run that is acknowledged stays counted",
            "ravel_node/machine/sessions.py",
            old="            self.count -= below - self.firsts[end]\n",
            new="",
            first=("machine/test_sessions.py",),
        ),
        Mistake(
            "acknowledged answers stay on disk",
            "ravel_node/machine/sessions.py",
            old="        txn.delete(Database.RESULTS, _RESULT_KEY.pack(client_id, record))",
            new="        pass",
            first=("machine/test_sessions.py",),
        ),
        Mistake(
            "a used session is dropped first",
            "ravel_node/machine/sessions.py",
            old="        self._by_use.move_to_end(client_id)\n",
            new="",
            first=("machine/test_sessions.py",),
        ),
        Mistake(
            "the use of a session is not written",
            "ravel_node/machine/sessions.py",
            old="        self._used[client_id] = session\n",
            new="",
            first=(
                "machine/test_sessions.py",
                "machine/test_determinism.py",
            ),
        ),
        Mistake(
            "the bytes of kept answers have no bound",
            "ravel_node/machine/sessions.py",
            old="        kept = answer if len(answer.value) <= room else _FORGOTTEN",
            new="        kept = answer",
            first=("machine/test_sessions.py",),
        ),
        Mistake(
            "the room for answers is not used up",
            "ravel_node/machine/sessions.py",
            old="        room -= len(kept.value)\n",
            new="",
            first=("machine/test_sessions.py",),
        ),
        Mistake(
            "a forgotten answer is run again",
            "ravel_node/machine/sessions.py",
            old=("        if sequence < session.acked_below:\n            answers.append(_FORGOTTEN)\n        elif"),
            new="        if",
            first=("machine/test_sessions.py",),
        ),
        Mistake(
            "an anchor holds the revision after its entry",
            "ravel_node/machine/kv.py",
            old="self._history.applied(at.index, before, self._revision, txn)\n        return outcomes",
            new="self._history.applied(at.index, self._revision, self._revision, txn)\n        return outcomes",
            first=("machine/test_history.py",),
        ),
        Mistake(
            "the history is never forgotten",
            "ravel_node/machine/history.py",
            old=("        if not 0 < self._since < below:\n            return"),
            new=("        if True:\n            return"),
            first=("machine/test_history.py",),
        ),
        Mistake(
            "an idle note reaches into the next entry",
            "ravel_node/machine/history.py",
            old="            self.idle.clear()\n",
            new="",
            first=("machine/test_history.py",),
        ),
        Mistake(
            "a mark falls",
            "ravel_node/machine/high_water.py",
            old="max(self.term, other.term), Index(max(self.index, other.index))",
            new="other.term, other.index",
            first=("machine/test_high_water.py",),
        ),
        Mistake(
            "of two starts with one number the second is known",
            "ravel_node/machine/high_water.py",
            old="newest = other if other.boot_number > self.boot_number else self",
            new="newest = other if other.boot_number >= self.boot_number else self",
            first=("machine/test_high_water.py",),
        ),
        Mistake(
            "a risen mark is not written",
            "ravel_node/machine/high_water.py",
            old="            txn.put(Database.META, _key(replica_id), encode_marks({replica_id: after}))",
            new="            pass",
            first=("machine/test_high_water.py",),
        ),
    ),
)
