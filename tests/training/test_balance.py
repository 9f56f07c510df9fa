"""`fer balance`: rare classes lifted in the bias of a trained classifier's head."""

import csv
import dataclasses
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from typer import Typer
from typer.testing import CliRunner

from export.lineage import lineage
from export.onnx_export import export_onnx
from fer_app.errors import CheckpointError, InputError
from fer_app.labels import LABELS
from tests.training.test_ensemble import saved
from tests.training.test_pll_finetuning import DECODER, PLL
from training.balance import TAUS, balance, choose, rarity
from training.balance_cli import balance as command
from training.checkpoint import load_checkpoint, read_info, recipe_digest, save_checkpoint
from training.data.ferplus import dev_names, load_ferplus
from training.data.ferplus_votes import VOTE_COLUMNS
from training.ensemble import join
from training.evaluation import crops_of, evaluate, file_sha256, hard_targets, open_classifier
from training.metrics import best_temperature
from training.pll_finetuning import PllFinetuning
from training.recipe_files import load_recipe

app = Typer()
app.command("balance")(command)
RARE = ("disgust", "contempt")


@pytest.fixture(scope="module")
def uneven(mini_ferplus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same faces, but of disgust and contempt two each are left to train on."""
    copy = shutil.copytree(mini_ferplus, tmp_path_factory.mktemp("uneven") / "ferplus")
    table = copy / "FER2013Train" / "label.csv"
    kept, met = [], Counter[str]()
    for row in csv.reader(table.read_text(encoding="utf-8").splitlines()):
        label = VOTE_COLUMNS[int(np.argmax([int(votes) for votes in row[2:]]))]
        trained_on = row[0] not in dev_names()
        met[label] += trained_on
        if not (trained_on and label in RARE and met[label] > 2):
            kept.append(row)
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(kept)
    return copy


@pytest.fixture
def classifier(uneven: Path, tmp_path: Path) -> Path:
    return saved(uneven, tmp_path / "a.safetensors", 1, 0.5)


def test_only_classes_below_half_of_an_even_share_are_lifted() -> None:
    lift = rarity(np.array([0.5, 0.35, 0.125, 0.0125, 0.0125, 0.0, 0.0, 0.0]))
    np.testing.assert_allclose(lift, [0, 0, 0, np.log(5), np.log(5), 0, 0, 0])  # half of an even share is 0.0625
    assert not rarity(np.full(8, 1 / 8)).any()


def test_it_goes_as_far_as_no_accuracy_is_lost() -> None:
    """Of a rare class the first face is won by 0.2, the second by 0.6, when three of many of the other's are lost."""
    margin = np.array([9, 9, 9, 9, 9, 0.55, 0.5, 0.5, 0.15, 0.58])
    logits = np.stack([margin, np.zeros(10)], axis=1).astype(np.float32)
    targets = np.array([0] * 8 + [1] * 2)
    lift = np.array([0.0, 1.0])
    tau = choose(logits, targets, ("common", "rare"), lift)
    assert tau == pytest.approx(0.2)
    said = (logits + tau * lift).argmax(axis=1)
    assert [(said[targets == k] == k).mean() for k in range(2)] == [1, 0.5]
    # Where nothing is won nothing is moved.
    assert choose(logits[:8], targets[:8], ("common", "rare"), lift) == 0


def test_the_bias_is_moved_and_the_whole_calibrated_again(classifier: Path, uneven: Path, tmp_path: Path) -> None:
    target = tmp_path / "even.safetensors"
    words = [str(classifier), "-o", str(target), "--data", str(uneven), "--tau", "0.5"]
    told = CliRunner().invoke(app, words, catch_exceptions=False)
    assert told.exit_code == 0, told.output
    assert told.stdout == f"{target}\n"
    gain = 0.5 * np.log(64 / 16 / 2)  # two of 64 faces, half of half an even share
    lift = np.array([gain if label in RARE else 0 for label in LABELS])
    assert f"tau 0.5; logits: disgust {gain:+.2f}, contempt {gain:+.2f}\n" in told.stderr

    dev = load_ferplus(uneven, "dev")
    crops, targets = crops_of(dev), hard_targets(dev)
    before, after = open_classifier(classifier).logits(crops), open_classifier(target).logits(crops)
    np.testing.assert_allclose(after, before + lift, rtol=1e-4, atol=1e-5)
    info = read_info(target)
    assert info.contract is not None
    assert info.contract.temperature == pytest.approx(best_temperature(after, targets))
    right = float((after.argmax(axis=1) == targets).mean())
    assert info.metrics["dev_accuracy"] == pytest.approx(right)
    assert f"dev accuracy {100 * right:.2f} % (" in told.stderr
    assert info.recipe["balanced"] == {"of": str(classifier), "sha256": file_sha256(classifier), "tau": 0.5}
    assert info.contract.recipe_sha256 == recipe_digest(info.recipe)
    assert info.finetuned_on == "train-main"

    export_onnx(target, tmp_path / "even.onnx")  # which compares the two
    assert open_classifier(tmp_path / "even.onnx").contract == info.contract


def test_without_tau_dev_chooses(classifier: Path, uneven: Path, tmp_path: Path) -> None:
    done = balance(classifier, tmp_path / "even.safetensors", uneven)
    assert done.tau in TAUS
    assert done.info.metrics["dev_accuracy"] >= done.before.accuracy
    assert done.info.metrics["dev_mean_class_accuracy"] >= done.before.mean_class_accuracy
    assert done.info.recipe["balanced"]["tau"] == done.tau
    after = evaluate(open_classifier(tmp_path / "even.safetensors"), load_ferplus(uneven, "dev"))
    assert done.info.metrics["dev_accuracy"] == pytest.approx(after.accuracy)


def test_an_ensemble_is_balanced_as_a_whole(classifier: Path, uneven: Path, tmp_path: Path) -> None:
    """A member's logits are divided by its temperature, and so its bias moves by as much more."""
    other = saved(uneven, tmp_path / "b.safetensors", 2, 2.0)
    both, even = tmp_path / "both.safetensors", tmp_path / "even.safetensors"
    join([classifier, other], both, uneven, mirrored=True)
    done = balance(both, even, uneven, tau=0.5)
    crops = crops_of(load_ferplus(uneven, "dev"))
    before, after = open_classifier(both).logits(crops), open_classifier(even).logits(crops)
    np.testing.assert_allclose(after, before + done.lift, rtol=1e-4, atol=1e-4)
    assert done.lift.any()
    assert done.info.architecture == read_info(both).architecture


def test_its_origin_is_told(classifier: Path, uneven: Path, tmp_path: Path) -> None:
    target = tmp_path / "even.safetensors"
    balance(classifier, target, uneven, tau=0.25)
    run, balancing = lineage(target, read_info(target))
    assert [run] == lineage(classifier, read_info(classifier))
    assert list(balancing.told()) == [
        "- `fer balance`: rare classes of `debug` lifted by the bias of the head, tau 0.25."
    ]
    assert balancing.command() == (
        "fer balance runs/debug/finetune/best.safetensors --tau 0.25 --data ferplus/ -o runs/debug_balanced.safetensors"
    )
    # What it is joined with names the file that this command writes.
    join([target, classifier], tmp_path / "both.safetensors")
    *before, joining = lineage(tmp_path / "both.safetensors", read_info(tmp_path / "both.safetensors"))
    assert before == [run, balancing]
    assert "fer ensemble runs/debug_balanced.safetensors runs/debug/" in joining.command()


def test_what_cannot_be_balanced_is_refused(classifier: Path, uneven: Path, tmp_path: Path) -> None:
    target = tmp_path / "even.safetensors"
    weights, info = load_checkpoint(classifier)
    seen = dataclasses.replace(info, recipe=info.recipe | {"finetune": info.recipe["finetune"] | {"split": "train"}})
    save_checkpoint(tmp_path / "seen.safetensors", weights, seen)
    with pytest.raises(CheckpointError, match=r"on train cannot be calibrated on dev: it has seen those faces$"):
        balance(tmp_path / "seen.safetensors", target, uneven)
    before = classifier.read_bytes()
    with pytest.raises(InputError, match="is the checkpoint itself"):
        balance(classifier, classifier, uneven)
    assert classifier.read_bytes() == before
    assert not target.exists()
    balance(classifier, target, uneven, tau=0.5)
    with pytest.raises(CheckpointError, match=r"even\.safetensors is balanced already: balance what it came from"):
        balance(target, tmp_path / "more.safetensors", uneven)
    told = CliRunner().invoke(app, [str(classifier), "-o", "even.onnx", "--data", str(uneven)])
    assert told.exit_code == 2
    assert "does not end in .safetensors" in told.output


def test_heads_without_a_bias_for_each_class_are_refused(uneven: Path, tmp_path: Path) -> None:
    recipe = load_recipe("debug", [*PLL, *DECODER])
    assert recipe.finetune is not None
    made = PllFinetuning(recipe, recipe.finetune, load_ferplus(uneven, "train-main", "shares"), None, None)
    made.write(tmp_path / "pll.safetensors", made.model, {"epochs": 1, "seconds": 60}, {})
    with pytest.raises(CheckpointError, match="has no head with a bias for each class"):
        balance(tmp_path / "pll.safetensors", tmp_path / "even.safetensors", uneven, tau=0.5)
