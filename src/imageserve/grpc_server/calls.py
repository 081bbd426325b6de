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

from imageserve.errors import BadRequest, Busy, RequestError, UploadTooSlow
from imageserve.grpc_server.messages import SERVICE, Fields
from imageserve.grpc_server.statuses import Metadata, metadata_of, status_of
from imageserve.queue.wire import BACKGROUND
from imageserve.trace_context import read_context
from imageserve.tracing import NO_TRACER, Tracer
from imageserve.web.calls import Call, bug_error, finish, record_request
from imageserve.web.classify import Slots, WebConfig
from imageserve.web.decode_order import Asked
from imageserve.web.edge import request_id
from imageserve.web.greenlets import Wait
from imageserve.web.keys_file import ANYBODY, Caller
from imageserve.web.line import DecodeLine
from imageserve.web.upload import UploadMemory

log = logging.getLogger(__name__)

Context = Any
"""grpc.aio.ServicerContext; its types ask for the classes of the messages."""

PICTURES = "infer"
"""Calls with pictures are counted like those of the same protocol over HTTP."""

LOOKUPS = 4
"""Threads for the calls that carry no picture: they ask Redis, and take no slot."""


@dataclass(slots=True)
class Pending:
    """One call, as the thread sees it that answers it."""

    message: bytes
    call: Call
    timeout_s: float
    """The time that its client has left, within what the settings allow."""
    caller: Caller = ANYBODY
    wait: Wait = field(default_factory=Wait)


Answer = Callable[[Pending], Fields]
"""Answers a call in a thread. May raise RequestError and ClientGone."""


SLOW_S = 0.5
"""A message that takes longer to arrive counts as one of the largest: gRPC tells its length only
when all of it is there. So many may come at once as WEB_MEMORY_BYTES has room for."""

Take = Callable[[Call, Context], Awaitable[Fields]]
"""Takes a call on the event loop, and returns its response."""


