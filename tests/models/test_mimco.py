"""The student that sees nothing of masked patches, and the teacher that stays as it is."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from fer_app.errors import ConfigError
from models.mae import patchify, unpatchify
from models.mimco import MimCo
from models.simmim import random_block_mask
from models.vit import VisionTransformer, VitConfig

SMALL = VitConfig(img_size=16, patch_size=4, in_chans=2, embed_dim=8, depth=2, num_heads=2)
WIDE = dataclasses.replace(SMALL, embed_dim=12, depth=1, num_heads=3)


def make(teacher: VitConfig = WIDE, student: VitConfig = SMALL, **options: Any) -> MimCo:
    torch.manual_seed(0)
    return MimCo(VisionTransformer(student), VisionTransformer(teacher), **options)


def test_no_pixel_of_a_masked_patch_reaches_the_student() -> None:
    mimco = make().eval()
    images, mask = torch.randn(2, 2, 16, 16), random_block_mask(torch.rand(2, 4), 0.5, (4, 4), 2)
    codes = mimco(images, mask)
    changed = unpatchify(patchify(images, 4) + mask[..., None] * torch.randn(2, 16, 32), 4, (4, 4))
    again = mimco(changed, mask)
    assert torch.equal(codes.patches, again.patches)
    assert torch.equal(codes.pictures, again.pictures)
    assert not torch.allclose(codes.patch_targets, again.patch_targets)
    seen = unpatchify(patchify(images, 4) + ~mask[..., None], 4, (4, 4))
    assert not torch.allclose(codes.patches, mimco(seen, mask).patches)


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_codes_are_the_final_tokens_through_the_heads(pool: Any) -> None:
    mimco = make(image_pool=pool)
    images, mask = torch.randn(3, 2, 16, 16), random_block_mask(torch.rand(3, 16), 0.6, (4, 4), 1)
    codes = mimco(images, mask)
    encoder = mimco.encoder
    tokens = torch.stack(
        [
            torch.stack([mimco.mask_token[0, 0] if hidden else token for token, hidden in zip(*one, strict=True)])
            for one in zip(encoder.patch_embed(images), mask.tolist(), strict=True)
        ]
    )
    student = encoder.encode(tokens + encoder.pos_embed[:, 1:])
    teacher = mimco.teacher.forward_features(images)
    assert mimco.patch_head is not None
    assert mimco.image_head is not None
    torch.testing.assert_close(codes.patches, F.normalize(mimco.patch_head(student[:, 1:]), dim=2))
    torch.testing.assert_close(codes.patch_targets, F.normalize(teacher[:, 1:], dim=2))
    pooled = [x[:, 0] if pool == "token" else x[:, 1:].mean(dim=1) for x in (student, teacher)]
    torch.testing.assert_close(codes.pictures, F.normalize(mimco.image_head(pooled[0]), dim=1))
    torch.testing.assert_close(codes.picture_targets, F.normalize(pooled[1], dim=1))


def test_the_teacher_learns_nothing_and_stays_in_evaluation_mode() -> None:
    mimco = make(dataclasses.replace(WIDE, drop_path_rate=0.5, depth=3), head="mlp", mlp_dim=16).train()
    assert mimco.encoder.training
    assert not any(module.training for module in mimco.teacher.modules())
    codes = mimco(torch.randn(4, 2, 16, 16), random_block_mask(torch.rand(4, 4), 0.5, (4, 4), 2))
    assert codes.patch_targets is not None
    assert not codes.patch_targets.requires_grad
    (codes.patches.sum() + codes.pictures.sum()).backward()
    assert all(p.grad is None for p in mimco.teacher.parameters())
    without = {name for name, p in mimco.named_parameters() if p.grad is None and not name.startswith("teacher.")}
    assert without == {"encoder.pos_embed"}


@pytest.mark.parametrize(("patches", "pictures"), [(True, False), (False, True)])
def test_a_loss_that_is_off_has_no_head_and_no_codes(patches: bool, pictures: bool) -> None:
    mimco = make(patch_head=patches, image_head=pictures)
    codes = mimco(torch.randn(2, 2, 16, 16), random_block_mask(torch.rand(2, 4), 0.5, (4, 4), 2))
    assert [code is not None for code in codes] == [patches, patches, pictures, pictures]
    assert [mimco.patch_head is not None, mimco.image_head is not None] == [patches, pictures]


def test_the_head_of_three_layers() -> None:
    shapes = [tuple(p.shape) for p in make(head="mlp", mlp_dim=20).patch_head.parameters()]  # type: ignore[union-attr]
    assert shapes == [(20, 8), (20,), (20,), (20, 20), (20,), (20,), (12, 20)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"teacher": dataclasses.replace(WIDE, patch_size=8)}, "in 4 patches, the student 16 px with 2 in 16"),
        ({"teacher": dataclasses.replace(WIDE, in_chans=3)}, "with 3 channels"),
        ({"teacher": dataclasses.replace(WIDE, class_token=False)}, "class token"),
        ({"student": dataclasses.replace(SMALL, stem="conv", stem_channels=(4, 4, 4))}, "overlap"),
        ({"patch_head": False, "image_head": False}, "turn one loss on"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make(**options)
