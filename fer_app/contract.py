"""The contract: everything about a model that training and serving must agree on.

It travels inside every checkpoint and, as JSON under one metadata key, inside every ONNX file. Nothing about a model
is guessed from its file name or its shapes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_args

from fer_app.errors import ModelContractError

METADATA_KEY = "fer.contract"
CONTRACT_VERSION = 1

ColorMode = Literal["rgb", "gray"]
Interpolation = Literal["bilinear", "bicubic"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]

_SHARED = ("labels", "img_size", "color_mode", "in_chans", "mean", "std", "crop", "interpolation")


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What a classifier expects and what its outputs mean.

    Attributes:
        labels: the K class names, in the order of the logits.
        img_size: side of the square input in px.
        color_mode: `rgb`, or `gray` (converted to luma before normalisation).
        in_chans: channels of the network's input; 1 or 3 (`gray` with 3 repeats the luma).
        mean: per-channel mean on the 0..1 scale, length `in_chans`.
        std: per-channel standard deviation on the 0..1 scale, length `in_chans`.
        crop: name of the crop geometry in `fer_app.alignment.TEMPLATES`.
        interpolation: how a crop smaller than `img_size` is scaled up (scaling down always averages).
        temperature: logits are divided by it before softmax (Guo et al. 2017, arXiv:1706.04599).
        uncertain_below: a face whose largest probability is below it is marked uncertain; 0 turns that off.
        precision: arithmetic of the file's heavy layers; inputs and outputs are float32 whatever it is.
        license: licence of the weights, one line.
        metrics: measured figures, e.g. `{"ferplus_valid_accuracy": 0.85}`; shares, not per cent.
        recipe_sha256: digest of the recipe that trained the weights; empty when there is none.
        version: version of this format.
    """

    labels: tuple[str, ...]
    img_size: int
    color_mode: ColorMode = "rgb"
    in_chans: int = 3
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: str
    interpolation: Interpolation = "bilinear"
    temperature: float = 1.0
    uncertain_below: float = 0.0
    precision: Precision = "fp32"
    license: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    recipe_sha256: str = ""
    version: int = CONTRACT_VERSION

    def __post_init__(self) -> None:
        problems = self._wrong_kinds() or self._problems()
        if problems:
            raise ModelContractError("the model's contract does not hold: " + "; ".join(problems))

    def _wrong_kinds(self) -> list[str]:
        kinds: dict[str, type | tuple[type, ...]] = {
            "img_size": int,
            "in_chans": int,
            "version": int,
            "color_mode": str,
            "crop": str,
            "interpolation": str,
            "precision": str,
            "license": str,
            "recipe_sha256": str,
            "temperature": (int, float),
            "uncertain_below": (int, float),
        }
        rows: list[tuple[str, Any, type | tuple[type, ...]]] = [
            (n, getattr(self, n), kind) for n, kind in kinds.items()
        ]
        rows += [("labels", label, str) for label in self.labels]
        rows += [("mean", value, (int, float)) for value in self.mean]
        rows += [("std", value, (int, float)) for value in self.std]
        if isinstance(self.metrics, dict):
            rows += [(f"metrics.{name}", value, (int, float)) for name, value in self.metrics.items()]
        else:
            rows += [("metrics", self.metrics, dict)]
        # A bool is an int to Python, and never meant as one here.
        wrong = [(name, value) for name, value, kind in rows if isinstance(value, bool) or not isinstance(value, kind)]
        return [f"{name} has a value of the wrong kind: {value!r}" for name, value in wrong]

    def _problems(self) -> list[str]:
        checks = [
            (self.version == CONTRACT_VERSION, f"version is {self.version}, this program reads {CONTRACT_VERSION}"),
            (len(self.labels) >= 2, "labels has fewer than two entries"),
            (len(set(self.labels)) == len(self.labels), "labels repeats a name"),
            (self.img_size >= 1, f"img_size is {self.img_size}"),
            (self.color_mode in ("rgb", "gray"), f"color_mode is {self.color_mode!r}"),
            (self.in_chans in (1, 3), f"in_chans is {self.in_chans}, must be 1 or 3"),
            (not (self.color_mode == "rgb" and self.in_chans == 1), "color_mode rgb needs in_chans 3"),
            (len(self.mean) == self.in_chans, f"mean has {len(self.mean)} values for {self.in_chans} channels"),
            (len(self.std) == self.in_chans, f"std has {len(self.std)} values for {self.in_chans} channels"),
            (all(math.isfinite(m) for m in self.mean), f"mean is {self.mean}"),
            (all(math.isfinite(s) and s > 0 for s in self.std), f"std is {self.std}"),
            (bool(self.crop), "crop is empty"),
            (self.interpolation in ("bilinear", "bicubic"), f"interpolation is {self.interpolation!r}"),
            (self.precision in get_args(Precision), f"precision is {self.precision!r}"),
            (math.isfinite(self.temperature) and self.temperature > 0, f"temperature is {self.temperature}"),
            (0.0 <= self.uncertain_below <= 1.0, f"uncertain_below is {self.uncertain_below}"),
        ]
        return [message for holds, message in checks if not holds]

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed; checked like a new one."""
        return dataclasses.replace(self, **changes)

    def apart_from(self, other: Self) -> list[str]:
        """Return the fields that keep two networks from sharing input and classes; empty where they can."""
        return [name for name in _SHARED if getattr(self, name) != getattr(other, name)]

    def to_json(self) -> str:
        """Return the contract as one line of JSON with sorted keys."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, ensure_ascii=False)

    @property
    def digest(self) -> str:
        """The sha256 of `to_json()`, in hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a contract from JSON.

        Raises:
            ModelContractError: the text is no JSON object, or a field is unknown, missing, or of the wrong kind.
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ModelContractError(f"the model's contract is not JSON: {error}") from error
        if not isinstance(values, dict):
            raise ModelContractError("the model's contract is not a JSON object")
        known = {f.name for f in dataclasses.fields(cls)}
        required = {
            f.name
            for f in dataclasses.fields(cls)
            if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        }
        if unknown := sorted(values.keys() - known):
            raise ModelContractError(f"the model's contract has unknown fields: {', '.join(unknown)}")
        if missing := sorted(required - values.keys()):
            raise ModelContractError(f"the model's contract lacks: {', '.join(missing)}")
        for name in ("labels", "mean", "std"):
            if not isinstance(values[name], list):
                raise ModelContractError(f"the model's contract has {name} = {values[name]!r}, expected a list")
            values[name] = tuple(values[name])
        try:
            return cls(**values)
        except TypeError as error:
            raise ModelContractError(f"the model's contract has a field of the wrong kind: {error}") from error
