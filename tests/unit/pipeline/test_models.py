"""Names and artifacts: what may be served together, and what is said of it."""

import shutil
from pathlib import Path

import pytest

from server.backends.fake import fake_artifact
from server.errors import UnknownModelError
from server.pipeline.models import Model, Models, ModelsError, open_models
from tests.support.backends import tiny_onnx_artifact


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "exported"
    tiny_onnx_artifact(directory)
    return directory


def test_a_directory_is_served_under_the_name_of_its_manifest(exported):
    (model,) = open_models([str(exported)])
    assert (model.name, model.manifest.input_size) == ("tiny", (16, 24))
    assert model.artifact_id == f"tiny@{model.artifact.sha256[:12]}"


def test_names_can_be_given_and_the_first_is_the_default(exported):
    models = Models(open_models([f"fast={exported}", f"also={exported}"]))
    assert models.default.name == "fast"
    assert models.find(None).name == "fast"
    assert models.find("also").name == "also"
    assert [(facts["name"], facts["default"]) for facts in models.listing()] == [("fast", True), ("also", False)]


def test_a_path_with_an_equals_sign_is_a_path(exported, tmp_path, monkeypatch):
    shutil.copytree(exported, tmp_path / "size=512")
    monkeypatch.chdir(tmp_path)
    assert open_models(["size=512"])[0].name == "tiny"


def test_a_folder_serves_each_artifact_under_its_folders_name(exported, tmp_path):
    for name in ("b", "a"):
        shutil.copytree(exported, tmp_path / name)
    (tmp_path / "notes").mkdir()
    assert [model.name for model in open_models([f"first={exported}"], tmp_path)] == ["first", "a", "b"]


def test_refiners_in_a_folder_are_left_out_but_not_served_when_asked_for(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "matte")
    shutil.copytree(exported, tmp_path / "refiner")
    manifest = tmp_path / "refiner" / "model.json"
    manifest.write_text(manifest.read_text().replace('"matte"', '"refine"'))
    assert [model.name for model in open_models([], tmp_path)] == ["matte"]
    with pytest.raises(ModelsError, match="expected an artifact of kind matte, found refine"):
        open_models([str(tmp_path / "refiner")])


def test_a_bare_network_is_refused_with_what_to_do(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "bare")
    manifest = tmp_path / "bare" / "model.json"
    manifest.write_text(manifest.read_text().replace('"io": "image"', '"io": "tensor"'))
    refusal = r"expected an artifact that takes images, found .* birefnet-export adopt"
    with pytest.raises(ModelsError, match=refusal):
        open_models([str(tmp_path / "bare")])
    with pytest.raises(ModelsError, match=refusal):
        open_models([], tmp_path)


@pytest.mark.parametrize(
    ("requested", "message"),
    [
        (["{0}", "{0}"], "two models are called tiny: .* name them with NAME=DIR"),
        (["/nonexistent"], "/nonexistent: expected an artifact directory with model.json, found no such directory"),
        (["a=/nonexistent"], "/nonexistent: expected an artifact"),
    ],
)
def test_what_cannot_be_served(exported, requested, message):
    with pytest.raises(ModelsError, match=message):
        open_models([text.format(exported) for text in requested])


@pytest.mark.parametrize("name", ["with space", "-dash", "ü", "x" * 101, "a\nb"])
def test_names_that_cannot_travel_in_a_header(exported, tmp_path, name):
    shutil.copytree(exported, tmp_path / name)
    with pytest.raises(ModelsError, match="expected a model name of letters"):
        open_models([], tmp_path)


def test_a_changed_file_is_noticed(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "copy")
    (tmp_path / "copy" / "model.onnx").write_bytes(b"other")
    with pytest.raises(ModelsError, match=r"model\.onnx"):
        open_models([str(tmp_path / "copy")])
    assert open_models([str(exported)], verify_hashes=False)


def test_an_empty_folder_or_none(tmp_path):
    with pytest.raises(ModelsError, match=r"expected artifact directories with model\.json in it, found none"):
        open_models([], tmp_path)
    with pytest.raises(ModelsError, match="expected a folder of artifact directories, found: No such file"):
        open_models([], tmp_path / "absent")


def test_unknown_models_are_answered_with_the_known():
    models = Models([Model("one", fake_artifact()), Model("two", fake_artifact())])
    with pytest.raises(UnknownModelError, match="expected one of the models one, two, found 'three'"):
        models.find("three")


def test_facts_are_what_an_operator_asks_for():
    (facts,) = Models([Model("m", fake_artifact((32, 64), name="Title"))]).listing()
    assert facts | {"sha256": "…"} == {
        "name": "m",
        "default": True,
        "kind": "matte",
        "title": "Title",
        "size": [32, 64],
        "backbone": "none",
        "max_batch": 32,
        "licence": "MIT",
        "origin": {"made_by": "server.backends.fake"},
        "sha256": "…",
        "limits": {
            "max_requests": None,
            "max_megapixels": None,
            "max_batch": None,
            "timeout_s": None,
            "share": None,
        },
    }


def test_the_engine_gets_an_id_that_tells_artifacts_apart(exported, tmp_path):
    (one,) = open_models([f"m={exported}"])
    tiny_onnx_artifact(tmp_path / "other", size=(8, 8))
    (other,) = open_models([f"m={tmp_path / 'other'}"])
    assert one.artifact_id != other.artifact_id
    assert dict(Models([one]).artifacts) == {one.artifact_id: one.artifact}
