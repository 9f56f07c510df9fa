"""Scoring classifiers on labelled faces: torch checkpoints and ONNX files alike, through the serving preprocess."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fer_app.contract import Contract
from fer_app.errors import CheckpointError, DatasetError, ModelNotFoundError, ProviderUnavailableError
from fer_app.model_choice import AUTO, choose_model
from fer_app.model_store import find_bundled
from fer_app.preprocess import softmax, to_input
from fer_app.session import parse_device
from models.ensemble import Ensemble
from models.mimic import MimicClassifier
from models.pll_fer import PllFerClassifier
from models.vit import VisionTransformer, VitConfig
from models.wide_resnet import WideResNet
from training.checkpoint import CheckpointInfo, load_checkpoint, load_weights
from training.data.image_set import ImageSet
from training.metrics import ClassificationReport
from training.predictions import Predictions
from training.uncertainty import choose_threshold

_BATCH = 256
_CLASSIFIERS: dict[str, Callable[..., nn.Module]] = {"linear": MimicClassifier, "label_decoder": PllFerClassifier}


class LogitsSource(Protocol):
    """A classifier as evaluation sees it."""

    @property
    def contract(self) -> Contract: ...  # noqa: D102 - what the logits mean

    def logits(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return (N, K) logits of uint8 (N, h, w) or (N, h, w, 3) RGB crops."""


