"""The keys of gRPC metadata on which both ends agree."""

from __future__ import annotations

from typing import Final

CLUSTER_ID: Final = "ravel-cluster-id"
"""A cluster id: 32 lower-case hex digits.

On a call: the cluster that the caller means. A daemon of another cluster refuses the call with WRONG_CLUSTER_ID before it does
anything. A caller that does not know the cluster yet leaves the key out. On the answer to a stream opened without the key: the
cluster that answers, in the initial metadata, before the first message. Answers to unary calls carry it in their header.
"""
