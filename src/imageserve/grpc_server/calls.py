"""What each call goes through, whatever its method: key, slot, message, answer, metadata, log.

To gRPC each method is a stream of one message: so a message is read only after its call has shown
its key and got a slot. The event loop does this much; a thread does the rest.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc

from imageserve.errors import BadRequest, RequestError, UploadTooSlow
from imageserve.grpc_server.messages import SERVICE, Fields
from imageserve.grpc_server.statuses import Metadata, metadata_of, status_of
from imageserve.web.api_keys import ApiKeys
from imageserve.web.calls import Call, Headers, bug_error, finish
from imageserve.web.classify import Slots
from imageserve.web.edge import request_id
from imageserve.web.greenlets import Wait
from imageserve.web.upload import UploadLimits, UploadMemory

log = logging.getLogger(__name__)

Context = Any
"""grpc.aio.ServicerContext; its types ask for the classes of the messages."""

LOOKUPS = 4
"""Threads for the calls that carry no picture: they ask Redis, and take no slot."""


@dataclass(slots=True)
class Asked:
    """One call, as the thread sees it that answers it."""

    message: bytes
    call: Call
    timeout_s: float
    """The time that its client has left, within what the settings allow."""
    priority: str = ""
    """That of its key."""
    wait: Wait = field(default_factory=Wait)


Answer = Callable[[Asked], Fields]
"""Answers a call in a thread. May raise RequestError and ClientGone."""


@dataclass(frozen=True, slots=True)
class CallLimits:
    """The limits of one process, as those of a web process."""

    upload: UploadLimits
    request_timeout_s: float
    slots: int
    memory_bytes: int


class Calls:
    """Takes calls, and has them answered in threads."""

    def __init__(self, limits: CallLimits, keys: ApiKeys | None) -> None:
        self._limits = limits
        self._keys = keys
        self._slots = Slots(limits.slots)
        self._memory = UploadMemory(limits.memory_bytes)
        self._requests = ThreadPoolExecutor(limits.slots, "request")
        self._lookups = ThreadPoolExecutor(LOOKUPS, "lookup")
        self.in_hand = 0

    def with_pictures(self, name: str, answer: Answer) -> grpc.RpcMethodHandler:
        """Return the handler of a method that takes a key and a slot."""

        async def take(call: Call, context: Context) -> Fields:
            asked = Asked(b"", call, self._limits.request_timeout_s)
            if self._keys is not None:
                sent = dict(context.invocation_metadata())
                presented = sent.get("authorization", ""), sent.get("x-api-key", "")
                asked.priority = self._keys.priority(*presented)
            with self._slots.taken(), self._memory.account() as account:
                asked.message = await self._message(context)
                call.bytes = len(asked.message)
                account.take(call.bytes)
                left_s = context.time_remaining()
                asked.timeout_s = min(asked.timeout_s, max(0.0, left_s or asked.timeout_s))
                return await _in_thread(self._requests, answer, asked)

        return self._handler(name, take)

    def lookup(self, name: str, answer: Answer) -> grpc.RpcMethodHandler:
        """Return the handler of a method that tells what is served."""

        async def take(call: Call, context: Context) -> Fields:
            asked = Asked(await self._message(context), call, self._limits.request_timeout_s)
            return await _in_thread(self._lookups, answer, asked)

        return self._handler(name, take)

    async def _message(self, context: Context) -> bytes:
        """Return the message of a call.

        Raises UploadTooSlow, and BadRequest where there is none.
        """
        seconds = self._limits.upload.timeout_s
        try:
            message = await asyncio.wait_for(context.read(), seconds)
        except TimeoutError as error:
            raise UploadTooSlow(f"the message did not arrive within {seconds:g} seconds") from error
        if message is grpc.aio.EOF:
            raise BadRequest("the call carries no message")
        return bytes(message)

    def _handler(
        self, name: str, take: Callable[[Call, Context], Awaitable[Fields]]
    ) -> grpc.RpcMethodHandler:
        async def serve(_: object, context: Context) -> Fields:
            self.in_hand += 1
            try:
                return await _served(name, take, context)
            finally:
                self.in_hand -= 1

        return grpc.stream_unary_rpc_method_handler(
            serve, response_serializer=lambda message: message.SerializeToString()
        )


async def _in_thread(threads: ThreadPoolExecutor, answer: Answer, asked: Asked) -> Fields:
    """Answer in a thread, which is told where the client cancels or its deadline passes."""
    try:
        return await asyncio.get_running_loop().run_in_executor(threads, answer, asked)
    except asyncio.CancelledError:
        asked.wait.hang_up()
        raise


async def _served(
    name: str, take: Callable[[Call, Context], Awaitable[Fields]], context: Context
) -> Fields:
    """Answer one call, and count and log it."""
    sent = dict(context.invocation_metadata())
    its_id = request_id(sent.get("x-request-id"))
    call = Call("gRPC", f"/{SERVICE}/{name}", its_id, body_read=True, began=time.monotonic())
    try:
        response = await take(call, context)
    except RequestError as error:
        failed = error
    except asyncio.CancelledError:
        call.error_code = "client_gone"
        finish(log, call, name, 499, draining=False)
        raise
    except Exception as error:
        failed = bug_error(log, error, call)
    else:
        headers = finish(log, call, name, 200, draining=False)
        context.set_trailing_metadata(_metadata(headers))
        return response
    call.error_code = failed.code
    headers = finish(log, call, name, int(failed.status), draining=False)
    metadata = (*metadata_of(failed), *_metadata(headers))
    return await context.abort(status_of(failed), failed.message, metadata)  # It raises.


def _metadata(headers: Headers) -> Metadata:
    """Return headers of HTTP as gRPC has them."""
    return tuple((name.lower(), value) for name, value in headers)