@runtime_checkable
class FeaturesSource(LogitsSource, Protocol):
    """A classifier that also gives what its head sees, if `features` is among its outputs."""

    @property
    def outputs(self) -> tuple[str, ...]: ...  # noqa: D102 - their names

    def features(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return (N, D) features of uint8 (N, h, w) or (N, h, w, 3) RGB crops, N at least 1."""


class TorchClassifier:
    """A checkpoint's classifier behind the same interface as the served one."""

    outputs = ("logits", "features")

    def __init__(self, model: nn.Module, contract: Contract) -> None:
        self.model = model
        self.contract = contract

    def logits(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return (N, K) logits of uint8 (N, h, w) or (N, h, w, 3) RGB crops; the model is put in eval mode."""
        none = np.zeros((0, len(self.contract.labels)), np.float32)
        return np.concatenate([none, *self._outputs(self.model, crops)])

    def features(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return (N, D) features, as the network's `forward_features` does, of N crops, N at least 1."""
        return np.concatenate(self._outputs(self.model.forward_features, crops))  # type: ignore[arg-type]

    @torch.inference_mode()
    def _outputs(self, network: Callable[[Tensor], Tensor], crops: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Return a network's outputs, a batch each."""
        self.model.eval()
        device = next(self.model.parameters()).device
        parts = []
        for first in range(0, len(crops), _BATCH):
            images = torch.from_numpy(to_input(crops[first : first + _BATCH], self.contract))
            parts.append(network(images.to(device)).float().cpu().numpy())
        return parts


def build_classifier(info: CheckpointInfo) -> nn.Module:
    """Return the network that a classifier checkpoint describes, with fresh weights.

    Its architecture names the kind of its head: `label_decoder`; without a name, the linear one of older checkpoints.
    That of an ensemble is the list of its members' architectures, and whether they see mirror images too.

    Raises:
        CheckpointError: the checkpoint is an encoder's, or its architecture is not ours.
    """
    if info.kind != "classifier":
        raise CheckpointError("this checkpoint is a pre-trained encoder; fine-tune it first")
    try:
        if "members" in info.architecture:
            members = [_build(member) for member in info.architecture["members"]]
            mirrored = bool(info.architecture.get("mirrored", False))
            return Ensemble(members, [1.0] * len(members), mirrored=mirrored)  # temperatures are among the weights
        return _build(info.architecture)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"the checkpoint's architecture cannot be built: {error}") from error


def _build(architecture: Mapping[str, Any]) -> nn.Module:
    head = dict(architecture)
    if "wide_resnet" in head:
        return WideResNet(**head.pop("wide_resnet"), **head)
    encoder = VisionTransformer(VitConfig.from_dict(head.pop("encoder")))
    kind = _CLASSIFIERS[head.pop("head", "linear")]
    return kind(encoder, **head)


def load_classifier(path: Path) -> tuple[nn.Module, CheckpointInfo]:
    """Read a classifier checkpoint; the model is in eval mode.

    In the whole process a GPU's convolutions are then float32 where float32 is asked for, as those of the served file.

    Raises:
        CheckpointError: it is missing, damaged, an encoder's, or its weights do not fit its architecture.
    """
    torch.backends.cudnn.allow_tf32 = False
    weights, info = load_checkpoint(path)
    model = build_classifier(info)
    try:
        load_weights(model, weights)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return model.eval(), info


def model_file(name_or_path: str, *, precision: str = AUTO, device: str = "auto") -> Path:
    """Return what is scored: of a bundled model or a folder the file that `fer predict` runs there, else the path.

    Args:
        name_or_path: a bundled model's name or role, a folder of `fer export`, or a file that `open_classifier` takes.
        precision: as `fer_app.model_choice.choose_model` takes it.
        device: where it will run.

    Raises:
        InputError: no such precision or device name.
        ModelError: as `choose_model` raises.
    """
    path = Path(name_or_path)
    if precision != AUTO or not path.suffix or path.is_dir() or find_bundled(name_or_path) is not None:
        return choose_model(name_or_path, precision=precision, device=device)
    return path


def open_classifier(path: Path, *, device: str = "auto") -> LogitsSource:
    """Open a checkpoint (`.safetensors`), an ONNX file or an engine of TensorRT (`.engine`) for scoring.

    Raises:
        ModelNotFoundError: no such file, or none of these kinds.
        ModelError: an engine does not run here.
        CheckpointError: as `load_classifier`.
        ProviderUnavailableError: the model cannot run on the device.
    """
    if not path.is_file():
        raise ModelNotFoundError(f"no model at {path}")
    if path.suffix == ".onnx":
        from fer_app.classifier import OnnxClassifier

        return OnnxClassifier(path, device=device)
    if path.suffix == ".engine":
        from fer_app.backends import open_classifier as open_with

        return open_with(path, backend="tensorrt", device=device, batch_size=_BATCH)
    if path.suffix == ".safetensors":
        model, info = load_classifier(path)
        if info.contract is None:
            raise CheckpointError(f"{path} has no contract")
        return TorchClassifier(model.to(torch_device(device)), info.contract)
    raise ModelNotFoundError(f"{path}: expected a .safetensors checkpoint, an .onnx file or an .engine")


def has_bf16(device: torch.device) -> bool:
    """Whether a device computes in bf16 itself; torch tells of the current GPU alone."""
    if device.type != "cuda":
        return True
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def torch_device(name: str) -> torch.device:
    """Return the device that `fer_app.session.parse_device` reads; only `auto` may choose.

    Raises:
        InputError: no such name.
        ProviderUnavailableError: torch cannot run there.
    """
    asked = parse_device(name)
    if asked.kind == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if asked.kind == "cpu":
        return torch.device("cpu")
    if asked.kind != "cuda":
        raise ProviderUnavailableError(f"checkpoints do not run on {asked.kind}: export to ONNX, or use cpu or cuda")
    if asked.ordinal >= torch.cuda.device_count():
        raise ProviderUnavailableError(f"cannot run on {asked}: torch sees {torch.cuda.device_count()} CUDA devices")
    return torch.device("cuda", asked.ordinal)


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def crops_of(faces: ImageSet) -> NDArray[np.uint8]:
    """Return a set's pictures as serving takes them: uint8 (N, H, W) grey or (N, H, W, 3) RGB."""
    images = faces.images
    return (images[:, 0] if images.shape[1] == 1 else images.permute(0, 2, 3, 1)).contiguous().numpy()


def hard_targets(faces: ImageSet) -> NDArray[np.int64]:
    """Return each face's class, (N,): the largest of its targets.

    Raises:
        DatasetError: the set has no targets.
    """
    if faces.targets is None:
        raise DatasetError("the pictures have no labels to score against")
    labels: NDArray[np.int64] = faces.targets.argmax(dim=1).numpy()
    return labels


def predict(classifier: LogitsSource, faces: ImageSet, *, flip: bool = False) -> Predictions:
    """Classify labelled faces; probabilities use the contract's temperature.

    Args:
        classifier: a checkpoint or an ONNX file.
        faces: N of them, with targets.
        flip: whether each face's probabilities are the mean of its own and its mirror image's (test-time flip).

    Raises:
        DatasetError: no labels, or other class names than the classifier's.
    """
    contract, crops = classifier.contract, crops_of(faces)
    if faces.class_names != contract.labels:
        raise DatasetError(f"the data has classes {faces.class_names}, the model {contract.labels}")
    probs = softmax(classifier.logits(crops), contract.temperature)
    if flip:
        mirrored = np.ascontiguousarray(crops[:, :, ::-1])
        probs = np.asarray((probs + softmax(classifier.logits(mirrored), contract.temperature)) / 2, np.float32)
    return Predictions(faces.names, contract.labels, hard_targets(faces), probs, contract.uncertain_below)


def evaluate(classifier: LogitsSource, faces: ImageSet) -> ClassificationReport:
    """Score a classifier on labelled faces, each as it is.

    Raises:
        DatasetError: no labels, no faces, or other class names than the classifier's.
    """
    return predict(classifier, faces).report()


def fitting_threshold(classifier: LogitsSource, faces: ImageSet) -> float:
    """Return the threshold of `choose_threshold` for what a classifier says of labelled faces.

    Args:
        classifier: its contract's temperature is used, its own threshold is not.
        faces: which it was not trained on.

    Raises:
        DatasetError: no labels, or other class names than the classifier's.
    """
    found = predict(classifier, faces)
    return choose_threshold(found.probs, found.targets)
