"""The recipe's table of learning from few labels, see `training.margin_mix`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from training.losses.guess_loss import GuessLossKind
from training.stage_table import StageTable

FewLabelsMethod = Literal["supervised", "mixmatch", "margin_mix"]


class MarginMixTable(StageTable):
    """Learning from few labels: Margin-Mix, MixMatch, or cross-entropy on the labelled faces alone.

    Of the faces of `split`, `labels` keep their labels, every class with its share of them; `labels_seed` tells which.
    The rest is learnt from without; `supervised` leaves it out. A step takes `batch_size` faces of each kind, the
    unlabelled ones `views` times. An epoch has `epoch_steps` steps; after it, Margin-Mix moves its centroids, by all
    unlabelled faces or by `cluster_faces` of them; a cluster is as large as its class is among the labelled faces, or
    all are equal (`cluster_sizes`). In the first `labelled_epochs` a step has labelled faces alone. Only `split =
    "train-main"` leaves the dev part out and selects by it, which takes more labels than `labels`.
    """

    method: FewLabelsMethod
    labels: PositiveInt
    labels_seed: NonNegativeInt = 0
    epoch_steps: PositiveInt = 1024
    votes: Literal["majority", "crossentropy", "argmax"] = "majority"
    contempt: Literal["keep", "drop"] = "keep"
    split: Literal["train", "train-main", "train+valid"] = "train"
    train_share: float = Field(1.0, gt=0.0, le=1.0)
    layer_decay: float = Field(1.0, gt=0.0, le=1.0)
    global_pool: Literal["avg", "token"] = "avg"
    views: PositiveInt = 2
    sharpen_temperature: float = Field(0.5, gt=0.0, le=1.0)
    mix_alpha: PositiveFloat = 0.75
    guess_loss: GuessLossKind = "mse"
    guess_weight: float = Field(75.0, ge=0.0)
    labelled_epochs: NonNegativeInt = 0
    ramp: float = Field(1.0, gt=0.0, le=1.0)
    fuzzifier: float = Field(2.0, gt=1.0)
    cluster_sizes: Literal["labelled", "equal"] = "labelled"
    unlabelled_share: float = Field(0.5, ge=0.0, le=1.0)
    cluster_faces: PositiveInt | None = None
    margin: float = Field(0.5, ge=0.0)
    margin_weight: float = Field(1.0, ge=0.0)

    @model_validator(mode="after")
    def _guesses_in_time(self) -> Self:
        if self.labelled_epochs >= self.epochs:
            raise ValueError(
                f"labelled_epochs = {self.labelled_epochs} leaves none of epochs = {self.epochs} to guess in"
            )
        return self
