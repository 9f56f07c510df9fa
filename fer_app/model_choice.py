"""Which file of a classifier is run: the same network may come in several arithmetics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, get_args

from fer_app.classifier import OnnxClassifier
from fer_app.contract import Contract, Precision
from fer_app.errors import InputError, ModelError, ModelNotFoundError
from fer_app.model_store import DEFAULT, ModelEntry, find_bundled, resolve_model, verify
from fer_app.session import device_problem, nvidia_device_visible, parse_device

AUTO: Final = "auto"
PRECISIONS: Final = (AUTO, *get_args(Precision))
MOST_LOST: Final = 0.005
"""So much accuracy, a share, may another arithmetic cost where nobody asked for it."""

# The faster before the slower. ONNX Runtime has no quick 8-bit arithmetic on CUDA, nor 16-bit one on a CPU.
_PREFERRED: Final[Mapping[str, tuple[Precision, ...]]] = {
    "cpu": ("int8", "fp32", "fp16", "bf16"),
    "cuda": ("fp16", "fp32", "bf16", "int8"),
    "tensorrt": ("fp16", "fp32", "bf16", "int8"),
}


class _Variant(NamedTuple):
    """One file of a model: how to get at it, and what it scored."""

    path: Callable[[], Path]
    metrics: Mapping[str, float]


def choose_model(name_or_path: str | Path = DEFAULT, *, precision: str = AUTO, device: str = AUTO) -> Path:
    """Find the file of a classifier to run on a device.

    Args:
        name_or_path: `default`, the name or role of a bundled classifier, an ONNX file, or a folder with files of one
            network in several arithmetics, as `fer export` writes it.
        precision: `fp32`, `fp16`, `int8`, or `auto`: the fastest on the device whose measured accuracy is within
            `MOST_LOST` of float32's. A file that is named is taken as it is.
        device: as `fer_app.session.open_session` takes it.

    Raises:
        InputError: no such precision or device name.
        ModelNotFoundError: no such model, or it does not come in the asked-for precision.
        ModelError: a file is damaged or has no contract; the files of a folder are not of one network.
    """
    if precision not in PRECISIONS:
        raise InputError(f"no such precision: {precision!r}; use one of {', '.join(PRECISIONS)}")
    kind = _kind(device)
    name, variants = _variants(name_or_path)
    if precision == AUTO:
        return variants[_fastest(variants, kind)].path()
    for there, variant in variants.items():
        if there == precision:
            return variant.path()
    raise ModelNotFoundError(f"{name} comes in {', '.join(variants)}, not in {precision}; `fer export` makes others")


def holds_accuracy(full: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """Tell whether figures measured again are as good as float32's, within `MOST_LOST`.

    Args:
        full: of the float32 file; shares by name, such as `ferplus_valid_accuracy`.
        other: of the other file. It must have every accuracy of `full`, and there must be one.
    """
    names = [name for name in full if name.endswith("_accuracy") and not name.endswith("_mean_class_accuracy")]
    return bool(names) and all(name in other and other[name] >= full[name] - MOST_LOST for name in names)


def _kind(device: str) -> str:
    kind = parse_device(device).kind
    if kind != "auto":
        return kind
    return "cuda" if nvidia_device_visible() and not device_problem("cuda") else "cpu"


def _fastest(variants: Mapping[Precision, _Variant], kind: str) -> Precision:
    full = variants.get("fp32")
    for precision in _PREFERRED[kind]:
        if precision in variants and (
            full is None or precision == "fp32" or holds_accuracy(full.metrics, variants[precision].metrics)
        ):
            return precision
    raise AssertionError("a model has a file")


def _variants(name_or_path: str | Path) -> tuple[str, dict[Precision, _Variant]]:
    """Return what a model is called, and its files."""
    entry = find_bundled(name_or_path)
    if entry is not None:
        return entry.name, _bundled(entry)
    path = Path(name_or_path)
    if path.is_dir():
        return str(path), _in_folder(path)
    path = resolve_model(name_or_path)
    contract = _contract(path)
    return str(path), {contract.precision: _Variant(lambda: path, contract.metrics)}


def _bundled(entry: ModelEntry) -> dict[Precision, _Variant]:
    found: dict[Precision, _Variant] = {"fp32": _Variant(partial(verify, entry), entry.metrics)}
    return found | {other.precision: _Variant(partial(verify, other), other.metrics) for other in entry.variants}


def _in_folder(folder: Path) -> dict[Precision, _Variant]:
    contracts = {path: _contract(path) for path in sorted(folder.glob("*.onnx"))}
    if not contracts:
        raise ModelNotFoundError(f"{folder} is a folder without ONNX files")
    # What other arithmetics differ in: their figures, and what is uncertain by their own probabilities.
    own = {"precision": "fp32", "metrics": {}, "uncertain_below": 0.0}
    alike = {contract.replace(**own).digest for contract in contracts.values()}
    if len(alike) > 1 or len({contract.precision for contract in contracts.values()}) < len(contracts):
        names = ", ".join(path.name for path in contracts)
        raise ModelError(f"{folder} holds files of different networks ({names}): name one of them")
    return {contract.precision: _Variant(partial(Path, path), contract.metrics) for path, contract in contracts.items()}


def _contract(path: Path) -> Contract:
    return OnnxClassifier(path, device="cpu", threads=1).contract
