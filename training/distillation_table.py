"""The recipe's table of distillation, see `training.distillation`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat

from training.stage_table import LATER, Table


class DistillTable(Table):
    """Teachers whose answers count beside the labels (Hinton et al. 2015, arXiv:1503.02531).

    `teachers` are classifier checkpoints, `bundled` or `bundled:NAME`; what they say of a picture is the mean of their
    calibrated probabilities, at `temperature`. The cross-entropy's target is `weight` times that, and the rest the
    labels.

    They see what the student sees, augmented and mixed alike (`student`), or each face as it is and its mirror image
    (`face`): then they answer once, before the first step, and the student is to say the same however the face was
    changed. With `mirrored` they see what the student sees and its mirror image, and the mean of both counts (as of
    `face` it always does): a steadier answer for twice their arithmetic.
    """

    teachers: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    weight: float = Field(0.5, gt=0.0, le=1.0)
    temperature: PositiveFloat = 1.0
    shown: Annotated[Literal["student", "face"], LATER] = "student"
    mirrored: Annotated[bool, LATER] = False
