"""Supervised fine-tuning as an objective for the loop: CE, CE + SCL, CE + MSCL (MIMIC, arXiv:2401.07245, Alg. 1)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fer_app.errors import DatasetError
from models.mimic import MimicClassifier
from models.vit import VisionTransformer
from training.augment import epoch_draws
from training.checkpoint import CheckpointInfo, load_encoder, save_checkpoint
from training.data.ferplus import sample_targets
from training.data.image_set import ImageSet
from training.distillation import Teachers
from training.distributed import gather
from training.fingerprint import fingerprint
from training.layer_decay import param_groups
from training.losses.cross_entropy_loss import CrossEntropyLoss, class_weights, log_prior
from training.losses.mscl_loss import MsclLoss
from training.losses.scl_loss import SclLoss
from training.mixing import MixUpCutMix
from training.objective import Stateless
from training.recipe import FinetuneTable, Recipe
from training.run_folder import RunFolder
from training.sampling import Epoch, IndexedEpoch, Share, balanced_order, epoch_order
from training.selection import Selection, calibrated, scores


class MimicFinetuning(Stateless):
    """Two augmented views of every face, mixed, through cross-entropy and a contrastive loss."""

    forward_methods: tuple[str, ...] = ("forward_train",)
    draws_a_sample = 0

    def __init__(
        self,
        recipe: Recipe,
        table: FinetuneTable,
        faces: ImageSet,
        selection: ImageSet | None,
        encoder_weights: dict[str, Tensor] | None,
    ) -> None:
        """Build the network.

        Args:
            recipe: supplies the encoder and the seed.
            table: the stage's settings.
            faces: what is trained on, with targets (N, K).
            selection: the split that chooses the best epoch (unless the last one is to count), the temperature and
                what is uncertain; None, where it would be one that is trained on: the last epoch counts, the
                temperature stays 1, nothing is uncertain.
            encoder_weights: a pre-trained encoder's, or None for random ones.

        Raises:
            CheckpointError: the encoder's weights, or a teacher, do not fit.
            DatasetError: `faces` has no targets.
        """
        if faces.targets is None:
            raise DatasetError("fine-tuning needs labelled faces")
        torch.manual_seed(recipe.seed)
        encoder = VisionTransformer(recipe.model.vit_config(drop_path_rate=recipe.model.drop_path_rate))
        if encoder_weights is not None:
            load_encoder(encoder, encoder_weights, may_lack_norm=table.global_pool == "avg")
        self._encoder_config = encoder.config
        self.model: nn.Module
        self.model, self._head = self._build(encoder, table, len(faces.class_names))
        if recipe.model.stem == "conv":
            self.model = self.model.to(memory_format=torch.channels_last)
        self.num_samples, self.views = len(faces.images), table.views
        self.class_names, self.keeps_head = faces.class_names, table.keep_head
        self._recipe, self._table, self._faces = recipe, table, faces
        self._targets: Tensor = faces.targets
        self._augment = recipe.model.augmentation(table.augment)
        self._mix = MixUpCutMix(table.mixup_alpha, table.cutmix_alpha, prob=table.mix_prob)
        self._classes = faces.targets.argmax(dim=1)
        weights = class_weights(table.class_weights, self._classes, len(faces.class_names))
        offset = table.logit_adjustment * log_prior(faces.targets) if table.logit_adjustment else None
        self._cross_entropy = CrossEntropyLoss(table.label_smoothing, weights, offset)
        self._mscl = MsclLoss(
            temperature=table.contrastive_temperature,
            threshold=table.contrastive_threshold,
            anchor=table.contrastive_anchor,
        )
        self._scl = SclLoss(temperature=table.contrastive_temperature)
        self.teachers: Teachers | None = None
        if table.distill is not None:
            self.teachers = Teachers(table.distill, recipe.contract(faces.class_names), recipe.precision)
        self._answers: Tensor | None = None  # of the teachers that see every face once
        self._selection = Selection(selection, always=table.selected_epoch == "last")

    def _build(
        self, encoder: VisionTransformer, table: FinetuneTable, num_classes: int
    ) -> tuple[nn.Module, dict[str, Any]]:
        """Return the classifier, and what a checkpoint says of its head: what `build_classifier` takes."""
        head: dict[str, Any] = {
            "num_classes": num_classes,
            "projection": table.projection,
            "projection_dim": table.projection_dim,
            "global_pool": table.global_pool,
        }
        return MimicClassifier(encoder, **head), head

    def fingerprint(self) -> dict[str, Any]:
        """Return what tells these faces from others."""
        faces = self._faces
        known = fingerprint(faces.images, names=faces.names, class_names=faces.class_names, targets=faces.targets)
        return known if self.teachers is None else {**known, "teachers": self.teachers.fingerprint()}

    def param_groups(self) -> list[dict[str, Any]]:
        """Return the optimiser's groups with MAE's layer-wise learning-rate decay."""
        table, model = self._table, self.model
        # What the loss does not reach stays in its group, as states of older runs hold it, but is frozen: several
        # processes would wait for its gradient.
        idle = [] if table.loss != "ce" else list(model.get_submodule("projection").parameters())
        for parameter in idle:
            parameter.requires_grad_(True)
        groups = param_groups(model, lr=table.lr, weight_decay=table.weight_decay, layer_decay=table.layer_decay)
        for parameter in idle:
            parameter.requires_grad_(False)
        return groups

    def start_epoch(self, epoch: int, batch_size: int, share: Share) -> Epoch:
        """Draw the epoch's order, augmentations and, in probability mode, each face's class."""
        seed, step_samples = self._recipe.seed, batch_size * share.world_size
        if self._table.balanced:
            # Steps name places of the epoch: a face that comes twice looks different each time.
            shown = balanced_order(seed, epoch, self._classes, step_samples, self._table.epoch_samples)
            self._shown, order = shown.flatten(), torch.arange(shown.numel()).view_as(shown)
        else:
            self._shown = torch.arange(self.num_samples)
            order = epoch_order(seed, epoch, self.num_samples, step_samples)
        self._draws = epoch_draws(seed, epoch, len(self._shown), self.views, self._augment.n_draws)
        if self._table.votes == "probability":
            assert self._faces.targets is not None
            self._targets = sample_targets(self._faces.targets, seed=seed, epoch=epoch)
        return IndexedEpoch(order, share)

    def losses(self, model: nn.Module, samples: Tensor, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return `loss` = `ce` + weight x `contrastive`, of one batch of B faces seen as `views` x B pictures."""
        device = next(model.parameters()).device
        faces = self._shown[samples]
        crops = self._faces.images[faces].to(device)
        draws = self._draws[samples].to(device)
        images = torch.cat([self._augment(crops, draws[:, view]) for view in range(self.views)])
        targets = self._targets[faces].to(device)
        if self.teachers is not None and self.teachers.see_faces and self._answers is None:
            self._answers = self.teachers.answers(self._faces, device)
        said = targets[:, :0] if self._answers is None else self._answers[faces].to(device)
        images, both = self._mix(images, torch.cat([targets, said], dim=1), rng)
        both = both.repeat(self.views, 1)
        targets, said = both[:, : targets.shape[1]], both[:, targets.shape[1] :]
        logits, z = model.forward_train(images)  # type: ignore[operator]
        taught = targets
        if self.teachers is not None:
            taught = self.teachers.blend(said if self.teachers.see_faces else self.teachers.probs(images), targets)
        terms = {"ce": self._cross_entropy(logits.float(), taught)}
        if self._table.contrastive_gather and self._table.loss != "ce":
            z, targets = gather(z, targets)
        if self._table.loss == "mscl":
            terms["contrastive"] = self._mscl(z, targets)
        elif self._table.loss == "scl":
            terms["contrastive"] = self._scl(z, targets.argmax(dim=1))
        loss = terms["ce"]
        if "contrastive" in terms:
            loss = loss + self._table.contrastive_weight * terms["contrastive"]
        return {"loss": loss, **terms}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Score the selection split through the serving preprocess; its temperature and threshold come along."""
        return self._selection.figures(model, self._recipe.contract(self._faces.class_names))

    def save(self, folder: RunFolder, model: nn.Module, counters: dict[str, int], figures: dict[str, float]) -> None:
        """Write the classifier as the newest, and as the best if its accuracy on a selection split is."""
        self._selection.save(folder, figures, lambda path: self.write(path, model, counters, figures))

    def write(self, path: Path, model: nn.Module, counters: dict[str, int], figures: dict[str, float]) -> None:
        """Write the classifier to `path`."""
        contract = self._recipe.contract(self._faces.class_names)
        info = CheckpointInfo(
            kind="classifier",
            architecture={"encoder": self._encoder_config.to_dict(), **self._head},
            counters=counters,
            recipe=self._recipe.model_dump(mode="json"),
            metrics=scores(figures),
            contract=calibrated(contract, figures),
        )
        save_checkpoint(path, model.state_dict(), info)
