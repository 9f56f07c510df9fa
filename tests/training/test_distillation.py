"""Distillation: what teachers say becomes part of the target, of the pictures that the student sees."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fer_app.errors import CheckpointError, ConfigError
from fer_app.preprocess import to_input
from training.data.ferplus import load_ferplus
from training.data.image_set import ImageSet
from training.evaluation import load_classifier
from training.fingerprint import differences
from training.mimic_finetuning import MimicFinetuning
from training.recipe_files import load_recipe
from training.sampling import Share

PLAIN = ("finetune.loss=ce", "finetune.label_smoothing=0.0", "finetune.mix_prob=1.0", "precision=fp32")


@pytest.fixture(scope="module")
def faces(mini_ferplus: Path) -> ImageSet:
    return load_ferplus(mini_ferplus, "train-main")


def objective(faces: ImageSet, *changes: str) -> MimicFinetuning:
    recipe = load_recipe("debug", [*PLAIN, *changes])
    assert recipe.finetune is not None
    return MimicFinetuning(recipe, recipe.finetune, faces, None, None)


def saved(faces: ImageSet, path: Path, seed: int, temperature: float = 1.0, std: float = 0.5) -> Path:
    """Write a classifier with random weights whose answers are far from even."""
    teacher = objective(faces, f"seed={seed}")
    with torch.no_grad():
        teacher.model.get_submodule("head").weight.normal_(std=std)
    teacher.write(path, teacher.model, {"epochs": 0}, {"temperature": temperature})
    return path


def step(target: MimicFinetuning) -> tuple[torch.Tensor, torch.Tensor]:
    """Take the first step of an epoch; returns its loss and the head's gradient."""
    samples = next(iter(target.start_epoch(0, 16, Share()).starting_at(0)))
    target.model.eval()  # no stochastic depth, so that it can be computed again
    loss = target.losses(target.model, samples, np.random.default_rng(3))["loss"]
    loss.backward()
    return loss.detach(), target.model.get_submodule("head").get_parameter("weight").grad.clone()  # type: ignore[union-attr]


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_target_is_mixed_from_labels_and_calibrated_teachers(
    faces: ImageSet, tmp_path: Path, mirrored: bool
) -> None:
    paths = [saved(faces, tmp_path / "a.safetensors", 1, 2.0, std=5.0), saved(faces, tmp_path / "b.safetensors", 2)]
    names = "[" + ", ".join(f'"{path}"' for path in paths) + "]"
    table = f"teachers={names}, weight=0.3, temperature=1.5{', mirrored=true' if mirrored else ''}"
    target = objective(faces, f"finetune.distill={{{table}}}")
    assert target.teachers is not None
    assert ("and mirrored" in target.teachers.describe()) == mirrored
    loss, gradient = step(target)

    again = objective(faces)
    samples = next(iter(again.start_epoch(0, 16, Share()).starting_at(0)))
    crops, draws = again._faces.images[samples], again._draws[samples]
    images = torch.cat([again._augment(crops, draws[:, view]) for view in range(2)])
    images, labels = again._mix(images, again._targets[samples], np.random.default_rng(3))
    with torch.no_grad():
        said = [
            (load_classifier(path)[0](view) / divisor).softmax(1)
            for path, divisor in zip(paths, (2.0 * 1.5, 1.5), strict=True)
            for view in ([images, images.flip(-1)] if mirrored else [images])
        ]
    mixed = 0.7 * labels.repeat(2, 1) + 0.3 * sum(said) / len(said)
    again.model.eval()
    expected = -(mixed * F.log_softmax(again.model.forward_train(images)[0], dim=1)).sum(1).mean()  # type: ignore[operator]
    expected.backward()
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(gradient, again.model.get_submodule("head").get_parameter("weight").grad)


