"""Mistakes in ravel_node/storage."""

from __future__ import annotations

from tests.mutation.mistake import Mistake, Room

ROOM = Room(
    "storage",
    tests=("storage",),
    mistakes=(
        Mistake(
            "the table does not notice a half-applied entry",
            "ravel_node/storage/table.py",
            old="        return self._open.size != self._complete_size",
            new="        return False",
            first=(
                "storage/test_table.py",
                "storage/test_at_once.py",
            ),
        ),
        Mistake(
            "the table forgets up to where its segment is complete",
            "ravel_node/storage/table.py",
            old="        self._complete_size = segment.size\n",
            new="",
            first=(
                "storage/test_table.py",
                "storage/test_at_once.py",
            ),
        ),
        Mistake(
            "a new segment inherits where the old one was complete",
            "ravel_node/storage/table.py",
            old=("        self._complete_size = 0\n        self._relink()"),
            new="        self._relink()",
            first=(
                "storage/test_table.py",
                "storage/test_at_once.py",
            ),
        ),
        Mistake(
            "a segment that is not the oldest is dropped",
            "ravel_node/storage/table.py",
            old=(
                '        invariant(bool(self._sealed) and self._sealed[0] is flushed, f"segment {flushed.last} was'
                ' flushed and is not the oldest")\n'
            ),
            new="",
            first=(
                "storage/test_table.py",
                "storage/test_at_once.py",
            ),
        ),
        Mistake(
            "the bytes of a flushed segment stay counted",
            "ravel_node/storage/table.py",
            old="        self.sealed_bytes -= segment.size\n",
            new="",
            first=(
                "storage/test_table.py",
                "storage/test_at_once.py",
            ),
        ),
        Mistake(
            "a segment is full one record late",
            "ravel_node/storage/table.py",
            old="return segment.size >= self._segment_bytes_max",
            new="return segment.size > self._segment_bytes_max",
            first=(
                "storage/test_table.py",
                "storage/test_at_once.py",
            ),
        ),
        Mistake(
            "a page of a slot repeats its last key",
            "ravel_node/storage/table.py",
            old="in_slot(slot) if key > after}",
            new="in_slot(slot) if key >= after}",
            first=(
                "storage/test_table.py",
                "storage/test_at_once.py",
            ),
        ),
        Mistake(
            "an install does not wait for the flush",
            "ravel_node/storage/store.py",
            old="            await self._not_flushing.wait()\n",
            new="",
            first=(
                "storage/test_at_once.py",
                "storage/test_maps.py",
                "storage/test_snapshot_files.py",
                "storage/test_conformance.py",
            ),
        ),
        Mistake(
            "a flush begins while the state is replaced",
            "ravel_node/storage/store.py",
            old="while not self._replacing and (segment := self._table.oldest)",
            new="while (segment := self._table.oldest)",
            first=(
                "storage/test_at_once.py",
                "storage/test_maps.py",
                "storage/test_snapshot_files.py",
                "storage/test_conformance.py",
            ),
        ),
        Mistake(
            "the log is compacted while the state is replaced",
            "ravel_node/storage/store.py",
            old="            while more and not self._replacing:",
            new="            while more:",
            first=(
                "storage/test_at_once.py",
                "storage/test_maps.py",
                "storage/test_snapshot_files.py",
                "storage/test_conformance.py",
            ),
        ),
        Mistake(
            "a failed install leaves the store replacing for ever",
            "ravel_node/storage/store.py",
            old=("        finally:\n            self._replacing = False\n"),
            new="        finally:\n",
            first=(
                "storage/test_at_once.py",
                "storage/test_maps.py",
                "storage/test_snapshot_files.py",
                "storage/test_conformance.py",
            ),
        ),
        Mistake(
            "the number of a new state ignores directories of failed installs",
            "ravel_node/storage/store.py",
            old="max(numbers, default=0) + 1",
            new="self._log.state + 1",
            first=(
                "storage/test_at_once.py",
                "storage/test_maps.py",
                "storage/test_snapshot_files.py",
                "storage/test_conformance.py",
            ),
        ),
        Mistake(
            "the directory of the old state stays",
            "ravel_node/storage/store.py",
            old="            await self._engine.run(lambda: self._engine.remove(self._directory.state(old)))\n",
            new="",
            first=(
                "storage/test_at_once.py",
                "storage/test_maps.py",
                "storage/test_snapshot_files.py",
                "storage/test_conformance.py",
            ),
        ),
        Mistake(
            "a failed store does not answer the pending hash",
            "ravel_node/storage/store.py",
            old="        self._hashing.give_up(str(error))\n",
            new="",
            first=(
                "storage/test_at_once.py",
                "storage/test_maps.py",
                "storage/test_snapshot_files.py",
                "storage/test_conformance.py",
            ),
        ),
        Mistake(
            "a hash stays pending when a snapshot replaces the state",
            "ravel_node/storage/store.py",
            old='            self._hashing.give_up("a snapshot took the place of the state")\n',
            new="",
            first=(
                "storage/test_at_once.py",
                "storage/test_maps.py",
                "storage/test_snapshot_files.py",
                "storage/test_conformance.py",
            ),
        ),
        Mistake(
            "a hash stays pending when the store closes",
            "ravel_node/storage/store.py",
            old='        self._hashing.give_up("the store closes")\n',
            new="",
            first=(
                "storage/test_at_once.py",
                "storage/test_maps.py",
                "storage/test_snapshot_files.py",
                "storage/test_conformance.py",
            ),
        ),
        Mistake(
            "a waiter for exactly the flushed index is not answered",
            "ravel_node/storage/store.py",
            old="            if index <= reached and not done.done():",
            new="            if index < reached and not done.done():",
            first=(
                "storage/test_at_once.py",
                "storage/test_maps.py",
                "storage/test_snapshot_files.py",
                "storage/test_conformance.py",
            ),
        ),
        Mistake(
            "a flush on demand does not seal the open segment",
            "ravel_node/storage/store.py",
            old=("        self._check()\n        self._seal()\n        if self._table.oldest"),
            new=("        self._check()\n        if self._table.oldest"),
            first=(
                "storage/test_at_once.py",
                "storage/test_maps.py",
                "storage/test_snapshot_files.py",
                "storage/test_conformance.py",
            ),
        ),
        Mistake(
            "compaction goes beyond what is flushed",
            "ravel_node/storage/store.py",
            old="        to = min(to, self.flushed.index)\n",
            new="",
            first=(
                "storage/test_at_once.py",
                "storage/test_maps.py",
                "storage/test_snapshot_files.py",
                "storage/test_conformance.py",
            ),
        ),
        Mistake(
            "a failed snapshot is tried again after milliseconds",
            "ravel_node/storage/store.py",
            old=".time() + self._options.snapshot_retry_s",
            new=".time() + self._options.snapshot_retry_s / 1_000",
            first=(
                "storage/test_at_once.py",
                "storage/test_maps.py",
                "storage/test_snapshot_files.py",
                "storage/test_conformance.py",
            ),
        ),
        Mistake(
            "a failed build blocks the next snapshot",
            "ravel_node/storage/store.py",
            old=("        finally:\n            self._build = None\n"),
            new=("        finally:\n            pass\n"),
            first=(
                "storage/test_at_once.py",
                "storage/test_maps.py",
                "storage/test_snapshot_files.py",
                "storage/test_conformance.py",
            ),
        ),
        Mistake(
            "closing does not flush",
            "ravel_node/storage/store.py",
            old=(
                "        if self._failure is None:\n            with suppress(StoreError):\n                await self.flush()\n"
            ),
            new="",
            first=(
                "storage/test_at_once.py",
                "storage/test_maps.py",
                "storage/test_snapshot_files.py",
                "storage/test_conformance.py",
            ),
        ),
        Mistake(
            "a failed save leaves the store open",
            "ravel_node/storage/store.py",
            old=(
                '            self._fail(failure := StoreFailedError(f"the log could not be saved: {error}"))\n'
                "            raise failure from error"
            ),
            new='            raise StoreFailedError(f"the log could not be saved: {error}") from error',
            first=(
                "storage/test_at_once.py",
                "storage/test_maps.py",
                "storage/test_snapshot_files.py",
                "storage/test_conformance.py",
            ),
        ),
        Mistake(
            "a failed store leaves its waiters waiting",
            "ravel_node/storage/store.py",
            old=("            if not done.done():\n                done.set_exception(self._failure)\n        self._hashing"),
            new=("            pass\n        self._hashing"),
            first=(
                "storage/test_at_once.py",
                "storage/test_maps.py",
                "storage/test_snapshot_files.py",
                "storage/test_conformance.py",
            ),
        ),
        Mistake(
            "a released log index stays held",
            "ravel_node/storage/store.py",
            old=("        if self._held[index] <= 0:\n            del self._held[index]"),
            new=("        if self._held[index] < 0:\n            del self._held[index]"),
            first=(
                "storage/test_at_once.py",
                "storage/test_maps.py",
                "storage/test_snapshot_files.py",
                "storage/test_conformance.py",
            ),
        ),
        Mistake(
            "a reader shows half an entry",
            "ravel_node/storage/store.py",
            old=("self._closed or self._table.half_applied:\n            self._check()\n            self._seal()"),
            new=("self._closed:\n            self._check()\n            self._seal()"),
            first=(
                "storage/test_at_once.py",
                "storage/test_maps.py",
                "storage/test_snapshot_files.py",
                "storage/test_conformance.py",
            ),
        ),
        Mistake(
            "an install keeps the unfinished receipts",
            "ravel_node/storage/store.py",
            old="        await self._incoming.clear(snapshot.index)\n",
            new="",
            first=(
                "storage/test_at_once.py",
                "storage/test_maps.py",
                "storage/test_snapshot_files.py",
                "storage/test_conformance.py",
            ),
        ),
        Mistake(
            "bytes of replaced entries stay in the tail's count",
            "ravel_node/storage/log_store.py",
            old=(
                "            self._tail_bytes -= sum(entry_size(entry) for entry in self._tail[kept:])\n"
                "            del self._tail[kept:]"
            ),
            new="            del self._tail[kept:]",
            first=(
                "storage/test_log_store.py",
                "storage/test_conformance.py",
                "storage/test_at_once.py",
            ),
        ),
        Mistake(
            "bytes of a cleared tail stay counted",
            "ravel_node/storage/log_store.py",
            old=("            self._tail.clear()\n            self._tail_bytes = 0\n        self._tail.extend"),
            new=("            self._tail.clear()\n        self._tail.extend"),
            first=(
                "storage/test_log_store.py",
                "storage/test_conformance.py",
                "storage/test_at_once.py",
            ),
        ),
        Mistake(
            "bytes of the tail stay counted after a snapshot",
            "ravel_node/storage/log_store.py",
            old=("                self._tail.clear()\n                self._tail_bytes = 0\n            if save.entries"),
            new=("                self._tail.clear()\n            if save.entries"),
            first=(
                "storage/test_log_store.py",
                "storage/test_conformance.py",
                "storage/test_at_once.py",
            ),
        ),
        Mistake(
            "bytes of compacted entries stay counted",
            "ravel_node/storage/log_store.py",
            old=(
                "            self._tail_bytes -= sum(entry_size(entry) for entry in self._tail[:dropped])\n"
                "            del self._tail[:dropped]\n"
                "        await"
            ),
            new=("            del self._tail[:dropped]\n        await"),
            first=(
                "storage/test_log_store.py",
                "storage/test_conformance.py",
                "storage/test_at_once.py",
            ),
        ),
        Mistake(
            "bytes of a shortened tail stay counted",
            "ravel_node/storage/log_store.py",
            old=("            self._tail_bytes -= entry_size(self._tail[drop])\n            drop += 1"),
            new="            drop += 1",
            first=(
                "storage/test_log_store.py",
                "storage/test_conformance.py",
                "storage/test_at_once.py",
            ),
        ),
        Mistake(
            "compaction takes one entry too many",
            "ravel_node/storage/log_store.py",
            old="Index(min(to, first + self._compact_records_max - 1))",
            new="Index(min(to, first + self._compact_records_max))",
            first=(
                "storage/test_log_store.py",
                "storage/test_conformance.py",
                "storage/test_at_once.py",
            ),
        ),
        Mistake(
            "a failure while hashing is swallowed",
            "ravel_node/storage/hashing.py",
            old=("        error = running.exception()\n        if error is None and"),
            new=("        error = None if running.exception() else None\n        if error is None and"),
            first=(
                "storage/test_hashing.py",
                "storage/test_at_once.py",
            ),
        ),
        Mistake(
            "the hash of another index is given out",
            "ravel_node/storage/hashing.py",
            old="        if error is None and running.result().at.index != self._wanted:",
            new="        if False:",
            first=(
                "storage/test_hashing.py",
                "storage/test_at_once.py",
            ),
        ),
        Mistake(
            "hashing begins before the wanted index",
            "ravel_node/storage/hashing.py",
            old="self._running is not None or at < self._wanted:",
            new="self._running is not None:",
            first=(
                "storage/test_hashing.py",
                "storage/test_at_once.py",
            ),
        ),
        Mistake(
            "the last batch is left out of the hash",
            "ravel_node/storage/hashing.py",
            old=('        digest.update(b"".join(parts))\n        size += waiting\n'),
            new="        size += waiting\n",
            first=(
                "storage/test_hashing.py",
                "storage/test_at_once.py",
            ),
        ),
        Mistake(
            "any OSError condemns a good snapshot file",
            "ravel_node/storage/snapshots.py",
            old=("            if error.errno in _UNREADABLE:\n                return files.reason(error)\n            raise"),
            new="            return files.reason(error)",
            first=(
                "storage/test_snapshot_files.py",
                "storage/test_conformance.py",
                "storage/test_damage.py",
            ),
        ),
        Mistake(
            "a doubted snapshot stays on offer",
            "ravel_node/storage/snapshots.py",
            old=("                self.files.remove(file)\n                await self._condemn(file, why)"),
            new="                await self._condemn(file, why)",
            first=(
                "storage/test_snapshot_files.py",
                "storage/test_conformance.py",
                "storage/test_damage.py",
            ),
        ),
        Mistake(
            "one snapshot too many is kept",
            "ravel_node/storage/snapshots.py",
            old="self.files[self._kept :]",
            new="self.files[self._kept + 1 :]",
            first=(
                "storage/test_snapshot_files.py",
                "storage/test_conformance.py",
                "storage/test_damage.py",
            ),
        ),
        Mistake(
            "the offset of a receipt falls behind",
            "ravel_node/storage/snapshots.py",
            old="        self.received = offset + len(data)\n",
            new="        self.received = offset + len(data) - (len(data) > 5)\n",
            first=(
                "storage/test_snapshot_files.py",
                "storage/test_conformance.py",
                "storage/test_damage.py",
            ),
        ),
        Mistake(
            "a short write counts as a whole one",
            "ravel_node/storage/snapshots.py",
            old="            written += os.pwrite(descriptor, memoryview(data)[written:], offset + written)",
            new="            os.pwrite(descriptor, memoryview(data)[written:], offset + written); written = len(data)",
            first=(
                "storage/test_snapshot_files.py",
                "storage/test_conformance.py",
                "storage/test_damage.py",
            ),
        ),
        Mistake(
            "a snapshot of exactly the applied index is received",
            "ravel_node/storage/snapshots.py",
            old="        if wanted.index <= applied:",
            new="        if wanted.index < applied:",
            first=(
                "storage/test_snapshot_files.py",
                "storage/test_conformance.py",
                "storage/test_damage.py",
            ),
        ),
        Mistake(
            "a receipt stays busy for ever",
            "ravel_node/storage/snapshots.py",
            old=("        finally:\n            self._busy = False\n        self.received"),
            new="        self.received",
            first=(
                "storage/test_snapshot_files.py",
                "storage/test_conformance.py",
                "storage/test_damage.py",
            ),
        ),
        Mistake(
            "the content of a received file is not compared with its header",
            "ravel_node/storage/snapshots.py",
            old=("        return _mismatch(self.header, content)\n\n    def _require_turn"),
            new=('        return ""\n\n    def _require_turn'),
            first=(
                "storage/test_snapshot_files.py",
                "storage/test_conformance.py",
                "storage/test_damage.py",
            ),
        ),
        Mistake(
            "the revision of a received file is not compared",
            "ravel_node/storage/snapshots.py",
            old="    found = (content.revision, content.keys, content.cluster_name)\n",
            new="    found = (header.revision, header.keys, header.cluster_name)\n",
            first=(
                "storage/test_decoders.py",
                "storage/test_snapshot_files.py",
                "storage/test_conformance.py",
                "storage/test_damage.py",
            ),
        ),
        Mistake(
            "a key that went is added to its slot's summary",
            "ravel_node/storage/slot_index.py",
            old="        changes[slot_of(key)] -= _ONE_KEY",
            new="        changes[slot_of(key)] += _ONE_KEY",
            first=("storage/test_slot_index.py",),
        ),
        Mistake(
            "the position of the summaries is not written",
            "ravel_node/storage/slot_index.py",
            old="    txn.put(STORE, SUMMARIZED, seal(_SEED, SUMMARIZED, encode_entry_id(at)))",
            new="    pass",
            first=("storage/test_slot_index.py",),
        ),
        Mistake(
            "only the count of a slot's summary is compared",
            "ravel_node/storage/slot_index.py",
            old="    if summary is not None and found != summary:",
            new="    if summary is not None and keys_in(found) != keys_in(summary):",
            first=("storage/test_slot_index.py",),
        ),
        Mistake(
            "a key that is missing from the slot index is ignored",
            "ravel_node/storage/state_store.py",
            old="                if not txn.remove_value(_SLOTS, _SLOT_KEYS[slot], key):",
            new="                if not txn.remove_value(_SLOTS, _SLOT_KEYS[slot], key) and False:",
            first=(
                "storage/test_engines.py",
                "storage/test_slot_index.py",
            ),
        ),
        Mistake(
            "an overwritten key is counted twice",
            "ravel_node/storage/state_store.py",
            old=("            else:\n                txn.put(_KV, key, record)\n"),
            new=("            else:\n                txn.put(_KV, key, record)\n                came.append(key)\n"),
            first=(
                "storage/test_engines.py",
                "storage/test_slot_index.py",
            ),
        ),
        Mistake(
            "the view is not renewed after a flush",
            "ravel_node/storage/state_store.py",
            old=(
                "        await self._env.write(lambda txn: write_segment(txn, segment, segment.last, self.file))\n"
                "        self._view.renew()\n"
            ),
            new="        await self._env.write(lambda txn: write_segment(txn, segment, segment.last, self.file))\n",
            first=(
                "storage/test_conformance.py",
                "storage/test_engines.py",
                "storage/test_slot_index.py",
            ),
        ),
        Mistake(
            "the check ignores the summaries",
            "ravel_node/storage/checking.py",
            old="            return slot_index.summary_of(txn, self._slot) if slot_index.are_current(txn) else None",
            new="            return None",
            first=(
                "storage/test_damage.py",
                "storage/test_slot_index.py",
            ),
        ),
        Mistake(
            "two processes share a data directory",
            "ravel_node/storage/directory.py",
            old="fcntl.LOCK_EX | fcntl.LOCK_NB",
            new="fcntl.LOCK_SH | fcntl.LOCK_NB",
            first=("storage/test_directory.py",),
        ),
        Mistake(
            "a failed record stays in the file of events",
            "ravel_node/storage/events_file.py",
            old=("        except OSError:\n            self._cut()\n            raise"),
            new=("        except OSError:\n            raise"),
            first=("storage/test_events_file.py",),
        ),
    ),
)
