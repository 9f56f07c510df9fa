"""`fer contract`: a network of somebody else is taught to say what it expects, and predicts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from export.contract_cli import contract
from fer_app.errors import CheckpointError, ExportError, InputError, ModelContractError
from fer_app.recognizer import Recognizer
from tests.export.test_adopt import SIDE, network
from tests.export.test_onnx_export import write_checkpoint
from tests.training.miniature import write_mini_folders
from training.checkpoint import CheckpointInfo, save_checkpoint
from training.eval_report import EvalOptions, run_evaluation


def run(*arguments: object) -> Result:
    return CliRunner().invoke(contract, [str(argument) for argument in arguments])


def init(source: Path, target: Path, *more: object, labels: str = "Angry,happy,sad", mean: str = "0.5") -> Result:
    required = ("--labels", labels, "--img-size", SIDE, "--mean", mean, "--std", "0.25", "-o", target)
    return run("init", source, *required, *more)


def test_init_then_predict_and_score(tmp_path: Path, astronaut_path: Path) -> None:
    result = init(network(tmp_path / "theirs.onnx", batch=1), tmp_path / "ours.onnx", "--license", "MIT")
    assert result.exit_code == 0, result.output
    assert "labels in our spelling: Angry -> anger, happy -> happiness, sad -> sadness" in result.stderr
    assert "answers as the original does" in result.stdout
    faces = Recognizer(tmp_path / "ours.onnx", device="cpu").predict(astronaut_path)
    assert len(faces) == 1
    assert faces.labels == ("anger", "happiness", "sadness")
    data = write_mini_folders(tmp_path / "data", {"angry": "anger", "happy": "happiness"}, 5)
    scored = run_evaluation(EvalOptions(model=tmp_path / "ours.onnx", data=data, device="cpu"), {}, None)
    assert scored.figures.n == 2


def test_show(tmp_path: Path, tiny_model: Path) -> None:
    shown = run("show", tiny_model)
    assert shown.exit_code == 0
    lines = shown.stdout.splitlines()
    assert lines[0].split(maxsplit=1) == ["input", "images tensor(float) (batch, 3, 16, 16)"]
    assert lines[1].split(maxsplit=1) == ["output", "logits (batch, 8)"]
    assert "mean             0.5, 0.5, 0.5" in lines
    as_json = json.loads(run("show", tiny_model, "--json").stdout)
    assert as_json["uncertain_below"] == 0.5
    checkpoint = write_checkpoint(tmp_path / "a.safetensors", [])
    assert json.loads(run("show", checkpoint, "--json").stdout)["temperature"] == 1.5


def test_show_of_what_has_no_contract(tmp_path: Path) -> None:
    shown = run("show", network(tmp_path / "theirs.onnx"))
    assert isinstance(shown.exception, ModelContractError)
    assert "fer contract init" in str(shown.exception)
    assert shown.stdout.splitlines()[0].split(maxsplit=1) == ["input", "data tensor(float) (N, 3, 8, 8)"]
    save_checkpoint(tmp_path / "a.safetensors", {}, CheckpointInfo(kind="encoder", architecture={}))
    assert isinstance(run("show", tmp_path / "a.safetensors").exception, CheckpointError)


def written(tmp_path: Path, *options: object, **more: str) -> dict:
    result = init(network(tmp_path / "theirs.onnx"), tmp_path / "ours.onnx", *options, **more)
    assert result.exit_code == 0, result.output
    return json.loads(run("show", tmp_path / "ours.onnx", "--json").stdout)


def test_numbers_on_the_scale_of_255_and_blue_first(tmp_path: Path) -> None:
    result = init(
        network(tmp_path / "theirs.onnx"),
        tmp_path / "ours.onnx",
        "--color-mode",
        "bgr",
        "--white",
        255,
        mean="51,102,255",
    )
    assert result.exit_code == 0, result.output
    made = json.loads(run("show", tmp_path / "ours.onnx", "--json").stdout)
    assert made["mean"] == [1.0, 0.4, 0.2]
    assert made["std"] == pytest.approx([0.25 / 255] * 3)
    assert made["color_mode"] == "rgb"


def test_gray_pictures_for_three_channels(tmp_path: Path) -> None:
    made = written(tmp_path, "--color-mode", "gray", "--channels", 3)
    assert (made["color_mode"], made["in_chans"]) == ("gray", 3)


def test_own_labels(tmp_path: Path) -> None:
    assert written(tmp_path, "--own-labels", labels="calm,Angry,x")["labels"] == ["calm", "Angry", "x"]


def test_mistakes(tmp_path: Path) -> None:
    source, target = network(tmp_path / "theirs.onnx"), tmp_path / "ours.onnx"
    assert isinstance(init(source, target, labels="angry,calm,sad").exception, InputError)
    assert isinstance(init(source, target, labels="angry,sad").exception, ExportError)
    assert isinstance(init(source, target, "--crop", "none").exception, InputError)
    assert isinstance(init(source, target, "--temperature", "0").exception, ModelContractError)
    assert init(source, target, mean="a").exit_code == 2
    assert init(source, target, mean="0.1,0.2").exit_code == 2
    assert not target.exists()
