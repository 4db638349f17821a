"""Answers that nobody reads: they count until they are read, and do not stay for ever."""

import asyncio

import numpy as np
import uvicorn
from uvicorn.server import ServerState

from protos.matting.v1 import matting_pb2 as pb
from server.api.rest.protocol import BoundedProtocol
from tests.support.backends import PATIENCE_S, turn_loop
from tests.support.clients import RunningServer, running_server, until
from tests.support.images import png

SIDE = 2000
ANSWER_BYTES = SIDE * SIDE * 4  # more than the buffers of both sockets take
IMAGE = png(np.zeros((SIDE, SIDE, 3), np.uint8))
HEAD = b"POST /segment?output=cutout&format=npy HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(IMAGE)


async def ask(server: RunningServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a request, and read nothing beyond a small buffer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.process.port, limit=1 << 12)
    writer.write(HEAD + IMAGE)
    await writer.drain()
    return reader, writer


def memory(server: RunningServer) -> int:
    taken: int = server.process.parts.admission.memory_inside
    return taken


async def left(server: RunningServer) -> None:
    """Until the request has left, and its answer alone is held."""
    await until(lambda: server.process.parts.admission.inside == 0 and memory(server) > 0)


async def test_an_answer_counts_until_it_is_read():
    # A request takes 69 MiB at its peak: beside an answer of 15 there is no room for another.
    async with running_server(max_memory_inside_mib=80) as server:
        reader, writer = await ask(server)
        await left(server)
        assert ANSWER_BYTES <= memory(server) < ANSWER_BYTES + 1000
        refused = await server.post(IMAGE, output="cutout", format="npy")
        assert refused.status_code == 429
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 200 OK" in head
        await reader.readexactly(memory(server))
        await until(lambda: memory(server) == 0)
        writer.close()


async def test_a_client_that_reads_nothing_is_cut():
    async with running_server(write_timeout_s=0.2) as server:
        _, writer = await ask(server)
        await left(server)
        await until(lambda: memory(server) == 0)
        writer.close()


async def test_an_answer_in_a_stream_counts_until_it_is_read():
    async with running_server() as server:
        stream = server.stub.SegmentStream()
        options = pb.SegmentOptions(output=pb.OUTPUT_CUTOUT, format=pb.FORMAT_NPY)
        await stream.write(pb.SegmentRequest(image=IMAGE, options=options))
        await left(server)
        assert memory(server) >= ANSWER_BYTES
        await turn_loop(50)
        assert memory(server) >= ANSWER_BYTES  # the transport takes no more than its window
        assert len((await stream.read()).answer.image) > ANSWER_BYTES
        await until(lambda: memory(server) == 0)
        stream.cancel()


async def test_an_answer_of_a_single_call_counts_until_it_is_read():
    async with running_server() as server:
        # Single calls of this client read at once: on the wire, it is a stream.
        call = server.channel.unary_stream(
            "/matting.v1.Matting/Segment",
            request_serializer=pb.SegmentRequest.SerializeToString,
            response_deserializer=pb.SegmentResponse.FromString,
        )(pb.SegmentRequest(image=IMAGE, options=pb.SegmentOptions(output=pb.OUTPUT_CUTOUT, format=pb.FORMAT_NPY)))
        await left(server)
        await turn_loop(50)
        assert memory(server) >= ANSWER_BYTES
        answer = await call.read()
        assert isinstance(answer, pb.SegmentResponse)
        assert len(answer.image) > ANSWER_BYTES
        await until(lambda: memory(server) == 0)
        call.cancel()


class Stuck(asyncio.Transport):
    """Keeps what is written, as a socket does whose other end takes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.kept, self.cut = 0, asyncio.Event()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.kept += len(data)

    def get_write_buffer_size(self) -> int:
        return self.kept

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        """Waits for what is kept."""

    def abort(self) -> None:
        self.cut.set()


async def test_what_is_left_when_a_connection_closes_is_not_waited_for_either():
    config = uvicorn.Config(lambda: None, log_config=None)
    config.load()
    protocol = BoundedProtocol(config=config, server_state=ServerState(), app_state={}, write_s=0.01)
    transport = Stuck()
    protocol.connection_made(transport)
    protocol.data_received(b"nonsense\r\n\r\n")
    assert transport.kept > 0
    async with asyncio.timeout(PATIENCE_S):
        await transport.cut.wait()
