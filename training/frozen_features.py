"""What a frozen encoder says of pictures, one feature a picture; what probes are given."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from fer_app.contract import Contract
from fer_app.errors import CheckpointError
from fer_app.preprocess import to_input
from models.vit import VisionTransformer, VitConfig
from training.checkpoint import CheckpointInfo, load_checkpoint, load_weights, read_info
from training.evaluation import load_classifier, torch_device
from training.recipe import Recipe

Feature = Literal["token", "avg", "head"]
FEATURES: Final[tuple[Feature, ...]] = get_args(Feature)

_BATCH = 256


class FrozenEncoder:
    """A checkpoint's network in evaluation mode, behind the serving preprocess.

    Attributes:
        features: which it gives. Of an encoder: `token`, the class token, and `avg`, the mean of the patch tokens, both
            after the final norm. Of a classifier: `head`, what its head sees.
        info: what the checkpoint says of itself.
        contract: how pictures come in.
    """

    def __init__(self, path: Path, device: str = "auto", *, untrained: bool = False) -> None:
        """Read a checkpoint.

        Args:
            path: an encoder's or a classifier's.
            device: see `fer_app.session.parse_device`.
            untrained: whether an encoder has random weights (seed 0) in the place of its own.

        Raises:
            CheckpointError: it is missing or damaged, does not tell its recipe, or is an untrained classifier.
        """
        self.features: tuple[Feature, ...]
        info = read_info(path)
        if info.kind == "classifier":
            if untrained:
                raise CheckpointError(f"{path} is a classifier: random weights are compared with an encoder's")
            classifier, info = load_classifier(path)
            assert info.contract is not None  # a classifier has one
            self.features, self.contract = ("head",), info.contract
            self._network: torch.nn.Module = classifier
        else:
            encoder, info = load_encoder_checkpoint(path)
            if untrained:
                torch.manual_seed(0)
                encoder = VisionTransformer(encoder.config).eval()
            has_token = encoder.config.class_token
            self.features, self.contract = ("token", "avg") if has_token else ("avg",), _contract(path, info)
            self._network = encoder
        self.info = info
        self._device = torch_device(device)
        self._network.to(self._device)

    @torch.inference_mode()
    def __call__(self, crops: NDArray[np.uint8]) -> dict[Feature, NDArray[np.float32]]:
        """Return each kind of feature, (N, D), of uint8 (N, h, w) or (N, h, w, 3) RGB crops, N at least 1."""
        parts: dict[Feature, list[NDArray[np.float32]]] = {name: [] for name in self.features}
        for first in range(0, len(crops), _BATCH):
            images = torch.from_numpy(to_input(crops[first : first + _BATCH], self.contract)).to(self._device)
            for name, feature in self._of(images).items():
                parts[name].append(feature.float().cpu().numpy())
        return {name: np.concatenate(part) for name, part in parts.items()}

    def _of(self, images: Tensor) -> dict[Feature, Tensor]:
        network = self._network
        if not isinstance(network, VisionTransformer):
            return {"head": network.forward_features(images)}  # type: ignore[operator]
        tokens = network.forward_features(images)
        features: dict[Feature, Tensor] = {"avg": tokens[:, network.num_prefix_tokens :].mean(dim=1)}
        return {"token": tokens[:, 0], **features} if network.config.class_token else features


def load_encoder_checkpoint(path: Path) -> tuple[VisionTransformer, CheckpointInfo]:
    """Read a pre-trained encoder's checkpoint; the network is in evaluation mode.

    Raises:
        CheckpointError: it is missing, damaged, a classifier's, or its weights do not fit its architecture.
    """
    weights, info = load_checkpoint(path)
    if info.kind != "encoder":
        raise CheckpointError(f"{path} is a classifier, not a pre-trained encoder")
    try:
        encoder = VisionTransformer(VitConfig.from_dict(info.architecture["encoder"]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: the checkpoint's architecture cannot be built: {error}") from error
    try:
        load_weights(encoder, weights)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return encoder.eval(), info


def _contract(path: Path, info: CheckpointInfo) -> Contract:
    try:
        return Recipe.model_validate(info.recipe).contract()
    except ValidationError as error:
        raise CheckpointError(f"{path} does not tell how its pictures come in: its recipe is no longer read") from error
