"""What every real daemon does before a handler runs, for daemons that pretend: calls that mean another cluster are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from ravelpb.metadata import CLUSTER_ID


class ClusterCheck(grpc.ServerInterceptor):
    """`own` tells the cluster of the daemon, empty while it belongs to none; `refuse` ends a call that means another one."""

    def __init__(self, own: Callable[[], str], refuse: Callable[[grpc.ServicerContext, str], None]) -> None:
        self._own = own
        self._refuse = refuse

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        handler = continuation(details)
        meant = dict(details.invocation_metadata).get(CLUSTER_ID, "")
        own = self._own()
        if handler is None or not own or (meant == own) or not (meant or handler.response_streaming):
            return handler
        inner = handler.stream_stream or handler.unary_stream or handler.unary_unary

        def stream(request: Any, context: grpc.ServicerContext) -> Any:
            if meant:
                self._refuse(context, own)
            context.send_initial_metadata(((CLUSTER_ID, own),))
            yield from inner(request, context)

        def unary(request: Any, context: grpc.ServicerContext) -> Any:
            self._refuse(context, own)

        make: Any = grpc.unary_unary_rpc_method_handler
        if handler.response_streaming:
            make = grpc.stream_stream_rpc_method_handler if handler.request_streaming else grpc.unary_stream_rpc_method_handler
        return make(
            stream if handler.response_streaming else unary,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
