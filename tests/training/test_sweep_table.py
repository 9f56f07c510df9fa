"""The table of a sweep against figures computed by hand."""

import csv
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from fer_app.errors import InputError
from training import made_by
from training.made_by import program
from training.recipe import Recipe
from training.sweep import Outcome, maker
from training.sweep_cells import Cell
from training.sweep_table import Heading, runs_csv, spread, write_results

HEADING = Heading("grid", "fer sweep grid --data x", "FERPlus")
OURS = {"program": "fer 0, commit abc", "machine": "a processor; torch 2"}
STAGE = {"epochs": 1, "batch_size": 8, "base_lr": 1e-3}


def outcome(out: Path, name: str, seed: int, accuracy: float | None = None, **more: object) -> Outcome:
    stage = str(more.pop("stage", "finetune"))
    values = {"name": name, "stages": [stage], "seed": seed, stage: STAGE, "summary": f"what | {name} is"}
    if expected := more.pop("expected", None):
        values["expected"] = {"data_set": "RAF-DB", "split": "test", "accuracy": expected, "source": "it"}
    split = more.pop("split", "valid")
    cell = Cell(name, Recipe.model_validate(values), out / name / f"seed-{seed}", split=split)
    if accuracy is None:
        return Outcome(cell, **{"status": "not run", **more})
    shares = {"accuracy": accuracy, "mean_class_accuracy": accuracy - 0.1, "macro_f1": accuracy - 0.2, "ece": 0.0312}
    made = OURS if seed == 0 else {}
    score = {**shares, "n": 3191 if split == "valid" else 3137, "model_sha256": "ab", **made}
    return Outcome(cell, "done", "", 5400.0, 3, score, (maker(made),))


def outcomes(out: Path) -> list[Outcome]:
    return [
        outcome(out, "encoder", 0, stage="pretrain", status="done", seconds=1800.0, epochs=8),
        outcome(out, "two", 0, 0.81, expected=89.74),
        outcome(out, "one", 0, 0.79996),
        outcome(out, "none", 0),
        outcome(out, "bad", 0, status="diverged"),
        outcome(out, "two", 1, 0.84, expected=89.74),
        outcome(out, "one", 1, status="failed", reason="no\nroom | left"),
        outcome(out, "none", 1),
    ]


def test_markdown_has_a_row_a_recipe_with_mean_and_sample_deviation(tmp_path: Path) -> None:
    write_results(outcomes(tmp_path), tmp_path, HEADING)
    lines = (tmp_path / "results.md").read_text().splitlines()
    assert lines[:9] == [
        "# grid",
        "",
        "- command: `fer sweep grid --data x`",
        "- scored on: FERPlus valid, n = 3191",
        "- trained by: fer 0, commit abc; a processor; torch 2 (2 runs)",
        "- trained by: not recorded (1 run)",
        "- scored by: fer 0, commit abc; a processor; torch 2 (2 runs)",
        "- scored by: not recorded (1 run)",
        "- runs done: 4 of 8, 5.00 h of training",
    ]
    # 81 and 84: mean 82.5, deviation sqrt((1.5^2 + 1.5^2) / (2 - 1)) = 2.1213
    assert [line for line in lines if line.startswith("|")] == [
        "| recipe | summary | scored on | seeds | accuracy | mean class accuracy | macro-F1 "
        "| published accuracy, where | hours |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        "| bad | what \\| bad is | valid | 0 of 1 | diverged |  |  |  |  |",
        "| none | what \\| none is | valid | 0 of 2 | not run |  |  |  |  |",
        "| one | what \\| one is | valid | 1 of 2 | 80.00 | 70.00 | 60.00 |  | 1.50 |",
        "| two | what \\| two is | valid | 2 of 2 | 82.50 ± 2.12 | 72.50 ± 2.12 | 62.50 ± 2.12 "
        "| 89.74 on RAF-DB Test | 1.50 |",
        "| pre-training | summary | status | epochs | hours |",
        "| --- | --- | --- | --- | --- |",
        "| encoder | what \\| encoder is | done | 8 | 0.50 |",
    ]
    assert [line for line in lines if line.startswith("- ")][7:] == [
        "- none seed 0: not run",
        "- bad seed 0: diverged",
        "- one seed 1: failed: no room \\| left",
        "- none seed 1: not run",
    ]


