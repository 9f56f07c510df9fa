"""`fer export`: what it takes, says and leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import Result
from typer import Typer
from typer.testing import CliRunner

from export.cli import export
from fer_app.errors import AccuracyLostError, CheckpointError, DatasetError, ExportError
from fer_app.model_choice import choose_model
from tests.export.test_onnx_export import write_checkpoint
from tests.training.miniature import write_mini_ferplus, write_mini_folders
from training.checkpoint import CheckpointInfo, save_checkpoint
from training.evaluation import file_sha256
from training.metrics import ClassificationReport


def run(*arguments: object) -> Result:
    app = Typer()
    app.command()(export)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "a.safetensors", [])


class Worse(ClassificationReport):
    """A report of half a point and a little less."""

    @property
    def accuracy(self) -> float:
        return super().accuracy - 0.0051


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("mistake", [["--split", "no"], ["--split", "test"], ["--data", "/nowhere"]])
def test_a_mistake_about_the_data_leaves_no_file(tmp_path: Path, checkpoint: Path, mistake: list[str]) -> None:
    data = write_mini_ferplus(tmp_path / "data", per_class=3)
    assert run(checkpoint, "-o", tmp_path / "a.onnx", "--data", data, *mistake).exit_code != 0
    assert not (tmp_path / "a.onnx").exists()


def test_one_file(tmp_path: Path, checkpoint: Path) -> None:
    data = write_mini_ferplus(tmp_path / "data", per_class=3)
    result = run(checkpoint, "-o", tmp_path / "a.onnx", "--data", data)
    assert result.exit_code == 0, result.output
    head, _, row, *rest = result.stdout.splitlines()
    assert cells(head)[:4] == ["file", "precision", "made", "MB"]
    assert cells(row)[:2] == ["a.onnx", "fp32"]
    assert "scored on FERPlus valid, majority, n = 8" in rest
    assert file_sha256(tmp_path / "a.onnx") in rest[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "a.safetensors", "data"]


def test_a_folder_of_all_precisions(tmp_path: Path, checkpoint: Path) -> None:
    data = write_mini_ferplus(tmp_path / "data", per_class=12)
    out = tmp_path / "made" / "here"
    result = run(
        checkpoint, "-o", out, "--precision", "int8,fp32", "--precision", "fp16", "--data", data, "--max-drop", 30
    )
    assert result.exit_code == 0, result.output
    names = ["model.fp16.onnx", "model.int8.onnx", "model.onnx", "report.json", "report.md"]
    assert sorted(path.name for path in out.iterdir()) == names
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert report["report_version"] == 1
    assert report["checkpoint_sha256"] == file_sha256(checkpoint)
    assert report["scored_on"] == {"title": "FERPlus valid, majority", "n": 32}
    assert [one["precision"] for one in report["files"]] == ["fp32", "fp16", "int8"]
    for one in report["files"]:
        assert one["sha256"] == file_sha256(out / one["file"])
        assert one["bytes"] == (out / one["file"]).stat().st_size
        assert set(one["largest_logit_difference"]) == {"1", "2", "17"}
        assert 0 <= one["metrics"]["ferplus_valid_accuracy"] <= 1
        assert one["images_per_s"] > 0
        assert one["speed_ratio"] > 0
    table = (out / "report.md").read_text(encoding="utf-8")
    assert "| model.int8.onnx | int8 |" in table
    assert table.split("\n\n")[-1].strip() in result.stdout
    assert choose_model(out, precision="int8", device="cpu") == out / "model.int8.onnx"
    assert choose_model(out, precision="fp16", device="cpu") == out / "model.fp16.onnx"


def test_what_cannot_be_made_is_refused_before_any_work(tmp_path: Path, checkpoint: Path) -> None:
    refused = run(checkpoint, "-o", tmp_path / "a.onnx", "--precision", "fp32,fp16")
    assert refused.exit_code == 2
    assert "several precisions need a folder" in refused.output
    refused = run(checkpoint, "-o", tmp_path / "a.onnx", "--precision", "int4")
    assert refused.exit_code == 2
    assert "int4: none of fp32, fp16, int8" in refused.output
    refused = run(checkpoint, "-o", tmp_path / "out", "--precision", "int8")
    assert isinstance(refused.exception, ExportError)
    assert "--data" in str(refused.exception)
    data = write_mini_ferplus(tmp_path / "data", per_class=3)
    refused = run(checkpoint, "-o", tmp_path / "out", "--precision", "int8", "--data", data, "--split", "dev")
    assert isinstance(refused.exception, DatasetError)
    assert "chosen on dev" in str(refused.exception)
    refused = run(checkpoint, "-o", checkpoint / "out")
    assert isinstance(refused.exception, ExportError)
    assert not list(tmp_path.rglob("*.onnx"))


def test_a_file_that_lost_too_much_is_not_written_nor_are_the_others(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import export.variants as module

    data = write_mini_ferplus(tmp_path / "data", per_class=12)
    scored = []

    def worse(classifier, faces):
        report = evaluate(classifier, faces)
        if classifier.contract.precision == "fp16":
            report = Worse(report.labels, report.confusion, report.ece, report.asserted)
        scored.append(classifier.contract.precision)
        return report

    evaluate = module.evaluate
    monkeypatch.setattr(module, "evaluate", worse)
    refused = run(checkpoint, "-o", tmp_path / "out", "--precision", "fp32,fp16", "--data", data)
    assert isinstance(refused.exception, AccuracyLostError)
    assert "more than 0.5 points are lost; not written" in str(refused.exception)
    assert scored == ["fp32", "fp16"]
    assert list((tmp_path / "out").iterdir()) == []
    assert (
        run(checkpoint, "-o", tmp_path / "out", "--precision", "fp16", "--data", data, "--max-drop", 0.6).exit_code == 0
    )


def test_any_labelled_set(tmp_path: Path, checkpoint: Path) -> None:
    data = write_mini_folders(tmp_path / "data", {"glad": "happiness", "happy": "happiness"}, 5)
    arguments = (checkpoint, "-o", tmp_path / "a.onnx", "--data", data)
    refused = run(*arguments)
    assert isinstance(refused.exception, DatasetError)
    assert "glad" in str(refused.exception)
    assert not (tmp_path / "a.onnx").exists()
    (data / "glad").rename(data / "sad")
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert "scored on folder a class valid, n = 2" in result.stdout


def test_an_encoder_is_refused_before_its_data_is_read(tmp_path: Path) -> None:
    info = CheckpointInfo(kind="encoder", architecture={})
    save_checkpoint(tmp_path / "a.safetensors", {"x": torch.zeros(1)}, info)
    refused = run(tmp_path / "a.safetensors", "-o", tmp_path / "a.onnx", "--data", "/nowhere")
    assert isinstance(refused.exception, CheckpointError)
    assert "encoder alone" in str(refused.exception)
