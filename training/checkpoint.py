"""Checkpoints: safetensors weights with everything else as JSON in the file's header.

One file a checkpoint. It holds what evaluation, fine-tuning and export need; the optimiser's state, which only
resuming needs, lives beside it in the run folder (`training.run_folder`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fer_app.atomic_file import replacing
from fer_app.contract import METADATA_KEY, Contract
from fer_app.errors import CheckpointError, InputError
from fer_app.model_store import DEFAULT, bundled_titles, find_bundled, is_bundled_name
from training.first_few import first_few

FORMAT_VERSION = 1
_INFO_KEY = "fer.checkpoint"

Kind = Literal["encoder", "classifier"]


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """What a checkpoint says of itself.

    Attributes:
        kind: `encoder` (pre-trained, no head) or `classifier`.
        architecture: `VitConfig.to_dict()` under `encoder`, and for classifiers the head's arguments; or the shape of a
            `WideResNet` under `wide_resnet`, and its number of classes; or those of an ensemble's `members`.
        counters: whole numbers: epochs and steps done, and seconds that they took.
        recipe: the recipe as written by `Recipe.to_json`, parsed; empty when there is none.
        metrics: figures measured when it was saved.
        contract: present exactly for classifiers.
        lineage: of a bundled one what made it and what that came from, as `export.lineage.as_json` writes it: the
            folders of those runs are not where it goes.
    """

    kind: Kind
    architecture: dict[str, Any]
    counters: dict[str, int] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    contract: Contract | None = None
    lineage: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if (self.contract is not None) != (self.kind == "classifier"):
            raise CheckpointError(f"a checkpoint of kind {self.kind!r} has a contract exactly if it is a classifier")

    @property
    def finetuned_on(self) -> str | None:
        """The split that it was fine-tuned on; None where it was not, or does not say."""
        split: str | None = (self.recipe.get("finetune") or {}).get("split")
        return split


def save_checkpoint(
    path: Path, weights: Mapping[str, Tensor], info: CheckpointInfo, *, dtype: torch.dtype | None = None
) -> None:
    """Write a checkpoint; it appears under its name only when it is complete.

    Args:
        path: where; its folder must exist.
        weights: a state dict; tensors are copied to the CPU.
        info: goes into the header.
        dtype: floating-point tensors are stored as this (e.g. `torch.float16` for compact files); default as they are.

    Raises:
        CheckpointError: the file could not be written.
    """
    header = {
        _INFO_KEY: json.dumps(
            {
                "format": FORMAT_VERSION,
                "kind": info.kind,
                "architecture": info.architecture,
                "counters": info.counters,
                "recipe": info.recipe,
                "metrics": info.metrics,
                **({"lineage": info.lineage} if info.lineage else {}),
            },
            sort_keys=True,
        )
    }
    if info.contract is not None:
        header[METADATA_KEY] = info.contract.to_json()
    tensors = {
        name: tensor.detach()
        .to(device="cpu", dtype=dtype if dtype and tensor.is_floating_point() else None)
        .contiguous()
        .clone()
        for name, tensor in weights.items()
    }
    try:
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata=header)
            temporary.chmod(0o644)  # safetensors leaves its files to their owner alone
    except (OSError, SafetensorError, InputError) as error:
        raise CheckpointError(f"cannot write the checkpoint {path}: {error}") from error


def bundled_checkpoint(name: str = DEFAULT) -> Path:
    """Return the weights of a bundled model (16-bit), from which further training may start unless it is an ensemble.

    Args:
        name: its name or role, or `default`.

    Raises:
        CheckpointError: this installation carries none.
    """
    entry = find_bundled(name)
    if entry is None:
        raise CheckpointError(f"no model {name!r} is bundled with this version; there are: {bundled_titles()}")
    path = _bundled_folder() / f"{entry.name}.safetensors"
    if not path.is_file():
        raise CheckpointError(f"this installation carries no weights of {entry.name} to start from")
    return path


def recipe_word(path: Path) -> str:
    """Return what a recipe calls a checkpoint: `bundled:NAME` where it came with the program, else its path."""
    return f"bundled:{path.stem}" if path.resolve().parent == _bundled_folder().resolve() else str(path)


def recipe_digest(recipe: Mapping[str, Any]) -> str:
    """Return the sha256 of what a checkpoint says of its recipe."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def _bundled_folder() -> Path:
    return Path(str(resources.files("training") / "weights"))


