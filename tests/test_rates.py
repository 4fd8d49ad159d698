"""A token bucket lets through what its rate allows, and says truly when it will let through the next."""

from hypothesis import given
from hypothesis import strategies as st

from service.rates import Bucket, burst, take

RATES = st.floats(0.01, 1000)
PAUSES_S = st.lists(st.floats(0, 10), max_size=60)


@given(RATES, PAUSES_S)
def test_no_stretch_of_time_sees_more_than_its_share_and_one_burst(rate, pauses) -> None:
    bucket, now, taken = None, 0.0, []
    for pause in pauses:
        now += pause
        bucket, wait = take(bucket, now, rate)
        if not wait:
            taken.append(now)
    for i, start in enumerate(taken):
        for j, end in enumerate(taken[i:], start=1):
            assert j <= burst(rate) + rate * (end - start) + 1e-6


@given(RATES, PAUSES_S)
def test_who_waits_as_long_as_told_is_let_through_and_no_sooner(rate, pauses) -> None:
    bucket, now = None, 0.0
    for pause in pauses:
        now += pause
        bucket, wait = take(bucket, now, rate)
        if wait:
            assert take(bucket, now + wait * 0.9, rate)[1] > 0
            assert take(bucket, now + wait * (1 + 1e-9) + 1e-9, rate)[1] == 0.0


def test_a_clock_that_stands_still_fills_no_bucket() -> None:
    bucket, wait = take(None, 5.0, 2.0)
    for _ in range(3):
        bucket, wait = take(bucket, 5.0, 2.0)
    assert bucket == Bucket(0.0, 5.0)
    assert wait == 0.5
