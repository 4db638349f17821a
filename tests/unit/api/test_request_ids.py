"""Which ids of clients are taken over."""

import pytest

from server.api.service import choose_request_id


@pytest.mark.parametrize("offered", ["a", "order-66/photo-1", "urn:uuid:0b1c", "A" * 128, "01HZX+=@_."])
def test_sane_ids_are_kept(offered: str):
    assert choose_request_id(offered) == offered


@pytest.mark.parametrize("offered", [None, "", "A" * 129, "a b", "a\nb", "a;b", "é", "-a", "<x>", "a\n"])
def test_others_are_replaced_by_new_ones(offered: str | None):
    first, second = choose_request_id(offered), choose_request_id(offered)
    assert first not in (offered, second)
    assert len(first) == 32
