"""Every wait of a fetch ends, by itself or with its caller."""

import asyncio

import pytest

from server.errors import DeadlineExceededError, UrlTimeoutError
from server.fetch import exchange
from server.observability.metrics import Metrics
from tests.support.backends import PATIENCE_S, counted
from tests.support.clients import until
from tests.support.fetching import fail, make_fetcher
from tests.support.origin import Visit, redirect, running_origin


async def drip(visit: Visit) -> None:
    """A byte at a time, each of them in time."""
    await visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
    while not visit.writer.is_closing():
        await visit.send(b"x")
        await asyncio.sleep(0.005)


async def hang(visit: Visit) -> None:
    await visit.wait_until_closed()


async def drip_headers(visit: Visit) -> None:
    await visit.send(b"HTTP/1.1 200 OK\r\n")
    while not visit.writer.is_closing():
        await visit.send(b"X: y\r\n")
        await asyncio.sleep(0.005)


async def interim(visit: Visit) -> None:
    while not visit.writer.is_closing():
        await visit.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("behaviour", [drip, drip_headers, hang, interim])
async def test_the_limit_of_time_is_of_the_whole(behaviour):
    metrics = Metrics()
    async with running_origin({"/image": behaviour}) as origin:
        detail = await fail(origin, UrlTimeoutError, timeout_s=0.2, metrics=metrics)
        assert detail == "image_url: expected the whole image within 0.2 s"
        # What is left of the request's own time is the nearer limit here.
        with pytest.raises(DeadlineExceededError, match="while the image was being fetched") as caught:
            await make_fetcher(metrics=metrics).fetch(origin.url(), 0.1)
        await until(lambda: origin.closed == origin.opened)
    assert type(caught.value) is DeadlineExceededError
    assert counted(metrics, "birefnet_fetches_total", outcome="url-timeout") == 1
    assert counted(metrics, "birefnet_fetches_total", outcome="deadline-exceeded") == 1


async def test_silence_has_a_limit_of_its_own(monkeypatch):
    monkeypatch.setattr(exchange, "_SILENCE_S", 0.05)
    async with running_origin({"/image": hang}) as origin:
        assert "expected bytes every 0.05 s" in await fail(origin, UrlTimeoutError)


async def test_redirects_share_the_time():
    async def later(visit: Visit) -> None:
        await asyncio.sleep(0.1)
        await visit.send(redirect("/image"))

    # All of them together take 0.6 s, each alone less than the limit.
    async with running_origin({"/image": later}) as origin:
        await fail(origin, UrlTimeoutError, timeout_s=0.4)


@pytest.mark.parametrize("behaviour", [drip, drip_headers, hang])
async def test_cancelling_closes_the_connection(behaviour):
    metrics = Metrics()
    fetcher = make_fetcher(metrics=metrics)
    async with running_origin({"/image": behaviour}) as origin:
        task = asyncio.create_task(fetcher.fetch(origin.url(), PATIENCE_S))
        await origin.arrival()
        assert fetcher.places.running == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: origin.closed == 1)
    assert fetcher.places.running == 0
    assert counted(metrics, "birefnet_fetches_total", outcome="cancelled") == 1
