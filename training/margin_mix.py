"""Learning from few labels as an objective for the loop: Margin-Mix, MixMatch, and cross-entropy alone.

Margin-Mix (Florea et al. 2020, ECCV) is MixMatch (Berthelot et al. 2019, arXiv:1905.02249) with another way to label
the unlabelled: by distances to class centroids, that a margin loss keeps apart, and not by the network's own output.

Differs: of Margin-Mix only a description was at hand, and neither its text nor code. What it leaves open is said in
`training.losses.margin_loss` and `training.fuzzy_c_means`; that guesses are averaged over views and sharpened, and that
the loss of guesses stays, is MixMatch's part. That the unlabelled come to count in the margin loss by and by, as they
do in that of guesses, is ours: centroids that are near each other guess badly; so are epochs of labelled faces alone
before guesses begin. All pictures of a step go through the network at once, so that batch normalisation sees labelled
and unlabelled ones together; MixMatch shuffles them over batches of its own for that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fer_app.errors import DatasetError
from models.mimic import MimicClassifier
from models.vit import VisionTransformer
from models.wide_resnet import WideResNet
from training.augment import epoch_draws
from training.checkpoint import CheckpointInfo, load_encoder, save_checkpoint
from training.data.image_set import ImageSet
from training.data.labelled_subset import labelled_subset
from training.evaluation import TorchClassifier, crops_of
from training.fingerprint import fingerprint
from training.fuzzy_c_means import class_means, memberships, settled_centroids
from training.json_file import write_text
from training.layer_decay import param_groups
from training.losses.cross_entropy_loss import CrossEntropyLoss
from training.losses.guess_loss import GuessLoss
from training.losses.margin_loss import MarginLoss
from training.margin_mix_table import MarginMixTable
from training.objective import Stateless
from training.recipe import Recipe
from training.run_folder import RunFolder
from training.sampling import Epoch, IndexedEpoch, Share
from training.selection import Selection, calibrated, scores

CENTROIDS = "centroids"


def sharpen(probs: Tensor, temperature: float) -> Tensor:
    """Return `p^(1/T)`, divided by its sum over the classes (MixMatch, eq. 7): (M, K) to (M, K)."""
    powers = probs ** (1.0 / temperature)
    return powers / powers.sum(dim=1, keepdim=True)


def mix(images: Tensor, targets: Tensor, alpha: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Mix every picture with another one of the batch, of which it keeps the larger part (MixMatch, eq. 8-11).

    One weight for the batch, as in YU1ut's MixMatch-pytorch; the TensorFlow original draws one a picture.

    Args:
        images: float, (M, C, H, W); labelled and unlabelled ones.
        targets: float, (M, K).
        alpha: the weight is drawn from Beta(alpha, alpha), and 1 minus it taken if that is larger.
        rng: the only source of chance.

    Returns:
        images: (M, C, H, W).
        targets: (M, K).
    """
    weight = float(rng.beta(alpha, alpha))
    weight = max(weight, 1.0 - weight)
    partners = torch.from_numpy(rng.permutation(len(images))).to(images.device)
    return images[partners].lerp_(images, weight), targets[partners].lerp_(targets, weight)


