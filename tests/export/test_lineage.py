"""What a checkpoint was made from, and how its card tells it."""

import dataclasses
import json
import shlex
from pathlib import Path

import pytest

from export.bundle import bundle
from export.lineage import Run, lineage, without_paths
from fer_app.errors import CheckpointError, ExportError
from training.checkpoint import CheckpointInfo, bundled_checkpoint, load_checkpoint, read_info, save_checkpoint
from training.ensemble import join
from training.evaluation import open_classifier
from training.recipe_files import load_recipe


def first_and_second(tmp_path: Path, checkpoint: Path) -> dict[str, Path]:
    """Write what two runs have made; the second one was of two processes."""
    weights, info = load_checkpoint(checkpoint)
    files = {name: tmp_path / name / "finetune/best.safetensors" for name in ("first", "second")}
    for name, file in files.items():
        file.parent.mkdir(parents=True)
        save_checkpoint(file, weights, dataclasses.replace(info, recipe=info.recipe | {"name": name}))
    (files["second"].parent / "done.json").write_text('{"machine": "a machine", "processes": 2}')
    return files


def test_runs_are_followed_and_no_path_is_kept(
    tree: Path, tmp_path: Path, checkpoint: Path, mini_ferplus: Path
) -> None:
    weights, info = load_checkpoint(checkpoint)
    for name, init in (("debug", "scratch"), ("second", str(tmp_path / "debug/finetune/best.safetensors"))):
        stage = tmp_path / name / "finetune"
        stage.mkdir(parents=True)
        recipe = info.recipe | {"name": name, "init": init}
        save_checkpoint(stage / "best.safetensors", weights, dataclasses.replace(info, recipe=recipe))
        (stage / "done.json").write_text(f'{{"machine": "machine of {name}", "program": "fer-mimic 0"}}')
    best = tmp_path / "second/finetune/best.safetensors"
    made = bundle(best, "mine", mini_ferplus, tree, default=True, also=(), bench_s=0)
    assert made.info.recipe["init"] == "recipe:debug"
    kept = load_checkpoint(tree / "training/weights/mine.safetensors")[1]
    assert kept.recipe["init"] == "recipe:debug"
    assert kept.contract == open_classifier(tree / "fer_app/weights/mine.onnx").contract
    card = (tree / "fer_app/weights/mine.md").read_text(encoding="utf-8")
    assert card.index("machine of debug") < card.index("machine of second")
    assert str(tmp_path) not in card
    (tmp_path / "debug/finetune/best.safetensors").unlink()
    with pytest.raises(ExportError, match=r"comes from .*not there"):
        lineage(best, load_checkpoint(best)[1])


def test_the_weights_themselves_tell_what_they_were_made_from(
    tree: Path, tmp_path: Path, checkpoint: Path, mini_ferplus: Path
) -> None:
    files = first_and_second(tmp_path, checkpoint)
    weights, info = load_checkpoint(checkpoint)
    join([files["first"], files["second"]], tmp_path / "both.safetensors", mini_ferplus)
    recipe = info.recipe | {"name": "debug", "init": str(files["first"])}
    recipe["finetune"] = recipe["finetune"] | {
        "distill": {"teachers": [str(tmp_path / "both.safetensors")], "weight": 0.5}
    }
    save_checkpoint(checkpoint, weights, dataclasses.replace(info, recipe=recipe))
    bundle(checkpoint, "mine", mini_ferplus, tree, default=True, also=(), bench_s=0)
    card = (tree / "fer_app/weights/mine.md").read_text(encoding="utf-8")
    for file in files.values():
        file.unlink()

    kept = tree / "training/weights/mine.safetensors"
    steps = lineage(kept, read_info(kept))
    assert [type(step).__name__ for step in steps] == ["Run", "Run", "Joining", "Run"]
    for step in steps:  # as the card has them
        assert "\n".join(step.told()) in card
        assert step.command() in card
    third = tmp_path / "third/finetune/best.safetensors"
    third.parent.mkdir(parents=True)
    on = dataclasses.replace(info, recipe=info.recipe | {"name": "third", "init": str(kept)})
    save_checkpoint(third, weights, on)
    assert read_info(third).lineage == []  # a run's own checkpoint knows its origin by its path
    *before, last = lineage(third, on)
    assert before == steps
    assert isinstance(last, Run)
    assert last.recipe["init"] == "recipe:debug"


