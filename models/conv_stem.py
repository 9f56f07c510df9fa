"""The residual stem of hybrid transformers: convolutions down to the token grid, in place of one patch projection."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al. 2016, arXiv:1512.03385).

    A strided block averages before the shortcut's 1x1 convolution, so that no pixel is skipped ("ResNet-D"), and the
    last normalisation of every block starts at zero, so that a deep stem starts as its shortcuts (He et al. 2019,
    "bag of tricks", arXiv:1812.01187).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride) if stride != 1 else nn.Identity(),
                nn.Conv2d(in_channels, out_channels, 1, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, H, W) to (B, C_out, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x), inplace=True)


class ConvStem(nn.Module):
    """A residual network from pixels to tokens (the "hybrid" of Dosovitskiy et al. 2021, arXiv:2010.11929, sec. 3.1).

    One 3x3 convolution at full resolution, then one stage of residual blocks for every further entry of `channels`,
    each halving the resolution, then a 1x1 convolution to the transformer's width. The total stride is
    `2 ** (len(channels) - 1)`: (32, 48, 96, 192) turns 48 px into a 6 x 6 grid.

    Args:
        in_chans: channels of the pictures.
        channels: width of the first convolution and of every stage.
        embed_dim: width D of the tokens.
        blocks_per_stage: residual blocks in every stage.

    Raises:
        ValueError: `channels` is empty, or `blocks_per_stage` is below 1.
    """

    def __init__(self, in_chans: int, channels: tuple[int, ...], embed_dim: int, blocks_per_stage: int = 1) -> None:
        super().__init__()
        if not channels or blocks_per_stage < 1:
            raise ValueError(f"a stem needs channels and blocks, got {channels} and {blocks_per_stage} a stage")
        self.stride = 2 ** (len(channels) - 1)
        self.conv = nn.Conv2d(in_chans, channels[0], 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels[0])
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    ResidualBlock(before, width, stride=2),
                    *(ResidualBlock(width, width, stride=1) for _ in range(blocks_per_stage - 1)),
                )
                for before, width in itertools.pairwise(channels)
            )
        )
        self.proj = nn.Conv2d(channels[-1], embed_dim, 1)
        self.reset_parameters()
        # Channels-last weights make the whole stem run in that layout, the fast one on CPUs and on tensor cores.
        self.to(memory_format=torch.channels_last)

    def reset_parameters(self) -> None:
        """Initialise: He normal for convolutions, 1/0 for norms but 0 for a block's last, Xavier for the projection."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                nn.init.zeros_(module.bn2.weight)
        nn.init.xavier_uniform_(self.proj.weight.flatten(1))
        if self.proj.bias is not None:
            nn.init.zeros_(self.proj.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Make tokens.

        Args:
            images: float, (B, in_chans, H, W), normalised; H and W multiples of the stride.

        Returns:
            (B, N, D), N = (H / stride) * (W / stride), numbered row by row.
        """
        x: Tensor = F.relu(self.bn(self.conv(images)), inplace=True)
        x = self.proj(self.stages(x))
        return x.flatten(2).transpose(1, 2)
