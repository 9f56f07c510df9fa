from __future__ import annotations

import shutil

import pytest

from fer_app.errors import InputError, ModelNotFoundError
from fer_app.model_store import bundled_models
from fer_app.ui.model_shelf import ModelShelf


def shelf(*models) -> ModelShelf:
    return ModelShelf([str(model) for model in models], device="cpu", max_pixels=1_000_000)


def test_names_are_those_of_bundled_models_and_of_files(tiny_model) -> None:
    bundled = [entry.name for entry in bundled_models()]
    offered = shelf("default", tiny_model)
    assert offered.names[0] == next(entry.name for entry in bundled_models() if entry.default)
    assert set(offered.names) == {*bundled, "tiny"}
    assert shelf(tiny_model).names == ("tiny",)


def test_a_bundled_model_is_known_by_all_its_names(tiny_model) -> None:
    default = next(entry for entry in bundled_models() if entry.default)
    offered = shelf("default", default.role, default.name, tiny_model)  # one model, named three times
    assert offered.names.count(default.name) == 1
    assert offered.title(default.name) == default.title
    for name in filter(None, (default.name, default.role, "default", default.title)):
        assert offered.named(name) == default.name
        assert offered.recognizer(name) is offered.recognizer(default.name)
        assert offered.sha256(name) == offered.sha256(default.name)
    assert (offered.named("tiny"), offered.title("tiny")) == ("tiny", "tiny")
    with pytest.raises(
        InputError, match=rf"no model 'other' here; there are: {default.name} \({default.role}, default\)"
    ):
        offered.named("other")


def test_a_recognizer_is_made_once_for_its_settings(tiny_model, astronaut) -> None:
    offered = shelf(tiny_model)
    first = offered.recognizer("tiny")
    assert offered.recognizer("tiny") is first
    few = offered.recognizer("tiny", min_face_px=300)
    assert few.classifier is first.classifier
    assert (len(first.predict(astronaut)), len(few.predict(astronaut))) == (1, 0)


def test_few_recognizers_are_kept(tiny_model) -> None:
    offered = shelf(tiny_model)
    first = offered.recognizer("tiny")
    for size in range(50, 60):
        offered.recognizer("tiny", min_face_px=size)
    assert offered.recognizer("tiny") is not first


def test_the_card_says_what_is_known(tiny_model) -> None:
    offered = shelf("default", tiny_model)
    entry = next(entry for entry in bundled_models() if entry.default)
    card = offered.card(entry.name)
    measured = offered.recognizer(entry.name).classifier.contract.metrics["ferplus_valid_accuracy"]
    assert card["Accuracy"] == f"{100 * measured:.2f} % (ferplus valid)"
    assert card["Licence"] == entry.license
    assert card["Date"] == entry.date
    assert card["Trained on"] == entry.training_data
    assert "Accuracy" not in offered.card("tiny")
    assert "anger" in offered.card("tiny")["Labels"]


def test_all_have_the_threshold_that_was_asked_for(tiny_model) -> None:
    assert shelf(tiny_model).card("tiny")["Uncertain"] == "labels below 50.0%"
    doubting = ModelShelf(["default", str(tiny_model)], device="cpu", max_pixels=1_000_000, uncertain_below=0.845)
    for name in doubting.names:
        assert doubting.recognizer(name, max_faces=1).contract.uncertain_below == 0.845
        assert doubting.card(name)["Uncertain"] == "labels below 84.5%"
    never = ModelShelf([str(tiny_model)], device="cpu", max_pixels=1_000_000, uncertain_below=0.0)
    assert never.card("tiny")["Uncertain"] == "never"


def test_what_is_not_there(tiny_model, tmp_path) -> None:
    with pytest.raises(ModelNotFoundError):
        shelf("nothing.onnx")
    shutil.copy(tiny_model, tmp_path / "tiny.onnx")
    with pytest.raises(InputError, match="two models are called 'tiny'"):
        shelf(tiny_model, tmp_path / "tiny.onnx")
    with pytest.raises(InputError, match="there is no model 'other' here"):
        shelf(tiny_model).recognizer("other")
