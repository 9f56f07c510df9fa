"""What `fer sweep` plans of a folder, refuses and lists."""

from pathlib import Path

import pytest
import torch

from fer_app.errors import ConfigError, DatasetError
from tests.training.sweeping import PRETRAIN, app, run, runner, write_finetune
from training.sweep_cells import bundled_folders, plan


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "grid").mkdir()
    return tmp_path / "grid"


def test_all_problems_of_a_folder_are_told_at_once(folder: Path, mini_ferplus: Path) -> None:
    write_finetune(folder, "a", top='init = "recipe:nowhere"')
    write_finetune(folder, "b", top='init = "recipe:a"')
    (folder / "c.toml").write_text(PRETRAIN.format(top='init = "recipe:d"'))
    (folder / "d.toml").write_text(PRETRAIN.format(top='init = "recipe:c"'))
    with pytest.raises(ConfigError) as caught:
        run(folder, mini_ferplus)
    assert str(caught.value).split("; ") == [
        "a: init = 'recipe:nowhere': no recipe nowhere in the folder",
        "b: init = 'recipe:a': a does more than pre-train",
        "c: init = 'recipe:d' leads back to it: c -> d -> c",
        "d: init = 'recipe:c' leads back to it: d -> c -> d",
    ]
    write_finetune(folder, "e", "epoch_s = 1")
    write_finetune(folder, "f", "los = 1")
    with pytest.raises(
        ConfigError, match=r"e.toml: unknown key finetune.epoch_s .*; f.toml: unknown key finetune.los "
    ):
        run(folder, mini_ferplus)
    assert not (folder.parent / "out").exists()


def test_what_was_trained_on_is_not_scored(folder: Path, mini_ferplus: Path) -> None:
    write_finetune(folder, "a", 'split = "train"')
    write_finetune(folder, "b", 'split = "train+valid"')
    write_finetune(folder, "c")
    (folder / "z.toml").write_text(PRETRAIN.format(top=""))
    for split, named in (
        ("valid", "b (trained on train+valid, scored on valid)"),
        ("dev", "a (trained on train, scored on dev), b (trained on train+valid, scored on dev)"),
    ):
        with pytest.raises(ConfigError) as caught:
            run(folder, mini_ferplus, "--split", split)
        assert str(caught.value) == f"trained on what they would be scored on, pass another --split: {named}"
    with pytest.raises(ConfigError, match=r"a \(.*, b \(.*, c \(trained on train-main, scored on train\)"):
        run(folder, mini_ferplus, "--split", "train")
    assert not (folder.parent / "out").exists()


def test_each_recipe_is_scored_where_its_published_figure_is(folder: Path) -> None:
    figure = "{ data_set = 'FERPlus', split = 'test', accuracy = 1.0, source = 'it' }"
    write_finetune(folder, "a", top=f"expected = {figure}")
    write_finetune(folder, "b")
    write_finetune(folder, "c", 'split = "train+valid"')
    assert [cell.split for cell in plan(str(folder), Path("o"), 1)] == ["test", "valid", "test"]
    assert [cell.split for cell in plan(str(folder), Path("o"), 1, split="test")] == ["test"] * 3
    cells = plan("ablations/table5", Path("o"), 1)
    assert {cell.split for cell in cells if not cell.only_pretrains} == {"test"}