def test_teachers_that_see_each_face_once_say_the_same_however_it_is_changed(faces: ImageSet, tmp_path: Path) -> None:
    path = saved(faces, tmp_path / "a.safetensors", 1, std=50.0)
    distill = f'finetune.distill={{teachers=["{path}"], weight=0.3, shown="face"}}'
    target = objective(faces, "finetune.augment.brightness=0.4", distill)
    loss, gradient = step(target)

    again = objective(faces, "finetune.augment.brightness=0.4")
    samples = next(iter(again.start_epoch(0, 16, Share()).starting_at(0)))
    teacher, info = load_classifier(path)
    assert info.contract is not None
    crops = again._faces.images[samples]
    shown = torch.from_numpy(to_input(crops[:, 0].numpy(), info.contract))
    with torch.no_grad():
        said = (teacher(shown).softmax(1) + teacher(shown.flip(-1)).softmax(1)) / 2
        assert (said - teacher(shown).softmax(1)).abs().mean() > 0.01  # a mirror image is another picture to it
    draws = again._draws[samples]
    images = torch.cat([again._augment(crops, draws[:, view]) for view in range(2)])
    taught = 0.7 * again._targets[samples] + 0.3 * said
    images, taught = again._mix(images, taught, np.random.default_rng(3))
    again.model.eval()
    logits = again.model.forward_train(images)[0]  # type: ignore[operator]
    expected = -(taught.repeat(2, 1) * F.log_softmax(logits, dim=1)).sum(1).mean()
    expected.backward()
    torch.testing.assert_close(loss, expected.detach())
    # A new head answers evenly, whose loss no target changes: the gradient tells.
    torch.testing.assert_close(gradient, again.model.get_submodule("head").get_parameter("weight").grad)


def test_teachers_are_asked_once(faces: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(faces, tmp_path / "a.safetensors", 1)
    target = objective(faces, f'finetune.distill={{teachers=["{path}"], shown="face"}}')
    assert target.teachers is not None
    asked: list[int] = []
    probs = target.teachers.probs
    monkeypatch.setattr(target.teachers, "probs", lambda images: asked.append(len(images)) or probs(images))
    for epoch in range(2):
        for samples in target.start_epoch(epoch, 16, Share()).starting_at(0):
            target.losses(target.model, samples, np.random.default_rng(3))
    assert sum(asked) == len(faces.images)
    assert "of each face as it is" in target.teachers.describe()


def test_teachers_stay_as_they_are_and_are_told_apart(faces: ImageSet, tmp_path: Path) -> None:
    first, second = (saved(faces, tmp_path / f"{seed}.safetensors", seed) for seed in (1, 2))
    target = objective(faces, f'finetune.distill={{teachers=["{first}"]}}')
    step(target)
    assert target.teachers is not None
    assert all(p.grad is None for network, _ in target.teachers._networks for p in network.parameters())
    assert not any("teacher" in name for name, _ in target.model.named_parameters())
    other = objective(faces, f'finetune.distill={{teachers=["{second}"]}}').fingerprint()
    assert differences(target.fingerprint(), other) == ["other teachers"]
    assert differences(target.fingerprint(), objective(faces).fingerprint()) == ["other teachers"]
    assert "teachers" not in objective(faces).fingerprint()


def test_a_teacher_of_other_pixels_is_refused(faces: ImageSet, tmp_path: Path) -> None:
    path = saved(faces, tmp_path / "teacher.safetensors", 1)
    with pytest.raises(CheckpointError, match=r"the teacher .*teacher\.safetensors differs from the recipe in std"):
        objective(faces, f'finetune.distill={{teachers=["{path}"]}}', "model.std=[0.3]")
    with pytest.raises(CheckpointError, match="no checkpoint at nowhere"):
        objective(faces, 'finetune.distill={teachers=["nowhere"]}')


def test_partial_labels_have_no_teachers() -> None:
    with pytest.raises(ConfigError, match="leave out the table distill"):
        load_recipe("pll/tables_cpu/table3_hog_pll", ['finetune.distill={teachers=["bundled"]}'])
