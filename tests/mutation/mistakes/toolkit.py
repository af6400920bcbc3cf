"""Mistakes in ravelctl, its client apart."""

from __future__ import annotations

from tests.mutation.mistake import Mistake, Room

ROOM = Room(
    "toolkit",
    tests=(
        "ravelctl/diagnosis",
        "ravelctl/commands",
        "ravelctl/offline",
        "ravelctl/cli/test_output.py",
        "ravelctl/cli/test_cli.py",
        "ravelctl/dashboard/test_alarms.py",
        "ravelctl/dashboard/test_model.py",
        "ravelctl/dashboard/test_figures.py",
        "ravelctl/dashboard/test_columns.py",
        "ravelctl/dashboard/test_poller.py",
        "ravelctl/dashboard/test_screens.py",
        "ravelctl/dashboard/test_recording.py",
    ),
    mistakes=(
        Mistake(
            "the rules of a cluster stop at the first row that breaks one",
            "ravelctl/dashboard/alarms.py",
            old=(
                "            found += [*_of_row(row, view), *self._claim(row, view, now_s), *self._stalled(row,"
                " now_s), *self._gap(row)]"
            ),
            new=(
                "            found += [*_of_row(row, view), *self._claim(row, view, now_s), *self._stalled(row,"
                " now_s), *self._gap(row)]\n"
                "            if found:\n"
                "                break"
            ),
            first=("ravelctl/dashboard/test_alarms.py",),
        ),
        Mistake(
            "the rules of a row stop after a slow disk",
            "ravelctl/dashboard/alarms.py",
            old=(
                '        yield Breach("fsync", row.key, severity, f"{row.name} fsync p99 {micros(row.fsync_p99_us or'
                ' 0)}", f"{row.name} fsync")\n'
            ),
            new=(
                '        yield Breach("fsync", row.key, severity, f"{row.name} fsync p99 {micros(row.fsync_p99_us or'
                ' 0)}", f"{row.name} fsync")\n'
                "        return\n"
            ),
            first=("ravelctl/dashboard/test_alarms.py",),
        ),
        Mistake(
            "the rules of a row stop after a full store",
            "ravelctl/dashboard/alarms.py",
            old=('        yield Breach("db", row.key, severity, f"{row.name} store {share} full", f"{row.name} db {share}")\n'),
            new=(
                '        yield Breach("db", row.key, severity, f"{row.name} store {share} full", f"{row.name} db'
                ' {share}")\n'
                "        return\n"
            ),
            first=("ravelctl/dashboard/test_alarms.py",),
        ),
        Mistake(
            "only the first alarm of a daemon is shown",
            "ravelctl/dashboard/alarms.py",
            old="            yield _servers_own(row, alarm)\n",
            new=("            yield _servers_own(row, alarm)\n            return\n"),
            first=("ravelctl/dashboard/test_alarms.py",),
        ),
        Mistake(
            "a lag hides a late contact",
            "ravelctl/dashboard/alarms.py",
            old=(
                '        yield Breach("lag", row.key, severity, text, f"{row.name} lag{seconds or \' \' +'
                ' count(row.lag or 0, 6)}")\n'
            ),
            new=(
                '        yield Breach("lag", row.key, severity, text, f"{row.name} lag{seconds or \' \' +'
                ' count(row.lag or 0, 6)}")\n'
                "        return\n"
            ),
            first=("ravelctl/dashboard/test_alarms.py",),
        ),
        Mistake(
            "a missing leader hides an even number of voters",
            "ravelctl/dashboard/alarms.py",
            old='        yield Breach("leader", "", Severity.CRIT, f"no leader{since}", f"no leader{since}")\n',
            new=('        yield Breach("leader", "", Severity.CRIT, f"no leader{since}", f"no leader{since}")\n        return\n'),
            first=("ravelctl/dashboard/test_alarms.py",),
        ),
        Mistake(
            "two rivals hide the other rules",
            "ravelctl/dashboard/alarms.py",
            old='lead {term}", at_once=True)\n',
            new=('lead {term}", at_once=True)\n        return\n'),
            first=("ravelctl/dashboard/test_alarms.py",),
        ),
        Mistake(
            "a lost quorum hides the elections",
            "ravelctl/dashboard/alarms.py",
            old=('        yield Breach("quorum", "", Severity.CRIT, text, f"quorum {view.acknowledging}<{view.quorum}")\n'),
            new=(
                '        yield Breach("quorum", "", Severity.CRIT, text, f"quorum'
                ' {view.acknowledging}<{view.quorum}")\n'
                "        return\n"
            ),
            first=("ravelctl/dashboard/test_alarms.py",),
        ),
        Mistake(
            "the alarm book raises the first breach only",
            "ravelctl/dashboard/alarms.py",
            old="                raised.append(alarm)\n",
            new=("                raised.append(alarm)\n                break\n"),
            first=("ravelctl/dashboard/test_alarms.py",),
        ),
        Mistake(
            "the alarm book raises a breach at once",
            "ravelctl/dashboard/alarms.py",
            old="BREACHES_TO_RAISE: Final = 2",
            new="BREACHES_TO_RAISE: Final = 1",
            first=("ravelctl/dashboard/test_alarms.py",),
        ),
        Mistake(
            "a broken promise of safety waits for a second view",
            "ravelctl/dashboard/alarms.py",
            old="            elif breach.at_once or self._breached[key] >= BREACHES_TO_RAISE:",
            new="            elif self._breached[key] >= BREACHES_TO_RAISE:",
            first=("ravelctl/dashboard/test_alarms.py",),
        ),
        Mistake(
            "breaches with a view between them add up in the book",
            "ravelctl/dashboard/alarms.py",
            old="        self._breached = {key: self._breached.get(key, 0) + 1 for key in by_key}",
            new="        self._breached = self._breached | {key: self._breached.get(key, 0) + 1 for key in by_key}",
            first=("ravelctl/dashboard/test_alarms.py",),
        ),
        Mistake(
            "an alarm is cleared after 10 ms",
            "ravelctl/dashboard/alarms.py",
            old="CALM_S: Final = 10.0",
            new="CALM_S: Final = 0.01",
            first=("ravelctl/dashboard/test_alarms.py",),
        ),
        Mistake(
            "a breach does not end the calm",
            "ravelctl/dashboard/alarms.py",
            old="standing, breach=breach, calm_since_s=None, acknowledged",
            new="standing, breach=breach, acknowledged",
            first=("ravelctl/dashboard/test_alarms.py",),
        ),
        Mistake(
            "a worse alarm stays acknowledged",
            "ravelctl/dashboard/alarms.py",
            old="acknowledged=standing.acknowledged and not worse",
            new="acknowledged=standing.acknowledged",
            first=("ravelctl/dashboard/test_alarms.py",),
        ),
        Mistake(
            "acknowledging counts what was seen before",
            "ravelctl/dashboard/alarms.py",
            old="for alarm in self.standing[:shown] if not alarm.acknowledged]",
            new="for alarm in self.standing[:shown]]",
            first=("ravelctl/dashboard/test_alarms.py",),
        ),
        Mistake(
            "the alarm book forgets when the calm began",
            "ravelctl/dashboard/alarms.py",
            old=(
                "            elif alarm.calm_since_s is None:\n"
                "                self._alarms[key] = replace(alarm, calm_since_s=calm_since_s)\n"
            ),
            new="",
            first=("ravelctl/dashboard/test_alarms.py",),
        ),
        Mistake(
            "a stalled snapshot is measured from the first sight",
            "ravelctl/dashboard/alarms.py",
            old="            self._snapshots[row.key] = (row.snapshot_sent, now_s)",
            new="            self._snapshots[row.key] = (row.snapshot_sent, since_s)",
            first=("ravelctl/dashboard/test_alarms.py",),
        ),
        Mistake(
            "a claim of leadership is graver after milliseconds",
            "ravelctl/dashboard/alarms.py",
            old=("row.status is not None else 0) / 1000\n        severity"),
            new=("row.status is not None else 0) / 1_000_000\n        severity"),
            first=("ravelctl/dashboard/test_alarms.py",),
        ),
        Mistake(
            "a counter that fell gives a negative rate",
            "ravelctl/dashboard/model.py",
            old="if seconds > 0 and now >= before else None",
            new="if seconds > 0 else None",
            first=("ravelctl/dashboard/test_model.py",),
        ),
        Mistake(
            "rates take milliseconds for seconds",
            "ravelctl/dashboard/model.py",
            old="before.counters.monotonic_ms) / 1000",
            new="before.counters.monotonic_ms)",
            first=("ravelctl/dashboard/test_model.py",),
        ),
        Mistake(
            "a leader of an old term rules",
            "ravelctl/dashboard/model.py",
            old="    return None if len(beyond) > len(voters) // 2 else best",
            new="    return best",
            first=("ravelctl/dashboard/test_model.py",),
        ),
        Mistake(
            "the longest time without a leader is shown",
            "ravelctl/dashboard/model.py",
            old="    return min(waits) / 1000 if waits else None",
            new="    return max(waits) / 1000 if waits else None",
            first=("ravelctl/dashboard/test_model.py",),
        ),
        Mistake(
            "the time without a leader is shown in milliseconds",
            "ravelctl/dashboard/model.py",
            old="    return min(waits) / 1000 if waits else None",
            new="    return float(min(waits)) if waits else None",
            first=("ravelctl/dashboard/test_model.py",),
        ),
        Mistake(
            "an even number of voters bears more failures",
            "ravelctl/diagnosis/seats.py",
            old="(count - 1) // 2, 'failure'",
            new="count // 2, 'failure'",
            first=("ravelctl/diagnosis/test_rules.py",),
        ),
        Mistake(
            "doctor tells of the first member with a wrong address only",
            "ravelctl/diagnosis/seats.py",
            old=(
                '            yield finding("RV411", name, f"{name} is reached elsewhere than the cluster has on'
                ' record", lines, do=do)'
            ),
            new=(
                '            yield finding("RV411", name, f"{name} is reached elsewhere than the cluster has on'
                ' record", lines, do=do)\n'
                "            return"
            ),
            first=("ravelctl/diagnosis/test_rules.py",),
        ),
        Mistake(
            "doctor tells of the first name that is there twice only",
            "ravelctl/diagnosis/seats.py",
            old='yield finding("RV407", value, f"{who} have the same {what} {value}")',
            new=('yield finding("RV407", value, f"{who} have the same {what} {value}")\n                return'),
            first=("ravelctl/diagnosis/test_rules.py",),
        ),
        Mistake(
            "a peer address on record is not compared",
            "ravelctl/diagnosis/seats.py",
            old='("replicas", record.peer, now.peer))',
            new='("replicas", record.peer, record.peer))',
            first=("ravelctl/diagnosis/test_rules.py",),
        ),
        Mistake(
            "a change of membership that goes on counts as hanging",
            "ravelctl/diagnosis/seats.py",
            old=("    if before.config_index != p.chief.config_index:\n        return\n"),
            new="",
            first=("ravelctl/diagnosis/test_rules.py",),
        ),
        Mistake(
            "doctor shows the first alarm of a replica only",
            "ravelctl/diagnosis/replicas.py",
            old="            yield finding(alarm.code, name, sentence, seen, severity=severity)",
            new=("            yield finding(alarm.code, name, sentence, seen, severity=severity)\n            break"),
            first=("ravelctl/diagnosis/test_rules.py",),
        ),
        Mistake(
            "an alarm loses its severity in doctor",
            "ravelctl/diagnosis/replicas.py",
            old="seen, severity=severity)",
            new="seen)",
            first=("ravelctl/diagnosis/test_rules.py",),
        ),
        Mistake(
            "a lag in milliseconds counts as seconds in doctor",
            "ravelctl/diagnosis/replicas.py",
            old="peer.lag_ms >= LAG_S * 1000",
            new="peer.lag_ms >= LAG_S",
            first=("ravelctl/diagnosis/test_rules.py",),
        ),
        Mistake(
            "a full window at one look is told of",
            "ravelctl/diagnosis/replicas.py",
            old="        if len(full) == 2 and earlier is not None and earlier.match == peer.match:",
            new="        if full:",
            first=("ravelctl/diagnosis/test_rules.py",),
        ),
        Mistake(
            "a replica that has just started counts as deaf",
            "ravelctl/diagnosis/replicas.py",
            old=" and _has_had_time(leader, own):",
            new=":",
            first=("ravelctl/diagnosis/test_rules.py",),
        ),
        Mistake(
            "an election that has just begun counts as no leader",
            "ravelctl/diagnosis/leaderless.py",
            old="    elif since_s < patience_s:",
            new="    elif False:",
            first=("ravelctl/diagnosis/test_rules.py",),
        ),
        Mistake(
            "the patience with an election is taken in milliseconds",
            "ravelctl/diagnosis/leaderless.py",
            old="max(status.election_timeout_ms for status in own) / 1000\n",
            new="max(status.election_timeout_ms for status in own)\n",
            first=("ravelctl/diagnosis/test_rules.py",),
        ),
        Mistake(
            "a joint configuration needs one half only",
            "ravelctl/diagnosis/leaderless.py",
            old="    if all(len(ids & set(half)) >= len(half) // 2 + 1 for half in halves):",
            new="    if any(len(ids & set(half)) >= len(half) // 2 + 1 for half in halves):",
            first=("ravelctl/diagnosis/test_rules.py",),
        ),
        Mistake(
            "half of the voters are a quorum for doctor",
            "ravelctl/diagnosis/seen.py",
            old="        return len(self.voters) // 2 + 1",
            new="        return (len(self.voters) + 1) // 2",
            first=("ravelctl/diagnosis/test_rules.py",),
        ),
        Mistake(
            "doctor tells of the first certificate only",
            "ravelctl/diagnosis/settings.py",
            old='            yield finding("RV503", subject, f"{what} {when}")',
            new=('            yield finding("RV503", subject, f"{what} {when}")\n            return'),
            first=("ravelctl/diagnosis/test_rules.py",),
        ),
        Mistake(
            "a port on every address counts as loopback",
            "ravelctl/diagnosis/settings.py",
            old="        return ip_address(host).is_loopback",
            new="        return ip_address(host).is_loopback or ip_address(host).is_unspecified",
            first=("ravelctl/diagnosis/test_rules.py",),
        ),
        Mistake(
            "an integer of 64 bits is printed as a number",
            "ravelctl/cli/output.py",
            old="        return str(int(value))\n",
            new="        return int(value)\n",
            first=(
                "ravelctl/cli/test_output.py",
                "ravelctl/commands/test_documents.py",
            ),
        ),
        Mistake(
            "bytes that are no UTF-8 are not marked",
            "ravelctl/cli/output.py",
            old='                plain[f"{name}_encoding"] = "base64"\n',
            new="                pass\n",
            first=(
                "ravelctl/cli/test_output.py",
                "ravelctl/commands/test_kv_bytes.py",
            ),
        ),
        Mistake(
            "a repeated JSON is more than a line",
            "ravelctl/cli/output.py",
            old="indent=None if one_line else 2",
            new="indent=2",
            first=(
                "ravelctl/cli/test_output.py",
                "ravelctl/cli/test_cli.py",
                "ravelctl/commands/test_events.py",
            ),
        ),
        Mistake(
            "the field `kind` is renamed",
            "ravelctl/cli/output.py",
            old='"kind": view.kind,',
            new='"type": view.kind,',
            first=(
                "ravelctl/cli/test_output.py",
                "ravelctl/commands/test_documents.py",
            ),
        ),
        Mistake(
            "the field `revision` of a put is renamed",
            "ravelctl/commands/kv.py",
            old='data={**form.fields(key=key), "revision": U64(written.revision)},',
            new='data={**form.fields(key=key), "rev": U64(written.revision)},',
            first=(
                "ravelctl/commands/test_documents.py",
                "ravelctl/commands/test_kv.py",
            ),
        ),
        Mistake(
            "the revision of a key is missing in a list",
            "ravelctl/commands/kv.py",
            old='form.fields(key=i.key) | {"revision": U64(i.revision)} |',
            new="form.fields(key=i.key) |",
            first=(
                "ravelctl/commands/test_documents.py",
                "ravelctl/commands/test_kv.py",
            ),
        ),
        Mistake(
            "a swap tells the asked revision",
            "ravelctl/commands/kv.py",
            old='"swapped": swap.swapped, "revision": U64(swap.revision)}',
            new='"swapped": swap.swapped, "revision": U64(revision)}',
            first=(
                "ravelctl/commands/test_documents.py",
                "ravelctl/commands/test_kv.py",
            ),
        ),
        Mistake(
            "a delete of nothing says that it was there",
            "ravelctl/commands/kv.py",
            old='data = {"found": gone.found,',
            new='data = {"found": True,',
            first=(
                "ravelctl/commands/test_documents.py",
                "ravelctl/commands/test_kv.py",
            ),
        ),
        Mistake(
            "a failed swap exits with 0",
            "ravelctl/commands/kv.py",
            old=('form.show(swap.actual.value, _CELL_MAX)}",\n        code=ExitCode.FAILED,'),
            new=('form.show(swap.actual.value, _CELL_MAX)}",\n        code=ExitCode.DONE,'),
            first=(
                "ravelctl/commands/test_documents.py",
                "ravelctl/commands/test_kv.py",
            ),
        ),
        Mistake(
            "a dry run of a delete deletes",
            "ravelctl/commands/kv.py",
            old=(
                '        if app.settings.dry_run:\n            found = await client.get(key)\n            body = f"would delete'
            ),
            new=('        if False:\n            found = await client.get(key)\n            body = f"would delete'),
            first=(
                "ravelctl/commands/test_documents.py",
                "ravelctl/commands/test_kv.py",
            ),
        ),
        Mistake(
            "deleted and left are exchanged",
            "ravelctl/commands/kv.py",
            old='"deleted": deleted, "left": left, "dry_run": False}',
            new='"deleted": left, "left": deleted, "dry_run": False}',
            first=(
                "ravelctl/commands/test_documents.py",
                "ravelctl/commands/test_kv.py",
            ),
        ),
        Mistake(
            "the field `live` of health is the quorum",
            "ravelctl/commands/health.py",
            old=(
                '            "live": found.live,\n            "quorum": found.quorum,\n            "tolerates": found.tolerates,'
            ),
            new=(
                '            "live": found.quorum,\n'
                '            "quorum": found.quorum,\n'
                '            "tolerates": found.tolerates,'
            ),
            first=(
                "ravelctl/commands/test_documents.py",
                "ravelctl/commands/test_health.py",
            ),
        ),
        Mistake(
            "the field `worries` of health is renamed",
            "ravelctl/commands/health.py",
            old='"worries": worries,',
            new='"notes": worries,',
            first=(
                "ravelctl/commands/test_documents.py",
                "ravelctl/commands/test_health.py",
            ),
        ),
        Mistake(
            "the voters of health leave the leader out",
            "ravelctl/commands/health.py",
            old='row.role in {"leader", "voter"}',
            new='row.role in {"voter"}',
            first=(
                "ravelctl/commands/test_documents.py",
                "ravelctl/commands/test_health.py",
            ),
        ),
        Mistake(
            "a failed check is OK for monitoring plugins",
            "ravelctl/commands/health.py",
            old="_NAGIOS_CODES.get(code, 3)",
            new="_NAGIOS_CODES.get(code, 0)",
            first=(
                "ravelctl/commands/test_documents.py",
                "ravelctl/commands/test_health.py",
            ),
        ),
        Mistake(
            "the lag of a member is its match",
            "ravelctl/cluster/overview.py",
            old="        lag=U64(max(0, status.last_index - match)) if",
            new="        lag=U64(max(0, match)) if",
            first=(
                "ravelctl/commands/test_documents.py",
                "ravelctl/commands/test_status.py",
            ),
        ),
        Mistake(
            "the contact of a member is told in milliseconds",
            "ravelctl/cluster/overview.py",
            old="contact_s=peer.contact_age_ms / 1000 if peer",
            new="contact_s=peer.contact_age_ms if peer",
            first=(
                "ravelctl/commands/test_documents.py",
                "ravelctl/commands/test_status.py",
            ),
        ),
        Mistake(
            "a cluster without caught-up voters tolerates more",
            "ravelctl/cluster/overview.py",
            old="        tolerates=len(caught_up) - quorum if leads else None,",
            new="        tolerates=len(live) - quorum if leads else None,",
            first=(
                "ravelctl/commands/test_documents.py",
                "ravelctl/commands/test_status.py",
                "ravelctl/commands/test_health.py",
            ),
        ),
        Mistake(
            "the age of a leader is told in milliseconds",
            "ravelctl/cluster/overview.py",
            old="leader_age_s=status.leader_age_ms / 1000 if",
            new="leader_age_s=status.leader_age_ms if",
            first=(
                "ravelctl/commands/test_documents.py",
                "ravelctl/commands/test_status.py",
            ),
        ),
        Mistake(
            "the applied index of a member is its last one",
            "ravelctl/cluster/overview.py",
            old=(
                "        applied_index=U64(reply.applied_index) if reply else None,\n"
                "        db_used_bytes=U64(reply.db_used_bytes) if reply else None,\n"
                "        db_size_max_bytes=U64(reply.db_size_max_bytes) if reply else None,\n"
                "        version"
            ),
            new=(
                "        applied_index=U64(reply.last_index) if reply else None,\n"
                "        db_used_bytes=U64(reply.db_used_bytes) if reply else None,\n"
                "        db_size_max_bytes=U64(reply.db_size_max_bytes) if reply else None,\n"
                "        version"
            ),
            first=(
                "ravelctl/commands/test_documents.py",
                "ravelctl/commands/test_status.py",
            ),
        ),
        Mistake(
            "the field `map_version` of the clusters is a number",
            "ravelctl/admin/views.py",
            old='data={"map_version": U64(directory.map_version), "clusters"',
            new='data={"map_version": directory.map_version, "clusters"',
            first=("ravelctl/commands/test_admin.py",),
        ),
        Mistake(
            "the field `clusters` is renamed",
            "ravelctl/admin/views.py",
            old='"clusters": [asdict(row) for row in rows]}',
            new='"items": [asdict(row) for row in rows]}',
            first=("ravelctl/commands/test_admin.py",),
        ),
        Mistake(
            "the bytes before a compaction are those after it",
            "ravelctl/commands/store.py",
            old='"log_used_bytes_before": U64(done.log_used_bytes_before),',
            new='"log_used_bytes_before": U64(done.log_used_bytes),',
            first=("ravelctl/commands/test_documents.py",),
        ),
        Mistake(
            "a dry run of a compaction compacts",
            "ravelctl/commands/store.py",
            old="keep=keep, dry_run=dry, timeout_s",
            new="keep=keep, dry_run=False, timeout_s",
            first=("ravelctl/commands/test_documents.py",),
        ),
        Mistake(
            "the slots before and after a rebalance are exchanged",
            "ravelctl/admin/views.py",
            old='"slots_before": s.slots_before, "slots_after": s.slots_after}',
            new='"slots_before": s.slots_after, "slots_after": s.slots_before}',
            first=("ravelctl/commands/test_admin.py",),
        ),
        Mistake(
            "the field `message` of a finding is renamed",
            "ravelctl/commands/doctor.py",
            old='"message": one.sentence,',
            new='"sentence": one.sentence,',
            first=("ravelctl/commands/test_doctor.py",),
        ),
        Mistake(
            "a finding tells its next step as its cause",
            "ravelctl/commands/doctor.py",
            old='"why": one.why,',
            new='"why": one.do,',
            first=("ravelctl/commands/test_doctor.py",),
        ),
        Mistake(
            "doctor is healthy with findings",
            "ravelctl/commands/doctor.py",
            old='"healthy": not found.findings,',
            new='"healthy": True,',
            first=("ravelctl/commands/test_doctor.py",),
        ),
        Mistake(
            "states that differ are told as equal",
            "ravelctl/store/state_hashes.py",
            old='"equal": not differ,',
            new='"equal": True,',
            first=("ravelctl/commands/test_store_hash.py",),
        ),
        Mistake(
            "the index at which replicas agreed is the one where they differed",
            "ravelctl/store/state_hashes.py",
            old='{"agreed_index": U64(one.agreed_index),',
            new='{"agreed_index": U64(one.differed_index),',
            first=("ravelctl/commands/test_store_hash.py",),
        ),
        Mistake(
            "the voters that are missing are told as all voters",
            "ravelctl/commands/recover.py",
            old='"missing": [U64(voter) for voter in found.missing],',
            new='"missing": [U64(voter) for voter in found.voters],',
            first=("ravelctl/offline/test_recover.py",),
        ),
        Mistake(
            "a store with problems is told as whole",
            "ravelctl/store/checking.py",
            old='            "ok": not found.problems,',
            new='            "ok": True,',
            first=(
                "ravelctl/offline/test_logs.py",
                "ravelctl/offline/test_snapshots.py",
            ),
        ),
        Mistake(
            "states that differ are told as the same",
            "ravelctl/commands/log.py",
            old='"same": not found.database, "state": record}',
            new='"same": True, "state": record}',
            first=(
                "ravelctl/offline/test_logs.py",
                "ravelctl/offline/test_half_applied.py",
            ),
        ),
    ),
)
