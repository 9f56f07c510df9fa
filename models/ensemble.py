"""Several trained classifiers as one network: the mean of their calibrated logits, over mirror images too if wanted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

from fer_app.errors import ConfigError
from models.vit import VisionTransformer

_MAPS: Final = ("evidence", "attention")


class Ensemble(nn.Module):
    """Classifiers that see the same picture and answer together.

    A member's logits are divided by its temperature first, so that a sure member does not outvote the others only by
    the scale of its logits; the mean of the logits is the geometric mean of the probabilities, renormalised. A map
    per class (`evidence`, `attention`) is an output where all members have it on the same grid: the mean of theirs,
    evidence divided by the temperatures as well, so that its mean over the grid stays the logits.

    Args:
        members: M classifiers of the same classes and input.
        temperatures: of each, positive.
        mirrored: whether every member sees each picture's mirror image too. The mean is over both then, and what is
            said of a picture is what is said of its mirror image, for twice the arithmetic.

    Raises:
        ConfigError: there are no members, not as many temperatures, one is not positive, or classes differ.
    """

    temperatures: Tensor

    def __init__(self, members: Sequence[nn.Module], temperatures: Sequence[float], *, mirrored: bool = False) -> None:
        super().__init__()
        if not members or len(members) != len(temperatures) or min(temperatures) <= 0:
            raise ConfigError(f"an ensemble of {len(members)} networks has the temperatures {list(temperatures)}")
        classes = {member.num_classes for member in members}
        if len(classes) > 1:
            raise ConfigError(
                f"the members of an ensemble differ in their number of classes: {sorted(map(str, classes))}"
            )
        self.members = nn.ModuleList(members)
        (self.num_classes,) = classes
        self.mirrored = mirrored
        self.register_buffer("temperatures", torch.tensor(temperatures, dtype=torch.float32))

    @property
    def output_names(self) -> tuple[str, ...]:
        """What `forward_outputs` returns: `logits`, `features` and the maps that all members have."""
        names: list[tuple[str, ...]] = [member.output_names for member in self.members]  # type: ignore[misc]
        if len({_grid(member) for member in self.members}) > 1:
            return "logits", "features"
        return ("logits", "features", *(name for name in _MAPS if all(name in own for own in names)))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits: float32 also under autocast, (B, K).

        Args:
            images: float, (B, in_chans, img_size, img_size), normalised.
        """
        shown = self._shown(images)
        return self._mean([self._joined(member(shown).float()) for member in self.members])

    def forward_features(self, images: Tensor) -> Tensor:
        """Return what the heads see, of all members after one another, the mean over mirror images: (B, sum of D)."""
        shown = self._shown(images)
        return torch.cat([self._joined(member.forward_features(shown)) for member in self.members], dim=1)  # type: ignore[operator]

    def forward_outputs(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return all that an exported network gives.

        Args:
            images: float, (B, in_chans, img_size, img_size), normalised.

        Returns:
            logits: (B, K).
            features: (B, sum of the members' D).
            evidence, attention: (B, K, h, w) each, where `output_names` has it.
        """
        shown = self._shown(images)
        given = [
            dict(zip(member.output_names, member.forward_outputs(shown), strict=True))  # type: ignore[operator,arg-type]
            for member in self.members
        ]
        outputs = [
            self._mean([self._joined(own["logits"].float()) for own in given]),
            torch.cat([self._joined(own["features"]) for own in given], dim=1),
        ]
        for name in self.output_names[2:]:
            maps = [self._joined(own[name]) for own in given]
            outputs.append(self._mean(maps) if name == "evidence" else torch.stack(maps).mean(dim=0))
        return tuple(outputs)

    def _shown(self, images: Tensor) -> Tensor:
        """Return what the members see: (B, ...), or (2 B, ...) with the mirror images after the pictures."""
        return torch.cat([images, images.flip(-1)]) if self.mirrored else images

    def _joined(self, given: Tensor) -> Tensor:
        """Return the mean over pictures and mirror images of what a member gives of them; maps are turned back."""
        if not self.mirrored:
            return given
        as_it_is, mirrored = given.reshape(2, -1, *given.shape[1:])
        turned_back = mirrored.flip(-1) if given.ndim == 4 else mirrored
        return torch.stack([as_it_is, turned_back]).mean(dim=0)

    def _mean(self, scores: Sequence[Tensor]) -> Tensor:
        """Return the mean over the members of what is linear in their logits, each divided by its temperature."""
        calibrated = [own / temperature for own, temperature in zip(scores, self.temperatures, strict=True)]
        return torch.stack(calibrated).mean(dim=0)


def _grid(member: nn.Module) -> tuple[int, int] | None:
    """Return the grid of a transformer's maps; None for a network without one, whose maps follow from its input."""
    encoder = getattr(member, "encoder", None)
    return encoder.config.grid_size if isinstance(encoder, VisionTransformer) else None
