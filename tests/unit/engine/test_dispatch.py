"""What is said of the wait for a device: by items, in batches of their own artifact."""

import pytest

from server.engine.dispatch import Dispatcher
from server.engine.items import EngineLimits
from server.observability.metrics import Metrics
from tests.support.backends import marked_item
from tests.support.clock import FakeClock


@pytest.fixture
def dispatcher() -> Dispatcher:
    """Without a device, so that all that is added waits; a batch takes two seconds."""
    metrics = Metrics()
    metrics.device.assume(2.0)
    found = Dispatcher(EngineLimits(), metrics, FakeClock())
    found.allow("large", 16)
    return found


async def test_requests_fill_batches(dispatcher):
    assert [dispatcher.wait_s(ahead) for ahead in (0, 15, 16, 31, 32)] == [0, 0, 2.0, 2.0, 4.0]
    for mark in range(10):
        dispatcher.add(marked_item(mark, artifact_id="large"))
    assert [dispatcher.wait_s(ahead) for ahead in (10, 15, 16, 31, 32)] == [0, 0, 2.0, 2.0, 4.0], "as many are here"


async def test_a_request_counts_by_the_items_that_it_has_here(dispatcher):
    for tile in range(33):
        dispatcher.add(marked_item(tile, artifact_id="large"))
    assert dispatcher.wait_s(1) == 4.0


async def test_each_artifact_has_batches_of_its_own(dispatcher):
    dispatcher.allow("small", 1)
    assert dispatcher.wait_s(16) == 16 * 2.0, "for which one they are is not known"
    for mark in range(8):
        dispatcher.add(marked_item(mark, artifact_id="small"))
    assert dispatcher.wait_s(8) == 8 * 2.0
    for mark in range(16):
        dispatcher.add(marked_item(mark, artifact_id="large"))
    assert dispatcher.wait_s(24) == (8 + 1) * 2.0
    assert dispatcher.wait_s(48) == 2 * (8 + 1) * 2.0, "the next are a mix of the same kind"
