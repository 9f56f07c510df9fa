"""`make model` is a chain of commands; programs that write down what they were called with take their place here."""

import itertools
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from training.recipe_files import load_recipe

ROOT = Path(__file__).parent.parent
# Each line of its log is the words of a command; what it says it has made is there afterwards, but empty.
PROGRAM = """#!/usr/bin/env python3
import json, pathlib, sys
name, *words = [pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]
with open({log!r}, "a") as log:
    log.write(json.dumps([name, *words]) + "\\n")
if words[0] in ("train", "ensemble", "balance"):
    run = words[words.index("--run-dir" if words[0] == "train" else "-o") + 1]
    made = pathlib.Path(run, "finetune", "best.safetensors") if words[0] == "train" else pathlib.Path(run)
    made.parent.mkdir(parents=True, exist_ok=True)
    made.touch()
    if words[0] == "train":
        pathlib.Path(run, "recipe.json").touch()
        print(made)
"""


@pytest.fixture
def make_model(tmp_path: Path):
    """Run `make model` with more words, and return what it called since the last time."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    log, programs = tmp_path / "log", tmp_path / "venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("fer", "python"):
        (programs / name).write_text(PROGRAM.format(log=str(log)), encoding="utf-8")
        (programs / name).chmod(0o755)
    for mark in (".created", ".base-installed", ".dev-installed"):
        (tmp_path / "venv" / mark).touch()

    # The tests may have been started by `make` themselves.
    inherited = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "ARGS", "BUNDLE"}
    environment = {name: value for name, value in os.environ.items() if name not in inherited}

    def run(*words: str) -> list[list[str]]:
        log.write_text("", encoding="utf-8")
        variables = [f"VENV={tmp_path / 'venv'}", f"RUNS={tmp_path / 'runs'}", "DATA=faces"]
        command = ["make", "-C", str(ROOT), "model", *variables, *words]
        subprocess.run(command, check=True, capture_output=True, env=environment)
        return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]

    return run


def settings(words: list[str]) -> dict[str, str]:
    """Return what `--set` says."""
    return dict(word.split("=", 1) for before, word in itertools.pairwise(words) if before == "--set")


def test_every_recipe_starts_from_what_it_names_and_its_teachers_are_there(make_model, tmp_path: Path) -> None:
    trained, joined = {}, {}
    for words in make_model():
        if words[:2] == ["fer", "train"]:
            recipe, own = load_recipe(words[2]), settings(words)
            assert recipe.init in ("scratch", f"recipe:{trained.get(own.get('init'))}")
            assert (recipe.init == "scratch") == ("init" not in own)
            teachers = [] if recipe.finetune.distill is None else list(recipe.finetune.distill.teachers)
            assert json.loads(own.get("finetune.distill.teachers", "[]").replace("'", '"')) == [
                str(tmp_path / "runs" / Path(teacher).name) for teacher in teachers
            ]
            assert all(Path(teacher).name in joined for teacher in teachers)
            trained[str(tmp_path / "runs" / words[2] / "finetune" / "best.safetensors")] = words[2]
        elif words[:2] == ["fer", "ensemble"]:
            joined[Path(words[words.index("-o") + 1]).name] = words[2 : words.index("--data")]
    assert len(trained) == 14
    assert {name: {trained.get(file) for file in files} for name, files in joined.items()} == {
        "ensemble.safetensors": {"hybrid_ferplus_mixed", "resnet_ferplus_shifts", "resnet_ferplus_seed_4"},
        "ensemble_2.safetensors": {"mimic_resnet_ferplus", "resnet_ferplus_seed_4_shifts"},
        "ensemble_3.safetensors": {"mimic_resnet_ferplus_twice", "resnet_ferplus_seed_4_shifts"},
        "ensemble_4.safetensors": {"mimic_resnet_ferplus_thrice", "resnet_ferplus_seed_4_shifts"},
        "ensemble_5.safetensors": {"mimic_resnet_ferplus_four_times", "resnet_ferplus_seed_4_shifts"},
        "ensemble_6.safetensors": {"mimic_resnet_ferplus_four_times", "resnet_ferplus_seed_4_taught"},
        "ensemble_of_bundled.safetensors": {None, "resnet_ferplus_seed_4_taught"},  # the other one as it is bundled
    }


def test_the_accurate_model_is_joined_of_the_fast_one_as_that_is_bundled(make_model, tmp_path: Path) -> None:
    for words, folder, member in (
        ([], ["--into", str(tmp_path / "runs" / "bundle")], "bundle/training/weights/mimic_hybrid_ferplus.safetensors"),
        (["BUNDLE=1"], [], "mimic_hybrid_ferplus"),
    ):
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)
        even, fast, ensemble, accurate = make_model(*words)[-4:]
        runs = tmp_path / "runs"
        balanced = str(runs / "mimic_hybrid_ferplus_balanced.safetensors")
        trained = str(runs / "mimic_hybrid_ferplus/finetune/best.safetensors")
        assert even == ["fer", "balance", trained, "--data", "faces", "-o", balanced]
        assert fast[:4] == ["python", "-m", "export.bundle", balanced]
        assert fast[4:] == ["--name", "mimic_hybrid_ferplus", "--role", "fast", "--default", "--data", "faces", *folder]
        assert ensemble[2:4] == [
            member if words else str(runs / member),
            str(runs / "resnet_ferplus_seed_4_taught/finetune/best.safetensors"),
        ]
        assert ensemble[4:] == ["--data", "faces", "--mirrored", "-o", accurate[3]]
        assert accurate[4:8] == ["--name", "mimic_ensemble_ferplus", "--role", "accurate"]


def test_it_goes_on_where_it_stopped(make_model) -> None:
    first, again = make_model(), make_model("ARGS=--set precision=fp32")
    assert not any("--resume" in words for words in first)
    trained = [words for words in again if words[1] == "train"]
    assert trained
    assert all("--resume" in words and words[-1] == "precision=fp32" for words in trained)
    assert sum(words[1] == "ensemble" for words in first) == 7
    assert sum(words[1] == "ensemble" for words in again) == 1  # the last one: of the model as it is bundled now
    assert [sum(words[1] == "balance" for words in time) for time in (first, again)] == [1, 0]
