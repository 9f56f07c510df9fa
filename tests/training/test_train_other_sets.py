"""`fer train` and `fer eval` on sets other than FERPlus: their classes become the model's."""

import json
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from fer_app.errors import DatasetError
from fer_app.labels import LABELS
from tests.training.miniature import write_mini_ferplus, write_mini_folders, write_mini_raf_db
from training.checkpoint import read_info
from training.cli import evaluate, train
from training.data.prepare import prepare
from training.data.prepare_faces import Settings
from training.data.prepare_source import list_pictures
from training.report import Report

RUNNER = CliRunner()
app = Typer()
app.command("train")(train)
app.command("eval")(evaluate)

SEVEN = tuple(label for label in LABELS if label != "contempt")
MOODS = {"bored": "neutral", "delighted": "happiness", "startled": "surprise"}


def run(*arguments: object) -> str:
    result = RUNNER.invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def finetune(data: Path, folder: Path, *changes: str) -> Path:
    settings = ('stages=["finetune"]', "finetune.epochs=1", "finetune.warmup_epochs=0", *changes)
    overrides = [part for value in settings for part in ("--set", value)]
    return Path(run("train", "debug", "--data", data, "--run-dir", folder, *overrides).strip())


@pytest.fixture(scope="module")
def raf_db_model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The miniature RAF-DB, and a model of its seven classes."""
    root = tmp_path_factory.mktemp("raf-db")
    data = write_mini_raf_db(root / "data", 4)
    return data, finetune(data, root / "run")


def test_seven_classes_make_a_model_of_seven(raf_db_model: tuple[Path, Path]) -> None:
    data, model = raf_db_model
    assert model.name == "best.safetensors"  # chosen by a dev part of train
    info = read_info(model)
    assert info.contract is not None
    assert info.contract.labels == SEVEN
    assert info.architecture["num_classes"] == 7
    figures = json.loads(run("eval", model, "--data", data, "--split", "test", "--json"))
    assert figures["data_set"] == "raf-db"
    assert figures["n"] == 28
    assert list(figures["per_class"]) == list(SEVEN)


def test_contempt_is_dropped_only_when_asked(raf_db_model: tuple[Path, Path], tmp_path: Path) -> None:
    ferplus = write_mini_ferplus(tmp_path, 3)
    with pytest.raises(DatasetError, match="--drop-contempt"):
        run("eval", raf_db_model[1], "--data", ferplus)
    figures = json.loads(run("eval", raf_db_model[1], "--data", ferplus, "--drop-contempt", "--json"))
    assert figures["n"] == 7
    model = finetune(write_mini_ferplus(tmp_path / "more", 12), tmp_path / "run", "finetune.contempt=drop")
    info = read_info(model)
    assert info.contract is not None
    assert info.contract.labels == SEVEN


def test_a_model_of_eight_is_scored_on_seven(raf_db_model: tuple[Path, Path], tmp_path: Path) -> None:
    model = finetune(write_mini_ferplus(tmp_path / "data", 12), tmp_path / "run")
    figures = json.loads(run("eval", model, "--data", raf_db_model[0], "--split", "test", "--json"))
    assert list(figures["per_class"]) == list(LABELS)
    assert figures["per_class"]["contempt"]["n"] == 0


def test_own_faces_with_own_labels(tmp_path: Path) -> None:
    own = write_mini_folders(tmp_path / "own", MOODS, 20)
    changes = ("finetune.epochs=60", "finetune.loss=ce", "finetune.mix_prob=0.0", "finetune.split=train")
    model = finetune(own, tmp_path / "run", *changes)
    info = read_info(model)
    assert info.contract is not None
    assert info.contract.labels == tuple(MOODS)
    png = tmp_path / "confusion.png"
    first = run("eval", model, "--data", own, "--confusion", png).splitlines()[0]
    assert float(first.split()[1]) > 70  # of faces that it has not seen; chance is 33
    assert first.endswith("(n = 12)")
    assert png.is_file()


def test_prepared_faces_are_trained_on_and_others_are_told_of_it(tmp_path: Path) -> None:
    own, prepared = write_mini_folders(tmp_path / "own", MOODS, 10), tmp_path / "prepared"
    # Few of the drawn faces are found: the rest is kept as it is.
    prepare(list_pictures(own), prepared, Settings(img_size=48, on_missing="keep"), report=Report(None))
    overrides = ("--set", 'stages=["finetune"]', "--set", "finetune.epochs=1", "--set", "finetune.warmup_epochs=0")
    for data, is_told in ((own, True), (prepared, False)):
        run_dir = tmp_path / f"run-{data.name}"
        result = RUNNER.invoke(app, ["train", "debug", "--data", str(data), "--run-dir", str(run_dir), *overrides])
        assert result.exit_code == 0, result.output
        assert ("`fer data prepare` aligns them as serving does" in result.stderr) is is_told
        figures = json.loads(run("eval", result.stdout.strip(), "--data", prepared, "--json"))
        assert figures["data_set"] == "prepared"
        assert figures["n"] == 6


def test_a_set_without_a_split_says_so(raf_db_model: tuple[Path, Path]) -> None:
    with pytest.raises(DatasetError, match="has no valid here; it has train, test"):
        run("eval", raf_db_model[1], "--data", raf_db_model[0])
