"""Batched training augmentation, on the device where the pictures are.

Every random number comes from outside: `epoch_draws` makes one row of uniform numbers a (seed, epoch, sample, view),
and each knob reads its own columns of that row. So a sample's picture does not depend on its batch, an interrupted run
resumes to the same pictures, and turning one knob leaves the others' draws alone.

With all knobs at their defaults the result is that of `fer_app.preprocess.to_input`, which evaluation and serving use.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from training import augment_geometry as geometry
from training import augment_pixels as pixels

# The order is part of what a seed means: append only.
COLUMNS: Final = (
    *("crop_area", "crop_ratio", "crop_x", "crop_y", "hflip", "rotation", "shift_x", "shift_y", "zoom"),
    *("shear_x", "shear_y", "jitter", "brightness", "contrast", "saturation", "hue", "gray", "gamma"),
    *("blur", "blur_sigma", "lowres", "lowres_factor", "noise_std", "noise_seed"),
    *("erase", "erase_area", "erase_ratio", "erase_x", "erase_y", "erase_seed"),
)
_PHILOX_BLOCK: Final = 8  # numbers of 32 bits that the generator makes at once, and can step over
_AUGMENT_STREAM: Final = 0xA06  # tells these draws apart from every other use of the same (seed, epoch)

_Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
# Recipes are TOML, whose arrays arrive as lists; a strict tuple would refuse them.
Range = Annotated[tuple[_Number, _Number], Field(strict=False)]


class AugmentSpec(BaseModel):
    """The knobs; each default leaves the picture as it is.

    Attributes:
        crop_scale: share of the area that a random window shows (random resized crop), smallest and largest.
        crop_ratio: the window's width over height, smallest and largest.
        hflip: probability of mirroring left and right.
        rotation_deg: largest turn to either side.
        translate: largest shift along each axis, in sides of the picture.
        zoom: smallest and largest enlargement.
        shear: largest skew along each axis, as a tangent.
        padding: what shows where the picture ends.
        jitter_p: probability that brightness, contrast, saturation and hue are changed at all.
        brightness: largest change of the factor 1; likewise `contrast` and `saturation`.
        contrast: see `brightness`.
        saturation: see `brightness`; nothing on gray pictures.
        hue: largest turn of the hue, in whole turns; nothing on gray pictures.
        gray_p: probability of removing the colour.
        gamma: largest absolute natural logarithm of a power that the values are raised to.
        blur_p: probability of a Gaussian blur.
        blur_sigma_px: its smallest and largest standard deviation, in px of the output.
        lowres_p: probability of scaling down and up again.
        lowres_factor: smallest and largest share of the side that is left in between.
        noise_std: largest standard deviation of added noise, on the 0..1 scale; each sample's is uniform
            below it. All channels get the same.
        erase_p: probability of erasing a box (Zhong et al. 2017, arXiv:1708.04896).
        erase_area: the box's share of the area, smallest and largest.
        erase_ratio: its width over height, smallest and largest.
        erase_fill: `mean` (0 after normalisation) or `noise` (standard normal after normalisation).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    crop_scale: Range = (1.0, 1.0)
    crop_ratio: Range = (1.0, 1.0)
    hflip: Probability = 0.0
    rotation_deg: NotNegative = 0.0
    translate: NotNegative = 0.0
    zoom: Range = (1.0, 1.0)
    shear: Annotated[float, Field(ge=0, lt=1)] = 0.0
    padding: geometry.Padding = "reflection"
    jitter_p: Probability = 1.0
    brightness: Probability = 0.0
    contrast: Probability = 0.0
    saturation: Probability = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    gray_p: Probability = 0.0
    gamma: NotNegative = 0.0
    blur_p: Probability = 0.0
    blur_sigma_px: Range = (0.1, 1.0)
    lowres_p: Probability = 0.0
    lowres_factor: Range = (0.3, 1.0)
    noise_std: NotNegative = 0.0
    erase_p: Probability = 0.0
    erase_area: Range = (0.02, 0.33)
    erase_ratio: Range = (0.3, 3.3)
    erase_fill: Literal["mean", "noise"] = "mean"

    @model_validator(mode="after")
    def _check_ranges(self) -> Self:
        problems = []
        for name in ("crop_scale", "crop_ratio", "zoom", "blur_sigma_px", "lowres_factor", "erase_area", "erase_ratio"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                problems.append(f"{name} = [{low}, {high}] must rise and be above 0")
            elif high > 1 and name in ("crop_scale", "lowres_factor", "erase_area"):
                problems.append(f"{name} = [{low}, {high}] is a share, at most 1")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def moves(self) -> bool:
        """Whether anything but mirroring changes where the pixels come from."""
        ranges = (self.crop_scale, self.crop_ratio, self.zoom)
        return any(r != (1.0, 1.0) for r in ranges) or self.rotation_deg + self.translate + self.shear > 0


def epoch_draws(seed: int, epoch: int, n_samples: int, views: int, n_draws: int, *, first: int = 0) -> torch.Tensor:
    """Make an epoch's random numbers, or those of neighbouring samples.

    The row of sample i and view v is a function of (seed, epoch, i, v): it changes neither with the number of samples
    nor of views.

    Args:
        seed: the run's seed, 0 or more.
        epoch: 0-based.
        n_samples: size of the data set.
        views: augmented copies of each sample.
        n_draws: numbers a copy, `BatchAugment.n_draws`.
        first: number of the first sample whose row is made.

    Returns:
        float32, (n_samples, views, n_draws), uniform on [0, 1).
    """
    blocks, passed = divmod(first * n_draws, _PHILOX_BLOCK)
    draws = np.empty((n_samples, views, n_draws), np.float32)
    for view in range(views):
        sequence = np.random.SeedSequence([_AUGMENT_STREAM, seed, epoch, view])
        philox = np.random.Philox(sequence)
        philox.advance(blocks)
        generator = np.random.Generator(philox)
        generator.random(passed, dtype=np.float32)
        draws[:, view] = generator.random((n_samples, n_draws), dtype=np.float32)
    return torch.from_numpy(draws)


class BatchAugment:
    """Augments batches as a spec says, and normalises them.

    Args:
        spec: the knobs.
        img_size: side of the output in px.
        mean: per-channel mean on the 0..1 scale; its length is the number of output channels, 1 or 3.
        std: per-channel standard deviation on the 0..1 scale.
        color_mode: as in the contract; `gray` takes the luma of RGB pictures. None means gray for one channel.
        interpolation: as in the contract.

    Attributes:
        mean: float32, (1, C, 1, 1), what is subtracted.
        std: float32, (1, C, 1, 1), what is divided by then.
    """

    n_draws: Final = len(COLUMNS)

    def __init__(
        self,
        spec: AugmentSpec,
        img_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        color_mode: Literal["rgb", "gray"] | None = None,
        interpolation: geometry.Interpolation = "bilinear",
    ) -> None:
        if len(mean) != len(std) or len(mean) not in (1, 3):
            raise ValueError(f"mean and std must have 1 or 3 values each, got {len(mean)} and {len(std)}")
        self.spec = spec
        self.img_size = img_size
        self.interpolation: geometry.Interpolation = interpolation
        self._to_gray = (color_mode or ("gray" if len(mean) == 1 else "rgb")) == "gray"
        self.mean = torch.tensor(mean, dtype=torch.float32).reshape(1, -1, 1, 1)
        self.std = torch.tensor(std, dtype=torch.float32).reshape(1, -1, 1, 1)

    @torch.no_grad()
    def __call__(self, images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        """Augment a batch.

        Args:
            images: uint8, (B, C, S, S), C is 1 (gray) or 3 (RGB).
            draws: float32, (B, n_draws), uniform on [0, 1), on the images' device.

        Returns:
            float32, (B, len(mean), img_size, img_size), normalised; float32 also inside an autocast region.

        Raises:
            ValueError: the images are not square uint8, or the draws do not fit them.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[2] != images.shape[3]:
            raise ValueError(f"images must be square uint8 (B, C, S, S), got {images.dtype} {tuple(images.shape)}")
        if images.shape[1] not in (1, 3):
            raise ValueError(f"images must have 1 or 3 channels, got {images.shape[1]}")
        if tuple(draws.shape) != (len(images), self.n_draws):
            raise ValueError(f"draws must be {(len(images), self.n_draws)}, got {tuple(draws.shape)}")
        if len(images) == 0:  # affine_grid refuses empty batches
            return torch.zeros(0, self.mean.shape[1], self.img_size, self.img_size, device=images.device)
        u = dict(zip(COLUMNS, draws.unbind(1), strict=True))
        with torch.autocast(images.device.type, enabled=False):
            values = images.float() / 255
            if self._to_gray:
                values = pixels.luma(values)
            values = self._place(values, u)
            values = self._soften(values, u)
            values = self._recolor(values, u)
            if self.spec.noise_std > 0:
                noise = pixels.pixel_noise(u["noise_seed"], (1, self.img_size, self.img_size))
                values = (values + noise * (self.spec.noise_std * u["noise_std"])[:, None, None, None]).clamp(0, 1)
            values = (values - self.mean.to(values.device)) / self.std.to(values.device)
            return self._erase(values, u)

    def _place(self, values: torch.Tensor, u: dict[str, torch.Tensor]) -> torch.Tensor:
        """Turn, skew, zoom, shift, crop and mirror, and bring to the output's size."""
        spec = self.spec
        flipped = u["hflip"] < spec.hflip
        if not spec.moves:
            values = geometry.resize(values, self.img_size, self.interpolation)
            return torch.where(flipped[:, None, None, None], values.flip(3), values) if spec.hflip else values
        maps = (
            geometry.zoom_map(_log_between(u["zoom"], spec.zoom))
            @ geometry.rotation_map(_around(u["rotation"], spec.rotation_deg))
            @ geometry.shear_map(_around(u["shear_x"], spec.shear), _around(u["shear_y"], spec.shear))
            @ geometry.shift_map(_around(u["shift_x"], spec.translate), _around(u["shift_y"], spec.translate))
            @ geometry.crop_map(
                _between(u["crop_area"], spec.crop_scale),
                _log_between(u["crop_ratio"], spec.crop_ratio),
                u["crop_x"],
                u["crop_y"],
            )
            @ geometry.flip_map(flipped)
        )
        return geometry.sample(values, maps, self.img_size, spec.padding, self.interpolation)

    def _soften(self, values: torch.Tensor, u: dict[str, torch.Tensor]) -> torch.Tensor:
        """Blur some and lower the resolution of some; only those are computed."""
        spec = self.spec
        if spec.blur_p > 0:
            hit = (u["blur"] < spec.blur_p).nonzero().squeeze(1)
            sigma_px = _between(u["blur_sigma"][hit], spec.blur_sigma_px)
            values = values.index_copy(0, hit, pixels.blur(values[hit], sigma_px))
        if spec.lowres_p > 0:
            hit = (u["lowres"] < spec.lowres_p).nonzero().squeeze(1)
            if len(hit) > 0:
                factor = _between(u["lowres_factor"][hit], spec.lowres_factor)
                values = values.index_copy(0, hit, pixels.lower_resolution(values[hit], factor))
        return values

    def _recolor(self, values: torch.Tensor, u: dict[str, torch.Tensor]) -> torch.Tensor:
        """Brightness, contrast, colour, gamma, in this order.

        Differs: torchvision draws the order of the first three too.
        """
        spec = self.spec
        jitter = (u["jitter"] < spec.jitter_p).float()
        if spec.brightness > 0:
            values = pixels.adjust_brightness(values, 1 + jitter * _around(u["brightness"], spec.brightness))
        if spec.contrast > 0:
            values = pixels.adjust_contrast(values, 1 + jitter * _around(u["contrast"], spec.contrast))
        if values.shape[1] == 3 and spec.saturation + spec.hue + spec.gray_p > 0:
            colored = (u["gray"] >= spec.gray_p).float()
            saturation = colored * (1 + jitter * _around(u["saturation"], spec.saturation))
            values = pixels.adjust_color(values, saturation, jitter * _around(u["hue"], spec.hue))
        if spec.gamma > 0:
            values = pixels.adjust_gamma(values, _around(u["gamma"], spec.gamma).exp())
        return values

    def _erase(self, values: torch.Tensor, u: dict[str, torch.Tensor]) -> torch.Tensor:
        """Erase a box of some of the normalised images."""
        spec = self.spec
        if spec.erase_p == 0:
            return values
        hit = (u["erase"] < spec.erase_p).float()
        area = _between(u["erase_area"], spec.erase_area)
        ratio = _log_between(u["erase_ratio"], spec.erase_ratio)
        width = hit * (area * ratio).sqrt().clamp(max=1.0)
        height = hit * (area / ratio).sqrt().clamp(max=1.0)
        x0, y0 = u["erase_x"] * (1 - width), u["erase_y"] * (1 - height)
        box = tuple(self.img_size * edge for edge in (x0, y0, x0 + width, y0 + height))
        if spec.erase_fill == "noise":
            fill = pixels.pixel_noise(u["erase_seed"], (values.shape[1], self.img_size, self.img_size))
        else:
            fill = torch.zeros((), device=values.device)
        return pixels.erase(values, (box[0], box[1], box[2], box[3]), fill)


def _around(u: torch.Tensor, largest: float) -> torch.Tensor:
    """Uniform on [-largest, largest)."""
    return (2 * u - 1) * largest


def _between(u: torch.Tensor, limits: tuple[float, float]) -> torch.Tensor:
    """Uniform between the limits."""
    return limits[0] + u * (limits[1] - limits[0])


def _log_between(u: torch.Tensor, limits: tuple[float, float]) -> torch.Tensor:
    """Uniform in the logarithm, so that 1/2 is as likely as 2."""
    return limits[0] * (limits[1] / limits[0]) ** u
