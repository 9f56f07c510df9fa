"""Distillation: a student learns from labels and from what trained classifiers say.

Hinton et al. 2015 (arXiv:1503.02531). The teachers see what the student sees, augmented and mixed alike ("consistent
teaching", Beyer et al. 2022, arXiv:2106.05237), so their answers are not those to faces learnt by heart. Or they see
each face once, as it is ("fixed teacher" there): their arithmetic is spared, and the target stays where it is however
the face is changed.

Differs: Hinton et al. soften the student's answers too and add a second cross-entropy; here one cross-entropy has
targets that are mixed from both, which with temperature 1 is the same.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from fer_app.contract import Contract
from fer_app.errors import CheckpointError
from fer_app.preprocess import to_input
from training.checkpoint import init_path
from training.data.image_set import ImageSet
from training.distillation_table import DistillTable
from training.distributed import gather_rows, own_share
from training.evaluation import crops_of, file_sha256, load_classifier

_FACES_AT_ONCE: Final = 256


class Teachers:
    """Frozen classifiers; they see normalised pictures, and move to the device that those are on.

    Args:
        table: names them.
        contract: the student's. A teacher has to have the same classes and to see the same pixels.
        precision: the recipe's, `bf16` or `fp32`: arithmetic of their heavy layers.

    Attributes:
        see_faces: whether they are to be asked of each face once, by `answers`, instead of what the student sees.

    Raises:
        CheckpointError: a teacher is missing, damaged, no classifier, or does not fit the student.
    """

    def __init__(self, table: DistillTable, contract: Contract, precision: str) -> None:
        self._weight, self._contract, self._bf16 = table.weight, contract, precision == "bf16"
        self.see_faces = table.shown == "face"
        self._mirrored = table.mirrored or self.see_faces
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
        seen = ", of each face as it is" if self.see_faces else ", and mirrored" if self._mirrored else ""
        return f"teachers: {', '.join(map(str, self._paths))}; {self._weight:g} of the target is theirs{seen}"

    @torch.no_grad()
    def probs(self, images: Tensor) -> Tensor:
        """Return the mean of their probabilities, over the pictures and their mirror images if the table says so.

        Args:
            images: float, (B, in_chans, img_size, img_size), normalised.

        Returns:
            float32, (B, K).
        """
        device, total = images.device, torch.zeros((), device=images.device)
        views = [images, images.flip(-1)] if self._mirrored else [images]
        with torch.autocast(device.type, torch.bfloat16, enabled=self._bf16):
            for network, temperature in self._networks:
                for view in views:
                    logits: Tensor = network.to(device)(view)
                    total = total + (logits.float() / temperature).softmax(dim=1)
        return total / (len(self._networks) * len(views))

    def answers(self, faces: ImageSet, device: torch.device) -> Tensor:
        """Return what they say of each face, through the serving preprocess, as the mean over it and its mirror image.

        Of several processes each asks them of its part of the faces; all get all answers.

        Args:
            faces: N of them; labels are not looked at.
            device: where to compute.

        Returns:
            float32, (N, K), on the CPU.
        """
        share = own_share()
        each = -(-len(faces) // share.world_size)
        mine = torch.arange(share.rank * each, (share.rank + 1) * each).clamp(max=len(faces) - 1)
        said = []
        for start in range(0, each, _FACES_AT_ONCE):
            crops = crops_of(faces.subset(mine[start : start + _FACES_AT_ONCE]))
            said.append(self.probs(torch.from_numpy(to_input(crops, self._contract)).to(device)))
        for network, _ in self._networks:
            network.cpu()  # a GPU's memory is the student's from here on
        return gather_rows(torch.cat(said))[0][: len(faces)].cpu()

    def blend(self, said: Tensor, targets: Tensor) -> Tensor:
        """Return targets of which `weight` is theirs.

        Args:
            said: float, (B, K), their probabilities.
            targets: float, (B, K), distributions.

        Returns:
            float32, (B, K), distributions.
        """
        return targets.lerp(said, self._weight)
