"""Fetching from a real server that misbehaves, over real sockets; only names are resolved by the test."""

from collections.abc import Iterator

import pytest
import trustme


@pytest.fixture(scope="module", autouse=True)
def few_authorities(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One public authority instead of 150, which take a tenth of a second to load, seventy times."""
    path = tmp_path_factory.mktemp("authorities") / "public.pem"
    trustme.CA().cert_pem.write_to_path(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("certifi.where", lambda: str(path))
        yield
