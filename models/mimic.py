"""The classifier that MIMIC fine-tunes (Zhang et al. 2024, arXiv:2401.07245)."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from fer_app.errors import ConfigError
from models.heads import Projection, ProjectionKind
from models.vit import VisionTransformer, layers_of_encoder, make_norm

HEAD_INIT_STD = 2e-5

GlobalPool = Literal["avg", "token"]


class MimicClassifier(nn.Module):
    """An encoder with a classification head and, for training only, a projection to contrast samples with.

    With `global_pool="avg"` the feature is the mean of the patch tokens, normalised after pooling by a fresh
    `fc_norm`, as MAE fine-tunes (`--global_pool`); the encoder's own final norm would be dead weight and is removed.
    With `"token"` it is the class token after the encoder's norm.

    Args:
        encoder: the encoder; it becomes part of this model, and its positions are trainable from here on.
        num_classes: K.
        projection: form of the projection head.
        projection_dim: width of the contrasted code.
        global_pool: how tokens become one feature.

    Raises:
        ConfigError: `global_pool` is unknown, or `"token"` for an encoder without a class token.
    """

    def __init__(
        self,
        encoder: VisionTransformer,
        num_classes: int,
        projection: ProjectionKind = "mlp",
        projection_dim: int = 512,
        global_pool: GlobalPool = "avg",
    ) -> None:
        super().__init__()
        if global_pool not in ("avg", "token"):
            raise ConfigError(f"there is no global_pool {global_pool!r}; there are avg, token")
        if global_pool == "token" and not encoder.config.class_token:
            raise ConfigError("global_pool 'token' needs an encoder with class_token = true")
        dim = encoder.config.embed_dim
        self.encoder = encoder
        self.encoder.pos_embed.requires_grad_(True)  # masked pre-training keeps them fixed
        self.global_pool = global_pool
        self.num_classes = num_classes
        self.fc_norm: nn.Module = nn.Identity()
        if global_pool == "avg":
            self.encoder.norm = nn.Identity()
            self.fc_norm = make_norm(dim)
        self.head = nn.Linear(dim, num_classes)
        nn.init.trunc_normal_(self.head.weight, std=HEAD_INIT_STD)
        nn.init.zeros_(self.head.bias)
        self.projection = Projection(projection, dim, projection_dim)

    def forward_features(self, images: Tensor) -> Tensor:
        """Return one feature a picture.

        Args:
            images: float, (B, in_chans, img_size, img_size), normalised.

        Returns:
            r: (B, D).
        """
        return self._pooled(self.encoder.forward_features(images))

    def _pooled(self, tokens: Tensor) -> Tensor:
        if self.global_pool == "token":
            return tokens[:, 0]
        features: Tensor = self.fc_norm(tokens[:, self.encoder.num_prefix_tokens :].mean(dim=1))
        return features

    @property
    def output_names(self) -> tuple[str, ...]:
        """What `forward_outputs` returns: `logits`, `features` and, where patches are averaged, `evidence`."""
        return ("logits", "features", "evidence") if self.global_pool == "avg" else ("logits", "features")

    def forward_outputs(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return all that an exported network gives.

        Args:
            images: float, (B, in_chans, img_size, img_size), normalised.

        Returns:
            logits: (B, K).
            features: (B, D), what the head sees.
            evidence: (B, K, h, w), what each patch says for each class; with `global_pool="avg"` alone. The norm after
                pooling is linear once the pooled vector's mean and deviation are given: each token is centred and
                scaled with those, so that the mean over the patches is the logits.
        """
        tokens = self.encoder.forward_features(images)
        features = self._pooled(tokens)
        logits = self.head(features)
        if self.global_pool == "token":
            return logits, features
        norm = self.fc_norm
        assert isinstance(norm, nn.LayerNorm)
        patches = tokens[:, self.encoder.num_prefix_tokens :]
        pooled = patches.mean(dim=1, keepdim=True)
        mean = pooled.mean(dim=-1, keepdim=True)
        variance = (pooled - mean).square().mean(dim=-1, keepdim=True)
        evidence = self.head((patches - mean) / (variance + norm.eps).sqrt() * norm.weight + norm.bias)
        return logits, features, evidence.mT.unflatten(-1, self.encoder.config.grid_size)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits: float32 also under autocast, (B, K)."""
        logits: Tensor = self.head(self.forward_features(images))
        return logits.float()

    def forward_train(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the losses need.

        Args:
            images: float, (B, in_chans, img_size, img_size), normalised.

        Returns:
            logits: float32 also under autocast, (B, K).
            z: float32 also under autocast, (B, projection_dim), rows of length 1; made from r, not from the logits.
        """
        features = self.forward_features(images)
        return self.head(features).float(), self.projection(features)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Tell timm which parameter belongs to which layer, so that layer-wise decay has MAE's exponents.

        Norms, head and projection are the last one; see `models.vit.layers_of_encoder`.

        Args:
            coarse: part of timm's signature; there is one granularity here.
        """
        del coarse
        return layers_of_encoder()

    def no_weight_decay(self) -> set[str]:
        """Name the parameters of more than one dimension that weight decay leaves alone."""
        return {"encoder.pos_embed", "encoder.cls_token"}
