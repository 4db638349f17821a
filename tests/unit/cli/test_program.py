"""The program as people call it: exit statuses, messages, and real files through the fake backend."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from server.access import KeyRing
from server.cli import main
from server.settings import Settings, flag
from tests.support.backends import tiny_onnx_artifact
from tests.support.images import decoded, jpeg, png, smooth

FAKE = ["--backend", "fake"]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith("BIREFNET_"):
            monkeypatch.delenv(name)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.jpg").write_bytes(jpeg(smooth(40, 60)))
    (folder / "sub" / "b.png").write_bytes(png(smooth(30, 20)))
    (folder / "notes.txt").write_text("no image")
    return folder


def output_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_a_folder_becomes_cutouts(photos, capsys):
    assert main(["segment", "in", "-o", "out", *FAKE]) == 0
    assert decoded((photos.parent / "out/a.png").read_bytes()).shape == (40, 60, 4)
    assert decoded((photos.parent / "out/sub/b.png").read_bytes()).shape == (30, 20, 4)
    assert "2 done" in output_of(capsys)[-1]
    assert sorted(path.name for path in (photos.parent / "out").rglob("*") if path.is_file()) == ["a.png", "b.png"]


def test_a_second_run_skips_what_exists_and_makes_what_is_missing(photos, capsys):
    out = photos.parent / "out"
    main(["segment", "in", "-o", "out", *FAKE])
    (out / "a.png").unlink()
    (out / "sub" / "b.png").write_bytes(b"untouched")
    capsys.readouterr()
    assert main(["segment", "in", "-o", "out", *FAKE]) == 0
    assert "1 done" in (line := output_of(capsys)[-1])
    assert "1 skipped because their output exists" in line
    assert (out / "a.png").exists()
    assert (out / "sub" / "b.png").read_bytes() == b"untouched"
    assert main(["segment", "in", "-o", "out", "--force", *FAKE]) == 0
    assert (out / "sub" / "b.png").read_bytes() != b"untouched"


def test_failures_are_named_and_the_status_is_one(photos, capsys):
    (photos / "bad.jpg").write_bytes(b"no image at all")
    (photos / "cut.png").write_bytes(png(smooth(50, 50))[:-60])
    assert main(["segment", "in", "nowhere.jpg", "-o", "out", *FAKE]) == 1
    lines = output_of(capsys)
    assert any(line.startswith("failed: in/bad.jpg: expected an image (JPEG") for line in lines)
    assert any(line.startswith("failed: in/cut.png: expected a whole PNG") for line in lines)
    assert "failed: nowhere.jpg: no such file or folder" in lines
    assert "2 done" in lines[-1]
    assert "3 failed" in lines[-1]
    assert not (photos.parent / "out/bad.png").exists()


def test_nothing_to_do_starts_nothing(photos, capsys):
    main(["segment", "in", "-o", "out", *FAKE])
    assert main(["segment", "in", "-o", "out", "--model", "/nonexistent"]) == 0


@pytest.mark.parametrize(
    ("arguments", "name", "shape"),
    [
        (["-o", "out", "--output", "matte"], "out/a.png", (40, 60)),
        (
            ["-o", "out", "--output", "composite", "--format", "jpg", "--background", "0,0,255"],
            "out/a.jpg",
            (40, 60, 3),
        ),
        (["-o", "out", "--format", "webp"], "out/a.webp", (40, 60, 4)),
        (["-o", "out", "--keep-suffix"], "out/a.jpg.png", (40, 60, 4)),
        (["-o", "one.webp"], "one.webp", (40, 60, 4)),
        (["-o", "one.jpeg", "--output", "composite"], "one.jpeg", (40, 60, 3)),
    ],
)
def test_options(photos, arguments, name, shape):
    assert main(["segment", "in/a.jpg", *arguments, *FAKE]) == 0
    assert decoded((photos.parent / name).read_bytes()).shape == shape


def test_the_background_is_used(photos):
    (photos / "black.png").write_bytes(png(np.zeros((20, 20, 3), np.uint8)))
    arguments = ["--output", "composite", "--background", "rgb(10,20,30)", *FAKE]
    assert main(["segment", "in/black.png", "-o", "out", *arguments]) == 0
    assert (decoded((photos.parent / "out/black.png").read_bytes()) == (10, 20, 30)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["segment", "in", "-o", "in"], "expected an output folder other than the input folder"),
        (
            ["segment", "in", "-o", "out", "--format", "jpeg"],
            "expected format=png or format=webp or format=zip or format=tiff or format=npy for output=cutout",
        ),
        (["segment", "in/a.jpg", "-o", "x.jpg"], "found format=jpeg"),
        (["segment", "in", "-o", "out", "--output", "mask"], r"output: expected matte | cutout | composite"),
        (["segment", "in", "-o", "out", "--background", "white"], "background: expected only with output=composite"),
        (["segment", "in", "-o", "out", "--png-level", "12"], "--png-level: input should be less than or equal to 9"),
        (["serve", "--port", "http"], "--port: input should be a valid integer"),
        (["serve", "--config", "/nonexistent.toml"], "/nonexistent.toml: expected a readable TOML file"),
        (["settings", "--device", "tpu"], "--device: input should be 'auto', 'cpu' or 'cuda'"),
    ],
)
def test_wrong_usage_is_status_two_with_a_reason(photos, capsys, arguments, message):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not (photos.parent / "out").exists()


@pytest.mark.parametrize(
    "arguments", [["segment"], ["segment", "in"], ["serve", "--prot", "1"], ["fly"], ["serve", "--por", "1"]]
)
def test_unknown_arguments_are_status_two(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: birefnet-server" in capsys.readouterr().err


def test_a_model_that_cannot_be_opened_is_status_one(photos, capsys):
    assert main(["segment", "in", "-o", "out", "--model", "/nonexistent"]) == 1
    assert (
        "/nonexistent: expected an artifact directory with model.json, found no such directory"
        in capsys.readouterr().err
    )


def test_a_real_network_through_onnx_runtime(photos, tmp_path):
    tiny_onnx_artifact(tmp_path / "tiny")
    assert main(["segment", "in", "-o", "out", "--model", "tiny", "--device", "cpu", "--output", "matte"]) == 0
    assert decoded((tmp_path / "out/a.png").read_bytes()).shape == (40, 60)


def test_models_are_listed(tmp_path, capsys):
    tiny_onnx_artifact(tmp_path / "tiny")
    assert main(["models", "--model", f"mine={tmp_path / 'tiny'}"]) == 0
    text = capsys.readouterr().out
    assert "mine (default): tiny, none, 24×16 pixels" in text
    assert "licence MIT" in text
    assert "limits" not in text
    assert main(["models", "--model", f"mine={tmp_path / 'tiny'}", "--model-limits", "mine share=0.5 max_batch=2"]) == 0
    assert "  limits max_batch=2 share=0.5" in capsys.readouterr().out
    assert main(["models", "--json", "--model", f"mine={tmp_path / 'tiny'}"]) == 0
    (facts,) = json.loads(capsys.readouterr().out)
    assert (facts["name"], facts["size"]) == ("mine", [16, 24])


def test_models_that_cannot_be_opened(capsys):
    assert main(["models", "--model", "/nonexistent"]) == 1
    assert "/nonexistent" in capsys.readouterr().err


def test_settings_are_printed_with_flags_and_environment(monkeypatch, capsys):
    monkeypatch.setenv("BIREFNET_GRPC_PORT", "9001")
    assert main(["settings", "--port", "9000", "--no-scaled-decode"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "port = 9000" in lines
    assert "grpc_port = 9001" in lines
    assert "scaled_decode = false" in lines


def test_flags_win_over_the_environment_in_the_program_too(monkeypatch, capsys):
    monkeypatch.setenv("BIREFNET_PORT", "1")
    main(["settings", "--port", "2", "--model", "a=/x", "--model", "/y"])
    text = capsys.readouterr().out
    assert "port = 2" in text
    assert 'model = ["a=/x", "/y"]' in text


def test_serve_has_a_flag_for_every_setting(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["serve", "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for name in Settings.model_fields:
        assert flag(name) in text


def test_without_a_command_the_help_is_shown(capsys):
    assert main([]) == 2
    assert "COMMAND" in capsys.readouterr().err


def test_the_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("birefnet-server 0.")


def test_python_m_server_is_the_same_program_and_help_is_quick():
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "server", "--help"], capture_output=True, text=True, check=True)
    assert "Removes image backgrounds" in done.stdout
    assert time.perf_counter() - started < 10  # 0.3 s of CPU; ten on a machine that trains a network beside


def test_help_imports_nothing_heavy():
    heavy = "{'numpy', 'cv2', 'PIL', 'onnxruntime', 'fastapi', 'grpc'}"
    code = f"import sys, server.cli; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_models_of_the_fake_backend_are_its_own(capsys, monkeypatch):
    monkeypatch.setenv("BIREFNET_BACKEND", "fake")
    assert main(["models"]) == 0
    assert capsys.readouterr().out.startswith("fake (default)")


def test_a_new_key_is_shown_once_and_its_line_opens_the_server(tmp_path, capsys):
    assert main(["key", "shop", "--limit", "500"]) == 0
    out, err = capsys.readouterr()
    key = err.splitlines()[-1]
    path = tmp_path / "keys"
    path.write_text(out)
    account = KeyRing(path).find(key.encode())
    assert account is not None
    assert (account.name, account.allowance and account.allowance.limit) == ("shop", 500)
    assert key not in out


@pytest.mark.parametrize("arguments", [["a b"], ["shop", "--limit", "0"], ["shop", "--limit", "nan"]])
def test_a_key_that_the_file_could_not_hold_is_wrong_usage(arguments, capsys):
    assert main(["key", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "expected a name of 1 to 64 letters" in err