def test_memory_that_does_not_suffice_fails_one_cell(
    folder: Path, mini_ferplus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...\nmore")

    monkeypatch.setattr("training.stages.fit", fit)
    write_finetune(folder, "a")
    told = run(folder, mini_ferplus, "--seeds", "1", status=1).stderr
    words = "finetune: out of memory (CUDA out of memory): lower finetune.batch_size and raise finetune.accumulate"
    assert f"a seed 0: failed: {words} by as much, or set checkpoint_activations = true" in told


def test_several_processes_are_refused(folder: Path, mini_ferplus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_finetune(folder, "a")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="cannot be started by torchrun: start it alone"):
        run(folder, mini_ferplus)
    monkeypatch.setenv("RANK", "1")
    assert run(folder, mini_ferplus, status=1).stderr == ""
    assert not (folder.parent / "out").exists()


def test_recipes_below_a_folder_and_changes(folder: Path) -> None:
    (folder / "deep").mkdir()
    write_finetune(folder, "a")
    write_finetune(folder / "deep", "b", top='init = "recipe:z"')
    (folder / "deep" / "z.toml").write_text(PRETRAIN.format(top=""))
    cells = plan(str(folder), Path("o"), 2, ["finetune.limit=9", "pretrain.epochs=4", "model.depth=1"])
    assert [str(cell.run_dir) for cell in cells] == [
        "o/a/seed-0",
        "o/deep/z/seed-0",
        "o/deep/b/seed-0",
        "o/a/seed-1",
        "o/deep/b/seed-1",
    ]
    assert [cell.start.name if cell.start else None for cell in cells] == [None, None, "deep/z", None, "deep/z"]
    assert {cell.recipe.model.depth for cell in cells} == {1}
    assert all(cell.recipe.finetune is None or cell.recipe.finetune.limit == 9 for cell in cells)
    assert cells[1].recipe.pretrain is not None
    assert cells[1].recipe.pretrain.epochs == 4
    (folder / "deep" / "z.toml").write_text((folder / "a.toml").read_text())
    with pytest.raises(ConfigError, match="does more than pre-train"):
        plan(str(folder), Path("o"), 1)


def test_a_stage_that_no_recipe_has_cannot_be_changed(folder: Path) -> None:
    (folder / "z.toml").write_text('stages = ["pretrain"]\n[pretrain]\nepochs = 1\nbatch_size = 8\nbase_lr = 1e-3\n')
    with pytest.raises(ConfigError, match=r"--set 'finetune.epochs=1': no recipe here has this table"):
        plan(str(folder), Path("o"), 1, ["finetune.epochs=1"])


@pytest.mark.parametrize("name", list(bundled_folders()))
def test_bundled_folders_can_be_planned(name: str) -> None:
    cells = plan(name, Path("o"), 1)
    assert len(cells) == bundled_folders()[name]
    assert all(cell.recipe.name == f"{name}/{cell.name}" for cell in cells)


def test_missing_pictures_are_told_before_anything_runs(folder: Path, mini_ferplus: Path) -> None:
    write_finetune(folder, "a")
    (folder / "z.toml").write_text(PRETRAIN.format(top="") + 'images = ["photos"]\n')
    with pytest.raises(DatasetError, match="no general photos given"):
        run(folder, mini_ferplus)
    with pytest.raises(DatasetError, match="FER2013Test"):
        run(folder, mini_ferplus, "--split", "test", "--set", 'pretrain.images=["faces"]')
    assert not (folder.parent / "out").exists()


def test_fer_train_tells_to_run_the_folder(folder: Path, mini_ferplus: Path) -> None:
    write_finetune(folder, "a", top='init = "recipe:z"')
    given = ["train", str(folder / "a.toml"), "--data", str(mini_ferplus), "--run-dir", str(folder / "run")]
    with pytest.raises(ConfigError, match=r"the recipe z beside this one makes: pass --set init=.* `fer sweep`"):
        runner.invoke(app, given, catch_exceptions=False)


def test_list_shows_folders_and_what_is_done(folder: Path, mini_ferplus: Path) -> None:
    shown = runner.invoke(app, ["sweep", "--list"], catch_exceptions=False).stdout
    assert "ablations/table2 (9 recipes)\n" in shown
    write_finetune(folder, "a")
    run(folder, mini_ferplus, "--seeds", "1")
    shown = run(folder, mini_ferplus, "--seeds", "2", "--list").stdout
    assert shown == "a seed 0: done\na seed 1: not run\n"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "name a folder"),
        (["x"], "no folder 'x'"),
        (["ablations/table3"], "where are the pictures"),
        (["ablations/table3", "--split", "no"], "is none of"),
    ],
)
def test_wrong_usage(more: list[str], said: str) -> None:
    result = runner.invoke(app, ["sweep", *more])
    assert result.exit_code != 0
    assert said in (result.stderr + str(result.exception)).replace("\n", " ").replace("│", "")
