"""The pure core: who leaves together, when, and what a random walk of everything that can happen must never do."""

import math
import random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from server.engine.batching import Batch, BatchLimit, BatchQueue, Claim, Member, Priority

HIGH, NORMAL, LOW = Priority.HIGH, Priority.NORMAL, Priority.LOW
AGEING_S = 30.0


def values(batch: Batch[str]) -> list[str]:
    return [member.value for member in batch.members]


@pytest.mark.parametrize(
    ("claims", "limit", "expected"),
    [
        pytest.param([], 4, [], id="nothing waits"),
        pytest.param([Claim("g")], 4, ["0"], id="one alone leaves at once"),
        pytest.param(
            [Claim("g"), Claim("g"), Claim("g")], 2, ["0", "1"], id="first come among equals, up to the limit"
        ),
        pytest.param([Claim("g", LOW), Claim("g", NORMAL), Claim("g", HIGH)], 2, ["2", "1"], id="priority first"),
        pytest.param(
            [Claim("g", NORMAL, 50), Claim("g", NORMAL, 40)], 1, ["1"], id="earliest deadline within a priority"
        ),
        pytest.param([Claim("g", NORMAL, 1), Claim("g", HIGH, 99)], 1, ["1"], id="priority before deadline"),
        pytest.param([Claim("g", NORMAL), Claim("g", NORMAL, 1e9)], 1, ["1"], id="a far deadline before none"),
        pytest.param([Claim("g"), Claim("h"), Claim("g")], 4, ["0", "2"], id="one group per batch"),
        pytest.param(
            [Claim("g", LOW), Claim("h", HIGH), Claim("g", LOW)], 4, ["1"], id="the most urgent chooses the group"
        ),
        pytest.param([Claim("g", HIGH), Claim("h", HIGH), Claim("g", LOW)], 2, ["0", "2"], id="and its group fills up"),
    ],
)
def test_who_leaves(claims, limit, expected):
    queue: BatchQueue[str] = BatchQueue(AGEING_S)
    for index, claim in enumerate(claims):
        queue.add(str(index), claim, now=0.5)
    batch = queue.take(0.5, lambda _: limit)
    assert values(batch) == expected
    assert len(queue) == len(claims) - len(expected)


def test_each_group_has_its_own_limit():
    queue: BatchQueue[str] = BatchQueue(AGEING_S)
    for name in ("g0", "g1", "g2", "h0", "h1", "h2"):
        queue.add(name, Claim(name[0]), 0)

    def limit_of(group):
        return {"g": 1, "h": 3}[group]

    assert values(queue.take(0, limit_of)) == ["g0"]
    queue.take(0, limit_of)
    queue.take(0, limit_of)
    assert values(queue.take(0, limit_of)) == ["h0", "h1", "h2"]


def test_the_expired_leave_without_being_sent():
    queue: BatchQueue[str] = BatchQueue(AGEING_S)
    queue.add("late", Claim("g", HIGH, deadline=10), 0)
    queue.add("now", Claim("h", LOW, deadline=11), 0)
    queue.add("fine", Claim("g", LOW, deadline=12), 0)
    batch = queue.take(11, lambda _: 4)
    assert [member.value for member in batch.expired] == ["late", "now"], "a deadline is the first instant too late"
    assert values(batch) == ["fine"]
    assert len(queue) == 0


def test_a_discarded_member_is_gone_and_can_be_discarded_once():
    queue: BatchQueue[str] = BatchQueue(AGEING_S)
    member = queue.add("left", Claim("g"), 0)
    assert queue.discard(member)
    assert not queue.discard(member)
    assert queue.take(0, lambda _: 4) == Batch((), ())


def test_put_back_keeps_place_and_age():
    queue: BatchQueue[str] = BatchQueue(AGEING_S)
    queue.add("first", Claim("g"), 0)
    batch = queue.take(0, lambda _: 4)
    queue.add("second", Claim("g"), 0)
    queue.put_back(batch.members)
    assert values(queue.take(0, lambda _: 4)) == ["first", "second"]
    queue.put_back(batch.members)
    with pytest.raises(ValueError, match="waits already"):
        queue.put_back(batch.members)


def test_low_priority_is_sent_within_three_ageing_spans_of_a_stream_of_high():
    """Two urgent items come for every one that is served: without ageing the low one would wait for ever."""
    queue: BatchQueue[str] = BatchQueue(AGEING_S)
    queue.add("low", Claim("g", LOW), 0)
    for second in range(1000):
        queue.add("high", Claim("h", HIGH, second + 600), second)
        queue.add("high", Claim("h", HIGH, second + 600), second)
        if values(queue.take(second, lambda _: 1)) == ["low"]:
            break
    # At 60 s it is HIGH, at 90 s above every newcomer; then those older than it in rank must go: two per second came.
    assert second <= 3 * AGEING_S * 2


def test_an_item_without_deadline_is_not_starved_by_earlier_deadlines():
    queue: BatchQueue[str] = BatchQueue(AGEING_S)
    queue.add("patient", Claim("g", NORMAL), 0)
    sent = []
    for second in range(200):
        queue.add("hasty", Claim("g", NORMAL, second + 5), second)
        sent += values(queue.take(second, lambda _: 1))
    assert "patient" in sent
    assert sent.index("patient") <= AGEING_S + 1


