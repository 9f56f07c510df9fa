"""A classifier checkpoint as an ONNX file that describes itself, proved against the checkpoint before it exists."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fer_app.classifier import OnnxClassifier
from fer_app.contract import METADATA_KEY, Contract
from fer_app.errors import CheckpointError, ExportError, InputError, ParityError
from fer_app.session import open_session
from training.evaluation import load_classifier

OPSET = 20
PARITY_BATCHES = (1, 2, 17)
PARITY_TOLERANCE = 1e-4
MOST_INSIDE = 2**31 - 2**24
"""Bytes that a file with its weights may have: Protocol Buffers end at two gibibytes."""


@dataclass(frozen=True)
class ExportReport:
    """What was written and how close it is.

    Attributes:
        path: the ONNX file.
        bytes: its size.
        differences: batch size to largest absolute difference of the logits, torch against ONNX Runtime.
        contract: what the file says of itself.
    """

    path: Path
    bytes: int
    differences: dict[int, float]
    contract: Contract


def export_onnx(checkpoint: Path, path: Path, *, tolerance: float = PARITY_TOLERANCE) -> ExportReport:
    """Write `path` from a classifier checkpoint: dynamic batch, contract in the metadata.

    The file appears under its name only after `onnx.checker` and parity have passed. Weights are inside up to
    `MOST_INSIDE` bytes; beyond, which the format cannot hold, they are in a second file, `data_path(path)`, beside it.

    Args:
        checkpoint: a `.safetensors` classifier.
        path: where; its folder must exist.
        tolerance: largest absolute difference of a logit that is accepted.

    Raises:
        CheckpointError: the checkpoint cannot be read or is no classifier.
        ParityError: the outputs differ by more than `tolerance`; no file is left.
        ExportError: the exporter or the checker failed, the file cannot be written, or it is the checkpoint.
    """
    model, info = load_classifier(checkpoint)
    if path.exists() and path.samefile(checkpoint):
        raise ExportError(f"{path} is the checkpoint itself: name another file to write")
    if info.contract is None:
        raise CheckpointError(f"{checkpoint} has no contract")
    try:
        with staged(path) as temporary:
            _write(_to_onnx(model, info.contract), temporary)
            differences = parity(model, temporary, info.contract)
            worst = max(differences.values())
            if not worst <= tolerance:
                raise ParityError(
                    f"{path}: logits differ from the checkpoint's by up to {worst:.3g}, "
                    f"more than {tolerance:g}; not written"
                )
            _compare_further_outputs(model, temporary, info.contract, tolerance, path)
            OnnxClassifier(temporary, device="cpu")  # the file must be one that serving accepts
    except (OSError, InputError) as error:
        raise ExportError(f"cannot write {path}: {error}") from error
    return ExportReport(path, size_of(path), differences, info.contract)


def data_path(path: Path) -> Path:
    """Return where the weights of a large network lie: `NAME.onnx.data`. Its name is written inside the file."""
    return path.with_name(f"{path.name}.data")


def size_of(path: Path) -> int:
    """Return the bytes of an ONNX file, with those of its weights if they lie beside it."""
    return path.stat().st_size + (data_path(path).stat().st_size if _has_data(path) else 0)


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Give a path of the same name in a folder beside it; put what was written there in its place on a clean exit.

    Raises:
        InputError: the folder does not exist, or `path` is a folder.
        OSError: nothing can be written there.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name a file to write to")
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist; make it first")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fer-") as folder:
        temporary = Path(folder) / path.name
        yield temporary
        put_in_place(temporary, path)


def put_in_place(file: Path, target: Path) -> None:
    """Move a finished file to its place, on the same disk and under the same name, weights beside it first."""
    if _has_data(file):
        data_path(file).replace(data_path(target))
    else:
        data_path(target).unlink(missing_ok=True)  # of a larger network that was there before
    file.replace(target)


def _has_data(path: Path) -> bool:
    return data_path(path).is_file()


def parity(model: nn.Module, onnx_file: Path, contract: Contract) -> dict[int, float]:
    """Compare torch with ONNX Runtime on random pictures: batch size to largest absolute difference of a logit."""
    session = open_session(onnx_file, device="cpu")
    rng = np.random.default_rng(0)
    differences = {}
    for batch in PARITY_BATCHES:
        images = _random_images(rng, batch, contract)
        with torch.inference_mode():
            expected = model.eval()(torch.from_numpy(images)).numpy()
        (actual,) = session.run({"images": images}, ["logits"])
        differences[batch] = float(np.abs(expected - actual).max())
    return differences


class _Outputs(nn.Module):
    """A classifier whose `forward` gives all outputs of the file, those that its `output_names` tell."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        outputs: tuple[Tensor, ...] = self.model.forward_outputs(images)  # type: ignore[operator]
        return outputs