class Calls:
    """Takes calls, and has them answered in threads."""

    def __init__(self, config: WebConfig, line: DecodeLine, tracer: Tracer = NO_TRACER) -> None:
        self._config = config
        self._line = line
        self._tracer = tracer
        self._slots = Slots(config.slots)
        self._memory = UploadMemory(config.memory_bytes)
        self._requests = ThreadPoolExecutor(config.slots, "request")
        self._lookups = ThreadPoolExecutor(LOOKUPS, "lookup")
        self._slow_messages = 0
        self._most_slow = max(1, config.memory_bytes // config.upload.max_body_bytes)
        self.in_hand = 0

    def with_pictures(self, name: str, answer: Answer) -> grpc.RpcMethodHandler:
        """Return the handler of a method that takes a key and a slot."""

        async def take(call: Call, context: Context) -> Fields:
            pending = Pending(b"", call, self._config.request_timeout_s)
            pending.caller = self._caller(context)
            call.key = pending.caller.name
            with self._slots.taken(), self._memory.account() as account:
                deadline = time.monotonic() + self._left_s(context)
                self._line.check(Asked(deadline, pending.caller.priority == BACKGROUND))
                pending.message = await self._message(context)
                call.bytes = len(pending.message)
                account.take(call.bytes)
                pending.timeout_s = self._left_s(context)
                return await _in_thread(self._requests, answer, pending)

        return self._handler(PICTURES, name, take, self._tracer)

    def at_once(self, name: str, answer: Answer) -> grpc.RpcMethodHandler:
        """Return the handler of a method that asks nobody: it is answered on the event loop."""

        async def take(call: Call, context: Context) -> Fields:
            message = await self._message(context)
            return answer(Pending(message, call, self._config.request_timeout_s))

        return self._handler(name, name, take)

    def lookup(self, name: str, answer: Answer) -> grpc.RpcMethodHandler:
        """Return the handler of a method that tells what is served."""

        async def take(call: Call, context: Context) -> Fields:
            pending = Pending(await self._message(context), call, self._config.request_timeout_s)
            with self._memory.account() as account:
                account.take(len(pending.message))
                return await _in_thread(self._lookups, answer, pending)

        return self._handler(name, name, take)

    def _caller(self, context: Context) -> Caller:
        """Return who presents a key."""
        if self._config.api_keys is None:
            return ANYBODY
        sent = dict(context.invocation_metadata())
        presented = sent.get("authorization", ""), sent.get("x-api-key", "")
        return self._config.api_keys.caller(*presented)

    def _left_s(self, context: Context) -> float:
        """Return the time that a call has: what its client leaves it, within what is allowed."""
        left_s, longest_s = context.time_remaining(), self._config.request_timeout_s
        return longest_s if left_s is None else min(longest_s, max(0.0, float(left_s)))

    async def _message(self, context: Context) -> bytes:
        """Return the message of a call.

        Raises UploadTooSlow, Busy, and BadRequest where there is none.
        """
        seconds = self._config.upload.timeout_s
        reading = asyncio.ensure_future(context.read())
        try:
            await asyncio.wait({reading}, timeout=min(SLOW_S, seconds))
            if not reading.done():
                await self._slow(reading, seconds - SLOW_S)
            if not reading.done():
                raise UploadTooSlow(f"the message did not arrive within {seconds:g} seconds")
        finally:
            reading.cancel()
        if reading.result() is grpc.aio.EOF:
            raise BadRequest("the call carries no message")
        return bytes(reading.result())

    async def _slow(self, reading: "asyncio.Future[Any]", seconds: float) -> None:
        """Wait for a message, as one of the few that may be on their way for long.

        Raises Busy where there are too many already.
        """
        if self._slow_messages >= self._most_slow:
            raise Busy("too many large messages are on their way", retry_after_s=1)
        self._slow_messages += 1
        try:
            await asyncio.wait({reading}, timeout=seconds)
        finally:
            self._slow_messages -= 1

    def _handler(
        self, endpoint: str, name: str, take: Take, tracer: Tracer = NO_TRACER
    ) -> grpc.RpcMethodHandler:
        async def serve(_: object, context: Context) -> Fields:
            self.in_hand += 1
            try:
                call = _call(name, context, tracer)
                return await _served(endpoint, call, take, context, tracer)
            finally:
                self.in_hand -= 1

        return grpc.stream_unary_rpc_method_handler(
            serve, response_serializer=lambda message: message.SerializeToString()
        )


async def _in_thread(threads: ThreadPoolExecutor, answer: Answer, pending: Pending) -> Fields:
    """Answer in a thread, which is told where the client cancels or its deadline passes."""
    try:
        return await asyncio.get_running_loop().run_in_executor(threads, answer, pending)
    except asyncio.CancelledError:
        pending.wait.hang_up()
        raise


def _call(name: str, context: Context, tracer: Tracer) -> Call:
    """Take note of a call."""
    sent = dict(context.invocation_metadata())
    its_id = request_id(sent.get("x-request-id"))
    call = Call("gRPC", f"/{SERVICE}/{name}", its_id, body_read=True, began=time.monotonic())
    call.parent = read_context(_joined(context, "traceparent"), _joined(context, "tracestate"))
    call.context = tracer.begin(call.parent)
    return call


def _joined(context: Context, name: str) -> str:
    """Return a value of the metadata; several of one name are joined by commas, as in HTTP."""
    return ",".join(value for key, value in context.invocation_metadata() if key == name)


async def _served(
    endpoint: str, call: Call, take: Take, context: Context, tracer: Tracer
) -> Fields:
    """Answer one call, and count, log and record it."""

    def ended(status: int, told: grpc.StatusCode) -> Metadata:
        headers = finish(log, call, endpoint, status, draining=False)
        record_request(tracer, call, status, told.name)
        return tuple((name.lower(), value) for name, value in headers)

    try:
        response = await take(call, context)
    except RequestError as error:
        failed = error.with_traceback(None)  # Its frames hold it, and the upload.
    except asyncio.CancelledError:
        call.error_code = "client_gone"
        ended(499, grpc.StatusCode.CANCELLED)
        raise
    except Exception as error:
        failed = bug_error(log, error, call)
    else:
        context.set_trailing_metadata(ended(200, grpc.StatusCode.OK))
        return response
    call.error_code = failed.code
    told = status_of(failed)
    metadata = (*metadata_of(failed), *ended(int(failed.status), told))
    return await context.abort(told, failed.message, metadata)  # It raises.
