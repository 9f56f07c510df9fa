import dataclasses
import json
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest

from export import bundle as bundle_module
from export.bundle import bundle, make_scratch
from export.half_storage import keep_in_16_bits
from export.lineage import Run, lineage, without_paths
from export.model_card import BEGIN, END, PICTURES, table
from export.onnx_export import export_onnx
from fer_app.errors import CheckpointError, ExportError
from tests.export.test_onnx_export import write_checkpoint
from training.checkpoint import CheckpointInfo, bundled_checkpoint, load_checkpoint, read_info, save_checkpoint
from training.data.ferplus import load_ferplus
from training.ensemble import join
from training.evaluation import evaluate, file_sha256, fitting_threshold, open_classifier
from training.recipe_files import load_recipe

OLD = """# A comment that stays.

[[detector]]
name = "finder"
file = "f.onnx"
sha256 = "0"

[[model]]
name = "other"
file = "other.onnx"
role = "fast"
default = true
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A working tree with a card to fill and a manifest that already has a default."""
    for folder in ("training", "fer_app/weights", "docs/images"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "fer_app/weights/manifest.toml").write_text(OLD, encoding="utf-8")
    (tmp_path / "fer_app/weights/mine.md").write_text(
        f"# mine\n\n{BEGIN}\nold figures\n{END}\n\nthe end\n", encoding="utf-8"
    )
    return tmp_path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = write_checkpoint(tmp_path / "best.safetensors", [])
    weights, info = load_checkpoint(path)
    recipe = {"stages": ["finetune"], "seed": 3, "name": "debug"}
    recipe["finetune"] = {"split": "train-main", "votes": "majority", "epochs": 9}
    counters = {"epochs": 7, "steps": 70, "seconds": 3600}
    info = dataclasses.replace(info, recipe=recipe, counters=counters, metrics={"dev_accuracy": 0.5})
    save_checkpoint(path, weights, info)
    return path


def test_everything_says_the_same(tree: Path, checkpoint: Path, mini_ferplus: Path) -> None:
    bundle(checkpoint, "mine", mini_ferplus, tree, default=True, also=(), bench_s=0)
    onnx_file = tree / "fer_app/weights/mine.onnx"
    weights = tree / "training/weights/mine.safetensors"
    manifest = tomllib.loads((tree / "fer_app/weights/manifest.toml").read_text(encoding="utf-8"))
    entry, other = manifest["model"]  # the default one first
    assert (entry["name"], other["name"]) == ("mine", "other")
    served = open_classifier(onnx_file)
    report = evaluate(served, load_ferplus(mini_ferplus, "valid"))

    assert entry["sha256"] == file_sha256(onnx_file)
    assert "variant" not in entry
    assert entry["contract_sha256"] == served.contract.digest
    assert entry["metrics"]["ferplus_valid_accuracy"] == pytest.approx(report.accuracy, abs=1e-6)
    assert served.contract.metrics == entry["metrics"]
    assert open_classifier(weights).contract == served.contract
    threshold = fitting_threshold(open_classifier(weights), load_ferplus(mini_ferplus, "dev"))
    assert served.contract.uncertain_below == threshold > 0
    assert weights.stat().st_size < 0.6 * checkpoint.stat().st_size  # 16 bits
    card = (tree / "fer_app/weights/mine.md").read_text(encoding="utf-8")
    assert entry["card"] == "mine.md"
    assert f"**{100 * report.accuracy:.2f} %**" in card
    assert file_sha256(onnx_file) in card
    assert "- Chosen by: accuracy on `dev`, a tenth of Train (50.00 %), after every epoch." in card
    assert "old figures" not in card
    assert (
        f"below {100 * threshold:.0f} % is marked uncertain; {100 * report.asserted.share:.2f} % have no mark" in card
    )
    assert card.startswith("# mine\n")
    assert card.endswith("the end\n")
    for picture in PICTURES:
        assert (tree / f"docs/images/mine-{picture}").is_file()
        assert f"](../../docs/images/mine-{picture})" in card
    for expected in ("| turned by 20 degrees ", "| 200 px ", "| 32 at once |", "| as it is ", "fer train debug --data"):
        assert expected in card
    assert "not recorded" in card  # the checkpoint lies in no run's folder

    export_onnx(weights, tree / "again.onnx")  # the repository holds what the served file is made from
    keep_in_16_bits(tree / "again.onnx", load_checkpoint(weights)[0])
    assert file_sha256(tree / "again.onnx") == entry["sha256"]
    assert f"{onnx_file.stat().st_size / 1e6:.1f} |" in card
    assert onnx_file.stat().st_size < 0.75 * checkpoint.stat().st_size


