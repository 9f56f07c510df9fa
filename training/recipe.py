"""Recipes: what `fer train` runs, as pydantic models.

A recipe names the stages it runs (`pretrain`, then `finetune`), the network, and one table a stage. Values that follow
from others (the learning rate from `base_lr` and the batch, steps from epochs) are computed where they are used and
never written. How the files are read: `training.recipe_files`.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Final, Literal, Self, get_args

from pydantic import (
    Discriminator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Tag,
    model_validator,
)

from fer_app.contract import Contract
from fer_app.errors import FerError
from fer_app.labels import LABELS
from training.confidences import Revision
from training.contrastive_tables import MimcoTable, MocoTable
from training.data.ferplus_votes import VoteMode
from training.distillation_table import DistillTable
from training.losses.cross_entropy_loss import ClassWeights
from training.margin_mix_table import FewLabelsMethod, MarginMixTable
from training.model_table import ModelTable
from training.stage_table import LATER, Moment, StageTable, Table

Stage = Literal["pretrain", "finetune"]


_MASK_RATIOS: Final = {"hog": 0.4, "simmim": 0.6, "mimco": 0.6}


class PretrainTable(StageTable):
    """Pre-training without labels: masked (`mae`, `hog`, `simmim`), contrastive (`moco_v3`), or both (`mimco`).

    `mae` predicts pixels (He et al. 2022, arXiv:2111.06377), `hog` gradients, `simmim` pixels behind any stem.
    `images` are `photos` without labels, the labelled set's `faces` (of its part `split`, those that have a majority
    label), or both. `photos_from` are the names of the folders, given with --data or found in them, whose photos are
    taken; empty takes all.
    `stream` reads photos again in every epoch instead of keeping them in memory; `auto` does so when they do not fit.
    `shuffle_buffer` and `strict_shards` (stop at a damaged shard instead of leaving out the rest of it) are a stream's.

    Every `reconstructions_every` epochs, and after the last, a picture shows what the network paints; 0 is never.
    `betas` and `mask_ratio` are by default those that the method was published with. `norm_pix_loss` is MAE's,
    `hog_cell_px` and `hog_gaussian_window` are for HOG, see `models.hog`, `simmim_mask_px` is the side of SimMIM's
    masked squares; `moco` and `mimco` are the tables of those methods, see `training.contrastive_tables`. SimMIM and
    those two have no use for a decoder.
    """

    method: Literal["mae", "hog", "simmim", "moco_v3", "mimco"] = "mae"
    images: tuple[Literal["photos", "faces"], ...] = Field(("photos",), strict=False)
    split: Annotated[Literal["train", "train-main"], LATER] = "train-main"
    photos_from: Annotated[tuple[str, ...], LATER, Field(strict=False)] = ()
    stream: Annotated[Literal["auto"] | bool, LATER] = "auto"
    shuffle_buffer: Annotated[PositiveInt, LATER] = 4096
    strict_shards: Annotated[bool, LATER] = False
    betas: tuple[Moment, Moment] = Field((0.9, 0.95), strict=False)
    mask_ratio: float = Field(default_factory=lambda own: _MASK_RATIOS.get(own["method"], 0.75), gt=0.0, lt=1.0)
    norm_pix_loss: bool = True
    decoder_embed_dim: PositiveInt = 512
    decoder_depth: PositiveInt = 8
    decoder_num_heads: PositiveInt = 16
    reconstructions_every: Annotated[NonNegativeInt, LATER] = 5
    hog_cell_px: Annotated[PositiveInt, LATER] = 8
    hog_gaussian_window: Annotated[NonNegativeInt, LATER] = 0
    simmim_mask_px: Annotated[PositiveInt, LATER] = 32
    moco: Annotated[MocoTable, LATER] = MocoTable()
    mimco: Annotated[MimcoTable, LATER] = MimcoTable()

    @model_validator(mode="before")
    @classmethod
    def _betas_of_the_method(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("method", "mae") != "mae":
            return {"betas": (0.9, 0.999)} | values
        return values

    @model_validator(mode="after")
    def _tables_fit(self) -> Self:
        for name, method, plain in (("moco", "moco_v3", MocoTable()), ("mimco", "mimco", MimcoTable())):
            if self.method != method and getattr(self, name) != plain:
                raise ValueError(f"{name} is of method = {method!r}, and method is {self.method!r}")
        if self.method == "mimco" and not self.mimco.patch_weight + self.mimco.image_weight:
            raise ValueError("mimco.patch_weight and mimco.image_weight are both 0: nothing is left to learn from")
        return self


class LabelDecoderTable(Table):
    """A label decoder in place of the linear head, see `models.label_decoder`.

    With `uniform_weight` above 0 its queries begin at a regular simplex, and the uniform loss keeps them spread.
    """

    depth: PositiveInt = 2
    num_heads: PositiveInt = 8
    ffn_dim: PositiveInt = 2048
    dropout: Moment = 0.1
    uniform_weight: float = Field(0.1, ge=0.0)
    uniform_temperature: PositiveFloat = 0.1


class PllTable(Table):
    """Partial labels (PLL-FER, arXiv:2209.15402): candidates, and how confidences in them are revised.

    Candidates are the labels that a target names (of FERPlus, with `finetune.votes = "shares"`, those with a vote), and
    each other label with probability `flip_probability`, drawn once from `candidate_seed`. `revision` and `threshold`
    are those of `training.confidences.revise`; it begins after `revise_after_epochs`. Every `sheet_every` epochs, and
    after the last, a picture shows some of the revised labels; 0 is never.
    """

    flip_probability: Moment = 0.0
    candidate_seed: int = Field(0, ge=0)
    revision: Revision = "one_hot"
    threshold: Moment = 0.2
    revise_after_epochs: NonNegativeInt = 1
    sheet_every: NonNegativeInt = 5


class FinetuneTable(StageTable):
    """Supervised fine-tuning: CE, CE + SCL, CE + MSCL (MIMIC, arXiv:2401.07245), or PLL (PLL-FER, arXiv:2209.15402).

    The dev part of Train chooses the epoch, the temperature and what is uncertain; with `selected_epoch = "last"` all
    but the epoch. Only `split = "train-main"` leaves it out of training; with the others the last epoch counts, and
    probabilities are not calibrated. `train_share` is
    the part of every class that is trained on, always the same faces. `balanced` shows every class as often as the
    largest, or until `epoch_samples` faces were seen; `class_weights` weighs them in the cross-entropy instead. A
    face's class is its largest target. `logit_adjustment` is that method's tau. With `contrastive_gather`, faces are
    contrasted with those of all processes. `keep_head` goes on with the head of the classifier that `init` names, if
    it knows all classes. `distill` names teachers.
    """

    method: Annotated[Literal["mimic"], LATER] = "mimic"
    loss: Literal["ce", "scl", "mscl", "pll"] = "mscl"
    votes: VoteMode = "majority"
    contempt: Annotated[Literal["keep", "drop"], LATER] = "keep"
    split: Literal["train", "train-main", "train+valid"] = "train-main"
    selected_epoch: Annotated[Literal["best", "last"], LATER] = "best"
    train_share: Annotated[float, Field(gt=0.0, le=1.0), LATER] = 1.0
    balanced: Annotated[bool, LATER] = False
    epoch_samples: Annotated[PositiveInt | None, LATER] = None
    class_weights: Annotated[ClassWeights, LATER] = "none"
    logit_adjustment: Annotated[float, Field(ge=0.0, le=1.0), LATER] = 0.0
    views: Literal[1, 2] = 2
    keep_head: Annotated[bool, LATER] = False
    layer_decay: float = Field(0.65, gt=0.0, le=1.0)
    global_pool: Literal["avg", "token"] = "avg"
    projection: Literal["none", "linear", "mlp"] = "mlp"
    projection_dim: PositiveInt = 512
    contrastive_weight: float = Field(0.1, ge=0.0)
    contrastive_temperature: PositiveFloat = 0.07
    contrastive_threshold: float = Field(0.5, ge=0.0, le=1.0)
    contrastive_anchor: Literal["dominant", "soft"] = "dominant"
    contrastive_gather: Annotated[bool, LATER] = False
    mixup_alpha: float = Field(2.0, ge=0.0)
    cutmix_alpha: float = Field(2.0, ge=0.0)
    mix_prob: float = Field(1.0, ge=0.0, le=1.0)
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0)
    pll: Annotated[PllTable | None, LATER] = None
    label_decoder: Annotated[LabelDecoderTable | None, LATER] = None
    distill: Annotated[DistillTable | None, LATER] = None

    @property
    def partial_labels(self) -> PllTable:
        """The table pll, or its defaults."""
        return self.pll or PllTable()

    @model_validator(mode="after")
    def _partial_labels_fit(self) -> Self:
        if self.loss != "pll":
            if self.pll is not None or self.label_decoder is not None:
                raise ValueError("the tables pll and label_decoder are for loss = 'pll'")
            return self
        needed = {"views": 1, "mix_prob": 0.0, "label_smoothing": 0.0, "class_weights": "none", "logit_adjustment": 0.0}
        if wrong := [f"{name} = {value!r}" for name, value in needed.items() if getattr(self, name) != value]:
            raise ValueError(
                f"loss = 'pll' revises labels by what it says of each face as it is: set {', '.join(wrong)}"
            )
        if self.distill is not None:
            raise ValueError("loss = 'pll' finds its labels by itself: leave out the table distill")
        if self.label_decoder is not None and self.keep_head:
            raise ValueError("keep_head = true goes on with a linear head: leave it out, or the table label_decoder")
        return self

    @model_validator(mode="after")
    def _losses_fit(self) -> Self:
        if self.loss in ("scl", "mscl") and self.views != 2:
            raise ValueError(f"loss = {self.loss!r} contrasts two views of every image: set views = 2")
        if self.loss == "scl" and self.mix_prob > 0:
            raise ValueError("loss = 'scl' takes hard labels: set mix_prob = 0, or loss = 'mscl'")
        if self.votes == "multi_target":
            raise ValueError("votes = 'multi_target' needs a loss of its own; none of ce, scl, mscl, pll is it")
        return self

    @model_validator(mode="after")
    def _balances_once(self) -> Self:
        if self.epoch_samples is not None and not self.balanced:
            raise ValueError("epoch_samples ends a balanced epoch: set balanced = true too")
        evening = {"class_weights": self.class_weights != "none", "logit_adjustment": self.logit_adjustment > 0}
        if self.balanced and any(evening.values()):
            others = " and ".join(name for name, is_set in evening.items() if is_set)
            raise ValueError(f"balanced = true evens the classes out already: leave out {others}")
        if all(evening.values()):
            raise ValueError("class_weights evens the classes out already: leave out logit_adjustment")
        return self


def _kind_of(table: Any) -> str:
    """Return which of the fine-tuning tables one is, parsed or not: MIMIC's need not name their method."""
    method = table.get("method", "mimic") if isinstance(table, dict) else getattr(table, "method", "mimic")
    return "few_labels" if method in get_args(FewLabelsMethod) else str(method)


