"""The gate before the door: bodies under way, by number and by bytes, and nothing is read of those that are refused."""

import pytest

from server.engine.admission import Admission, AdmissionLimits, Surroundings
from server.engine.uploads import UploadLimits, Uploads
from server.errors import DrainingError, NotReadyError, OverloadedError
from server.observability.metrics import Metrics
from tests.support.backends import counted
from tests.support.clock import FakeClock


class Gate:
    """A gate before a door, with a fake clock."""

    def __init__(self, **limits) -> None:
        self.metrics, self.unready = Metrics(), ""
        self.admission = Admission(
            AdmissionLimits(), self.metrics, Surroundings(lambda: self.unready or None), FakeClock()
        )
        self.uploads = Uploads(UploadLimits(**limits), self.admission)

    def refused(self, reason: str) -> float:
        return counted(self.metrics, "birefnet_refusals_total", reason=reason)


def test_uploads_are_bounded_by_number():
    gate = Gate(max_uploads=2)
    with gate.uploads.receive(), gate.uploads.receive():
        with (
            pytest.raises(OverloadedError, match="at most 2 uploads are read at a time") as caught,
            gate.uploads.receive(),
        ):
            pass
        assert (caught.value.retry_after_s or 0) >= 1
    assert gate.refused("uploads") == 1
    with gate.uploads.receive():
        assert gate.uploads.number == 1


def test_uploads_are_bounded_by_the_bytes_that_they_announce():
    gate = Gate(max_bytes=100)
    with gate.uploads.receive(60), gate.uploads.receive(40):
        assert gate.uploads.bytes == 100
        assert counted(gate.metrics, "birefnet_upload_bytes") == 100
        assert counted(gate.metrics, "birefnet_uploads") == 2
        with (
            pytest.raises(OverloadedError, match=r"at most 100 bytes .* this one makes it 101"),
            gate.uploads.receive(1),
        ):
            pass
    assert gate.uploads.bytes == 0
    assert gate.refused("uploads") == 1


def test_a_body_that_announces_nothing_counts_as_it_arrives():
    gate = Gate(max_bytes=100)
    with gate.uploads.receive(50), gate.uploads.receive() as arrival:
        arrival.add(30)
        arrival.add(20)
        assert gate.uploads.bytes == 100
        with pytest.raises(OverloadedError):
            arrival.add(1)
    assert gate.refused("uploads") == 1


def test_what_was_announced_is_not_counted_again():
    gate = Gate(max_bytes=100)
    with gate.uploads.receive(50), gate.uploads.receive(50) as arrival:
        arrival.add(50)
        assert gate.uploads.bytes == 100


def test_a_single_large_upload_comes_in_when_it_is_alone():
    gate = Gate(max_bytes=100)
    with gate.uploads.receive(1000) as arrival:
        arrival.add(1000)
        with pytest.raises(OverloadedError), gate.uploads.receive(1):
            pass


@pytest.mark.parametrize("reason", ["draining", "not_ready"])
async def test_whoever_would_not_be_taken_is_refused_before_the_body(reason):
    gate = Gate()
    if reason == "draining":
        await gate.admission.drain()
    else:
        gate.unready = "warming up"
    with pytest.raises((DrainingError, NotReadyError)), gate.uploads.receive():
        pytest.fail("the body would be read")
    assert gate.refused(reason) == 1


def test_whoever_fails_on_the_way_leaves_too():
    gate = Gate()
    with pytest.raises(ZeroDivisionError), gate.uploads.receive(5):
        raise ZeroDivisionError
    assert (gate.uploads.number, gate.uploads.bytes) == (0, 0)


@pytest.mark.parametrize("limits", [{"max_uploads": 0}, {"max_bytes": 0}])
def test_limits_are_positive(limits):
    with pytest.raises(ValueError, match="expected positive numbers"):
        UploadLimits(**limits)
