"""A new cluster out of what is left of one whose quorum is gone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ravelctl.cli.errors import CommandError
from ravelctl.cli.exit_codes import ExitCode
from ravelctl.cluster.recovery import Survivor
from ravelctl.offline import directory
from ravelctl.offline.snapshots import entries_of, found, new_cluster, start_for

if TYPE_CHECKING:
    from ravel_node.storage.founding import Founded
    from ravel_node.storage.survey import DirectoryFacts
    from ravelctl.cli.app import App


def survivor(path: Path) -> Survivor:
    """What a directory has to offer. Raises CommandError where it is none that can be read."""
    facts = directory.look(path)
    identity, state = facts.log.identity, facts.state
    standing = directory.standing(path, facts)
    return Survivor(
        source=str(path),
        name=identity.name if identity else "",
        cluster_id=identity.cluster_id if identity else "",
        cluster_name=identity.cluster_name if identity else "",
        replica_id=identity.replica_id if identity else 0,
        last_term=facts.last_term,
        last_index=facts.log.last_index,
        commit_index=directory.commit_index(facts),
        applied_index=state.applied.index if state is not None and state.applied is not None else 0,
        halves=(standing.conf_state.voters, standing.conf_state.voters_outgoing),
        config_index=standing.config_index,
        names={member.replica_id: member.name for member in standing.members},
        running=bool(facts.owner),
        problems=(*facts.problems, *(("the cluster has removed it",) if identity is not None and identity.removed else ())),
    )


def facts_to_recover(path: Path) -> DirectoryFacts:
    """Those of a stopped member's directory. Raises CommandError for any other."""
    facts = directory.look(path)
    if facts.owner:
        raise CommandError(
            f"process {facts.owner} has {path} open: a cluster is made out of what nobody changes any more",
            code=ExitCode.REFUSED,
            next_step="stop that daemon, and every other member of the old cluster",
        )
    if facts.log.identity is None or facts.log.identity.blank:
        raise CommandError(f"{path} belongs to no cluster: there is nothing in it to recover", code=ExitCode.REFUSED)
    return facts


def recover(app: App, facts: DirectoryFacts, target: Path, index: int, name: str, cluster_name: str) -> Founded:
    """Make the data directory of a new cluster: the directory's state, and its log up to `index`. Nothing in it is changed."""
    start = start_for(facts.path, facts, index, None)
    app.say(f"made of {start.what}, entry {start.index}, and the log after it")
    with app.progress(f"recovering into {target}:") as progress:
        entries = entries_of(facts.path, start.index, index) if index > start.index else iter(())
        return found(target, start.source, entries, new_cluster(name, cluster_name), progress)
