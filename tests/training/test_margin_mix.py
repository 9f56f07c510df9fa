"""Learning from few labels: the steps of MixMatch and Margin-Mix, what they may look at, and resuming."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from torch import Tensor
from torch.nn import functional as F

from fer_app.errors import ConfigError, DatasetError
from models.mimic import MimicClassifier
from tests.training.interrupted import Killed, KilledError, rows
from training.checkpoint import load_checkpoint
from training.data.ferplus import load_ferplus
from training.data.image_set import ImageSet
from training.evaluation import TorchClassifier, crops_of, load_classifier
from training.fuzzy_c_means import class_means, memberships, settled_centroids
from training.loop import LoopSettings, fit
from training.losses.margin_loss import MarginLoss
from training.margin_mix import MarginMix, mix, sharpen
from training.margin_mix_table import MarginMixTable
from training.recipe_files import load_recipe
from training.report import Report
from training.run_folder import RunFolder
from training.sampling import Share
from training.speed_probe import measure_speed

LABELS = 24
BATCH = 6
VIT = (
    *("model.backbone=vit", "model.embed_dim=16", "model.depth=1", "model.num_heads=2", "model.patch_size=8"),
    "model.drop_path_rate=0.3",
)
SETTINGS = LoopSettings(
    epochs=3,
    batch_size=BATCH,
    lr=2e-3,
    ema_decay=0.9,
    precision="fp32",
    checkpoint_minutes=1e-9,  # the state is saved after every step
)


class Interruptible(Killed, MarginMix):
    """Stops before its n-th step, as a killed process would."""


def objective(faces: ImageSet, *changes: str, selection: ImageSet | None = None) -> Interruptible:
    short = ("finetune.epochs=3", "finetune.epoch_steps=4", f"finetune.labels={LABELS}")
    recipe = load_recipe("margin_mix/debug", [*short, *changes])
    assert isinstance(recipe.finetune, MarginMixTable)
    return Interruptible(recipe, recipe.finetune, faces, selection, None)


@pytest.fixture(scope="module")
def faces(mini_ferplus: Path) -> ImageSet:
    return load_ferplus(mini_ferplus, "train-main")


@pytest.fixture(scope="module")
def fabric() -> Fabric:
    return Fabric(accelerator="cpu", devices=1, precision="32-true")


def run(target: MarginMix, folder: Path, fabric: Fabric, *, resume: bool = False) -> None:
    fit(target, SETTINGS, RunFolder(folder), fabric, Report(None), resume=resume)


def step(target: MarginMix, epoch: int = 0, number: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
    """Take the losses of one step, with the same draws every time."""
    samples = next(iter(target.start_epoch(epoch, BATCH, Share()).starting_at(number)))
    target.model.train()
    return samples, target.losses(target.model, samples, np.random.default_rng(5))


def test_sharpening_is_the_papers() -> None:
    probs = torch.tensor([[0.6, 0.3, 0.1], [1.0, 0.0, 0.0]])
    expected = torch.tensor([[0.36, 0.09, 0.01], [1.0, 0.0, 0.0]])
    torch.testing.assert_close(sharpen(probs, 0.5), expected / expected.sum(dim=1, keepdim=True))
    torch.testing.assert_close(sharpen(probs, 1.0), probs)


def test_mixing_keeps_the_larger_part_of_each_picture() -> None:
    images, targets = torch.arange(8.0).view(8, 1, 1, 1), torch.eye(8)
    weights = set()
    for seed in range(20):
        mixed, soft = mix(images, targets, 0.75, np.random.default_rng(seed))
        rng = np.random.default_rng(seed)
        weight = rng.beta(0.75, 0.75)
        weight = max(weight, 1 - weight)
        partners = rng.permutation(8)
        for i, k in enumerate(partners.tolist()):
            assert mixed[i].item() == pytest.approx(weight * i + (1 - weight) * k, abs=1e-5)
            torch.testing.assert_close(soft[i], weight * targets[i] + (1 - weight) * targets[k])
        weights.add(round(weight, 6))
    assert len(weights) == 20
    assert torch.equal(images.flatten(), torch.arange(8.0))  # left as they were


@pytest.mark.parametrize("method", ["mixmatch", "margin_mix"])
def test_the_terms_are_those_of_the_steps_written_out(faces: ImageSet, method: str) -> None:
    """Guess, mix and score again, by hand, on the same draws."""
    target = objective(faces, f"finetune.method={method}", "finetune.guess_weight=30.0", "finetune.margin_weight=0.7")
    samples, terms = step(target, epoch=1, number=2)
    table, model = target._table, target.model
    views = [target._draws[samples, view] for view in range(3)]
    labelled, unlabelled = faces.images[target._shown[samples]], faces.images[target._shown_unlabelled[samples]]
    assert faces.targets is not None
    assert not set(target._shown.tolist()) & set(target._shown_unlabelled.tolist())
    pictures = [
        target._augment(labelled, views[0]),
        target._augment(unlabelled, views[1]),
        target._augment(unlabelled, views[2]),
    ]
    assert not torch.equal(pictures[1], pictures[2])
    with torch.no_grad():
        logits, z = model.forward_train(torch.cat(pictures[1:]))
        sizes = faces.targets[target._labelled].mean(dim=0)  # the labelled faces' alone
        probs = logits.softmax(dim=1) if method == "mixmatch" else memberships(z, model.centroids, 2.0, sizes)
        guess = (probs[:BATCH] + probs[BATCH:]) / 2
        guess = guess**2 / (guess**2).sum(dim=1, keepdim=True)
        own = faces.targets[target._shown[samples]]
        mixed, soft = mix(torch.cat(pictures), torch.cat([own, guess, guess]), 0.75, np.random.default_rng(5))
        logits, z = model.forward_train(mixed)
    ce = -(soft[:BATCH] * logits[:BATCH].log_softmax(dim=1)).sum(dim=1).mean()
    squared = (logits[BATCH:].softmax(dim=1) - soft[BATCH:]).square().mean()
    torch.testing.assert_close(terms["ce"].detach(), ce)
    torch.testing.assert_close(terms["guess"].detach(), squared)
    risen = (1 + 2 / 4) / 3  # epoch 1, step 2 of 4, of 3 epochs
    loss = ce + 30.0 * risen * squared
    if method == "margin_mix":
        known = MarginLoss(table.margin)(z[:BATCH], soft[:BATCH], model.centroids)
        guessed = MarginLoss(table.margin)(z[BATCH:], soft[BATCH:], model.centroids)
        margin = (known + risen * guessed) / (1 + risen)
        torch.testing.assert_close(terms["margin"].detach(), margin)
        loss = loss + 0.7 * margin
    torch.testing.assert_close(terms["loss"].detach(), loss)
    torch.testing.assert_close(terms["confidence"], guess.amax(dim=1).mean())


def test_supervised_sees_the_labelled_faces_alone(faces: ImageSet) -> None:
    target = objective(faces, "finetune.method=supervised")
    samples, terms = step(target)
    assert (target.num_samples, target.views) == (LABELS, 1)
    with torch.no_grad():
        logits = target.model(target._augment(faces.images[target._shown[samples]], target._draws[samples, 0]))
    assert faces.targets is not None
    torch.testing.assert_close(terms["loss"].detach(), F.cross_entropy(logits, faces.targets[target._shown[samples]]))
    assert set(terms) == {"loss", "ce"}


@pytest.mark.parametrize("method", ["mixmatch", "margin_mix"])
def test_the_first_epochs_see_the_labelled_faces_alone(
    faces: ImageSet, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = objective(faces, f"finetune.method={method}", "finetune.labelled_epochs=1", "finetune.margin_weight=0.7")
    assert "guess" in step(target, epoch=1)[1]
    monkeypatch.setattr(MarginMix, "_guess", None)  # nothing is guessed
    samples, terms = step(target, epoch=0, number=3)
    assert faces.targets is not None
    own = faces.targets[target._shown[samples]]
    with torch.no_grad():
        images = target._augment(faces.images[target._shown[samples]], target._draws[samples, 0])
        logits, z = target.model.forward_train(images)
    expected = {"ce": -(own * logits.log_softmax(dim=1)).sum(dim=1).mean()}
    expected["loss"] = expected["ce"]
    if method == "margin_mix":
        expected["margin"] = MarginLoss(0.5)(z, own, target.model.centroids)
        expected["loss"] = expected["ce"] + 0.7 * expected["margin"]
    torch.testing.assert_close({name: term.detach() for name, term in terms.items()}, expected)


def test_the_time_that_is_told_is_that_of_guessing(
    faces: ImageSet, fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    guessed = []
    original = MarginMix._guess
    monkeypatch.setattr(MarginMix, "_guess", lambda *a: guessed.append(a) or original(*a))
    measure_speed(objective(faces, "finetune.labelled_epochs=2"), SETTINGS, fabric)
    assert guessed


@pytest.mark.parametrize("method", ["supervised", "mixmatch", "margin_mix"])
def test_labels_that_are_not_asked_for_play_no_part(
    faces: ImageSet, fabric: Fabric, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the other labels turned round, the same weights come out; with one of the asked-for ones, others do."""
    chosen = objective(faces)._labelled
    assert faces.targets is not None
    states = []
    for case in ("true", "others turned", "one turned"):
        targets = faces.targets.clone()
        turned = torch.ones(len(faces), dtype=torch.bool)
        turned[chosen] = False
        if case == "one turned":
            turned = ~turned & (torch.arange(len(faces)) == chosen[0])
        if case != "true":
            targets[turned] = targets[turned].roll(1, dims=1)
        monkeypatch.setattr("training.margin_mix.labelled_subset", lambda *_: chosen)
        target = objective(dataclasses.replace(faces, targets=targets), f"finetune.method={method}")
        run(target, tmp_path / case, fabric)
        states.append(load_checkpoint(tmp_path / case / "last.safetensors")[0])
    true, others, one = states
    assert all(torch.equal(true[name], tensor) for name, tensor in others.items())
    assert any(not torch.equal(true[name], tensor) for name, tensor in one.items())