def test_a_lineage_of_another_program_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    weights, info = load_checkpoint(checkpoint)
    save_checkpoint(checkpoint, weights, dataclasses.replace(info, lineage=[{"name": "debug", "when": "long ago"}]))
    with pytest.raises(CheckpointError, match=r"best.safetensors has a lineage that is not ours: .*when"):
        lineage(checkpoint, read_info(checkpoint))


def test_teachers_are_followed_too(tree: Path, tmp_path: Path, checkpoint: Path, mini_ferplus: Path) -> None:
    files = first_and_second(tmp_path, checkpoint)
    weights, info = load_checkpoint(checkpoint)
    both, again = tmp_path / "both.safetensors", tmp_path / "ensemble_2.safetensors"
    join([files["first"], files["second"]], both, mini_ferplus)
    join([files["second"], files["first"]], again, mini_ferplus)
    distill = {"teachers": [str(both), str(again)], "weight": 0.6, "temperature": 1.0}
    recipe = info.recipe | {"name": "debug", "init": str(files["first"])}
    recipe["finetune"] = recipe["finetune"] | {"distill": distill}
    taught = tmp_path / "taught/finetune/best.safetensors"
    taught.parent.mkdir(parents=True)
    save_checkpoint(taught, weights, dataclasses.replace(info, recipe=recipe))
    made = bundle(taught, "mine", mini_ferplus, tree, default=True, also=(), bench_s=0)
    assert made.info.recipe["finetune"]["distill"]["teachers"] == ["recipe:ensemble", "recipe:ensemble_2"]
    card = (tree / "fer_app/weights/mine.md").read_text(encoding="utf-8")
    assert str(tmp_path) not in card
    assert [card.count(f"- `{step}`: ") for step in ("first", "second", "fer ensemble", "debug")] == [1, 1, 1, 1]
    joined = "- `fer ensemble` (ensemble_2): the mean of the calibrated logits of `second`, `first`."
    assert card.index("- `fer ensemble`: ") < card.index(joined) < card.index("- `debug`: ")
    for name in ("ensemble", "ensemble_2"):  # each its own file
        assert card.count(f" --data ferplus/ -o runs/{name}.safetensors") == 1
    assert "7 of 9 epochs, 70 steps of 2 processes," in card
    assert "fer train second --data ferplus/ --devices 2 --run-dir runs/second" in card
    assert "60% of the targets are the answers of `ensemble`, `ensemble_2`;" in card


@pytest.mark.parametrize("mirrored", [False, True])
def test_an_ensemble_is_told_by_its_members(
    tree: Path, tmp_path: Path, checkpoint: Path, mini_ferplus: Path, mirrored: bool
) -> None:
    weights, info = load_checkpoint(checkpoint)
    files = []
    for name, seed in (("debug", 3), ("second", 4)):
        folder = tmp_path / name / "finetune"
        folder.mkdir(parents=True)
        files.append(folder / "best.safetensors")
        recipe = info.recipe | {"name": name, "seed": seed}
        save_checkpoint(files[-1], weights, dataclasses.replace(info, recipe=recipe))
    join(files, tmp_path / "both.safetensors", mini_ferplus, mirrored=mirrored)
    made = bundle(tmp_path / "both.safetensors", "mine", mini_ferplus, tree, default=True, also=(), bench_s=0)
    assert made.info.recipe["members"] == ["recipe:debug", "recipe:second"]
    card = (tree / "fer_app/weights/mine.md").read_text(encoding="utf-8")
    assert str(tmp_path) not in card
    assert card.index("- `debug`: FERPlus train-main (majority), seed 3") < card.index("- `second`: ")
    seen = ", of each face and its mirror image" if mirrored else ""
    assert f"- `fer ensemble`: the mean of the calibrated logits of `debug`, `second`{seen}." in card
    command = "fer ensemble runs/debug/finetune/best.safetensors runs/second/finetune/best.safetensors"
    assert f"{command}{' --mirrored' if mirrored else ''} --data ferplus/" in card
    assert ("each face and its mirror image, by the network itself; n = " in card) == mirrored
    assert ("no test-time tricks; n = " in card) != mirrored
    assert "- Epoch: each member's own. `dev`, " in card
    files[0].unlink()
    with pytest.raises(ExportError, match=r"comes from .*not there"):
        bundle(tmp_path / "both.safetensors", "mine", mini_ferplus, tree, default=True, also=(), bench_s=0)


