"""The simulation keeps the rules of the real controllers, and its committed result is what the documentation says."""

import json
import random
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from benchmarks import autoscale, machine
from benchmarks.autoscaling import signals
from benchmarks.autoscaling.fleet import Setup, simulate
from benchmarks.autoscaling.hpa import Behaviour, Hpa, KedaOptions, Policy, Rules, per_pod, total
from benchmarks.autoscaling.loads import SPARSE, Load
from benchmarks.autoscaling.pod import Pod, Profile
from server.observability.station import Station

BENCHMARKS = Path(machine.__file__).parent
RESULT = BENCHMARKS / "results" / "autoscale" / "sweep.json"
PAGE = BENCHMARKS.parent / "docs" / "autoscaling.md"
POD = Profile("test", 0.0, 0.0, (0.1, 0.1), 4, 1, False, 30.0, "made up")


def steady(pods_worth: float, duration_s: float = 1200.0) -> Load:
    return Load("steady", duration_s, pods_worth, lambda now: pods_worth)


@pytest.mark.parametrize(
    ("values", "starting", "expected"),
    [
        ([1.4, 1.4], 0, 4),  # 2 × 1.4 ÷ 0.7
        ([0.74, 0.74], 0, 2),  # within 10 %
        ([0.2, 0.2], 0, 1),
        ([1.4, 1.4], 2, 4),  # two that start count as idle: 4 × 0.7 is on target
        ([1.4, 1.4], 1, 4),  # 3 × 0.93 ÷ 0.7
        ([], 2, 2),
    ],
)
def test_a_metric_of_pods_asks_for_so_many(values, starting, expected):
    assert per_pod(values, starting, 0.7, current=len(values) + starting) == expected


@pytest.mark.parametrize(("value", "current", "expected"), [(4.0, 2, 8), (1.05, 2, 2), (1.2, 2, 3), (0.0, 3, 0)])
def test_a_metric_of_all_pods_asks_for_so_many(value, current, expected):
    assert total(value, 0.5, current) == expected


def test_scaling_up_is_at_once_and_limited_by_the_policy_that_allows_most():
    assert Hpa(Behaviour(most=100)).decide(0.0, 2, [50]) == 6, "four more, because doubling is less"
    assert Hpa(Behaviour(most=100)).decide(0.0, 10, [50]) == 20, "twice as many, because four more is less"
    assert Hpa(Behaviour(most=7)).decide(0.0, 6, [50]) == 7


def test_a_policy_counts_what_was_added_within_its_period():
    hpa = Hpa(Behaviour(most=100, up=Rules((Policy("pods", 4, 60.0),))))
    assert [hpa.decide(0.0, 1, [50]), hpa.decide(15.0, 5, [50]), hpa.decide(61.0, 5, [50])] == [5, 5, 9]


def test_scaling_down_waits_for_the_highest_wish_of_the_window():
    hpa = Hpa(Behaviour())
    assert hpa.decide(0.0, 8, [8]) == 8
    assert hpa.decide(15.0, 8, [2]) == 8
    assert hpa.decide(299.0, 8, [2]) == 8
    assert hpa.decide(314.0, 8, [2]) == 2


def test_scaling_down_by_a_quarter_a_minute():
    hpa = Hpa(Behaviour(down=Rules((Policy("percent", 25, 60.0),))))
    assert [hpa.decide(0.0, 16, [1]), hpa.decide(15.0, 12, [1]), hpa.decide(61.0, 12, [1])] == [12, 12, 9]


def test_the_largest_wish_counts_and_an_unreadable_metric_forbids_to_scale_down():
    assert Hpa(Behaviour()).decide(0.0, 3, [2, 5]) == 5
    assert Hpa(Behaviour()).decide(0.0, 3, [None, 5]) == 5
    assert Hpa(Behaviour(down=Rules((Policy("percent", 100),)))).decide(0.0, 3, [None, 1]) == 3
    assert Hpa(Behaviour()).decide(0.0, 3, [None]) == 3


def test_the_same_seed_gives_the_same_run_and_another_does_not():
    setup = Setup(POD, steady(2.0), autoscale.CHOSEN)
    assert simulate(setup).figures() == simulate(setup).figures()
    assert simulate(setup).figures() != simulate(replace(setup, seed=2)).figures()


def test_nothing_is_refused_where_there_is_room_and_a_latency_is_what_the_model_says():
    fixed = replace(POD, batch_s=(0.1, 0.0), max_batch=1)
    figures = simulate(Setup(fixed, steady(0.05), signals.pressure(1.0), Behaviour(most=1))).figures()
    assert figures["refused_share"] == figures["unserved"] == figures["lost"] == 0
    assert figures["p50_s"] == pytest.approx(0.1, rel=0.1)
    assert figures["pod_hours"] == pytest.approx(1200 / 3600, abs=0.01)