def test_every_face_comes_round_before_one_comes_again(faces: ImageSet) -> None:
    target = objective(faces, "finetune.epoch_steps=40")
    target.start_epoch(0, BATCH, Share())
    for shown, pool in ((target._shown, target._labelled), (target._shown_unlabelled, target._unlabelled)):
        assert len(shown) == 40 * BATCH
        for first in range(0, len(shown) - len(pool) + 1, len(pool)):
            assert sorted(shown[first : first + len(pool)].tolist()) == sorted(pool.tolist())
    assert sorted([*target._labelled.tolist(), *target._unlabelled.tolist()]) == list(range(len(faces)))
    first = target._shown.clone()
    target.start_epoch(1, BATCH, Share())
    assert not torch.equal(first, target._shown)


def test_guesses_count_more_and_more(faces: ImageSet) -> None:
    target = objective(faces, "finetune.ramp=0.5")
    risen = []
    for epoch in range(3):
        steps = target.start_epoch(epoch, BATCH, Share()).starting_at(0)
        risen += [target._risen(samples) for samples in steps]
    assert risen == pytest.approx([min(1.0, 2 * i / 12) for i in range(12)])
    second = list(target.start_epoch(0, BATCH, Share(1, 2)).starting_at(0))  # another process's part of the steps
    assert [target._risen(samples) for samples in second] == pytest.approx(risen[:4])
    late = objective(faces, "finetune.labelled_epochs=1", "finetune.ramp=0.5")
    risen = []
    for epoch in (1, 2):
        risen += [late._risen(samples) for samples in late.start_epoch(epoch, BATCH, Share()).starting_at(0)]
    assert risen == pytest.approx([min(1.0, 2 * i / 8) for i in range(8)])


