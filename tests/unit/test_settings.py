"""Where settings come from, in what order, and what stops the start."""

import os
import re
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path

import pytest

from server.cli.flags import default_text, type_text
from server.cli.settings_page import as_toml, reference_page
from server.host import HostLimits
from server.settings import InvalidSettingsError, Settings, flag, load_settings, variable

REPOSITORY = Path(__file__).parents[2]

# One value for every setting that is not its default, as people write it.
VALUES = {
    "host": ("0.0.0.0", "0.0.0.0"),  # noqa: S104 - only parsed
    "port": ("9000", 9000),
    "grpc_port": ("9001", 9001),
    "model": ("a=/x", ("a=/x",)),
    "models_dir": ("/models", Path("/models")),
    "model_limits": ("a max_requests=3, b share=0.5 timeout_s=9", ("a max_requests=3", "b share=0.5 timeout_s=9")),
    "shadow_model": ("b", "b"),
    "shadow_share": ("0.5", 0.5),
    "refiner": ("/refiner", "/refiner"),
    "backend": ("FAKE", "fake"),
    "device": ("cpu", "cpu"),
    "allow_cpu": ("yes", True),
    "gpu_memory_mib": ("4096", 4096),
    "gpu_streams": ("2", 2),
    "tune_kernels": ("true", True),
    "build_plans": ("on", True),
    "threads": ("3", 3),
    "max_batch": ("7", 7),
    "cpu_workers": ("5", 5),
    "max_requests": ("10", 10),
    "max_memory_inside_mib": ("4096", 4096.0),
    "max_megapixels_inside": ("400", 400.0),
    "max_megapixels": ("12.5", 12.5),
    "max_side": ("8192", 8192),
    "max_upload_mib": ("0.5", 0.5),
    "max_metadata_mib": ("1.5", 1.5),
    "max_uploads": ("20", 20),
    "max_uploads_mib": ("128", 128.0),
    "timeout_s": ("20", 20.0),
    "max_timeout_s": ("301", 301.0),
    "tls_certificate": ("/tls.crt", Path("/tls.crt")),
    "tls_key": ("/tls.key", Path("/tls.key")),
    "tls_client_ca": ("/ca.crt", Path("/ca.crt")),
    "api_keys_file": ("/keys", Path("/keys")),
    "admin_keys_file": ("/admins", Path("/admins")),
    "rate_limit_megapixels": ("500", 500.0),
    "open_without_key": ("metrics, docs", ("metrics", "docs")),
    "cors_origin": ("https://a.example,http://[::1]:8080", ("https://a.example", "http://[::1]:8080")),
    "allow_urls": ("true", True),
    "url_timeout_s": ("7.5", 7.5),
    "url_fetches": ("9", 9),
    "frontends": ("4", 4),
    "url_ports": ("8443", (8443,)),
    "url_allow": ("10.0.0.0/8", (ip_network("10.0.0.0/8"),)),
    "url_deny": ("fd00::/8", (ip_network("fd00::/8"),)),
    "url_ca_file": ("/ca.pem", Path("/ca.pem")),
    "png_level": ("6", 6),
    "jpeg_quality": ("80", 80),
    "webp_quality": ("70", 70),
    "scaled_decode": ("true", True),
    "compute_niceness": ("0", 0),
    "keep_alive_s": ("61", 61),
    "write_timeout_s": ("7.5", 7.5),
    "grpc_stream_idle_s": ("90", 90.0),
    "grpc_max_connection_age_s": ("300", 300.0),
    "grpc_connection_grace_s": ("700", 700.0),
    "grpc_stream_window": ("64", 64),
    "grpc_max_streams": ("5", 5),
    "max_wait_s": ("0.5", 0.5),
    "drain_delay_s": ("10", 10.0),
    "drain_timeout_s": ("5.5", 5.5),
    "log_level": ("Warning", "warning"),
    "log_format": ("json", "json"),
    "traces": ("true", True),
    "fake_latency_s": ("0.1", 0.1),
    "gpus": ("0, 2", (0, 2)),
    "finish": ("Device", "device"),
    "batch_latency_ms": ("80", 80.0),
}
NEEDS = {
    "tls_certificate": {"tls_key": "/tls.key"},
    "tls_key": {"tls_certificate": "/tls.crt"},
    "tls_client_ca": {"tls_certificate": "/tls.crt", "tls_key": "/tls.key"},
    "allow_cpu": {"device": "cuda"},
    "gpu_streams": {"backend": "torch"},
    "tune_kernels": {"backend": "torch"},
    "finish": {"backend": "torch"},
    "build_plans": {"backend": "trt"},
    "fake_latency_s": {"backend": "fake"},
    "rate_limit_megapixels": {"api_keys_file": "/keys"},
}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("BIREFNET_"):
            monkeypatch.delenv(name)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def write_file(text: str) -> Path:
        path = tmp_path / "settings.toml"
        path.write_text(text)
        return path

    return write_file


