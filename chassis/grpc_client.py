"""The one client shape: our identity, the acting user, a deadline on every call, faults for gRPC errors.

Retries are the caller's: the saga engine has its own, and two layers of them multiply.
"""

from __future__ import annotations

import asyncio
import time
from typing import TypeVar

import grpc
import grpc.aio

from chassis import grpc_errors, tracing
from chassis.cancellation import is_cancelled
from chassis.errors import Fault, FaultKind
from chassis.grpc_metadata import MAX_MESSAGE_BYTES, MAX_METADATA_BYTES, REQUEST_ID_KEY, ROLE_KEY, USER_KEY
from chassis.identity import Caller, ServiceIdentity
from chassis.rpc_metrics import observe_call

Request = TypeVar("Request")
Reply = TypeVar("Reply")

# How often at most a name is looked up again, which is done when a connection ends or fails.
DNS_INTERVAL_SECONDS = 1.0

_OPTIONS = (
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    # gRPC's own 1 s to 120 s would keep a participant that is back out of reach for long.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # gRPC's own 30 s: in a rollout of two replicas both addresses that a client knew are gone before that.
    ("grpc.dns_min_time_between_resolutions_ms", int(DNS_INTERVAL_SECONDS * 1000)),
    # A peer that hangs or vanished without a word is dropped before the caller's patience ends.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    # Of what no server has seen, such as a call that meets the end of an old connection, and of no more.
    ("grpc.enable_retries", 1),
)


class Connection:
    """A channel to one service."""

    def __init__(self, target: str, identity: ServiceIdentity) -> None:
        self._channel = grpc.aio.insecure_channel(target, options=_OPTIONS)
        self._is_closed = False
        self._identity = identity

    @property
    def channel(self) -> grpc.aio.Channel:
        """What stubs are made of.

        Raises:
            Fault: UNAVAILABLE, it is closed: a stub of a closed channel may make gRPC's core abort.
        """
        if self._is_closed:
            raise _closed()
        return self._channel

    async def call(
        self,
        rpc: grpc.aio.UnaryUnaryMultiCallable[Request, Reply],
        request: Request,
        *,
        timeout_seconds: float,
        user: Caller | None = None,
        request_id: str | None = None,
    ) -> Reply:
        """Make one call, once.

        Args:
            rpc: A method of a stub on `channel`, or `channel.unary_unary(path)` for bytes in and out.
            request: The request.
            timeout_seconds: The deadline; there is no call without one.
            user: For whom the call is made.
            request_id: Ties the logs of both sides together.

        Raises:
            Fault: whatever went wrong; a time-out is DEADLINE_EXCEEDED and says nothing about what happened.
        """
        metadata = [("authorization", f"Bearer {self._identity.token()}")]
        if user is not None and user.user_id is not None:
            metadata += [(USER_KEY, str(user.user_id)), (ROLE_KEY, user.role or "")]
        if request_id is not None:
            metadata.append((REQUEST_ID_KEY, request_id))
        with tracing.rpc_client(rpc):
            traceparent = tracing.current()
            if traceparent is not None:
                metadata.append((tracing.TRACEPARENT, traceparent))
            return await _called(rpc, request, timeout_seconds, metadata)

    async def close(self) -> None:
        """Close the channel; calls under way are cancelled."""
        self._is_closed = True
        await self._channel.close()


async def _called(
    rpc: grpc.aio.UnaryUnaryMultiCallable[Request, Reply],
    request: Request,
    timeout_seconds: float,
    metadata: list[tuple[str, str]],
) -> Reply:
    started = time.perf_counter()
    code = "OK"
    try:
        return await rpc(request, timeout=timeout_seconds, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        code = error.code().name
        # It gets no name here: that would hold this frame, and so the channel, until the collector comes by.
        raise grpc_errors.from_error(error) from None
    except grpc.aio.UsageError:
        code = FaultKind.UNAVAILABLE.name
        raise _closed() from None
    except asyncio.CancelledError:
        if is_cancelled():
            code = FaultKind.CANCELLED.name
            raise
        # Nobody cancelled us: the channel was closed under the call.
        code = FaultKind.UNAVAILABLE.name
        raise _closed() from None
    finally:
        observe_call(rpc, code, time.perf_counter() - started)


def _closed() -> Fault:
    return Fault(FaultKind.UNAVAILABLE, "CHANNEL_CLOSED", "the connection is being closed")
