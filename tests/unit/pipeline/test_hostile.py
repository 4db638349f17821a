"""Every input of the hostile corpus: an image or a refusal, in little time and memory."""

import time

import pytest

from server.errors import ImageTooLargeError, RequestError
from server.pipeline import decode as decoding
from server.pipeline import header as headers
from server.pipeline.decode import decode
from server.pipeline.header import ImageLimits, read_header
from tests.support.hostile import MEGAPIXELS_169, corpus, flat_png
from tests.support.memory import measurable, peak_bytes

LIMITS = ImageLimits()
CORPUS = corpus()
MAX_S = 1.0  # of the processor, and for the worst of them
MAX_BYTES = 600 << 20  # the budget of 50 megapixels in the most frugal format; most inputs take none


def test_there_are_enough_of_them():
    assert len(CORPUS) >= 200


@pytest.mark.filterwarnings("ignore")
def test_each_is_an_image_or_a_refusal_in_little_time():
    outcomes: dict[str, int] = {}
    for name, data in CORPUS.items():
        started = time.thread_time()
        try:
            image = decode(data, read_header(data, LIMITS))
        except RequestError as error:
            code = error.code if error.detail.startswith("expected ") else f"{name}: {error.detail}"
            outcomes[code] = outcomes.get(code, 0) + 1
        else:
            assert image.rgb.shape[:2] == image.size, name
            outcomes["image"] = outcomes.get("image", 0) + 1
        elapsed = time.thread_time() - started
        assert elapsed < MAX_S, f"{name}: {elapsed:.2f} s"
    assert outcomes.keys() == {"image", "corrupt-image", "not-an-image", "image-too-large", "metadata-too-large"}


def decode_all() -> None:
    for data in CORPUS.values():
        try:
            decode(data, read_header(data, LIMITS))
        except RequestError:
            continue


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(not measurable(), reason="the kernel does not say how much memory was in use")
def test_all_of_them_stay_within_the_memory_of_one_request():
    found = peak_bytes(decode_all)
    assert found < MAX_BYTES, f"{found >> 20} MiB"


def test_169_megapixels_in_20_kilobytes_cost_no_pixel_work(monkeypatch, capsys):
    data = flat_png(*MEGAPIXELS_169)
    assert 15_000 < len(data) < 25_000
    for module in (headers, decoding):
        monkeypatch.setattr(module, "open_image", lambda *_: pytest.fail("the decoder was asked"))
    started = time.thread_time()
    with pytest.raises(ImageTooLargeError, match=r"found 13000×13000 = 169\.0 megapixels"):
        read_header(data, LIMITS)
    elapsed = time.thread_time() - started
    with capsys.disabled():
        print(f"\n169 megapixels in {len(data)} bytes: refused in {elapsed * 1000:.3f} ms")  # noqa: T201
    assert elapsed < 0.05