class MarginMix(Stateless):
    """Labelled and unlabelled faces of one set, through cross-entropy and whatever the method adds.

    A sample of a step is a pair of one labelled and one unlabelled face, drawn apart: both kinds go round by
    themselves, in a new order each time. Where the labels are few, an epoch shows each of them many times.
    """

    forward_methods: tuple[str, ...] = ("forward_train",)
    draws_a_sample = 0

    def __init__(
        self,
        recipe: Recipe,
        table: MarginMixTable,
        faces: ImageSet,
        selection: ImageSet | None,
        encoder_weights: dict[str, Tensor] | None,
    ) -> None:
        """Build the network, and choose which labels are used.

        Args:
            recipe: supplies the network and the seed.
            table: the stage's settings.
            faces: all that is trained on, with targets (N, K), of which those of `table.labels` faces are used.
            selection: the split that chooses the best epoch, the temperature and what is uncertain; None,
                where the last epoch counts.
            encoder_weights: a pre-trained encoder's, for a transformer, or None for random ones.

        Raises:
            CheckpointError: the encoder's weights do not fit.
            DatasetError: `faces` has no targets, or fewer faces than labels are asked for, or a class has none.
        """
        torch.manual_seed(recipe.seed)
        self._recipe, self._table, self._faces = recipe, table, faces
        self.class_names = faces.class_names
        self._labelled = labelled_subset(faces, table.labels, table.labels_seed)
        assert faces.targets is not None  # or there would be no subset
        self._targets: Tensor = faces.targets
        is_unlabelled = torch.ones(len(faces), dtype=torch.bool)
        is_unlabelled[self._labelled] = False
        self._unlabelled = torch.nonzero(is_unlabelled).flatten()
        self._sizes = self._targets[self._labelled].mean(dim=0) if table.cluster_sizes == "labelled" else None
        self._guesses = table.method != "supervised"
        if self._guesses and not len(self._unlabelled):
            raise DatasetError(f"labels = {table.labels} leaves no face to learn from without its label")
        self.num_samples = len(faces) if self._guesses else len(self._labelled)
        self.views = 1 + (table.views if self._guesses else 0)
        network, self._architecture = _network(recipe, table, len(faces.class_names), encoder_weights)
        self.model: nn.Module = network
        self._augment = recipe.model.augmentation(table.augment)
        self._cross_entropy, self._guess_loss = CrossEntropyLoss(), GuessLoss(table.guess_loss)
        self._margin = MarginLoss(table.margin)
        self._selection = Selection(selection)
        if table.method == "margin_mix":
            # A buffer, so that it is saved with the state and is the same in all processes.
            self.model.register_buffer(CENTROIDS, self._class_means(self.model))

    def write_labelled(self, path: Path) -> None:
        """Write the names of the labelled faces, one a line.

        Raises:
            CheckpointError: it could not be written.
        """
        write_text(path, "".join(f"{self._faces.names[i]}\n" for i in self._labelled.tolist()))

    def fingerprint(self) -> dict[str, Any]:
        """Return what tells these faces from others."""
        faces = self._faces
        return fingerprint(faces.images, names=faces.names, class_names=faces.class_names, targets=faces.targets)

    def param_groups(self) -> list[dict[str, Any]]:
        """Return the optimiser's groups: kernels and matrices decay."""
        table = self._table
        return param_groups(self.model, lr=table.lr, weight_decay=table.weight_decay, layer_decay=table.layer_decay)

    def start_epoch(self, epoch: int, batch_size: int, share: Share) -> Epoch:
        """Draw the epoch's order and augmentations."""
        seed, steps = self._recipe.seed, self._table.epoch_steps
        self._epoch, self._row = epoch, batch_size * share.world_size
        pairs = steps * self._row
        rng = np.random.default_rng([seed, epoch])
        self._shown = self._labelled[_going_round(rng, len(self._labelled), pairs)]
        if self._guesses:
            self._shown_unlabelled = self._unlabelled[_going_round(rng, len(self._unlabelled), pairs)]
        self._draws = epoch_draws(seed, epoch, pairs, self.views, self._augment.n_draws)
        return IndexedEpoch(torch.arange(pairs).view(steps, self._row), share)

    def losses(self, model: nn.Module, samples: Tensor, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return `loss` and its terms, of B pairs: `ce` of the labelled, `guess` of the unlabelled, `margin` of all.

        In the first `labelled_epochs`, and throughout with `supervised`, the labelled faces are alone, and not mixed.
        """
        table, device = self._table, next(model.parameters()).device
        draws = self._draws[samples].to(device)
        images = self._augment(self._faces.images[self._shown[samples]].to(device), draws[:, 0])
        targets = self._targets[self._shown[samples]].to(device)
        if not self._guesses or self._epoch < table.labelled_epochs:
            return self._labelled_losses(model, images, targets)
        crops = self._faces.images[self._shown_unlabelled[samples]].to(device)
        unlabelled = torch.cat([self._augment(crops, draws[:, view]) for view in range(1, self.views)])
        guesses = self._guess(model, unlabelled)
        # Before 2.15 torch would take the weights that autocast has rounded for the guesses, which have no gradient.
        torch.clear_autocast_cache()
        images, targets = mix(
            torch.cat([images, unlabelled]),
            torch.cat([targets, guesses.repeat(table.views, 1)]),
            table.mix_alpha,
            rng,
        )
        logits, z = model.forward_train(images)  # type: ignore[operator]
        labelled = len(samples)
        terms = {
            "ce": self._cross_entropy(logits[:labelled], targets[:labelled]),
            "guess": self._guess_loss(logits[labelled:], targets[labelled:]),
        }
        risen = self._risen(samples)
        loss = terms["ce"] + risen * table.guess_weight * terms["guess"]
        if table.method == "margin_mix":
            centroids = self._centroids(device)
            known, guessed = (
                self._margin(z[part], targets[part], centroids) for part in (slice(labelled), slice(labelled, None))
            )
            terms["margin"] = (known + risen * guessed) / (1.0 + risen)
            loss = loss + table.margin_weight * terms["margin"]
        return {"loss": loss, **terms, "confidence": guesses.amax(dim=1).mean()}

    def _labelled_losses(self, model: nn.Module, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return `loss` and its terms, of labelled faces alone: (B, C, H, W) and (B, K)."""
        logits, z = model.forward_train(images)  # type: ignore[operator]
        terms = {"ce": self._cross_entropy(logits, targets)}
        loss = terms["ce"]
        if self._table.method == "margin_mix":
            terms["margin"] = self._margin(z, targets, self._centroids(images.device))
            loss = loss + self._table.margin_weight * terms["margin"]
        return {"loss": loss, **terms}

    @torch.no_grad()
    def _guess(self, model: nn.Module, images: Tensor) -> Tensor:
        """Return the label that B unlabelled faces are given, (B, K), from their views, (views x B, C, H, W)."""
        table = self._table
        logits, z = model.forward_train(images)  # type: ignore[operator]
        if table.method == "margin_mix":
            sizes = None if self._sizes is None else self._sizes.to(images.device)
            probs = memberships(z, self._centroids(images.device), table.fuzzifier, sizes)
        else:
            probs = logits.softmax(dim=1)
        return sharpen(probs.view(table.views, -1, probs.shape[1]).mean(dim=0), table.sharpen_temperature)

    def _risen(self, samples: Tensor) -> float:
        """Return how much guesses count at a step: from 0 to 1 over `ramp` of the epochs that have guesses."""
        table = self._table
        step = int(samples[0]) // self._row
        past = self._epoch + step / table.epoch_steps - table.labelled_epochs
        return min(1.0, past / (table.epochs - table.labelled_epochs) / table.ramp)

    def _centroids(self, device: torch.device) -> Tensor:
        return self.model.get_buffer(CENTROIDS).to(device)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Move the centroids to where the averaged network sees the classes, and score the selection split.

        `guess_accuracy` is the share of unlabelled faces that belong most to their class: the one figure that looks at
        labels which training does not see.
        """
        figures = {}
        if self._table.method == "margin_mix":
            some = _evenly(self._unlabelled, self._table.cluster_faces)
            anchors, unlabelled = self._class_means(model), self._embeddings(model, some)
            fuzzifier, share = self._table.fuzzifier, self._table.unlabelled_share
            centroids = settled_centroids(
                anchors, unlabelled, fuzzifier=fuzzifier, unlabelled_share=share, sizes=self._sizes
            )
            self.model.get_buffer(CENTROIDS).copy_(centroids)
            guessed = memberships(unlabelled, centroids, fuzzifier, self._sizes).argmax(dim=1)
            true = self._targets[some].argmax(dim=1)
            figures["guess_accuracy"] = float((guessed == true).float().mean())
        return {**figures, **self._selection.figures(model, self._recipe.contract(self.class_names))}

    def _class_means(self, model: nn.Module) -> Tensor:
        """Return the mean embedding of each class's labelled faces, (K, D)."""
        return class_means(self._embeddings(model, self._labelled), self._targets[self._labelled], self.class_names)

    def _embeddings(self, model: nn.Module, indices: Tensor) -> Tensor:
        """Return float32 embeddings of length 1, (n, D), in main memory, of faces as they are served."""
        crops: NDArray[np.uint8] = crops_of(self._faces.subset(indices))
        features = TorchClassifier(model, self._recipe.contract(self.class_names)).features(crops)
        return F.normalize(torch.from_numpy(features), dim=1)

    def save(self, folder: RunFolder, model: nn.Module, counters: dict[str, int], figures: dict[str, float]) -> None:
        """Write the classifier as the newest, and as the best if its accuracy on a selection split is."""
        self._selection.save(folder, figures, lambda path: self.write(path, model, counters, figures))

    def write(self, path: Path, model: nn.Module, counters: dict[str, int], figures: dict[str, float]) -> None:
        """Write the classifier to `path`, without the centroids, which only training needs."""
        info = CheckpointInfo(
            kind="classifier",
            architecture=self._architecture,
            counters=counters,
            recipe=self._recipe.model_dump(mode="json"),
            metrics=scores(figures),
            contract=calibrated(self._recipe.contract(self.class_names), figures),
        )
        save_checkpoint(path, {k: tensor for k, tensor in model.state_dict().items() if k != CENTROIDS}, info)


def _network(
    recipe: Recipe, table: MarginMixTable, num_classes: int, encoder_weights: dict[str, Tensor] | None
) -> tuple[nn.Module, dict[str, Any]]:
    """Return the recipe's network, and what its checkpoints say of its architecture."""
    if recipe.model.backbone == "wide_resnet":
        shape = recipe.model.wide_resnet_shape()
        network: nn.Module = WideResNet(num_classes, **shape)
        # Channels last is the fast layout on CPUs and on tensor cores.
        return network.to(memory_format=torch.channels_last), {"wide_resnet": shape, "num_classes": num_classes}
    encoder = VisionTransformer(recipe.model.vit_config(drop_path_rate=recipe.model.drop_path_rate))
    if encoder_weights is not None:
        load_encoder(encoder, encoder_weights, may_lack_norm=table.global_pool == "avg")
    head = {"num_classes": num_classes, "projection": "none", "global_pool": table.global_pool}
    network = MimicClassifier(encoder, num_classes, projection="none", global_pool=table.global_pool)
    if recipe.model.stem == "conv":
        network = network.to(memory_format=torch.channels_last)
    return network, {"encoder": encoder.config.to_dict(), **head}


def _evenly(indices: Tensor, count: int | None) -> Tensor:
    """Return `count` evenly spaced ones; all, where there are no more or None are asked for."""
    if count is None or count >= len(indices):
        return indices
    return indices[torch.arange(count) * len(indices) // count]


def _going_round(rng: np.random.Generator, size: int, count: int) -> Tensor:
    """Return int64 (count,): all of `size` in one random order after another."""
    rounds = [rng.permutation(size) for _ in range(-(-count // size))]
    return torch.from_numpy(np.concatenate(rounds)[:count])
