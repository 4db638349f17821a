"""Where a fetch may go: redirects, ports, names and the addresses behind them."""

from ipaddress import ip_address, ip_network

import pytest

from server.errors import UrlFetchFailedError, UrlNotAllowedError
from server.fetch.addresses import AddressPolicy
from server.fetch.fetcher import MAX_REDIRECTS, Fetcher, FetchLimits
from server.fetch.resolver import SystemResolver
from server.observability.metrics import Metrics
from tests.support.backends import PATIENCE_S
from tests.support.fetching import BODY, PUBLIC, Names, fail, make_fetcher
from tests.support.origin import Origin, redirect, response, running_origin


@pytest.mark.parametrize("status", ["301 x", "302 x", "303 x", "307 x", "308 x"])
async def test_redirects_are_followed(status: str):
    routes = {"/image": redirect("../there?a=b", status), "/there": response(BODY)}
    async with running_origin(routes) as origin:
        assert await make_fetcher().fetch(origin.url(), PATIENCE_S) == BODY
    assert [visit.line.split(" ")[1] for visit in origin.visits] == ["/image", "/there?a=b"]


async def test_redirects_go_on_for_so_long_and_no_longer():
    async with running_origin({"/image": redirect("/image")}) as origin:
        detail = await fail(origin, UrlFetchFailedError)
    assert detail == f"image_url, redirect {MAX_REDIRECTS}: expected no further redirect, found one"
    assert len(origin.visits) == MAX_REDIRECTS + 1


@pytest.mark.parametrize(
    ("location", "hint"),
    [
        ("http://169.254.169.254/latest/meta-data/", "public addresses"),
        ("http://[fd00:ec2::254]/", "public addresses"),
        ("http://[::ffff:127.0.0.1]/", "public addresses"),
        ("http://0.0.0.0/", "public addresses"),
        ("http://127.0.0.2/", "public addresses"),
        ("http://inside.test/", "public addresses"),
        ("http://gone.test/", "public addresses"),
        ("http://2130706433/", "four decimal"),
        ("http://user:pw@127.0.0.1/", "user name"),
        ("file:///etc/passwd", "scheme"),
    ],
)
async def test_every_redirect_is_checked_like_the_first_url(location: str, hint: str):
    names = Names(inside_test=[["10.0.0.7"]])
    async with running_origin({"/image": redirect(location)}) as origin:
        detail = await fail(origin, UrlNotAllowedError, names=names)
    assert detail.startswith("image_url, redirect 1: expected")
    assert hint in detail
    assert len(origin.visits) == 1


async def test_ports_that_are_not_set_are_refused_first_and_in_redirects():
    async with running_origin() as other, running_origin({"/image": redirect(other.url())}) as origin:
        with pytest.raises(UrlNotAllowedError, match="expected the port 80 or 443, found"):
            await make_fetcher(ports=(80, 443)).fetch(origin.url(), PATIENCE_S)
        assert origin.visits == []
        with pytest.raises(
            UrlNotAllowedError, match=f"redirect 1: expected the port {origin.port}, found {other.port}"
        ):
            await make_fetcher(ports=(origin.port,)).fetch(origin.url(), PATIENCE_S)
        assert len(origin.visits) == 1
    assert other.visits == []


async def test_a_name_is_resolved_once_and_the_checked_address_is_connected_to():
    """DNS rebinding: what a second question would answer does not matter, for it is not asked."""
    names = Names(rebind_test=[["127.0.0.1"], ["10.0.0.1"]])
    async with running_origin({"/image": response(BODY)}) as origin:
        assert await make_fetcher(names).fetch(origin.url(host="rebind.test"), PATIENCE_S) == BODY
        assert names.asked == ["rebind.test"]
        assert origin.visits[0].headers["host"] == f"rebind.test:{origin.port}"
        # A connection is not kept, so the next request asks and checks anew.
        with pytest.raises(UrlNotAllowedError):
            await make_fetcher(names).fetch(origin.url(host="rebind.test"), PATIENCE_S)
    assert len(origin.visits) == 1


@pytest.mark.parametrize("answer", [["127.0.0.1", "10.0.0.1"], [PUBLIC, "169.254.169.254"], ["::1", "127.0.0.1"], []])
async def test_one_bad_address_spoils_all_and_looks_like_a_name_that_does_not_exist(answer: list[str]):
    async with running_origin({"/image": response(BODY)}) as origin:
        detail = await fail_by_name(origin, Names(mixed_test=[answer]), "mixed.test")
        assert detail == await fail_by_name(origin, Names(), "gone.test")
    assert detail == ("image_url: expected a host with public addresses and no others, found one that is not public")
    assert origin.visits == []


async def fail_by_name(origin: Origin, names: Names, host: str) -> str:
    with pytest.raises(UrlNotAllowedError) as caught:
        await make_fetcher(names).fetch(origin.url(host=host), PATIENCE_S)
    return caught.value.detail


async def test_the_next_address_is_tried_when_one_does_not_answer():
    names = Names(two_test=[["127.0.0.2", "127.0.0.1"]])  # the server listens on the second one only
    policy = AddressPolicy(allow=(ip_network("127.0.0.0/8"),))
    async with running_origin({"/image": response(BODY)}) as origin:
        assert await make_fetcher(names, addresses=policy).fetch(origin.url(host="two.test"), PATIENCE_S) == BODY


async def test_the_system_knows_names_and_says_nothing_of_those_it_does_not():
    resolver = SystemResolver(1)
    addresses = await resolver.resolve("localhost", 80)
    assert ip_address("127.0.0.1") in addresses
    assert len(set(addresses)) == len(addresses)
    resolver.close()
    async with running_origin({"/image": response(BODY)}) as origin:
        fetcher = Fetcher(FetchLimits(ports=(0,)), Metrics())
        with pytest.raises(UrlNotAllowedError):
            await fetcher.fetch(origin.url(host="localhost"), PATIENCE_S)
        fetcher.close()
    assert origin.visits == []
