"""`matting.v1.Matting`: the calls themselves."""

import asyncio
import time
from collections.abc import AsyncIterator, Collection
from typing import Any, TypeAlias, cast

import grpc

from protos.matting.v1 import matting_pb2 as pb
from protos.matting.v1 import matting_pb2_grpc
from server.api.rpc.boundary import FAULTS, account, begin_answer, guarded
from server.api.rpc.messages import cut_to_deadline, read_request, write_answer, write_error
from server.api.service import Service
from server.errors import DeadlineExceededError, DrainingError, ServerError
from server.observability.logs import request_id
from server.observability.tracing import conclude
from server.pipeline.request import SegmentResult

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


_RETRY_S = 1  # another process takes it


class MattingServicer(matting_pb2_grpc.MattingServicer):
    """Answers the calls of one service."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._closing = asyncio.Event()

    def close_streams(self) -> None:
        """Read no further from any stream: each ends when what it has read is answered."""
        self._closing.set()

    async def Segment(self, request: pb.SegmentRequest, context: Context) -> pb.SegmentResponse:  # noqa: N802
        """Answer one image; cancelling the call cancels this task, and with it the work."""
        message_id = request.id
        return write_answer(await self._segment(request, context), message_id)

    # A coroutine that writes, instead of a generator: its tasks end with it, whichever way the call ends.
    async def SegmentStream(  # type: ignore[override]  # noqa: N802
        self, request_iterator: AsyncIterator[pb.SegmentRequest], context: Context
    ) -> None:
        """Answer the images of a stream, each as soon as it is done."""
        async with self._service.entrance.stream():
            await begin_answer(context)
            await self._answer_stream(context)

    async def _answer_stream(self, context: Context) -> None:
        window = asyncio.Semaphore(self._service.limits.stream_window)
        writing = asyncio.Lock()

        async def answer(message: pb.SegmentRequest) -> None:
            response = await self._answer_in_stream(message, context)
            with self._service.hold(len(response.answer.image)):  # until the client has room for it
                async with writing:
                    await context.write(response)

        working: set[asyncio.Task[None]] = set()
        idle: DeadlineExceededError | None = None
        async with asyncio.TaskGroup() as group:
            try:
                while (message := await self._read(context, working)) is not grpc.aio.EOF:
                    await window.acquire()
                    task = group.create_task(answer(message))
                    working.add(task)
                    task.add_done_callback(working.discard)
                    task.add_done_callback(lambda _: window.release())
                    del message, task
            except DeadlineExceededError as error:
                idle = error  # raised below: the group would make it one of several
        if idle is not None:
            raise idle
        if self._closing.is_set():
            raise DrainingError("the server is shutting down: this stream ends here", retry_after_s=_RETRY_S)

    async def _read(self, context: Context, working: Collection[object]) -> Any:  # noqa: ANN401 - message, or end
        """The next message; the end, too, once streams are closing.

        Raises:
            DeadlineExceededError: None has come for long, and nothing is worked on.
        """
        idle_s = self._service.limits.stream_idle_s
        reading = asyncio.ensure_future(context.read())
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            ended: Collection[object] = ()
            while not ended:
                ended, _ = await asyncio.wait((reading, closing), timeout=idle_s, return_when=asyncio.FIRST_COMPLETED)
                if not ended and not working:
                    raise DeadlineExceededError(f"no message came on this stream for {idle_s:g} s")
            return reading.result() if reading.done() else grpc.aio.EOF
        finally:
            reading.cancel()
            closing.cancel()

    async def _answer_in_stream(self, message: pb.SegmentRequest, context: Context) -> pb.SegmentStreamResponse:
        message_id, outcome, started = message.id, "cancelled", time.monotonic()
        with self._service.trace("image of a stream"):
            try:
                result = await guarded(self._segment(message, context))
                outcome = "ok"
            except ServerError as error:
                outcome = error.code
                return pb.SegmentStreamResponse(id=message_id, error=write_error(error))
            finally:
                self._service.count("grpc", outcome, time.monotonic() - started)
                conclude(outcome, failed=outcome in FAULTS)
        return pb.SegmentStreamResponse(id=message_id, answer=write_answer(result, message_id))

    async def _segment(self, message: pb.SegmentRequest, context: Context) -> SegmentResult:
        request = read_request(message, request_id.get(), self._service.limits, account.get())
        # The stubs deny it, but a call without a deadline has no remaining time.
        remaining_s = cast("float | None", context.time_remaining())
        return await self._service.pipeline.segment(cut_to_deadline(request, remaining_s))
