"""MAE pre-training and MSCL fine-tuning as a plain script would write them from the papers, to compare with.

Float32, timm's blocks with its fused attention, pictures opened by PIL and augmented one at a time by torchvision in
torch's DataLoader with two worker processes, AdamW as torch makes it. Nothing of `training` or `models` is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from timm.data import Mixup
from timm.models.vision_transformer import Block, PatchEmbed
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

WORKERS = 2
CLASSES = 8


def augmentation(img_size: int, *, colors: bool) -> transforms.Compose:
    """MAE's augmentation; with `colors` SimCLR's weaker colour changes too, as MIMIC's authors fine-tune."""
    steps: list[Any] = [
        transforms.RandomResizedCrop(img_size, scale=(0.2, 1.0), interpolation=transforms.InterpolationMode.BICUBIC),
        transforms.RandomHorizontalFlip(),
    ]
    if colors:
        jitter = transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)
        steps += [transforms.RandomApply([jitter], p=0.8), transforms.RandomGrayscale(0.2)]
    normalize = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return transforms.Compose([*steps, transforms.ToTensor(), normalize])


class Pictures(Dataset[tuple[Tensor, int]]):
    """Files, opened when they are asked for; each gives `views` augmented copies, (views, 3, S, S), and a class."""

    def __init__(self, files: list[Path], img_size: int, views: int) -> None:
        self.files, self.views = files, views
        self.augment = augmentation(img_size, colors=views > 1)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture = Image.open(self.files[index]).convert("RGB")
        return torch.stack([self.augment(picture) for _ in range(self.views)]), index % CLASSES


class Encoder(nn.Module):
    """Patches, positions, blocks, norm."""

    def __init__(self, img_size: int, patch_size: int, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(img_size, patch_size, 3, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, self.patch_embed.num_patches + 1, dim))
        self.blocks = nn.Sequential(*(Block(dim, heads, qkv_bias=True) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def patches(self, images: Tensor) -> Tensor:
        """Embed all patches, positions added."""
        return self.patch_embed(images) + self.pos_embed[:, 1:]

    def encode(self, tokens: Tensor) -> Tensor:
        """Run the class token and these patches through the blocks."""
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(tokens), -1, -1)
        return self.norm(self.blocks(torch.cat([first, tokens], dim=1)))


class PlainMae(nn.Module):
    """Masked autoencoder; `forward` gives the loss."""

    def __init__(self, encoder: Encoder, patch_size: int, decoder: tuple[int, int, int]) -> None:
        super().__init__()
        dim, depth, heads = decoder
        self.encoder, self.patch_size = encoder, patch_size
        width = encoder.pos_embed.shape[-1]
        self.embed = nn.Linear(width, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, encoder.pos_embed.shape[1], dim), requires_grad=False)
        self.blocks = nn.Sequential(*(Block(dim, heads, qkv_bias=True) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pred = nn.Linear(dim, patch_size**2 * 3)

    def forward(self, images: Tensor) -> Tensor:
        """Mask three quarters, paint them, and return the loss."""
        tokens = self.encoder.patches(images)
        batch, count, width = tokens.shape
        shuffle = torch.rand(batch, count, device=images.device).argsort(dim=1)
        restore, keep = shuffle.argsort(dim=1), shuffle[:, : count // 4]
        latent = self.embed(self.encoder.encode(tokens.gather(1, keep[..., None].expand(-1, -1, width))))
        masked = self.mask_token.expand(batch, count - keep.shape[1], -1)
        patches = torch.cat([latent[:, 1:], masked], dim=1)
        patches = patches.gather(1, restore[..., None].expand(-1, -1, patches.shape[2]))
        decoded = self.blocks(torch.cat([latent[:, :1], patches], dim=1) + self.pos_embed)
        pred = self.pred(self.norm(decoded))[:, 1:]
        p = self.patch_size
        side = images.shape[2] // p
        target = images.reshape(batch, 3, side, p, side, p).permute(0, 2, 4, 3, 5, 1).reshape(batch, count, -1)
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        mask = (restore >= keep.shape[1]).float()
        return ((pred - target).square().mean(-1) * mask).sum() / mask.sum()


class PlainMimic(nn.Module):
    """Classifier and projection on the mean token; `forward` gives cross-entropy + 0.1 x MSCL."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        dim = encoder.pos_embed.shape[-1]
        encoder.norm = nn.Identity()
        self.encoder, self.norm = encoder, nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, CLASSES)
        self.project = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 512))

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of mixed pictures and their mixed targets."""
        features = self.norm(self.encoder.encode(self.encoder.patches(images))[:, 1:].mean(dim=1))
        loss = -(targets * self.head(features).log_softmax(-1)).sum(-1).mean()
        z = F.normalize(self.project(features), dim=-1)
        itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
        # The weight of the anchor's dominant class in each other's mixture is at least a half.
        positive = (targets[:, targets.argmax(dim=1)].T >= 0.5) & ~itself
        log_p = (z @ z.T / 0.07).masked_fill(itself, -torch.inf).log_softmax(dim=1).masked_fill(itself, 0.0)
        counts = positive.sum(dim=1)
        per_anchor = -(log_p * positive).sum(dim=1)[counts > 0] / counts[counts > 0]
        return loss + 0.1 * per_anchor.mean() if len(per_anchor) else loss


class PlainTraining:
    """Steps of one of the two methods; `steps` yields after each, the loader's work included."""

    def __init__(self, kind: str, shape: dict[str, Any], files: list[Path], batch_size: int, device: str) -> None:
        encoder = Encoder(shape["img_size"], shape["patch_size"], *shape["encoder"])
        self.kind, self.device = kind, device
        self.model: nn.Module
        if kind == "mae":
            self.model = PlainMae(encoder, shape["patch_size"], shape["decoder"])
        else:
            self.model = PlainMimic(encoder)
        self.model.to(device).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, weight_decay=0.05)
        self.mix = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=0.0, num_classes=CLASSES)
        pictures = Pictures(files, shape["img_size"], views=1 if kind == "mae" else 2)
        self.loader = DataLoader(pictures, batch_size, shuffle=True, num_workers=WORKERS, drop_last=True)

    def steps(self) -> Iterator[None]:
        """Go through the files once, a step at a time."""
        for views, classes in self.loader:
            images, classes = views.to(self.device).transpose(0, 1).flatten(0, 1), classes.to(self.device)
            inputs = (images,) if self.kind == "mae" else self.mix(images, classes.repeat(2))
            loss = self.model(*inputs)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            loss.item()
            yield
