"""Distillation: a student learns from labels and from what trained classifiers say of the very same pictures.

Hinton et al. 2015 (arXiv:1503.02531). The teachers see what the student sees, augmented and mixed alike ("consistent
teaching", Beyer et al. 2022, arXiv:2106.05237), so their answers are not those to faces learnt by heart.

Differs: Hinton et al. soften the student's answers too and add a second cross-entropy; here one cross-entropy has
targets that are mixed from both, which with temperature 1 is the same.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fer_app.contract import Contract
from fer_app.errors import CheckpointError
from training.checkpoint import init_path
from training.distillation_table import DistillTable
from training.evaluation import file_sha256, load_classifier


class Teachers:
    """Frozen classifiers; they see normalised pictures, and move to the device that those are on.

    Args:
        table: names them.
        contract: the student's. A teacher has to have the same classes and to see the same pixels.
        precision: the recipe's, `bf16` or `fp32`: arithmetic of their heavy layers.

    Raises:
        CheckpointError: a teacher is missing, damaged, no classifier, or does not fit the student.
    """

    def __init__(self, table: DistillTable, contract: Contract, precision: str) -> None:
        self._weight, self._bf16 = table.weight, precision == "bf16"
        self._paths = [init_path(name) for name in table.teachers]
        self._networks: list[tuple[nn.Module, float]] = []
        for path in self._paths:
            network, info = load_classifier(path)
            assert info.contract is not None  # of every classifier
            if other := info.contract.apart_from(contract):
                raise CheckpointError(f"the teacher {path} differs from the recipe in {', '.join(other)}")
            self._networks.append((network.requires_grad_(False), info.contract.temperature * table.temperature))

    def fingerprint(self) -> list[str]:
        """Return the sha256 of each teacher's file."""
        return [file_sha256(path) for path in self._paths]

    def describe(self) -> str:
        """Return a line that names them."""
        return f"teachers: {', '.join(map(str, self._paths))}; {self._weight:g} of the target is theirs"

    @torch.no_grad()
    def probs(self, images: Tensor) -> Tensor:
        """Return the mean of their probabilities.

        Args:
            images: float, (B, in_chans, img_size, img_size), normalised.

        Returns:
            float32, (B, K).
        """
        device, total = images.device, torch.zeros((), device=images.device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self._bf16):
            for network, temperature in self._networks:
                logits: Tensor = network.to(device)(images)
                total = total + (logits.float() / temperature).softmax(dim=1)
        return total / len(self._networks)

    def blend(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return targets of which `weight` is theirs.

        Args:
            images: as for `probs`.
            targets: float, (B, K), distributions.

        Returns:
            float32, (B, K), distributions.
        """
        return targets.lerp(self.probs(images), self._weight)
