"""Running time: stalls do not use up a budget."""

from training.pace import Pace


def test_ordinary_steps_count_whole():
    pace = Pace()
    assert [pace.counted(seconds) for seconds in (1.0, 1.2, 0.5, 3.0)] == [1.0, 1.2, 0.5, 3.0]


def test_a_stall_counts_as_six_steps_at_most():
    pace = Pace()
    for _ in range(5):
        pace.counted(1.0)
    assert pace.counted(3600.0) == 6.0


def test_a_lasting_slowdown_counts_whole_after_a_while():
    pace = Pace()
    pace.counted(1.0)
    for _ in range(30):
        pace.counted(20.0)
    assert pace.counted(20.0) == 20.0