def test_ageing_must_be_positive():
    with pytest.raises(ValueError, match="ageing_s: expected a positive number"):
        BatchQueue(0)


class TestBatchLimit:
    def test_is_halved_and_doubles_again_with_time(self):
        limit = BatchLimit(8, recovery_s=60)
        assert limit.current(0) == 8
        limit.shrink(8, 100)
        assert [limit.current(100 + s) for s in (0, 59.9, 60, 119.9, 120, 1e9)] == [4, 4, 8, 8, 8, 8]

    def test_shortages_add_up(self):
        limit = BatchLimit(8, recovery_s=60)
        limit.shrink(8, 0)
        limit.shrink(4, 1)
        limit.shrink(2, 2)
        limit.shrink(1, 3)
        assert [limit.current(3 + s) for s in (0, 60, 120, 180, 240)] == [1, 2, 4, 8, 8]

    def test_a_small_batch_that_did_not_fit_counts_as_what_it_was(self):
        limit = BatchLimit(32, recovery_s=60)
        limit.shrink(6, 0)
        assert limit.current(0) == 3

    def test_a_late_report_does_not_raise_the_limit(self):
        limit = BatchLimit(32, recovery_s=60)
        limit.shrink(4, 0)
        limit.shrink(32, 0)
        assert limit.current(0) == 1

    def test_never_leaves_its_range(self):
        rng = random.Random(1)  # noqa: S311 - a walk, not a secret
        limit, now = BatchLimit(13, recovery_s=10), 0.0
        for _ in range(500):
            now += rng.uniform(0, 15)
            if rng.random() < 0.4:
                limit.shrink(limit.current(now), now)
            assert 1 <= limit.current(now) <= 13

    def test_must_be_positive(self):
        with pytest.raises(ValueError, match="expected 1 or more, found 0"):
            BatchLimit(0, 60)


class RandomWalk(RuleBasedStateMachine):
    """Every sequence of arrivals, departures, batches, returned batches and passing time keeps the promises."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: BatchQueue[int] = BatchQueue(AGEING_S)
        self.now = 0.0
        self.waiting: dict[int, Member[int]] = {}
        self.left: set[int] = set()
        self.bound: list[Member[int]] = []
        self.next = 0

    def _leave(self, member: Member[int]) -> None:
        assert self.waiting.pop(member.value) is member, "left without having waited"
        assert member.value not in self.left, "left twice"
        self.left.add(member.value)

    @rule(
        group=st.sampled_from(["g", "h", ("a", (8, 8))]),
        priority=st.sampled_from(list(Priority)),
        timeout_s=st.one_of(st.just(math.inf), st.floats(0, 120)),
    )
    def arrive(self, group: str, priority: Priority, timeout_s: float) -> None:
        member = self.queue.add(self.next, Claim(group, priority, self.now + timeout_s), self.now)
        self.waiting[self.next] = member
        self.next += 1

    @rule(seconds=st.floats(0, 45))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        member = self.waiting[data.draw(st.sampled_from(sorted(self.waiting)))]
        assert self.queue.discard(member)
        self._leave(member)
        assert not self.queue.discard(member)

    @rule(limit=st.integers(1, 5))
    def take(self, limit: int) -> None:
        batch = self.queue.take(self.now, lambda _: limit)
        assert all(member.claim.deadline <= self.now for member in batch.expired), "expired too early"
        for member in (*batch.expired, *batch.members):
            self._leave(member)
        assert len(batch.members) <= limit
        assert len({member.claim.group for member in batch.members}) <= 1, "mixed groups"
        assert all(member.claim.deadline > self.now for member in batch.members), "sent after its deadline"
        assert bool(batch.members) == bool(batch.members or self.waiting), "nothing sent although someone waits"
        self._check_order(batch, limit)
        self.bound = list(batch.members)

    def _check_order(self, batch: Batch[int], limit: int) -> None:
        """Nobody stays behind who is at least as urgent in every respect as one who was sent."""
        for sent in batch.members:
            alike = [member for member in self.waiting.values() if member.claim.group == sent.claim.group]
            assert not alike or len(batch.members) == limit, "room was left"
            assert not any(dominates(stayed, sent) for stayed in alike)
        if batch.members:
            first = batch.members[0]
            assert not any(dominates(stayed, first) for stayed in self.waiting.values())

    @precondition(lambda self: self.bound)
    @rule()
    def take_back(self) -> None:
        self.queue.put_back(self.bound)
        for member in self.bound:
            self.left.remove(member.value)
            self.waiting[member.value] = member
        self.bound = []

    @invariant()
    def nobody_is_lost(self) -> None:
        assert len(self.queue) == len(self.waiting)
        assert len(self.waiting) + len(self.left) == self.next

    def teardown(self) -> None:
        for member in self.queue.clear():
            self._leave(member)
        assert not self.waiting


def dominates(one: Member[int], other: Member[int]) -> bool:
    """At least as urgent in priority, deadline and age; members are never equal in all, for they have an order."""
    return (
        one.claim.priority <= other.claim.priority
        and one.claim.deadline <= other.claim.deadline
        and one.arrived <= other.arrived
        and one.order < other.order
    )


RandomWalk.TestCase.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],  # says something of the machine, not of the queue
)
TestRandomWalk = RandomWalk.TestCase
