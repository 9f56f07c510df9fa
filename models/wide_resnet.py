"""Wide residual networks (Zagoruyko and Komodakis 2016, arXiv:1605.07146), as MixMatch trains them."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from fer_app.errors import ConfigError

BASE_WIDTH = 16
GROUPS = 3
NEGATIVE_SLOPE = 0.1


class PreActivationBlock(nn.Module):
    """Normalisation and activation before each of two 3x3 convolutions, around a shortcut.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        stride: of the first convolution.
        bn_momentum: share of a batch in the running statistics, torch's convention.
        activate_shortcut: whether the shortcut starts after the first activation too, and not from the raw input.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, bn_momentum: float, *, activate_shortcut: bool = False
    ) -> None:
        super().__init__()
        self.activate_shortcut = activate_shortcut
        self.bn1 = nn.BatchNorm2d(in_channels, momentum=bn_momentum)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels, momentum=bn_momentum)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, H, W) to (B, C_out, ceil(H / stride), ceil(W / stride))."""
        activated = _activate(self.bn1(x))
        shortcut: Tensor = self.shortcut(activated if self.activate_shortcut else x)
        y: Tensor = self.conv2(_activate(self.bn2(self.conv1(activated))))
        return shortcut + y


class WideResNet(nn.Module):
    """A classifier of pictures of any size: three groups of pre-activation blocks, average pooling, one linear layer.

    Widths are 16, then 16, 32 and 64 times `widen_factor`; the second and third group halve the resolution. LeakyReLU
    of slope 0.1, and the very first block's shortcut starts after its activation, as in MixMatch (google-research/
    mixmatch at 1011a1d). The embedding is what the linear layer sees.

    Differs: MixMatch pools 8 x 8 positions, which fits 32 px alone; here all positions are averaged, so that faces of
    48 px or any other size go in. In MixMatch-pytorch (YU1ut, at 3bfdfa2) the first convolution of the second and third
    group sees its input before normalisation; here, as in the TensorFlow original, after it.

    Args:
        depth: layers with weights on the longest path, 6 n + 4 for n blocks a group.
        widen_factor: multiplies the widths.
        in_chans: channels of the input.
        num_classes: K.
        bn_momentum: share of a batch in the running statistics, torch's convention. MixMatch's 0.001 needs several
            thousand steps.

    Raises:
        ConfigError: `depth` is not 6 n + 4, or a size is not positive.
    """

    output_names = ("logits", "features", "evidence")

    def __init__(
        self, num_classes: int, depth: int = 28, widen_factor: int = 2, in_chans: int = 3, bn_momentum: float = 0.001
    ) -> None:
        super().__init__()
        check_shape(depth, widen_factor)
        if min(num_classes, in_chans) < 1:
            raise ConfigError(f"a WideResNet's sizes must be positive: {num_classes} classes, {in_chans} channels")
        blocks = (depth - 4) // 6
        widths = [BASE_WIDTH, *(BASE_WIDTH * widen_factor * 2**group for group in range(GROUPS))]
        self.num_classes = num_classes
        self.embed_dim = widths[-1]
        self.conv = nn.Conv2d(in_chans, widths[0], 3, padding=1, bias=False)
        self.groups = nn.Sequential()
        for group in range(GROUPS):
            for block in range(blocks):
                starts = block == 0
                self.groups.append(
                    PreActivationBlock(
                        widths[group] if starts else widths[group + 1],
                        widths[group + 1],
                        stride=2 if starts and group > 0 else 1,
                        bn_momentum=bn_momentum,
                        activate_shortcut=starts and group == 0,
                    )
                )
        self.bn = nn.BatchNorm2d(self.embed_dim, momentum=bn_momentum)
        self.head = nn.Linear(self.embed_dim, num_classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as MixMatch does: normal kernels of variance 2 / (k k C_out), Xavier's normal for the head."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                height, width = module.kernel_size
                nn.init.normal_(module.weight, std=math.sqrt(2.0 / (height * width * module.out_channels)))
        nn.init.xavier_normal_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward_features(self, images: Tensor) -> Tensor:
        """Return one embedding a picture, before any normalisation of its length.

        Args:
            images: float, (B, in_chans, H, W), normalised.

        Returns:
            (B, D).
        """
        return self._positions(images).mean(dim=(2, 3))

    def _positions(self, images: Tensor) -> Tensor:
        """Return what is averaged: (B, D, H / 4, W / 4), rounded up."""
        return _activate(self.bn(self.groups(self.conv(images))))

    def forward_outputs(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return all that an exported network gives.

        Args:
            images: float, (B, in_chans, H, W), normalised.

        Returns:
            logits: (B, K).
            features: (B, D), what the head sees.
            evidence: (B, K, H / 4, W / 4), what each position says for each class; its mean over them is the logits.
        """
        positions = self._positions(images)
        features = positions.mean(dim=(2, 3))
        evidence = self.head(positions.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.head(features), features, evidence

    def forward(self, images: Tensor) -> Tensor:
        """Return logits: float32 also under autocast, (B, K)."""
        logits: Tensor = self.head(self.forward_features(images))
        return logits.float()

    def forward_train(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the losses need.

        Args:
            images: float, (B, in_chans, H, W), normalised.

        Returns:
            logits: float32 also under autocast, (B, K).
            z: float32 also under autocast, (B, D), the embeddings at length 1.
        """
        features = self.forward_features(images)
        return self.head(features).float(), F.normalize(features.float(), dim=-1)


def check_shape(depth: int, widen_factor: int) -> None:
    """See that there is such a network.

    Raises:
        ConfigError: there is none.
    """
    if depth < 10 or depth % 6 != 4 or widen_factor < 1:
        raise ConfigError(
            f"there is no WideResNet-{depth}-{widen_factor}: depths are 10, 16, 22, 28, ..., widths from 1 on"
        )


def _activate(x: Tensor) -> Tensor:
    return F.leaky_relu(x, NEGATIVE_SLOPE, inplace=True)