def _output_names(model: nn.Module) -> list[str]:
    names: tuple[str, ...] = model.output_names  # type: ignore[assignment]
    return list(names)


def _compare_further_outputs(model: nn.Module, file: Path, contract: Contract, tolerance: float, path: Path) -> None:
    """Compare what comes beside the logits; its values may be larger than theirs, so that a share of them is allowed.

    Raises:
        ParityError: one differs by more than `tolerance` and a thousandth of its largest value.
    """
    images = _random_images(np.random.default_rng(1), PARITY_BATCHES[-1], contract)
    with torch.inference_mode():
        expected = _Outputs(model.eval())(torch.from_numpy(images))
    actual = open_session(file, device="cpu").run({"images": images})
    for name, ours, theirs in zip(_output_names(model), expected, actual, strict=True):
        worst = float(np.abs(ours.numpy() - theirs).max())
        if not worst <= tolerance + 1e-3 * float(ours.abs().max()):
            raise ParityError(f"{path}: {name} differs from the checkpoint's by up to {worst:.3g}; not written")


def _random_images(rng: np.random.Generator, batch: int, contract: Contract) -> NDArray[np.float32]:
    """Return normalised noise of the range that real pictures have: float32, (batch, in_chans, H, W)."""
    pixels = rng.random((batch, contract.in_chans, contract.img_size, contract.img_size), np.float32)
    mean, std = (np.asarray(v, np.float32)[:, None, None] for v in (contract.mean, contract.std))
    images: NDArray[np.float32] = (pixels - mean) / std
    return images


def _to_onnx(model: nn.Module, contract: Contract) -> onnx.ModelProto:
    example = torch.zeros(2, contract.in_chans, contract.img_size, contract.img_size)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's own deprecations; what matters is checked below
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)
            program = torch.onnx.export(
                _Outputs(model).eval(),
                (example,),
                input_names=["images"],
                output_names=_output_names(model),
                opset_version=OPSET,
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
    except Exception as error:  # the exporter raises many kinds; all mean the same to the caller
        raise ExportError(f"torch could not export the model: {type(error).__name__}: {error}") from error
    assert program is not None
    proto: onnx.ModelProto = program.model_proto
    del proto.graph.value_info[:]  # shapes of intermediates: not needed, and in the way of quantisation
    # The exporter notes at every node which lines made it, with paths of this machine.
    for noted in (*proto.graph.node, *proto.graph.input, *proto.graph.output, *proto.graph.initializer, proto.graph):
        del noted.metadata_props[:]
    onnx.helper.set_model_props(proto, {METADATA_KEY: contract.to_json()})
    return proto


def _write(proto: onnx.ModelProto, path: Path) -> None:
    if proto.ByteSize() > MOST_INSIDE:
        location = data_path(path).name
        onnx.save(proto, path, save_as_external_data=True, all_tensors_to_one_file=True, location=location)
    else:
        path.write_bytes(proto.SerializeToString())
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"the exported file does not pass onnx.checker: {error}") from error