def test_defaults_are_those_of_the_design():
    settings = load_settings()
    assert settings == Settings()
    assert (settings.host, settings.port, settings.grpc_port) == ("127.0.0.1", 8000, 8001)
    assert (settings.timeout_s, settings.max_timeout_s, settings.max_requests) == (300, 600, 64)
    assert (settings.max_pixels, settings.max_upload_bytes) == (50_000_000, 64 * 1024 * 1024)
    assert (settings.png_level, settings.drain_delay_s, settings.backend) == (1, 0, "ort")


def test_every_setting_has_a_value_here():
    assert VALUES.keys() == Settings.model_fields.keys()


@pytest.mark.parametrize("name", VALUES)
def test_every_setting_is_read_from_flag_environment_and_file(name, monkeypatch, write):
    text, value = VALUES[name]
    needs = NEEDS.get(name, {})
    assert getattr(load_settings({name: text, **needs}), name) == value
    line = f"{name} = {text!r}\n" + "".join(f"{key} = {needed!r}\n" for key, needed in needs.items())
    assert getattr(load_settings(config=write(line)), name) == value
    for key, needed in {name: text, **needs}.items():
        monkeypatch.setenv(variable(key), needed)
    assert getattr(load_settings(), name) == value
    assert getattr(Settings(), name) != value, "the value above must differ from the default"


def test_flag_over_environment_over_file_over_default(monkeypatch, write):
    path = write("port = 1\ngrpc_port = 2\nmax_requests = 3\n")
    assert load_settings(config=path).port == 1
    monkeypatch.setenv("BIREFNET_PORT", "11")
    monkeypatch.setenv("BIREFNET_GRPC_PORT", "12")
    settings = load_settings({"port": "21"}, path)
    assert (settings.port, settings.grpc_port, settings.max_requests, settings.timeout_s) == (21, 12, 3, 300)


def test_the_file_can_be_named_by_the_environment_and_the_flag_wins(monkeypatch, write, tmp_path):
    monkeypatch.setenv("BIREFNET_CONFIG", str(write("port = 1")))
    assert load_settings().port == 1
    other = tmp_path / "other.toml"
    other.write_text("port = 2")
    assert load_settings(config=other).port == 2


def test_lists(monkeypatch, write):
    monkeypatch.setenv("BIREFNET_MODEL", "a=/x, /y ,")
    assert load_settings().model == ("a=/x", "/y")
    assert load_settings({"model": ["b=/z", "/w"]}).model == ("b=/z", "/w")
    monkeypatch.setenv("BIREFNET_URL_PORTS", "80, 8080")
    assert load_settings().url_ports == (80, 8080)
    monkeypatch.delenv("BIREFNET_MODEL")
    assert load_settings(config=write('model = ["/x", "/y"]')).model == ("/x", "/y")


def test_an_empty_variable_is_unset(monkeypatch):
    monkeypatch.setenv("BIREFNET_PORT", "")
    assert load_settings().port == 8000


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        load_settings().port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "BIREFNET_PROT",
            r"environment variable BIREFNET_PROT: there is no such setting \(did you mean BIREFNET_PORT\?\)",
        ),
        ("BIREFNET_XYZZY", r"environment variable BIREFNET_XYZZY: there is no such setting$"),
    ],
)
def test_unknown_variables_stop_the_start(monkeypatch, name, message):
    monkeypatch.setenv(name, "1")
    with pytest.raises(InvalidSettingsError, match=message):
        load_settings()


