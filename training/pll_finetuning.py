"""Fine-tuning with partial labels as an objective for the loop (PLL-FER, arXiv:2209.15402, section 3.3, Alg. 1)."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn

from fer_app.errors import ConfigError
from models.mimic import MimicClassifier
from models.pll_fer import PllFerClassifier
from models.vit import VisionTransformer
from training.confidences import Confidences, candidate_sets
from training.data.image_set import ImageSet
from training.distributed import gather
from training.fingerprint import fingerprint
from training.losses.pll_loss import PllLoss
from training.losses.uniform_loss import UniformLoss
from training.mimic_finetuning import MimicFinetuning
from training.recipe import FinetuneTable, Recipe
from training.revised_labels import RevisedLabels
from training.run_folder import RunFolder
from training.sampling import Epoch, Share


class PllFinetuning(MimicFinetuning):
    """Learns from sets of candidate labels, and settles on one of them as the network becomes sure.

    Each step revises the confidences of its faces by the logits of its own forward pass, and takes the loss with the
    revised ones (Alg. 1). Inference ignores them. Several processes revise the faces of all.

    Differs: the paper revises from the start; here `pll.revise_after_epochs` leaves the first epoch out, in which
    logits say nothing yet and a one-hot revision could not be undone. Its threshold is not printed.
    """

    def __init__(
        self,
        recipe: Recipe,
        table: FinetuneTable,
        faces: ImageSet,
        selection: ImageSet | None,
        encoder_weights: dict[str, Tensor] | None,
    ) -> None:
        """Build the network, and each face's candidates.

        Args:
            recipe: supplies the encoder and the seed.
            table: the stage's settings.
            faces: what is trained on; a label is a candidate where the target, (N, K), is above 0.
            selection: as for `MimicFinetuning`.
            encoder_weights: a pre-trained encoder's, or None for random ones.

        Raises:
            CheckpointError: the encoder's weights do not fit.
            ConfigError: no face has more than one candidate.
            DatasetError: `faces` has no targets.
        """
        super().__init__(recipe, table, faces, selection, encoder_weights)
        settings = table.partial_labels
        candidates = candidate_sets(self._targets, settings.flip_probability, settings.candidate_seed)
        if int(candidates.sum()) == len(candidates):
            raise ConfigError(
                "loss = 'pll': every face has one candidate label; set finetune.votes = 'shares' for FERPlus's votes, "
                "or finetune.pll.flip_probability for sets without votes"
            )
        self._confidences = Confidences(candidates, settings.threshold, settings.revision)
        self._labels = RevisedLabels(recipe, table, faces)
        self._pll = PllLoss()
        decoder = table.label_decoder
        self._uniform = UniformLoss(decoder.uniform_temperature) if decoder is not None else None
        self._uniform_weight = decoder.uniform_weight if decoder is not None else 0.0
        self._revises_from, self._revises = settings.revise_after_epochs, False

    def _build(
        self, encoder: VisionTransformer, table: FinetuneTable, num_classes: int
    ) -> tuple[nn.Module, dict[str, Any]]:
        decoder = table.label_decoder
        if decoder is None:
            head: dict[str, Any] = {"num_classes": num_classes, "projection": "none", "global_pool": table.global_pool}
            return MimicClassifier(encoder, **head), head
        sizes = {key: getattr(decoder, key) for key in ("depth", "num_heads", "ffn_dim", "dropout")}
        model = PllFerClassifier(encoder, num_classes, **sizes)
        if decoder.uniform_weight > 0:
            model.decoder.spread_queries()
        return model, {"head": "label_decoder", "num_classes": num_classes, **sizes}

    def fingerprint(self) -> dict[str, Any]:
        """Return what tells these faces and candidates from others."""
        faces = self._faces
        candidates = self._confidences.initial
        return fingerprint(faces.images, names=faces.names, class_names=faces.class_names, targets=candidates)

    def start_epoch(self, epoch: int, batch_size: int, share: Share) -> Epoch:
        """Draw the epoch's order and augmentations."""
        self._revises = epoch >= self._revises_from
        return super().start_epoch(epoch, batch_size, share)

    def losses(self, model: nn.Module, samples: Tensor, rng: np.random.Generator) -> dict[str, Tensor]:  # noqa: ARG002
        """Return `loss` = `pll` + weight x `uniform`, and `revised`, the share of all faces revised so far."""
        device = next(model.parameters()).device
        faces = self._shown[samples]
        images = self._augment(self._faces.images[faces].to(device), self._draws[samples, 0].to(device))
        logits, queries = model.forward_train(images)  # type: ignore[operator]
        if self._revises:
            said, places = gather(logits.detach().float(), faces[:, None].to(device))
            self._confidences.revise(places[:, 0], said)
        terms = {"pll": self._pll(logits, self._confidences.rows(faces, device))}
        loss = terms["pll"]
        if self._uniform is not None:
            terms["uniform"] = self._uniform(queries)
            loss = loss + self._uniform_weight * terms["uniform"]
        return {"loss": loss, **terms, "revised": self._confidences.revised_share}

    def state(self) -> dict[str, Tensor]:
        """Return the confidences."""
        return self._confidences.state()

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take up what `state` returned.

        Raises:
            KeyError: it is something else's.
            ValueError: it is of other faces.
        """
        self._confidences.restore(state)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Score the selection split, and say what part of the faces was revised, and of these to the given label."""
        return {**super().evaluate(model), **self._labels.figures(self._confidences)}

    def save(self, folder: RunFolder, model: nn.Module, counters: dict[str, int], figures: dict[str, float]) -> None:
        """Write the classifier, as `MimicFinetuning.save` does, the confidences, and now and then a contact sheet."""
        super().save(folder, model, counters, figures)
        self._labels.write(folder.path, self._confidences)
        self._labels.draw(folder.path, self._confidences, counters["epochs"])
