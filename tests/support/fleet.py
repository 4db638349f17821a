"""Clients that keep sending to a fleet, over both transports, and account for every single request.

They do what the interface tells them to: after 429 and 503 with `Retry-After` they wait and send again, and over gRPC
their channel repeats calls by the service config of `docs/deploy.md`. Nothing else is repeated.
"""

import http.client
import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc

from protos.matting.v1 import matting_pb2 as pb
from protos.matting.v1 import matting_pb2_grpc
from tests.support.processes import PATIENCE_S

SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{"service": "matting.v1.Matting"}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.2s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED"],
            },
        }
    ],
}
CHANNEL_OPTIONS: list[tuple[str, str | int]] = [
    ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
    ("grpc.per_rpc_retry_buffer_size", 65 << 20),
    ("grpc.max_receive_message_length", -1),
]
"""As docs/deploy.md has them; a test compares them."""

REST_CLIENTS, GRPC_CLIENTS = 4, 3
CLIENTS = REST_CLIENTS + GRPC_CLIENTS  # each has one request under way


@dataclass
class Ledger:
    """What came of every request, as its client saw it.

    Attributes:
        sent: Ids of requests, each once, however often it was repeated.
        answered: How often an id got its right answer.
        told: What an id was told when it was to come back: the codes of the answers.
        failures: Everything else: there must be none.
    """

    sent: set[str] = field(default_factory=set)
    answered: Counter[str] = field(default_factory=Counter)
    told: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    failures: list[str] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def begin(self, request_id: str) -> None:
        """A request is about to be sent for the first time."""
        with self._changed:
            self.sent.add(request_id)

    def answer(self, request_id: str, *, right: bool) -> None:
        """It got its answer."""
        with self._changed:
            if right:
                self.answered[request_id] += 1
            else:
                self.failures.append(f"{request_id}: not its answer")
            self._changed.notify_all()

    def tell(self, request_id: str, code: str) -> None:
        """It was told to come back."""
        with self._changed:
            self.told[request_id].append(code)

    def fail(self, request_id: str, problem: str) -> None:
        """It was lost."""
        with self._changed:
            self.failures.append(f"{request_id}: {problem}")
            self._changed.notify_all()

    def wait_for_more(self, count: int) -> None:
        """Until each transport has answered so many more, or something failed."""
        with self._changed:
            goal = {transport: number + count for transport, number in self._by_transport().items()}

            def reached() -> bool:
                now = self._by_transport()
                return bool(self.failures) or all(now[transport] >= goal[transport] for transport in goal)

            assert self._changed.wait_for(reached, PATIENCE_S), f"{self._by_transport()} of {goal}"
        assert not self.failures, self.failures[:3]

    def check(self) -> None:
        """After the end: every request that was ever sent got its own answer, once."""
        assert not self.failures, self.failures[:3]
        assert self.sent == set(self.answered)
        assert set(self.answered.values()) == {1}

    def _by_transport(self) -> dict[str, int]:
        found = {"rest": 0, "grpc": 0}
        for request_id in self.answered:
            found[request_id.partition("-")[0]] += 1
        return found


class Load:
    """Clients in threads, each with one request at a time, from entering until leaving the context.

    Attributes:
        ledger: What came of their requests.
    """

    def __init__(self, http_port: int, grpc_target: str, image: bytes, expected: bytes) -> None:
        """Prepare.

        Args:
            http_port: On this machine.
            grpc_target: Of the channels.
            image: What is sent.
            expected: The right answer.
        """
        self.ledger = Ledger()
        self._http_port, self._target = http_port, grpc_target
        self._image, self._expected = image, expected
        self._stop = threading.Event()
        self._threads = [self._thread(self._rest, f"rest-{number}") for number in range(REST_CLIENTS)]
        self._threads += [self._thread(self._rpc, f"grpc-{number}") for number in range(GRPC_CLIENTS)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)
        assert not any(thread.is_alive() for thread in self._threads), "a request was never answered"

    @staticmethod
    def _thread(client: Callable[[str], None], name: str) -> threading.Thread:
        return threading.Thread(target=client, args=(name,), name=name, daemon=True)

    def _rest(self, name: str) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            request_id = f"{name}-{number}"
            self.ledger.begin(request_id)
            try:
                while (wait_s := self._post(request_id)) is not None:
                    time.sleep(wait_s)  # what the answer asks for
            except (OSError, http.client.HTTPException) as error:
                self.ledger.fail(request_id, repr(error))

    def _post(self, request_id: str) -> int | None:
        """Send once; seconds after which to send it again, if that is what it was told."""
        connection = http.client.HTTPConnection("127.0.0.1", self._http_port, timeout=PATIENCE_S)
        try:
            connection.request("POST", "/segment", body=self._image, headers={"X-Request-Id": request_id})
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        if response.status == 200:
            self.ledger.answer(request_id, right=body == self._expected)
            return None
        wait_s = response.headers.get("Retry-After")
        if response.status not in (429, 503) or wait_s is None:
            self.ledger.fail(request_id, f"{response.status} {body[:200]!r}")
            return None
        self.ledger.tell(request_id, json.loads(body)["code"])
        return int(wait_s)

    def _rpc(self, name: str) -> None:
        options = [*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
        number = 0
        with grpc.insecure_channel(self._target, options=options) as channel:
            stub = matting_pb2_grpc.MattingStub(channel)
            while not self._stop.is_set():
                number += 1
                request_id = f"{name}-{number}"
                self.ledger.begin(request_id)
                metadata = (("x-request-id", request_id),)
                try:
                    message = pb.SegmentRequest(image=self._image)
                    answer = stub.Segment(message, timeout=PATIENCE_S, metadata=metadata)
                except grpc.RpcError as error:
                    self.ledger.fail(request_id, repr(error))
                else:
                    self.ledger.answer(request_id, right=answer.image == self._expected)