def test_splits_stand_beside_each_other_by_name(tmp_path: Path) -> None:
    both = [outcome(tmp_path, "a", 0, 0.5), outcome(tmp_path, "b", 0, 0.75, split="test")]
    write_results(both, tmp_path, HEADING)
    table = (tmp_path / "results.md").read_text()
    assert "- scored on: FERPlus valid, n = 3191; test, n = 3137\n" in table
    assert "| a | what \\| a is | valid | 1 of 1 | 50.00 |" in table
    assert "| b | what \\| b is | test | 1 of 1 | 75.00 |" in table
    rows = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    assert [row["split"] for row in rows] == ["valid", "test"]


def test_csv_has_a_row_a_run(tmp_path: Path) -> None:
    rows = list(csv.DictReader(runs_csv(outcomes(tmp_path), tmp_path).splitlines(keepends=True)))
    assert [(row["recipe"], row["seed"], row["accuracy_percent"]) for row in rows] == [
        ("encoder", "0", ""),
        ("two", "0", "81.00"),
        ("one", "0", "80.00"),
        ("none", "0", ""),
        ("bad", "0", ""),
        ("two", "1", "84.00"),
        ("one", "1", ""),
        ("none", "1", ""),
    ]
    assert rows[6]["status"] == "failed: no\nroom | left"
    two = rows[1]
    assert (two["n"], two["epochs"], two["training_hours"], two["ece_percent"]) == ("3191", "3", "1.50", "3.12")
    assert (two["model_sha256"], two["run_dir"]) == ("ab", "two/seed-0")
    assert len(two["recipe_sha256"]) == 64


def test_spread_is_the_sample_deviation() -> None:
    shares = [0.7, 0.75, 0.71, 0.8]
    percents = 100 * np.array(shares)
    assert spread(shares) == f"{percents.mean():.2f} ± {percents.std(ddof=1):.2f}"
    assert spread([0.5]) == "50.00"
    assert spread([0.5, 0.5]) == "50.00 ± 0.00"


def test_picture_has_a_diamond_where_a_recipe_has_a_score(tmp_path: Path) -> None:
    write_results(outcomes(tmp_path), tmp_path, HEADING)
    picture = cv2.imread(str(tmp_path / "results.png"))
    assert picture is not None
    blue = np.array([180, 119, 31])  # matplotlib's tab:blue as BGR
    rows = np.flatnonzero((np.abs(picture.astype(int) - blue).sum(axis=2) < 12).any(axis=1))
    runs = np.flatnonzero(np.diff(rows) > 1).size + 1
    assert runs == 2
    write_results([outcome(tmp_path, "none", 0)], tmp_path, HEADING)
    assert "n = not known yet" in (tmp_path / "results.md").read_text()
    write_results([outcomes(tmp_path)[0]], tmp_path, HEADING)
    assert "| recipe |" not in (tmp_path / "results.md").read_text()


def test_a_table_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*results.csv"):
        write_results(outcomes(tmp_path / "file"), tmp_path / "file", HEADING)


def test_program_names_a_commit_of_its_own_checkout_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        given = ["git", "-C", str(tmp_path), *identity, *words]
        return subprocess.run(given, check=True, capture_output=True, text=True).stdout.strip()

    file = tmp_path / "training" / "made_by.py"
    file.parent.mkdir()
    file.write_text("a = 1\n")
    git("init", "-q")
    monkeypatch.setattr(made_by, "__file__", str(file))
    assert "commit" not in program()
    git("add", ".")
    git("commit", "-q", "-m", "first")
    assert program().endswith(f", commit {git('rev-parse', '--short', 'HEAD')}")
    file.write_text("a = 2\n")
    assert program().endswith("-dirty")
