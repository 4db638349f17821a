"""Which web pages may call the server from a browser."""

import pytest

from server.access.keys import make_key, write_row
from tests.support.clients import marked_png, running_server

KEY = make_key()
IMAGE = marked_png(5)
SHOP, OTHER = "https://shop.example", "https://other.example"
EXPOSED = "X-Request-Id, Server-Timing, X-Model, X-Artifact, X-Batch-Size, Retry-After, "
EXPOSED += "X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset"


def asking(
    origin: str, method: str = "POST", headers: str = "authorization, x-api-key, content-type"
) -> dict[str, str]:
    return {"Origin": origin, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": headers}


async def test_no_page_may_call_unless_told():
    async with running_server() as server:
        preflight = await server.http.options("/segment", headers=asking(SHOP))
        answer = await server.http.post("/segment", content=IMAGE, headers={"Origin": SHOP})
    assert preflight.status_code == 405
    for response in (preflight, answer):
        assert not [name for name in response.headers if name.startswith("access-control")]


async def test_a_page_of_a_named_origin_may_call_with_its_key(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(write_row("shop", KEY, 5))
    async with running_server(api_keys_file=keys, cors_origin=(SHOP, "http://localhost:3000")) as server:
        preflight = await server.http.options("/segment", headers=asking(SHOP))
        foreign = await server.http.options("/segment", headers=asking(OTHER))
        method = await server.http.options("/segment", headers=asking(SHOP, "DELETE"))
        with_key = {"Origin": SHOP, "X-Api-Key": KEY}
        answer = await server.http.post("/segment", content=IMAGE, headers=with_key)
        refused = await server.http.post("/segment", content=IMAGE, headers={"Origin": SHOP})
        elsewhere = await server.http.post("/segment", content=IMAGE, headers={**with_key, "Origin": OTHER})
        counted = server.metrics.registry.get_sample_value
        assert counted("birefnet_requests_total", {"transport": "rest", "outcome": "ok"}) == 2
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == SHOP
    assert preflight.headers["x-request-id"]
    assert (foreign.status_code, method.status_code) == (400, 400)
    assert "access-control-allow-origin" not in foreign.headers
    assert (answer.status_code, refused.status_code, elsewhere.status_code) == (200, 401, 200)
    for response in (answer, refused):
        assert response.headers["access-control-allow-origin"] == SHOP
        assert response.headers["access-control-expose-headers"] == EXPOSED
        assert "Origin" in response.headers["vary"]
    assert "access-control-allow-origin" not in elsewhere.headers
    for response in (preflight, answer):
        assert "access-control-allow-credentials" not in response.headers


@pytest.mark.parametrize("cookie", [{}, {"Cookie": "a=b"}])
async def test_every_page_may_call_but_none_with_cookies(cookie):
    async with running_server(cors_origin=("*",)) as server:
        answer = await server.http.post("/segment", content=IMAGE, headers={"Origin": OTHER, **cookie})
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in answer.headers
