"""The token bucket: its mean rate, the exact wait, images larger than the bucket, and changes of its size."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.access.bucket import TokenBucket

SIZES = st.floats(0.0001, 500)
LIMITS = st.floats(0.5, 10_000)


def test_it_begins_full_and_refills_continuously():
    bucket = TokenBucket(60, now=100)
    bucket.take(60, 100)
    assert bucket.level(100) == 0
    assert bucket.level(100.5) == pytest.approx(0.5)
    assert bucket.level(130) == pytest.approx(30)
    assert bucket.level(1000) == 60
    assert bucket.full_s(1000) == 0


def test_the_wait_is_until_there_is_enough():
    bucket = TokenBucket(60, now=0)
    bucket.take(50, 0)
    assert bucket.wait_s(10, 0) == 0
    assert bucket.wait_s(25, 0) == pytest.approx(15)
    assert bucket.full_s(0) == 50


def test_what_is_larger_than_the_bucket_is_taken_when_it_is_full_and_leaves_a_debt():
    bucket = TokenBucket(10, now=0)
    assert bucket.wait_s(25, 0) == 0
    bucket.take(25, 0)
    assert bucket.level(0) == -15
    assert bucket.wait_s(0.1, 0) == pytest.approx(15.1 * 6)
    assert bucket.wait_s(25, 0) == pytest.approx(25 * 6)
    assert bucket.full_s(0) == pytest.approx(25 * 6)


def test_what_is_given_back_can_be_taken_again_but_never_more_than_fits():
    bucket = TokenBucket(10, now=0)
    bucket.take(8, 0)
    bucket.give_back(8, 0)
    assert bucket.level(0) == 10
    bucket.take(8, 0)
    bucket.give_back(8, 600)
    assert bucket.level(600) == 10


def test_a_change_of_size_gives_nobody_a_full_bucket():
    bucket = TokenBucket(10, now=0)
    bucket.take(10, 0)
    bucket.resize(100, 0)
    assert bucket.level(0) == 90
    bucket.resize(5, 0)
    assert (bucket.level(0), bucket.per_minute) == (-5, 5)


def test_a_clock_that_goes_back_refills_nothing():
    bucket = TokenBucket(60, now=100)
    bucket.take(60, 100)
    assert bucket.level(50) == 0
    assert bucket.level(101) == pytest.approx(1)


@pytest.mark.parametrize("per_minute", [0, -1, math.nan])
def test_limits_without_sense(per_minute):
    with pytest.raises(ValueError, match="expected a positive number"):
        TokenBucket(per_minute, 0)


@given(LIMITS, SIZES, SIZES, st.floats(0, 1e6))
def test_who_waits_as_told_is_let_in_and_not_a_second_earlier(limit, used, wanted, now):
    bucket = TokenBucket(limit, now)
    bucket.take(used, now)
    wait_s = math.ceil(bucket.wait_s(wanted, now))
    if wait_s > 1:
        assert bucket.wait_s(wanted, now + wait_s - 1.001) > 0
    assert bucket.wait_s(wanted, now + wait_s) == 0


@given(LIMITS, st.lists(st.tuples(SIZES, st.floats(0, 30)), max_size=60))
def test_over_any_time_no_more_is_taken_than_flowed_in_and_one_debt(limit, steps):
    bucket, now, taken, largest = TokenBucket(limit, 0.0), 0.0, 0.0, limit
    for size, pause in steps:
        now += pause
        if bucket.wait_s(size, now) == 0:
            bucket.take(size, now)
            taken, largest = taken + size, max(largest, size)
        assert taken <= limit * now / 60 + largest + 1e-3