def test_a_bundled_member_is_told_by_its_name(tmp_path: Path) -> None:
    bundled = bundled_checkpoint()
    name, (weights, info) = bundled.stem, load_checkpoint(bundled)
    other = tmp_path / "debug" / "finetune" / "best.safetensors"
    other.parent.mkdir(parents=True)
    save_checkpoint(other, weights, dataclasses.replace(info, recipe=info.recipe | {"name": "debug"}, lineage=[]))
    both = tmp_path / "both.safetensors"
    assert join([bundled, other], both).recipe["members"] == [f"bundled:{name}", str(other)]
    *runs, joining = lineage(both, read_info(both))
    assert [run.name for run in runs] == ["debug"]  # the other one's are told in its own card
    assert list(joining.told()) == [
        f"- `fer ensemble`: the mean of the calibrated logits of `{name}` ([bundled]({name}.md)), `debug`."
    ]
    command = f"fer ensemble {name} runs/debug/finetune/best.safetensors --data ferplus/"
    assert joining.command() == f"{command} -o runs/ensemble.safetensors"
    told = read_info(both)
    kept = dataclasses.replace(told, recipe=without_paths(told.recipe))
    assert kept.recipe["members"] == [f"bundled:{name}", "recipe:debug"]
    assert lineage(both, kept) == [joining]  # of what has no paths, that much is known


def test_command_of_a_run_names_what_differs_from_its_recipe() -> None:
    distill = 'finetune.distill={teachers = ["recipe:ensemble", "recipe:mae/a-0.1"]}'
    recipe = load_recipe("debug", ["seed=7", "finetune.epochs=5", "init=recipe:other", distill])
    info = CheckpointInfo(
        kind="encoder",
        architecture={},
        recipe=json.loads(recipe.to_json()),
        counters={"epochs": 3, "steps": 9, "seconds": 1},
    )
    (run,) = lineage(Path("debug/finetune/best.safetensors"), info)
    assert "3 of 5 epochs" in next(run.told())
    changes = {word for word in shlex.split(run.command()) if "=" in word}
    teachers = '["runs/ensemble.safetensors", "runs/mae/a-0.1/finetune/best.safetensors"]'
    assert changes == {
        "seed=7",
        "finetune.epochs=5",
        "init=runs/other/finetune/best.safetensors",
        f"finetune.distill.teachers={teachers}",
        "finetune.distill.weight=0.5",
        "finetune.distill.temperature=1.0",
    }


def test_command_of_a_run_names_the_file_that_its_recipe_starts_from() -> None:
    recipe = load_recipe("hybrid_ferplus_wide_votes")
    counters = {"epochs": 3, "steps": 9, "seconds": 1}
    info = CheckpointInfo(kind="encoder", architecture={}, recipe=json.loads(recipe.to_json()), counters=counters)
    (run,) = lineage(Path("debug/finetune/best.safetensors"), info)
    assert " --set init=runs/hybrid_ferplus_wide/finetune/best.safetensors --run-dir" in run.command()


def test_a_file_that_comes_from_itself_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    weights, info = load_checkpoint(checkpoint)
    info = dataclasses.replace(info, recipe=info.recipe | {"init": str(checkpoint)})
    save_checkpoint(checkpoint, weights, info)
    with pytest.raises(ExportError, match="comes from itself"):
        lineage(checkpoint, info)