def test_no_threshold_is_chosen_on_faces_that_were_trained_on(tree: Path, checkpoint: Path, mini_ferplus: Path) -> None:
    weights, info = load_checkpoint(checkpoint)
    recipe = info.recipe | {"finetune": info.recipe["finetune"] | {"split": "train"}}
    save_checkpoint(checkpoint, weights, dataclasses.replace(info, recipe=recipe))
    bundle(checkpoint, "mine", mini_ferplus, tree, default=False, role="accurate", also=(), bench_s=0)
    manifest = tomllib.loads((tree / "fer_app/weights/manifest.toml").read_text(encoding="utf-8"))
    assert [(model["name"], model["role"]) for model in manifest["model"]] == [("other", "fast"), ("mine", "accurate")]
    contract = open_classifier(tree / "fer_app/weights/mine.onnx").contract
    assert contract.uncertain_below == 0.0
    assert "ferplus_valid_asserted_share" not in contract.metrics
    assert "is marked uncertain" not in (tree / "fer_app/weights/mine.md").read_text(encoding="utf-8")


def test_manifest_keeps_the_rest_and_has_one_default(tree: Path, checkpoint: Path, mini_ferplus: Path) -> None:
    manifest_file = tree / "fer_app/weights/manifest.toml"
    for int8 in (True, False):  # bundling again replaces
        also = ("int8",) if int8 else ()
        bundle(checkpoint, "mine", mini_ferplus, tree, default=True, role="fast", also=also, most_lost=1.0, bench_s=0)
        assert ("[[model.variant]]" in manifest_file.read_text(encoding="utf-8")) == int8
    text = manifest_file.read_text(encoding="utf-8")
    manifest = tomllib.loads(text)
    assert text.startswith("# A comment that stays.")
    assert [model["name"] for model in manifest["model"]] == ["mine", "other"]
    assert [model.get("default", False) for model in manifest["model"]] == [True, False]
    assert [model.get("role") for model in manifest["model"]] == ["fast", None]
    assert [detector["name"] for detector in manifest["detector"]] == ["finder"]


def test_eight_bits_are_made_of_the_same_checkpoint(tree: Path, checkpoint: Path, mini_ferplus: Path) -> None:
    weights, info = load_checkpoint(checkpoint)
    recipe = info.recipe | {"finetune": info.recipe["finetune"] | {"selected_epoch": "last"}}
    save_checkpoint(checkpoint, weights, dataclasses.replace(info, recipe=recipe))
    bundle(checkpoint, "mine", mini_ferplus, tree, default=True, most_lost=1.0, bench_s=0)  # weights at random
    eight = open_classifier(tree / "fer_app/weights/mine.int8.onnx")
    manifest = tomllib.loads((tree / "fer_app/weights/manifest.toml").read_text(encoding="utf-8"))
    (variant,) = manifest["model"][0]["variant"]
    assert variant["precision"] == eight.contract.precision == "int8"
    assert variant["sha256"] == file_sha256(tree / "fer_app/weights/mine.int8.onnx")
    assert variant["contract_sha256"] == eight.contract.digest
    assert variant["metrics"] == eight.contract.metrics
    card = (tree / "fer_app/weights/mine.md").read_text(encoding="utf-8")
    assert "int8: right %" in card
    assert "- Epoch: the last, as the recipe says. `dev`, a tenth of Train, set the temperature" in card
    assert "\n  uncertain; 50.00 % of it are right.\n" in card
    assert variant["sha256"] in card


def test_a_card_without_marks_is_refused_before_anything_is_written(
    tree: Path, checkpoint: Path, mini_ferplus: Path
) -> None:
    (tree / "fer_app/weights/mine.md").write_text("no marks", encoding="utf-8")
    with pytest.raises(ExportError, match="must exist and hold"):
        bundle(checkpoint, "mine", mini_ferplus, tree, default=True)
    assert not (tree / "training/weights").exists()
    (tree / "fer_app/weights/mine.md").unlink()
    with pytest.raises(ExportError, match="must exist"):
        bundle(checkpoint, "mine", mini_ferplus, tree, default=True)


