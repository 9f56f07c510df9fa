"""InfoNCE (van den Oord et al. 2018, arXiv:1807.03748): every query finds its own key among all keys.

As MoCo v3 (Chen, Xie, He 2021, arXiv:2104.02057) uses it on pictures, and as after MimCo (arXiv:2209.03063) on pictures
and patches.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer_app.errors import ConfigError
from training.losses.scl_loss import check_temperature

Negatives = Literal["picture", "batch"]


def info_nce(queries: Tensor, keys: Tensor, own: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return `-mean_i log(exp(q_i . k_own(i) / tau) / sum_j exp(q_i . k_j / tau))`, and how often it is the largest.

    Args:
        queries: (M, d), rows of length 1; similarities are computed in float32, also under autocast.
        keys: (L, d), rows of length 1.
        own: int64, (M,), the row of `keys` that belongs to each query.
        temperature: tau.

    Returns:
        float32 scalars: the loss; the share of queries whose own key is their nearest, without gradient.
    """
    # Under autocast the product would be bfloat16: two digits of similarity, divided by a small temperature.
    with torch.autocast(device_type=queries.device.type, enabled=False):
        logits = queries.float() @ keys.float().T / temperature
        return F.cross_entropy(logits, own), (logits.detach().argmax(dim=1) == own).float().mean()


class MocoV3Loss(nn.Module):
    """MoCo v3's symmetric loss: 2 tau x (InfoNCE of the first view's queries and the second's keys + the reverse).

    Args:
        temperature: tau; published 0.2.

    Raises:
        ConfigError: it is not positive.
    """

    def __init__(self, temperature: float = 0.2) -> None:
        super().__init__()
        self.temperature = check_temperature(temperature)

    def forward(
        self, queries: tuple[Tensor, Tensor], keys: tuple[Tensor, Tensor], first: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Compare each view's queries with the other's keys.

        Args:
            queries: of both views, each (B, d), rows of length 1.
            keys: of both views, each (L, d), rows of length 1: those of all processes, one after the other.
            first: the row of `keys` that belongs to the first query.

        Returns:
            float32 scalars: the loss, and the share of queries whose own key is their nearest, without gradient.
        """
        own = first + torch.arange(len(queries[0]), device=queries[0].device)
        terms = [info_nce(queries[i], keys[1 - i], own, self.temperature) for i in (0, 1)]
        loss = 2 * self.temperature * (terms[0][0] + terms[1][0])
        return loss, (terms[0][1] + terms[1][1]) / 2


class PatchNceLoss(nn.Module):
    """Contrastive reconstruction of masked patches: each finds the teacher's code of itself among those of others.

    Differs: the paper's text was not at hand. That other patches of the same picture are the negatives, and the
    temperature, are those of ConMIM (Yi et al. 2022, arXiv:2205.09616), which contrasts masked patches likewise.

    Args:
        temperature: tau.
        negatives: the teacher's patches of the same `picture`, or of all pictures of the `batch`.

    Raises:
        ConfigError: the temperature is not positive, or there are no such negatives.
    """

    def __init__(self, temperature: float = 0.1, negatives: Negatives = "picture") -> None:
        super().__init__()
        if negatives not in get_args(Negatives):
            raise ConfigError(f"there are no negatives {negatives!r}; there are {', '.join(get_args(Negatives))}")
        self.temperature, self.negatives = check_temperature(temperature), negatives

    def forward(self, patches: Tensor, targets: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Compare masked patches with the teacher's.

        Args:
            patches: (B, N, d), rows of length 1.
            targets: (B, N, d), rows of length 1.
            mask: bool, (B, N), True where masked, as often in every picture.

        Returns:
            float32 scalars, means over masked patches: the loss, and the share whose own target is their nearest,
            without gradient.
        """
        batch, num_patches = mask.shape
        place = torch.arange(num_patches, device=mask.device).expand(batch, -1)[mask]
        if self.negatives == "batch":
            picture = torch.arange(batch, device=mask.device)[:, None].expand_as(mask)[mask]
            return info_nce(patches[mask], targets.flatten(0, 1), picture * num_patches + place, self.temperature)
        with torch.autocast(device_type=mask.device.type, enabled=False):
            masked = patches.float()[mask].reshape(batch, -1, patches.shape[2])
            logits = masked @ targets.float().transpose(1, 2) / self.temperature
            logits = logits.flatten(0, 1)
            return F.cross_entropy(logits, place), (logits.detach().argmax(dim=1) == place).float().mean()
