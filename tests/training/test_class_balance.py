"""Fine-tuning on unequal classes: what the settings change in a step, and that nothing changes without them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fer_app.errors import ConfigError
from training.augment import BatchAugment, epoch_draws
from training.data.ferplus import load_ferplus
from training.data.image_set import ImageSet
from training.losses.cross_entropy_loss import CrossEntropyLoss, class_weights, log_prior
from training.mimic_finetuning import MimicFinetuning
from training.recipe_files import load_recipe
from training.sampling import Share, epoch_order

BATCH = 16


@pytest.fixture(scope="module")
def unequal(mini_ferplus: Path) -> ImageSet:
    """All faces of the first class, two of every other."""
    faces = load_ferplus(mini_ferplus, "train-main")
    assert faces.targets is not None
    classes = faces.targets.argmax(dim=1)
    first = [torch.nonzero(classes == k).flatten()[: None if k == 0 else 2] for k in range(8)]
    return faces.subset(torch.cat(first))


def objective(faces: ImageSet, *changes: str) -> MimicFinetuning:
    recipe = load_recipe("debug", list(changes))
    assert recipe.finetune is not None
    return MimicFinetuning(recipe, recipe.finetune, faces, None, None)


def seen(target: MimicFinetuning, monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Take an epoch, and return the (pictures, draws) of every call of the augmentation: each step's two views."""
    augment, calls = target._augment, []

    def spy(self: BatchAugment, images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        calls.append((images, draws))
        return original(self, images, draws)

    original = type(augment).__call__
    monkeypatch.setattr(type(augment), "__call__", spy)
    for samples in target.start_epoch(1, BATCH, Share()).starting_at(0):
        losses = target.losses(target.model, samples, np.random.default_rng(0))
        assert losses["loss"].isfinite()
    return calls


def test_a_balanced_epoch_draws_anew_for_every_time_a_face_is_seen(
    unequal: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = seen(objective(unequal, "finetune.balanced=true"), monkeypatch)
    assert unequal.targets is not None
    largest = int(unequal.targets.argmax(dim=1).bincount().max())
    assert len(calls) == 2 * (8 * largest // BATCH)
    pictures = torch.cat([images for images, _ in calls])
    draws = torch.cat([numbers for _, numbers in calls])
    assert len(pictures.flatten(1).unique(dim=0)) == len(unequal) < len(pictures)
    assert len(draws.unique(dim=0)) == len(draws)


def test_without_balance_draws_are_the_faces_own(unequal: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    target = objective(unequal)
    calls = seen(target, monkeypatch)
    order = epoch_order(0, 1, len(unequal), BATCH)
    draws = epoch_draws(0, 1, len(unequal), 2, len(calls[0][1][0]))
    for step, samples in enumerate(order):
        for view in range(2):
            images, numbers = calls[2 * step + view]
            assert torch.equal(images, unequal.images[samples])
            assert torch.equal(numbers, draws[samples, view])


def test_epoch_samples_shortens_a_balanced_epoch(unequal: ImageSet) -> None:
    target = objective(unequal, "finetune.balanced=true", "finetune.epoch_samples=40")
    assert len(target.start_epoch(0, BATCH, Share())) == 40 // BATCH


def ce_of_a_step(unequal: ImageSet, change: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Take a step with a setting; returns its cross-entropy, the logits that are served, and the targets.

    The contrastive term is seen to be what it is without the setting, and the cross-entropy not to be.
    """
    plain, changed = (objective(unequal, "finetune.mix_prob=0.0", *setting) for setting in ([], [change]))
    samples = next(iter(plain.start_epoch(0, BATCH, Share()).starting_at(0)))
    changed.start_epoch(0, BATCH, Share())
    a, b = (target.losses(target.model, samples, np.random.default_rng(0)) for target in (plain, changed))
    torch.testing.assert_close(a["contrastive"], b["contrastive"])
    assert not torch.isclose(a["ce"], b["ce"])
    assert unequal.targets is not None
    with torch.no_grad():
        images = torch.cat([plain._augment(unequal.images[samples], plain._draws[samples, view]) for view in (0, 1)])
        logits = changed.model(images)
    return b["ce"].detach(), logits, unequal.targets[samples].repeat(2, 1)


def test_class_weights_reach_the_cross_entropy(unequal: ImageSet) -> None:
    ce, logits, targets = ce_of_a_step(unequal, "finetune.class_weights=inverse")
    assert unequal.targets is not None
    weights = class_weights("inverse", unequal.targets.argmax(dim=1), 8)
    torch.testing.assert_close(ce, CrossEntropyLoss(0.0, weights)(logits, targets))


def test_logit_adjustment_adds_the_log_of_each_class_share(unequal: ImageSet) -> None:
    ce, logits, targets = ce_of_a_step(unequal, "finetune.logit_adjustment=0.5")
    assert unequal.targets is not None
    counts = unequal.targets.argmax(dim=1).bincount()
    adjusted = logits + 0.5 * (counts / counts.sum()).log()
    torch.testing.assert_close(ce, -(adjusted.log_softmax(1) * targets).sum(1).mean())


def test_shares_come_from_soft_and_multi_hot_targets_and_a_class_without_any_has_a_finite_one() -> None:
    shares = log_prior(torch.tensor([[1.0, 1.0, 0.0], [0.2, 0.8, 0.0]])).exp()
    torch.testing.assert_close(shares, torch.tensor([0.35, 0.65, 0.25]))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["finetune.balanced=true", "finetune.logit_adjustment=0.5"], "out already: leave out logit_adjustment"),
        (["finetune.class_weights=inverse", "finetune.logit_adjustment=0.5"], "class_weights evens the classes out"),
        (["finetune.epoch_samples=100"], "set balanced = true too"),
        (["finetune.balanced=true", "finetune.class_weights=inverse"], "evens the classes out already"),
        (["finetune.class_weights=inverted"], "finetune.class_weights"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe("debug", changes)
    assert said in str(caught.value)