def test_unknown_keys_of_the_file_stop_the_start(write):
    path = write("prot = 1\nmax_request = 2\n")
    with pytest.raises(InvalidSettingsError) as caught:
        load_settings(config=path)
    assert str(caught.value).splitlines() == [
        f"{path}: key max_request: there is no such setting (did you mean max_requests?)",
        f"{path}: key prot: there is no such setting (did you mean port?)",
    ]


def test_a_table_in_the_file_is_no_setting(write):
    with pytest.raises(InvalidSettingsError, match="key server: there is no such setting"):
        load_settings(config=write("[server]\nport = 1\n"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BIREFNET_SERVICE_HOST", "10.0.0.1"),
        ("BIREFNET_SERVICE_PORT", "80"),
        ("BIREFNET_SERVICE_PORT_HTTP", "80"),
        ("BIREFNET_PORT", "tcp://10.0.0.1:80"),
        ("BIREFNET_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("BIREFNET_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("BIREFNET_SERVER_SERVICE_HOST", "10.0.0.1"),
        ("BIREFNET_SERVER_PORT", "tcp://10.0.0.1:80"),
    ],
)
def test_links_that_kubernetes_adds_for_a_service_of_our_name_are_no_settings(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert load_settings() == Settings()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("port", "70000", "less than or equal to 65535, found '70000'"),
        ("port", "http", "valid integer.*found 'http'"),
        ("device", "tpu", "'auto', 'cpu' or 'cuda', found 'tpu'"),
        ("png_level", "10", "less than or equal to 9, found '10'"),
        ("jpeg_quality", "0", "greater than or equal to 1"),
        ("threads", "0", "greater than or equal to 1"),
        ("timeout_s", "0", "greater than 0"),
        ("timeout_s", "inf", "finite"),
        ("max_megapixels", "nan", "finite|greater than 0"),
        ("drain_delay_s", "-1", "greater than or equal to 0"),
        ("allow_cpu", "perhaps", "valid boolean"),
        ("host", "", "at least 1 character"),
    ],
)
def test_wrong_values_are_told_with_the_place_they_were_set_at(name, text, message, monkeypatch, write):
    with pytest.raises(InvalidSettingsError, match=f"^{re.escape(flag(name))}: .*({message})"):
        load_settings({name: text})
    path = write(f"{name} = {text!r}")
    with pytest.raises(InvalidSettingsError, match=f"^`{name}` in {re.escape(str(path))}: .*({message})"):
        load_settings(config=path)
    if text:
        monkeypatch.setenv(variable(name), text)
        with pytest.raises(InvalidSettingsError, match=f"^{variable(name)}: .*({message})"):
            load_settings()


