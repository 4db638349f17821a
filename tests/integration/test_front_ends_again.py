"""What holds of a single process holds behind front ends: its own tests, once more. Each starts two further processes.

Left out are what front ends do without (`frontends` says it), and tests that look into the one process.
"""

from pathlib import Path
from types import ModuleType

import pytest

from server.observability.metrics import REFUSALS
from tests.integration import (
    test_access,
    test_admin,
    test_departures,
    test_grpc_connections,
    test_lifecycle,
    test_priorities,
    test_refusal_counts,
    test_transports,
    test_unread_answers,
    test_uploads_under_way,
)
from tests.support import clients

pytestmark = pytest.mark.slow

place = test_admin.place
keys = test_access.keys

_LEFT_OUT = {
    # the log of one process
    "test_the_log_names_the_account_and_the_requests_of_a_failed_batch",
    "test_a_transport_that_ends_by_itself_ends_the_process_in_order",
    # servers of their own making
    "test_while_warming_up_it_is_live_but_not_ready_and_refuses",
    "test_the_command_line_has_no_limits_of_clients",
    "test_calls_that_wait_to_be_read_take_hardly_any_memory",
    "test_every_reason_has_a_situation",
    # images by their URL, and shadows
    "test_each_reason_is_told_and_counted_over_every_transport",
    "test_what_cannot_be_done_is_said_and_changes_nothing",
    "test_limits_and_shadow_come_from_the_settings_too",
    "test_a_shadow_or_limits_of_a_model_that_is_not_served_stop_the_start",
    "test_two_models_are_compared_on_live_traffic_and_then_no_more",
}


@pytest.fixture(autouse=True)
def two_front_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(clients.DEFAULTS, "frontends", 2)


@pytest.mark.parametrize("reason", [reason for reason in REFUSALS if reason != "fetches"])
async def test_each_reason_is_told_and_counted_over_every_transport(reason: str, tmp_path: Path):
    await test_refusal_counts.test_each_reason_is_told_and_counted_over_every_transport(reason, tmp_path)


def _take(module: ModuleType) -> None:
    for name, test in vars(module).items():
        if name.startswith("test_") and name not in _LEFT_OUT:
            globals()[f"{name}__{module.__name__.rpartition('.')[2]}"] = test


for _module in (
    test_access,
    test_admin,
    test_departures,
    test_grpc_connections,
    test_lifecycle,
    test_priorities,
    test_refusal_counts,
    test_transports,
    test_unread_answers,
    test_uploads_under_way,
):
    _take(_module)
