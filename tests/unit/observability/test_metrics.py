"""The metrics page: names, pressure, and independence of several servers in one process."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.observability.metrics import DROPS, FAULTS, REFUSALS, Metrics
from tests.support.backends import counted
from tests.support.clock import FakeClock

# The names are an interface: dashboards, alerts and the autoscaler rest on them.
NAMES = {
    "birefnet_requests": "counter",
    "birefnet_request_seconds": "histogram",
    "birefnet_refusals": "counter",
    "birefnet_dropped": "counter",
    "birefnet_faults": "counter",
    "birefnet_stage_seconds": "histogram",
    "birefnet_queue_depth": "gauge",
    "birefnet_requests_inside": "gauge",
    "birefnet_uploads": "gauge",
    "birefnet_upload_bytes": "gauge",
    "birefnet_grpc_streams": "gauge",
    "birefnet_queue_wait_seconds": "histogram",
    "birefnet_batch_size": "histogram",
    "birefnet_inference_seconds": "histogram",
    "birefnet_refine_tiles": "counter",
    "birefnet_refine_stages": "counter",
    "birefnet_refine_band_share": "histogram",
    "birefnet_fetches": "counter",
    "birefnet_fetch_seconds": "histogram",
    "birefnet_fetch_bytes": "counter",
    "birefnet_busy_seconds": "counter",
    "birefnet_device_up": "gauge",
    "birefnet_device_batches": "counter",
    "birefnet_device_busy_seconds": "counter",
    "birefnet_batch_limit": "gauge",
    "birefnet_busy_share": "gauge",
    "birefnet_workers": "gauge",
    "birefnet_backlog_seconds": "gauge",
    "birefnet_pressure": "gauge",
    "birefnet_shadow_images": "counter",
    "birefnet_shadow_difference": "histogram",
    "birefnet_model_info": "gauge",
    "birefnet_build_info": "gauge",
}
MODEL = {
    "model": "general",
    "kind": "matte",
    "backbone": "swin_v1_t",
    "size": "512x512",
    "precision": "fp32",
    "device": "ort-cpu",
    "sha256": "ab",
}


def families(metrics: Metrics) -> dict[str, str]:
    body, content_type = metrics.render()
    assert content_type.startswith("text/plain")
    return {family.name: family.type for family in text_string_to_metric_families(body.decode())}


def test_every_name_of_the_interface_is_there():
    metrics = Metrics()
    metrics.build_info({"onnxruntime": "1.2.3"})
    found = families(metrics)
    assert {name: kind for name, kind in found.items() if name.startswith("birefnet_")} == NAMES
    assert "process_resident_memory_bytes" in found


def test_series_exist_before_their_first_event():
    metrics = Metrics()
    for reason in REFUSALS:
        assert counted(metrics, "birefnet_refusals_total", reason=reason) == 0
    for reason in DROPS:
        assert counted(metrics, "birefnet_dropped_total", reason=reason) == 0


def test_batch_sizes_are_bucketed_by_powers_of_two():
    metrics = Metrics()
    for size in (1, 2, 3, 4, 8):
        metrics.batch_size.observe(size)
    found = {le: counted(metrics, "birefnet_batch_size_bucket", le=le) for le in ("1.0", "2.0", "4.0", "8.0", "16.0")}
    assert found == {"1.0": 1, "2.0": 2, "4.0": 4, "8.0": 5, "16.0": 5}


def test_two_servers_in_one_process_do_not_mix():
    one, other = Metrics(), Metrics()
    one.requests.labels("rest", "ok").inc()
    one.watch_queue(lambda: 7)
    assert counted(one, "birefnet_requests_total", transport="rest", outcome="ok") == 1
    assert counted(one, "birefnet_queue_depth") == 7
    assert other.registry.get_sample_value("birefnet_requests_total", {"transport": "rest", "outcome": "ok"}) is None
    assert counted(other, "birefnet_queue_depth") == 0


@pytest.mark.parametrize(("host_items", "device_items", "pressure"), [(4, 1, 2.0), (0, 3, 6.0), (0, 0, 0.0)])
def test_pressure_is_the_larger_of_host_and_device(host_items, device_items, pressure):
    metrics = Metrics(FakeClock())
    metrics.host.capacity = 2
    metrics.host.assume(1.0)
    metrics.device.assume(2.0)
    metrics.host.arrive(host_items)
    metrics.device.arrive(device_items)
    assert counted(metrics, "birefnet_pressure") == pressure
    assert counted(metrics, "birefnet_backlog_seconds", part="host") == host_items / 2
    assert counted(metrics, "birefnet_backlog_seconds", part="device") == device_items * 2


def test_busy_seconds_and_workers_give_the_share():
    clock = FakeClock()
    metrics = Metrics(clock)
    metrics.device.arrive()
    with metrics.device.work():
        clock.advance(3)
    clock.advance(1)
    assert counted(metrics, "birefnet_busy_seconds_total", part="device") == 3
    assert counted(metrics, "birefnet_busy_share", part="device") == 0.75
    assert counted(metrics, "birefnet_workers", part="device") == 1


def test_devices_have_series_of_their_own_before_anything_happens_on_them():
    clock = FakeClock()
    metrics = Metrics(clock)
    metrics.device_opened("gpu:0")
    assert [counted(metrics, "birefnet_faults_total", kind=kind, device="gpu:0") for kind in FAULTS] == [0] * 4
    assert counted(metrics, "birefnet_device_batches_total", device="gpu:0") == 0
    assert counted(metrics, "birefnet_device_busy_seconds_total", device="gpu:0") == 0
    assert counted(metrics, "birefnet_device_up", device="gpu:0") == 1
    metrics.device_lost("gpu:0")
    assert counted(metrics, "birefnet_device_up", device="gpu:0") == 0
    metrics.device.arrive(3)
    with metrics.device.work(worker="gpu:0"), metrics.device.work(2, worker="gpu:1"):
        clock.advance(2)
    assert counted(metrics, "birefnet_device_busy_seconds_total", device="gpu:0") == 2
    assert counted(metrics, "birefnet_device_busy_seconds_total", device="gpu:1") == 2
    assert counted(metrics, "birefnet_busy_seconds_total", part="device") == 4


def test_models_are_published_and_withdrawn():
    metrics = Metrics()
    metrics.model_served(MODEL)
    assert counted(metrics, "birefnet_model_info", **MODEL) == 1
    metrics.model_removed(MODEL)
    assert metrics.registry.get_sample_value("birefnet_model_info", MODEL) is None


def test_build_info_names_versions():
    metrics = Metrics()
    metrics.build_info({"onnxruntime": "1.2.3"})
    assert 'onnxruntime="1.2.3"' in metrics.render()[0].decode()