def embeddings(target: MarginMix, faces: ImageSet) -> Tensor:
    """Of all faces as they are served, length 1."""
    contract = target._recipe.contract(faces.class_names)
    return F.normalize(torch.from_numpy(TorchClassifier(target.model, contract).features(crops_of(faces))), dim=1)


@pytest.mark.parametrize("kind", ["labelled", "equal"])
def test_centroids_begin_at_the_labelled_faces_and_move_after_an_epoch(faces: ImageSet, kind: str) -> None:
    target = objective(faces, f"finetune.cluster_sizes={kind}")
    assert faces.targets is not None
    chosen, rest = target._labelled, target._unlabelled
    names = faces.class_names
    z = embeddings(target, faces)
    torch.testing.assert_close(target.model.centroids, class_means(z[chosen], faces.targets[chosen], names))
    target.model.centroids.zero_()
    figures = target.evaluate(target.model)
    sizes = faces.targets[chosen].mean(dim=0) if kind == "labelled" else None
    means = class_means(z[chosen], faces.targets[chosen], names)
    expected = settled_centroids(means, z[rest], fuzzifier=2.0, sizes=sizes)
    torch.testing.assert_close(target.model.centroids, expected, atol=1e-3, rtol=0)
    belongs = memberships(z[rest], target.model.centroids, 2.0, sizes).argmax(dim=1)
    share = (belongs == faces.targets[rest].argmax(dim=1)).float().mean().item()
    assert figures["guess_accuracy"] == pytest.approx(share, abs=0.02)