def files_below(tree: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("limit", "said"), [("LARGEST_FILE", "any bundled file"), ("LARGEST_FAST", "role fast")])
def test_what_is_too_large_leaves_the_tree_alone(
    tree: Path, checkpoint: Path, mini_ferplus: Path, monkeypatch: pytest.MonkeyPatch, limit: str, said: str
) -> None:
    before = files_below(tree)
    monkeypatch.setattr(bundle_module, limit, 100)
    with pytest.raises(ExportError, match=f"mine.onnx has .* MB, more than the 0 MB of .*{said}"):
        bundle(checkpoint, "mine", mini_ferplus, tree, default=True, role="fast", also=(), bench_s=0)
    assert files_below(tree) == before
    with pytest.raises(ExportError, match="a role is one of fast, accurate"):
        bundle(checkpoint, "mine", mini_ferplus, tree, default=True, role="best")
    with pytest.raises(ExportError, match="and no name is"):
        bundle(checkpoint, "fast", mini_ferplus, tree, default=True)


@pytest.mark.parametrize(
    "origin",
    [
        {"members": ["recipe:debug", "bundled:mine"]},
        {"init": "bundled:mine"},
        {"init": "bundled"},  # which will be this one
        {"init": "bundled:default"},
        {"init": "bundled:fast"},
        {"finetune": {"distill": {"teachers": ["bundled:mine"]}}},
    ],
)
def test_what_comes_from_the_model_that_it_replaces_is_refused(
    tree: Path, checkpoint: Path, mini_ferplus: Path, origin: dict[str, Any]
) -> None:
    weights, info = load_checkpoint(checkpoint)
    save_checkpoint(checkpoint, weights, dataclasses.replace(info, recipe=info.recipe | origin))
    before = files_below(tree)
    with pytest.raises(ExportError, match="comes from a bundled model that it would replace"):
        bundle(checkpoint, "mine", mini_ferplus, tree, role="fast", default=True, also=(), bench_s=0)
    assert files_below(tree) == before


def test_what_was_taught_by_the_model_that_it_replaces_is_refused(
    tree: Path, tmp_path: Path, checkpoint: Path, mini_ferplus: Path
) -> None:
    weights, info = load_checkpoint(checkpoint)
    both = tmp_path / "both.safetensors"
    recipe = {"name": "ensemble", "members": ["bundled:mine", "recipe:debug"]}
    save_checkpoint(both, weights, dataclasses.replace(info, recipe=recipe))
    taught = info.recipe | {"finetune": info.recipe["finetune"] | {"distill": {"teachers": [str(both)]}}}
    save_checkpoint(checkpoint, weights, dataclasses.replace(info, recipe=taught))
    with pytest.raises(ExportError, match="comes from a bundled model that it would replace"):
        bundle(checkpoint, "mine", mini_ferplus, tree, default=False, also=(), bench_s=0)


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
    weights, info = load_checkpoint(checkpoint)
    files = {name: tmp_path / name / "finetune/best.safetensors" for name in ("first", "second", "third")}
    for name in ("first", "second"):
        files[name].parent.mkdir(parents=True)
        save_checkpoint(files[name], weights, dataclasses.replace(info, recipe=info.recipe | {"name": name}))
    (files["second"].parent / "done.json").write_text('{"machine": "a machine", "processes": 2}')
    join([files["first"], files["second"]], tmp_path / "both.safetensors", mini_ferplus)
    recipe = info.recipe | {"name": "debug", "init": str(files["first"])}
    recipe["finetune"] = recipe["finetune"] | {
        "distill": {"teachers": [str(tmp_path / "both.safetensors")], "weight": 0.5}
    }
    save_checkpoint(checkpoint, weights, dataclasses.replace(info, recipe=recipe))
    bundle(checkpoint, "mine", mini_ferplus, tree, default=True, also=(), bench_s=0)
    card = (tree / "fer_app/weights/mine.md").read_text(encoding="utf-8")
    for name in ("first", "second"):
        files[name].unlink()

    kept = tree / "training/weights/mine.safetensors"
    steps = lineage(kept, read_info(kept))
    assert [type(step).__name__ for step in steps] == ["Run", "Run", "Joining", "Run"]
    for step in steps:  # as the card has them
        assert "\n".join(step.told()) in card
        assert step.command() in card
    files["third"].parent.mkdir(parents=True)
    on = dataclasses.replace(info, recipe=info.recipe | {"name": "third", "init": str(kept)})
    save_checkpoint(files["third"], weights, on)
    assert read_info(files["third"]).lineage == []  # a run's own checkpoint knows its origin by its path
    *before, last = lineage(files["third"], on)
    assert before == steps
    assert isinstance(last, Run)
    assert last.recipe["init"] == "recipe:debug"