def init_path(init: str) -> Path:
    """Return the file that a recipe's `init` means: `bundled`, `bundled:NAME`, or a path as it is.

    Raises:
        CheckpointError: as `bundled_checkpoint`.
    """
    kind, _, name = init.partition(":")
    return bundled_checkpoint(name or DEFAULT) if kind == "bundled" else Path(init)


def checkpoint_at(name_or_path: str | Path) -> Path:
    """Return a bundled model's weights where its name or role is given, else the path as it is.

    Raises:
        CheckpointError: as `bundled_checkpoint`; or what looks like a name is none.
    """
    if is_bundled_name(name_or_path):
        return bundled_checkpoint(str(name_or_path))
    path = Path(name_or_path)
    if path.name == str(name_or_path) and not path.suffix and not path.exists():
        raise CheckpointError(
            f"no model {path.name!r}: there is no such file, and the bundled ones are: {bundled_titles()}"
        )
    return path


def is_checkpoint(path: Path) -> bool:
    """Whether a file is a checkpoint of this project; False for anything else, and where there is none."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return _INFO_KEY in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def read_info(path: Path) -> CheckpointInfo:
    """Read a checkpoint's header alone.

    Raises:
        CheckpointError: no file, no safetensors, or a header that is not ours.
    """
    return _open(path, with_weights=False)[1]


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], CheckpointInfo]:
    """Read weights (floating-point tensors as float32) and header.

    Raises:
        CheckpointError: no file, no safetensors, truncated, or a header that is not ours.
    """
    return _open(path, with_weights=True)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], *, may_lack: Container[str] = ()) -> None:
    """Put weights into a model.

    Args:
        model: takes them.
        weights: a state dict.
        may_lack: names that keep the model's own values when `weights` does not have them.

    Raises:
        CheckpointError: names or shapes differ; one line that names the first few.
    """
    if problem := misfits(model.state_dict(), weights, may_lack=may_lack):
        raise CheckpointError(f"its weights do not fit: {problem}")
    model.load_state_dict(weights, strict=False)


def misfits(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], *, may_lack: Container[str] = ()) -> str:
    """Return in one line how names and shapes of `weights` differ from `own`; empty where they do not.

    Args:
        own: a model's state dict; its tensors may be on the meta device.
        weights: what is to be loaded into it.
        may_lack: names of `own` that `weights` need not have.
    """
    shared = sorted(own.keys() & weights.keys())
    shapes = [(name, tuple(weights[name].shape), tuple(own[name].shape)) for name in shared]
    problems = {
        "of another shape": [f"{name} is {theirs}, not {ours}" for name, theirs, ours in shapes if theirs != ours],
        "missing": [name for name in sorted(own.keys() - weights.keys()) if name not in may_lack],
        "unknown": sorted(weights.keys() - own.keys()),
    }
    return ", ".join(f"{len(names)} {what} ({first_few(names, 3)})" for what, names in problems.items() if names)


def load_encoder(encoder: nn.Module, weights: Mapping[str, Tensor], *, may_lack_norm: bool) -> None:
    """Put the weights that a stage starts from into its encoder.

    Args:
        encoder: takes them.
        weights: an encoder's state dict.
        may_lack_norm: whether the final norm may stay as it is: classifiers that pool by averaging have none.

    Raises:
        CheckpointError: they do not fit.
    """
    try:
        load_weights(encoder, weights, may_lack=("norm.weight", "norm.bias") if may_lack_norm else ())
    except CheckpointError as error:
        raise CheckpointError(f"the encoder to start from is not the recipe's [model]: {error}") from error


def _open(path: Path, *, with_weights: bool) -> tuple[dict[str, Tensor], CheckpointInfo]:
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()} if with_weights else {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error
    weights = {name: t.float() if t.is_floating_point() else t for name, t in weights.items()}
    if _INFO_KEY not in header:
        raise CheckpointError(f"{path} is a safetensors file, but not a checkpoint of this project (no {_INFO_KEY})")
    try:
        values = json.loads(header[_INFO_KEY])
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} has a header that is not ours: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} has a header that is not ours: no JSON object")
    if values.get("format") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has checkpoint format {values.get('format')}, this program reads {FORMAT_VERSION}"
        )
    contract = Contract.from_json(header[METADATA_KEY]) if METADATA_KEY in header else None
    try:
        info = CheckpointInfo(**{k: v for k, v in values.items() if k != "format"}, contract=contract)
    except TypeError as error:
        raise CheckpointError(f"{path} has a header that is not ours: {error}") from error
    return weights, info