def test_one_pod_under_three_times_its_load_refuses_two_thirds():
    figures = simulate(Setup(POD, steady(3.0), signals.pressure(1.0), Behaviour(most=1))).figures()
    assert figures["refused_share"] == pytest.approx(2 / 3, abs=0.05)
    assert figures["p99_s"] == pytest.approx(POD.max_requests / POD.per_s, rel=0.2), "a full queue, and no more"


def test_accounts_balance():
    """Every request is answered, refused, unserved or lost."""
    steep = Load("steep", 900.0, 6.0, lambda now: 6.0 if 100 <= now < 300 else 0.5)
    outcome = simulate(Setup(POD, steep, autoscale.CHOSEN, autoscale.BEHAVIOUR))
    assert outcome.refused > 0
    assert outcome.timeline[-1][2] < max(entry[2] for entry in outcome.timeline)
    assert outcome.offered == len(outcome.latencies_s) + outcome.refused + outcome.unserved + outcome.lost
    assert outcome.lost == 0, "drains take what is inside"


def test_scaling_to_zero_ends_the_last_pod_and_loses_what_comes_before_the_first():
    stays = simulate(Setup(POD, SPARSE, autoscale.CHOSEN)).figures()
    goes = simulate(Setup(POD, SPARSE, autoscale.CHOSEN, keda=KedaOptions(cooldown_s=300.0))).figures()
    assert stays["unserved"] == 0 < goes["unserved"]
    assert goes["pod_hours"] < 0.5 * stays["pod_hours"]


def test_the_fallback_scales_where_prometheus_is_away():
    def most(keda: KedaOptions) -> int:
        setup = Setup(POD, steady(0.2), signals.pressure(2.0), keda=keda, outage=(200, 600))
        return int(simulate(setup).figures()["most_pods"])

    assert most(KedaOptions()) == 1
    assert most(KedaOptions(fallback=5)) == 5


def test_pressure_and_busy_share_are_the_servers_own():
    """The same history, given to the server's `Station` and to the simulated pod."""
    now = [0.0]
    station = Station(clock=lambda: now[0])
    station.arrive()
    with station.work():
        now[0] = 0.15  # the first measurement, which the server takes whole
    pod = Pod(replace(POD, batch_s=(0.2, 0.1), max_batch=2), 0.0, 0.0)
    pod._item_s = 0.15
    pod.queue.extend([0.0] * 5)
    station.arrive(5)
    assert pod.pressure_s == pytest.approx(station.backlog_s) == pytest.approx(0.75)
    ends = pod.begin_batch(0.15, random.Random(1))  # noqa: S311
    with station.work(2):
        assert pod.pressure_s == pytest.approx(station.backlog_s) == pytest.approx(0.75)
        now[0] = ends
    pod.end_batch(ends)
    assert pod.pressure_s == pytest.approx(station.backlog_s)
    assert pod.busy(ends)[0] + 0.15 == pytest.approx(station.busy_s)


def test_the_committed_result_obeys_its_schema_and_the_page_shows_its_tables():
    result = json.loads(RESULT.read_text())
    jsonschema.validate(result, json.loads((BENCHMARKS / "schemas" / "autoscale.json").read_text()))
    for name in result["tables"]:
        assert autoscale.table(result, name) in PAGE.read_text(), name


def test_a_row_of_the_committed_result_is_what_the_simulation_gives():
    result = json.loads(RESULT.read_text())
    rows = result["tables"]["sweep"]
    index = next(
        i for i, row in enumerate(rows) if (row["load"], row["signal"], row["target"]) == ("burst", "GPU %", 0.7)
    )
    assert autoscale.run("sweep", index, result["seed"]) == rows[index]


def test_the_chosen_signal_refuses_least_of_those_that_cost_no_more():
    """What the page recommends is what its figures say: no cheaper setting refuses less on a day or a step."""
    rows = json.loads(RESULT.read_text())["tables"]["sweep"]
    for load in ("day", "step"):
        same = [row for row in rows if row["load"] == load]
        wanted = (autoscale.CHOSEN.name, autoscale.CHOSEN.target)
        chosen = next(row for row in same if (row["signal"], row["target"]) == wanted)
        better = [
            row
            for row in same
            if row["signal"] != chosen["signal"]
            and row["pod_hours"] < chosen["pod_hours"]
            and row["refused_share"] < chosen["refused_share"]
        ]
        assert not better, load