def test_a_lineage_of_another_program_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    weights, info = load_checkpoint(checkpoint)
    save_checkpoint(checkpoint, weights, dataclasses.replace(info, lineage=[{"name": "debug", "when": "long ago"}]))
    with pytest.raises(CheckpointError, match=r"best.safetensors has a lineage that is not ours: .*when"):
        lineage(checkpoint, read_info(checkpoint))


def test_teachers_are_followed_too(tree: Path, tmp_path: Path, checkpoint: Path, mini_ferplus: Path) -> None:
    weights, info = load_checkpoint(checkpoint)
    files = {name: tmp_path / name / "finetune/best.safetensors" for name in ("first", "second", "taught")}
    for name in ("first", "second"):
        files[name].parent.mkdir(parents=True)
        save_checkpoint(files[name], weights, dataclasses.replace(info, recipe=info.recipe | {"name": name}))
    (files["second"].parent / "done.json").write_text('{"processes": 2}')
    both, again = tmp_path / "both.safetensors", tmp_path / "ensemble_2.safetensors"
    join([files["first"], files["second"]], both, mini_ferplus)
    join([files["second"], files["first"]], again, mini_ferplus)
    distill = {"teachers": [str(both), str(again)], "weight": 0.6, "temperature": 1.0}
    recipe = info.recipe | {"name": "debug", "init": str(files["first"])}
    recipe["finetune"] = recipe["finetune"] | {"distill": distill}
    files["taught"].parent.mkdir(parents=True)
    save_checkpoint(files["taught"], weights, dataclasses.replace(info, recipe=recipe))
    made = bundle(files["taught"], "mine", mini_ferplus, tree, default=True, also=(), bench_s=0)
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


def test_an_ensemble_is_told_by_its_members(tree: Path, tmp_path: Path, checkpoint: Path, mini_ferplus: Path) -> None:
    weights, info = load_checkpoint(checkpoint)
    files = []
    for name, seed in (("debug", 3), ("second", 4)):
        folder = tmp_path / name / "finetune"
        folder.mkdir(parents=True)
        files.append(folder / "best.safetensors")
        recipe = info.recipe | {"name": name, "seed": seed}
        save_checkpoint(files[-1], weights, dataclasses.replace(info, recipe=recipe))
    join(files, tmp_path / "both.safetensors", mini_ferplus)
    made = bundle(tmp_path / "both.safetensors", "mine", mini_ferplus, tree, default=True, also=(), bench_s=0)
    assert made.info.recipe["members"] == ["recipe:debug", "recipe:second"]
    card = (tree / "fer_app/weights/mine.md").read_text(encoding="utf-8")
    assert str(tmp_path) not in card
    assert card.index("- `debug`: FERPlus train-main (majority), seed 3") < card.index("- `second`: ")
    assert "- `fer ensemble`: the mean of the calibrated logits of `debug`, `second`." in card
    command = "fer ensemble runs/debug/finetune/best.safetensors runs/second/finetune/best.safetensors --data ferplus/"
    assert command in card
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


def test_another_folder_is_made_like_the_tree(tree: Path, tmp_path: Path) -> None:
    make_scratch(tmp_path / "scratch", tree, "mine")
    copied = {path.relative_to(tmp_path / "scratch").as_posix() for path in files_below(tmp_path / "scratch")}
    assert copied == {"fer_app/weights/manifest.toml", "fer_app/weights/mine.md"}
    with pytest.raises(ExportError, match="cannot make"):
        make_scratch(tmp_path / "scratch", tree, "other")
    manifest = tmp_path / "scratch/fer_app/weights/manifest.toml"
    manifest.write_text("of another model that was bundled there", encoding="utf-8")
    make_scratch(tmp_path / "scratch", tree, "mine")
    assert manifest.read_text(encoding="utf-8") == "of another model that was bundled there"


def test_tables_line_up() -> None:
    assert table(("a", "bb"), [("long", "1")]) == ["| a    | bb |", "|------|---:|", "| long |  1 |"]
