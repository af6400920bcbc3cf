"""What the mover takes the errors of a cluster's client for."""

from __future__ import annotations

from typing import Any, cast

import pytest

from ravel_node.admin.model import ClusterEntry, ClusterNumber
from ravel_node.admin.ports import ClusterAwayError, StepRefusedError
from ravel_node.server import clusters
from ravel_node.server.clusters import Clusters
from ravelctl.client.errors import CLASS_OF
from ravelpb.errors import Reason
from ravelpb.v1.slots_pb2 import EXPORT, ChangeSlotsRequest


class OneCluster:
    """A desk whose directory has one cluster; both in one."""

    def __init__(self) -> None:
        self.directory = self
        self.clusters = {1: ClusterEntry(ClusterNumber(1), "c1", "a" * 32)}

    def addresses_of(self, cluster: int) -> list[str]:
        return ["127.0.0.1:7400"]


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (Reason.MOVE_REFUSED, StepRefusedError),
        (Reason.QUOTA_EXCEEDED, StepRefusedError),
        (Reason.UNSUPPORTED_VERSION, StepRefusedError),
        (Reason.REQUEST_TOO_LARGE, StepRefusedError),
        (Reason.NO_LEADER, ClusterAwayError),
        (Reason.OUTCOME_UNKNOWN, ClusterAwayError),
        (Reason.TIMEOUT, ClusterAwayError),
        # another cluster's daemon has the address by now: that is no word of this cluster
        (Reason.WRONG_CLUSTER_ID, ClusterAwayError),
        (Reason.WRONG_IDENTITY, ClusterAwayError),
    ],
)
async def test_only_the_cluster_itself_refuses_a_step(
    monkeypatch: pytest.MonkeyPatch, reason: Reason, kind: type[Exception]
) -> None:
    class Client:
        def __init__(self, *arguments: object, **more: object) -> None: ...

        async def change(self, request: ChangeSlotsRequest) -> None:
            raise CLASS_OF[reason]("so it is", reason=reason)

        async def close(self) -> None: ...

    monkeypatch.setattr(clusters, "SlotsClient", Client)
    desk: Any = OneCluster()
    port = Clusters(desk, None)
    with pytest.raises(kind, match="cluster c1: so it is") as caught:
        await port.change(ClusterNumber(1), ChangeSlotsRequest(step=EXPORT))
    assert type(caught.value) is kind
    await port.close()


async def test_what_an_older_directory_decided_reaches_no_cluster_that_was_adopted_since(monkeypatch: pytest.MonkeyPatch) -> None:
    """A migrator that was replaced may see a migration as copying, and a restored destination would begin to import for it."""
    asked: list[str] = []

    class Client:
        def __init__(self, *_arguments: object, cluster_id: str, **_more: object) -> None:
            self.cluster_id = cluster_id

        async def change(self, _request: ChangeSlotsRequest) -> None:
            asked.append(self.cluster_id)

        async def close(self) -> None: ...

    monkeypatch.setattr(clusters, "SlotsClient", Client)
    older, desk = OneCluster(), OneCluster()
    port = Clusters(cast(Any, desk), None)
    then = port.as_of(cast(Any, older))
    await then.change(ClusterNumber(1), ChangeSlotsRequest(step=EXPORT))
    desk.clusters = {1: ClusterEntry(ClusterNumber(1), "c1", "b" * 32)}
    with pytest.raises(ClusterAwayError, match="adopted in the place of the one that was meant"):
        await then.change(ClusterNumber(1), ChangeSlotsRequest(step=EXPORT))
    await port.change(ClusterNumber(1), ChangeSlotsRequest(step=EXPORT))
    assert asked == ["a" * 32, "b" * 32]
    await port.close()