AnyFinetuneTable = Annotated[
    Annotated[FinetuneTable, Tag("mimic")] | Annotated[MarginMixTable, Tag("few_labels")],
    Discriminator(
        _kind_of,
        custom_error_type="method",
        custom_error_message="there is no such method; there are mimic, supervised, mixmatch, margin_mix",
    ),
]


class ExpectedTable(Table):
    """What a publication reports for these settings, in per cent as printed. It is shown and never computed with."""

    data_set: str
    split: Literal["valid", "test"]
    accuracy: float = Field(gt=0.0, le=100.0)
    source: str

    @property
    def words(self) -> str:
        """The figure, where it was measured, and who says so."""
        return f"{self.accuracy:.2f} % on {self.data_set} {self.split.title()} ({self.source})"


class Recipe(Table):
    """A whole training run.

    `hardware` and `expected` are words for the reader: no checkpoint, run folder or digest holds them.
    """

    name: str
    summary: str = ""
    seed: int = Field(0, ge=0, lt=2**63)
    precision: Literal["bf16", "fp32"] = "bf16"
    stages: tuple[Stage, ...] = Field(strict=False)
    init: str = "scratch"
    checkpoint_minutes: PositiveFloat = 5.0
    compile: Annotated[bool, LATER] = False
    checkpoint_activations: Annotated[bool, LATER] = False
    weights_license: str = "research data: trained on pictures released for research only"
    model: ModelTable = ModelTable()
    pretrain: PretrainTable | None = None
    finetune: AnyFinetuneTable | None = None
    hardware: str = Field("", exclude=True)
    expected: ExpectedTable | None = Field(None, exclude=True)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        problems = [f"stages lists {s!r}, but there is no [{s}] table" for s in self.stages if getattr(self, s) is None]
        if not self.stages:
            problems.append("stages is empty")
        if list(self.stages) != sorted(set(self.stages), key=("pretrain", "finetune").index):
            problems.append("stages must list each stage once, pretrain before finetune")
        if self.init.startswith("recipe:") and self._teacher.startswith("recipe:"):
            problems.append("init and pretrain.mimco.teacher cannot both be another recipe's")
        problems += self._beyond_wide_resnets() if self.model.backbone == "wide_resnet" else self._beyond_stems()
        shape = self.model.wide_resnet_shape if self.model.backbone == "wide_resnet" else self.model.vit_config
        for build in (self.contract, shape):
            try:
                build()
            except (FerError, ValueError) as error:
                problems.append(f"[model] {error}")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _beyond_wide_resnets(self) -> list[str]:
        """Return what is asked of a WideResNet that only transformers can do."""
        table = self.finetune
        asked = {
            "stages with pretrain": "pretrain" in self.stages,
            f"init = {self.init!r}": self.init != "scratch",
            "MIMIC's losses": isinstance(table, FinetuneTable),
            "finetune.layer_decay": table is not None and table.layer_decay != 1.0,
        }
        words = "model.backbone = 'wide_resnet' trains from scratch, by supervised, mixmatch or margin_mix: leave out"
        return [f"{words} {name}" for name, wanted in asked.items() if wanted]

    def _beyond_stems(self) -> list[str]:
        """Return what is asked of a stem without blocks that only transformers can do."""
        asked = {
            "finetune.global_pool = 'token'": getattr(self.finetune, "global_pool", "") == "token",
            "pretrain.method = 'moco_v3'": self.pretrain is not None and self.pretrain.method == "moco_v3",
        }
        return [
            f"model.depth = 0 has no class token: leave out {name}"
            for name in asked
            if self.model.depth == 0 and asked[name]
        ]

    @property
    def starts_from(self) -> str | None:
        """NAME where `init` or a teacher is `recipe:NAME`: what a recipe beside this one makes (`training.sweep`)."""
        named = [name for given in (self.init, self._teacher) if (name := given.removeprefix("recipe:")) != given]
        return named[0] if named else None

    @property
    def _teacher(self) -> str:
        return self.pretrain.mimco.teacher if self.pretrain is not None and "pretrain" in self.stages else ""

    def contract(self, labels: tuple[str, ...] = LABELS) -> Contract:
        """Return the contract of a classifier that this recipe trains on faces of these classes, without figures."""
        return Contract(
            labels=labels,
            img_size=self.model.img_size,
            color_mode=self.model.color_mode,
            in_chans=self.model.in_chans,
            mean=self.model.mean,
            std=self.model.std,
            crop="fer48-v1",
            interpolation=self.model.interpolation,
            license=self.weights_license,
            recipe_sha256=self.sha256,
        )

    def notes(self) -> list[str]:
        """Return lines for the reader: the published figure and the hardware, where the recipe tells them."""
        expected, hardware = self.expected, self.hardware
        figure = expected and f"expected: {expected.words}"
        return [line for line in (figure, hardware and f"hardware: {hardware}") if line]

    def to_json(self) -> str:
        """Return the recipe as one line of JSON with sorted keys.

        Defaults are included, but for those of keys that later versions brought: what older ones wrote stays equal.
        """
        return json.dumps(self.model_dump(mode="json"), sort_keys=True)

    @property
    def sha256(self) -> str:
        """Digest of `to_json()`, in hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()
