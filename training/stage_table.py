"""What the tables of a recipe have in common, see `training.recipe`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from training.augment import AugmentSpec

Moment = Annotated[float, Field(ge=0.0, lt=1.0)]

LATER = "later"
"""Marks a field that came after weights had been published under digests of recipes without it (`Annotated`)."""


class Table(BaseModel):
    """Refuses unknown keys and values of other types; cannot be changed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out later fields that have their defaults, so that the digests of older recipes hold."""
        values: dict[str, Any] = handler(self)
        for name, field in type(self).model_fields.items():
            if LATER in field.metadata and getattr(self, name) == field.default:
                values.pop(name, None)
        return values


class StageTable(Table):
    """What every stage has: its length, optimiser and precision."""

    epochs: PositiveInt
    warmup_epochs: float = Field(0.0, ge=0.0)
    batch_size: PositiveInt
    accumulate: Annotated[PositiveInt, LATER] = 1
    base_lr: PositiveFloat
    min_lr: float = Field(0.0, ge=0.0)
    weight_decay: float = Field(0.05, ge=0.0)
    betas: tuple[Moment, Moment] = Field((0.9, 0.999), strict=False)
    optimizer: Literal["adamw", "adam"] = "adamw"
    clip_grad: PositiveFloat | None = None
    ema_decay: float | None = Field(None, gt=0.0, lt=1.0)
    limit: PositiveInt | None = None
    augment: AugmentSpec = AugmentSpec()

    @model_validator(mode="after")
    def _warms_up_in_time(self) -> Self:
        if self.warmup_epochs > self.epochs:
            raise ValueError(f"warmup_epochs = {self.warmup_epochs:g} is longer than epochs = {self.epochs}")
        return self

    @property
    def lr(self) -> float:
        """The peak learning rate: base_lr x images a step / 256 (Goyal et al. 2017, arXiv:1706.02677)."""
        return self.base_lr * self.batch_size * self.accumulate / 256
