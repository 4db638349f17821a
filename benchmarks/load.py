"""A small load generator: closed-loop HTTP clients on keep-alive connections, standard library only.

It shares the machine with the server it measures, so it does as little as it can: no parsing but of the headers that
carry the server's own times.
"""

import http.client
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Answer:
    """One answered request.

    Attributes:
        status: HTTP status.
        wall_s: From the first byte sent until the last byte received, seconds.
        stage_s: The server's own account of it, by stage, seconds (`Server-Timing`).
        body: What came back.
    """

    status: int
    wall_s: float
    stage_s: dict[str, float]
    body: bytes


def server_timing(header: str) -> dict[str, float]:
    """Parse a `Server-Timing` header into seconds by stage."""
    stages = {}
    for entry in filter(None, (part.strip() for part in header.split(","))):
        name, *parameters = (field.strip() for field in entry.split(";"))
        for parameter in parameters:
            if parameter.startswith("dur="):
                stages[name] = float(parameter[4:]) / 1000
    return stages


def post(connection: http.client.HTTPConnection, image: bytes, path: str = "/segment") -> Answer:
    """Send one image as a raw body and read the whole answer."""
    started = time.perf_counter()
    connection.request("POST", path, body=image, headers={"Content-Type": "application/octet-stream"})
    response = connection.getresponse()
    body = response.read()
    wall_s = time.perf_counter() - started
    return Answer(response.status, wall_s, server_timing(response.headers.get("Server-Timing", "")), body)


def sequential(port: int, images: Sequence[bytes], count: int, path: str = "/segment") -> list[Answer]:
    """`count` requests one after the other on one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        return [post(connection, images[i % len(images)], path) for i in range(count)]
    finally:
        connection.close()


def closed_loop(
    port: int, images: Sequence[bytes], clients: int, duration_s: float, path: str = "/segment"
) -> tuple[list[Answer], float]:
    """`clients` clients that each send their next request when the last is answered.

    Returns:
        The answers, and the seconds from the start until the last of them: requests that were under way when the
        duration ended are waited for and counted, in both.
    """
    answers: list[list[Answer]] = [[] for _ in range(clients)]
    started = time.perf_counter()

    def client(index: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        turn = index
        while time.perf_counter() - started < duration_s:
            answers[index].append(post(connection, images[turn % len(images)], path))
            turn += 1
        connection.close()

    threads = [threading.Thread(target=client, args=(index,)) for index in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [answer for of_client in answers for answer in of_client], time.perf_counter() - started


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def summarise_ms(seconds: Sequence[float]) -> dict[str, float]:
    """Median, p95, minimum and maximum in milliseconds, and the count."""
    return {
        "count": len(seconds),
        "median_ms": round(median(seconds) * 1000, 2),
        "p95_ms": round(quantile(seconds, 0.95) * 1000, 2),
        "min_ms": round(min(seconds) * 1000, 2),
        "max_ms": round(max(seconds) * 1000, 2),
    }