def test_all_wrong_values_are_told_at_once(monkeypatch):
    monkeypatch.setenv("BIREFNET_PORT", "x")
    with pytest.raises(InvalidSettingsError) as caught:
        load_settings({"png_level": "11"})
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == ["BIREFNET_PORT", "--png-level"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"timeout_s": 700}, r"expected timeout_s ≤ max_timeout_s, found 700 > 600"),
        ({"max_megapixels_inside": 10}, r"expected max_megapixels ≤ max_megapixels_inside, found 50 > 10"),
        ({"port": 8001}, r"expected two different ports, found port = grpc_port = 8001"),
        ({"tls_key": "/k"}, r"expected tls_certificate and tls_key together"),
        ({"tls_client_ca": "/c"}, r"expected tls_client_ca only with tls_certificate"),
        ({"rate_limit_megapixels": 5}, r"expected rate_limit_megapixels only with api_keys_file"),
        ({"allow_cpu": True}, r"expected allow_cpu only with device=cuda, found device=auto"),
        ({"fake_latency_s": 1}, r"expected fake_latency_s only with backend=fake, found backend=ort"),
        (
            {"backend": "fake", "device": "cuda"},
            r"expected device=cuda only with backend=ort, trt or torch, found backend=fake",
        ),
        ({"gpu_memory_mib": 4096, "backend": "torch"}, r"expected gpu_memory_mib only with backend=ort, found .*torch"),
        ({"gpu_streams": 2}, r"expected gpu_streams only with backend=torch or trt, found"),
        ({"tune_kernels": True}, r"expected tune_kernels only with backend=torch, found backend=ort"),
        ({"backend": "trt", "device": "cpu"}, r"expected backend=trt without device=cpu"),
        (
            {"backend": "trt", "device": "cuda", "allow_cpu": True},
            r"expected allow_cpu only with backend=ort or torch, found backend=trt",
        ),
        ({"gpus": ["0"], "device": "cpu"}, r"expected gpus without device=cpu"),
        ({"gpus": ["0,1", "1"]}, r"expected every GPU once in gpus, found 0,1,1"),
        ({"gpus": ["0,1"], "device": "cuda", "allow_cpu": True}, r"expected allow_cpu with one GPU"),
        ({"build_plans": True}, r"expected build_plans only with backend=trt, found backend=ort"),
    ],
)
def test_combinations_without_sense(values, message):
    with pytest.raises(InvalidSettingsError, match=message):
        load_settings(values)


def test_both_ports_may_be_free_ones():
    assert load_settings({"port": 0, "grpc_port": 0}).port == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [("port = ", "expected TOML, found"), ("\xff", "expected TOML, found"), (None, "expected a readable")],
)
def test_files_that_cannot_be_read(text, message, tmp_path):
    path = tmp_path / "settings.toml"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidSettingsError, match=f"{re.escape(str(path))}: {message}"):
        load_settings(config=path)


def test_what_is_left_to_the_machine_is_decided_by_its_limits():
    host = HostLimits(cpus=3.5, memory_bytes=2048 << 20)
    decided = Settings().for_host(host)
    assert (decided.threads, decided.cpu_workers) == (3, 3)
    assert (decided.max_memory_inside_mib, decided.max_uploads_mib) == (1024, 512)
    assert decided.max_batch is None
    told = Settings(threads=1, cpu_workers=2, max_memory_inside_mib=70, max_uploads_mib=7).for_host(host)
    assert (told.threads, told.cpu_workers, told.max_memory_inside_mib, told.max_uploads_mib) == (1, 2, 70, 7)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_description_says_something_for_people(name):
    field = Settings.model_fields[name]
    description = field.description or ""
    assert len(description) > 40
    assert description.endswith(".")
    assert type_text(field)
    assert default_text(field)


def test_the_reference_page_is_in_step():
    path = REPOSITORY / "docs" / "settings.md"
    assert path.read_text(encoding="utf-8") == reference_page(), (
        "run: python -m server settings --markdown > docs/settings.md"
    )


def test_printed_settings_are_a_file_that_gives_the_same(write):
    settings = Settings(
        model=("a=/x", "b=/y"),
        models_dir=Path("/m"),
        device="cuda",
        allow_cpu=True,
        timeout_s=0.25,
        url_allow=(ip_network("10.0.0.0/8"),),
    )
    assert load_settings(config=write(as_toml(settings))) == settings
    assert load_settings(config=write(as_toml(Settings()))) == Settings()


def test_nothing_else_reads_the_environment():
    """ruff bans `os.environ`; this also finds what escapes it."""
    readers = [
        path
        for path in (REPOSITORY / "server").rglob("*.py")
        if re.search(r"\benviron\b|\bgetenv\b", path.read_text(encoding="utf-8"))
    ]
    assert readers == [REPOSITORY / "server" / "settings" / "reading.py"]


@pytest.mark.parametrize(
    "origin", ["shop.example", "https://shop.example/", "null", "https://*.example", "ftp://a", ""]
)
def test_an_origin_is_a_scheme_a_host_and_a_port(origin):
    with pytest.raises(InvalidSettingsError, match="--cors-origin"):
        load_settings({"cors_origin": [origin]})
