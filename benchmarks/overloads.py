"""Too many clients for a while, and nearly too many for a long time."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks.load import quantile
from benchmarks.scenario import (
    CLIENTS,
    MIXED,
    Report,
    Scale,
    answered,
    at_least,
    at_most,
    measure_speed,
    plan_for,
    spread,
    stable,
    write_image,
)
from benchmarks.traffic import ABANDON, FRESH, MALFORMED, RETURN, Exchange, Plan, run_plan
from benchmarks.vitals import metrics, processor_s, quantile_of, refusals, resident_mib, watched_memory
from tests.support.processes import LiveServer, live_server

TIMES = 3.0
DEADLINE_S = 5.0
OBEYING = 0.5  # of the refused clients; the others go away
_NO_IMAGE = "not-an-image"  # what the malformed are
_LATE = "deadline-exceeded"
_REFUSAL_SECONDS = "birefnet_request_seconds_bucket{le=%s,outcome=overloaded,transport=rest}"
_WAIT_SHARE = 0.95  # of twice the unloaded latency: what is left is the host's


def overload(flags: Sequence[str], folder: Path, scale: Scale) -> Report:
    """Three times the peak, with clients of all kinds, on a server whose wait is bounded by its own speed."""
    image = write_image(folder, scale.side)
    with live_server(*flags) as live:
        idle_mib = resident_mib(live.process.pid)
        speed = measure_speed(live, image, scale)
    promised_s = 2 * speed.alone_p99_s + speed.batch_s
    bounded = (*flags, "--max-wait-s", f"{2 * speed.alone_p99_s * _WAIT_SHARE:.4f}")
    rounds: list[dict[str, float]] = []
    with live_server(*bounded) as live:
        run_plan(plan_for(live, image, clients=CLIENTS, seconds=scale.peak, seed=70))  # so that it knows its speed
        with watched_memory(live.process.pid) as memory:
            while len(rounds) < scale.rounds and not stable([each["goodput"] for each in rounds]):
                clients = {"obey_share": OBEYING, "patience_s": scale.patience, "seed": len(rounds) + 1, **MIXED}
                options = {"timeout_ms": str(round(DEADLINE_S * 1e3))}
                rate = TIMES * speed.peak
                plan = plan_for(live, image, options=options, rate=rate, seconds=scale.overload, **clients)
                rounds.append(_rush(live, plan))
            staying = _rush(live, replace(plan, abandon_share=0.0, seed=len(rounds) + 1))
    high = {name: max(each[name] for each in rounds) for name in rounds[0]}
    low = {name: min(each[name] for each in rounds) for name in rounds[0]}
    criteria = (
        at_least("answers per second, of the closed-loop peak", 95, 100 * low["goodput"] / speed.peak, "%"),
        at_most("accepted requests that missed their deadline", 0, high["late"], "requests"),
        at_most("latency of accepted requests, p99", 1e3 * promised_s, high["p99_ms"], "ms"),
        at_most("refusals without Retry-After", 0, high["mute"], "requests"),
        at_most("time to a refusal, p99", 10, high["refusal_p99_ms"], "ms"),
        at_least("who came back as told and was let in", 90, low["welcome_percent"], "%"),
        at_most("refusals that clients and server count differently", 0, high["miscounted"], "requests"),
        at_most("refusals that they count differently when no client leaves", 0, staying["miscounted"], "requests"),
        at_most("requests without an answer", 0, max(high["lost"], staying["lost"]), "requests"),
        at_most("requests with another outcome than is due", 0, max(high["other"], staying["other"]), "requests"),
        at_most("resident memory above idle", 300, memory.peak_mib - idle_mib, "MiB"),
    )
    figures = {
        "unloaded_p99_ms": round(speed.alone_p99_s * 1e3, 2),
        "batch_ms": round(speed.batch_s * 1e3, 2),
        "peak_per_second": spread(speed.peaks),
        "idle_mib": round(idle_mib, 1),
        "peak_mib": round(memory.peak_mib, 1),
        "rounds": {name: spread([each[name] for each in rounds]) for name in rounds[0]},
        "round_in_which_no_client_leaves": {name: round(value, 2) for name, value in staying.items()},
    }
    return Report("overload", bounded, criteria, figures)


def _rush(live: LiveServer, plan: Plan) -> dict[str, float]:
    """One round; its figures."""
    before, spent_s = metrics(live), processor_s(live.process.pid)
    found = run_plan(plan)
    spent_s = processor_s(live.process.pid) - spent_s
    after = metrics(live)
    counted = refusals(after, before)
    warm_s = min(5.0, plan.seconds / 3)
    steady = [each for each in answered(found.exchanges) if warm_s <= each.ended_s < plan.seconds]
    told = Counter(each.reason for each in found.exchanges if each.reason)
    return {
        "goodput": len(steady) / (plan.seconds - warm_s),
        **_latencies(steady),
        **_refused(found.exchanges),
        "refusal_p99_ms_of_server": 1e3 * quantile_of(after, before, _REFUSAL_SECONDS, 0.99),
        "late": sum(_is_late(each) for each in found.exchanges),
        "lost": sum(each.outcome.startswith("lost") for each in found.exchanges),
        "other": sum(_is_other(each) for each in found.exchanges),
        "welcome_percent": _welcome_percent(found.exchanges),
        **_compared(counted, told, left=sum(each.outcome == "left" for each in found.exchanges)),
        "server_cpu_percent": 100 * spent_s / found.wall_s,
        "generator_cpu_percent": 100 * found.cpu_share,
        "generator_lag_p99_ms": 1e3 * found.lag_p99_s,
    }


def _latencies(exchanges: Sequence[Exchange]) -> dict[str, float]:
    found = [1e3 * each.latency_s for each in exchanges] or [0.0]
    return {"p50_ms": quantile(found, 0.5), "p99_ms": quantile(found, 0.99)}


def _refused(exchanges: Sequence[Exchange]) -> dict[str, float]:
    refused = [each for each in exchanges if each.reason]
    returned = [each for each in exchanges if each.kind == RETURN]
    advice = [each.retry_after_s or 0 for each in refused] or [0]
    return {
        "requests": len(exchanges),
        "refused": len(refused),
        "mute": sum(each.retry_after_s is None for each in refused),
        "refusal_p99_ms": 1e3 * quantile([each.ended_s - each.sent_s for each in refused] or [0.0], 0.99),
        "returned": len(returned),
        "retry_after_median_s": median(advice),
        "retry_after_max_s": max(advice),
    }


def _welcome_percent(exchanges: Sequence[Exchange]) -> float:
    """Of those who came back, the share that was answered; 0 where nobody came back, as nothing is shown then."""
    returned = [each for each in exchanges if each.kind == RETURN]
    return 100 * sum(each.outcome == "ok" for each in returned) / len(returned) if returned else 0.0


def _compared(counted: Mapping[str, int], told: Mapping[str, int], left: int) -> dict[str, float]:
    """How server and clients differ. A client that left may not have read its refusal any more; nobody else may."""
    more = {reason: counted.get(reason, 0) - told.get(reason, 0) for reason in {*counted, *told}}
    unread = sum(max(0, each) for each in more.values())
    return {"unread": unread, "miscounted": sum(max(0, -each) for each in more.values()) + max(0, unread - left)}


def _is_late(exchange: Exchange) -> bool:
    if exchange.outcome == "ok":
        return exchange.ended_s - exchange.sent_s > DEADLINE_S
    return exchange.outcome == _LATE and not exchange.reason


def _is_other(exchange: Exchange) -> bool:
    """Neither answered nor refused, and not what is counted elsewhere: late, lost, or as its client wanted it."""
    outcome, kind = exchange.outcome, exchange.kind
    if kind == MALFORMED:
        return not exchange.reason and outcome != _NO_IMAGE and not outcome.startswith("lost")
    if exchange.reason or outcome in ("ok", _LATE) or outcome.startswith("lost"):
        return False
    return kind != ABANDON or outcome != "left"


def soak(flags: Sequence[str], folder: Path, scale: Scale) -> Report:
    """Minutes at 80 % of the peak, clients of all kinds, and the memory meanwhile."""
    image = write_image(folder, scale.side)
    with live_server(*flags) as live:
        speed = measure_speed(live, image, Scale(unloaded=1, peak=scale.peak, rounds=1))
        rate = 0.8 * speed.peak
        with watched_memory(live.process.pid) as memory:
            found = run_plan(plan_for(live, image, rate=rate, seconds=scale.soak, **MIXED))
    from_s = scale.soak / 5
    kept = [mib for at, mib in memory.samples if at >= from_s]
    wrong = [each for each in found.exchanges if each.kind == FRESH and each.outcome != "ok" and not each.reason]
    criteria = (
        at_most("growth of resident memory, after the first fifth", 1.0, memory.slope_mib_per_min(from_s), "MiB/min"),
        at_most("requests that were neither answered nor refused", 0, len(wrong), "requests"),
    )
    figures = {
        "seconds": scale.soak,
        "rate_per_second": round(rate, 2),
        "memory_mib": {"first": kept[0], "last": kept[-1], "min": min(kept), "max": max(kept)},
        **{name: round(value, 2) for name, value in _latencies(answered(found.exchanges)).items()},
        **_refused(found.exchanges),
        "generator_cpu_percent": round(100 * found.cpu_share, 1),
    }
    return Report("soak", flags, criteria, figures)