def test_some_faces_may_stand_for_all_when_centroids_move(faces: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    target = objective(faces, "finetune.cluster_faces=10")
    seen = []
    original = MarginMix._embeddings
    monkeypatch.setattr(MarginMix, "_embeddings", lambda *a: seen.append(a[2]) or original(*a))
    target.evaluate(target.model)
    assert [len(indices) for indices in seen] == [LABELS, 10]
    assert set(seen[1].tolist()) <= set(target._unlabelled.tolist())


@pytest.mark.parametrize(
    ("steps", "changes"),
    [
        (2, ()),
        (4, ()),  # between epochs: the centroids have moved
        (9, ()),
        (6, ("finetune.labelled_epochs=2",)),
        (6, ("finetune.method=mixmatch",)),
        (6, ("finetune.method=supervised",)),
        (6, VIT),
    ],
    ids=["first epoch", "between epochs", "last epoch", "labelled epochs", "mixmatch", "supervised", "vit"],
)
def test_resumed_run_ends_bit_identical(
    faces: ImageSet, tmp_path: Path, fabric: Fabric, steps: int, changes: tuple[str, ...]
) -> None:
    run(objective(faces, *changes), tmp_path / "whole", fabric)
    killed = objective(faces, *changes)
    killed.passes_left = steps
    with pytest.raises(KilledError):
        run(killed, tmp_path / "killed", fabric)
    torch.rand(7)  # whatever state the global generator is in must not matter
    run(objective(faces, *changes), tmp_path / "killed", fabric, resume=True)
    (a, info_a), (b, info_b) = (load_checkpoint(tmp_path / which / "last.safetensors") for which in ("killed", "whole"))
    assert all(torch.equal(a[key], b[key]) for key in b)
    assert info_a.metrics == info_b.metrics
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")


@pytest.mark.parametrize("changes", [(), VIT, (*VIT, "finetune.global_pool=token")], ids=["wrn", "vit", "vit, token"])
def test_the_checkpoint_is_the_averaged_network(
    faces: ImageSet, tmp_path: Path, fabric: Fabric, changes: tuple[str, ...]
) -> None:
    target = objective(faces, *changes)
    run(target, tmp_path, fabric)
    model, info = load_classifier(tmp_path / "last.safetensors")
    assert isinstance(model, MimicClassifier) == bool(changes)
    assert info.contract is not None
    assert info.contract.temperature == 1.0  # no split selects
    assert "guess_accuracy" in info.metrics
    assert not (tmp_path / "best.safetensors").exists()
    assert "centroids" not in model.state_dict()
    raw = target.model.state_dict()
    assert any(not torch.equal(raw[name], tensor) for name, tensor in model.state_dict().items())


def test_a_selection_split_keeps_the_best(mini_ferplus: Path, faces: ImageSet, tmp_path: Path, fabric: Fabric) -> None:
    target = objective(faces, selection=load_ferplus(mini_ferplus, "dev"))
    run(target, tmp_path, fabric)
    _, info = load_classifier(tmp_path / "best.safetensors")
    assert {"dev_accuracy", "guess_accuracy"} <= info.metrics.keys()


def test_weights_that_decay_are_kernels_and_matrices(faces: ImageSet) -> None:
    target = objective(faces)
    groups = {group["name"]: group for group in target.param_groups()}
    assert groups["decay"]["weight_decay"] == 0.02
    assert groups["no_decay"]["weight_decay"] == 0.0
    assert {p.ndim for p in groups["decay"]["params"]} == {2, 4}
    assert {p.ndim for p in groups["no_decay"]["params"]} == {1}


def test_the_names_of_the_labelled_faces_are_written(faces: ImageSet, tmp_path: Path) -> None:
    target = objective(faces)
    target.write_labelled(tmp_path / "labelled.txt")
    names = (tmp_path / "labelled.txt").read_text().splitlines()
    assert len(names) == LABELS
    assert names == [faces.names[i] for i in target._labelled.tolist()]
    again, other = objective(faces), objective(faces, "finetune.labels_seed=1")
    assert torch.equal(again._labelled, target._labelled)
    assert not torch.equal(other._labelled, target._labelled)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["finetune.method=fixmatch"], "there is no such method; there are mimic, supervised, mixmatch, margin_mix"),
        (["finetune.marginn=1.0"], "unknown key finetune.marginn (did you mean margin?)"),
        (["finetune.augment.hflipp=1.0"], "unknown key finetune.augment.hflipp (did you mean hflip?)"),
        (["finetune.loss=ce"], "unknown key finetune.loss"),
        (["finetune.labels=0"], "finetune.labels: "),
        (["finetune.fuzzifier=1.0"], "finetune.fuzzifier: "),
        (["finetune.labelled_epochs=2"], "labelled_epochs = 2 leaves none of epochs = 2 to guess in"),
        (["finetune.votes=probability"], "finetune.votes: "),
        (["finetune.layer_decay=0.9"], "leave out finetune.layer_decay"),
        (["init=bundled"], "leave out init = 'bundled'"),
        (["model.wrn_depth=12"], "there is no WideResNet-12-1"),
    ],
)
def test_recipes_that_do_not_hold_are_refused(changes: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe("margin_mix/debug", changes)
    assert said in str(caught.value)


def test_a_wide_resnet_has_no_pretraining_and_no_mimic() -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe("debug", ["model.backbone=wide_resnet"])
    assert "leave out stages with pretrain" in str(caught.value)
    assert "leave out MIMIC's losses" in str(caught.value)


def test_all_faces_labelled_leaves_nothing_to_guess(faces: ImageSet) -> None:
    with pytest.raises(DatasetError, match="leaves no face"):
        objective(faces, f"finetune.labels={len(faces)}")
    assert objective(faces, f"finetune.labels={len(faces)}", "finetune.method=supervised").num_samples == len(faces)
