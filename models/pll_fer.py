"""The classifier of PLL-FER (Wang, Sebe and Lepri 2022, arXiv:2209.15402): an encoder and a label decoder."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from models.label_decoder import LabelDecoder
from models.vit import VisionTransformer, layers_of_encoder


class PllFerClassifier(nn.Module):
    """An encoder whose patch tokens a label decoder reads.

    The class token is left out: a label's attention then is a map of the picture.

    Args:
        encoder: the encoder; it becomes part of this model, and its positions are trainable from here on.
        num_classes: K.
        depth: layers of the decoder.
        num_heads: its attention heads.
        ffn_dim: hidden width of its feed-forward parts.
        dropout: in training.

    Raises:
        ConfigError: the decoder's sizes do not fit the encoder's width.
    """

    def __init__(
        self,
        encoder: VisionTransformer,
        num_classes: int,
        depth: int = 2,
        num_heads: int = 8,
        ffn_dim: int = 2048,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.encoder.pos_embed.requires_grad_(True)  # masked pre-training keeps them fixed
        self.num_classes = num_classes
        self.decoder = LabelDecoder(num_classes, encoder.config.embed_dim, depth, num_heads, ffn_dim, dropout)

    def attend(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Classify, and tell where each label was looked for.

        Args:
            images: float, (B, in_chans, img_size, img_size), normalised.

        Returns:
            logits: float32 also under autocast, (B, K).
            attention: float32 also under autocast, (B, K, h, w) over the grid of patches; each map sums to 1.
        """
        decoded, weights = self._decode(images)
        return self.decoder.logits(decoded), self._map(weights)

    @property
    def output_names(self) -> tuple[str, ...]:
        """What `forward_outputs` returns."""
        return "logits", "features", "attention"

    def forward_outputs(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return all that an exported network gives.

        Args:
            images: float, (B, in_chans, img_size, img_size), normalised.

        Returns:
            logits: (B, K).
            features: (B, K * D), what the head sees.
            attention: (B, K, h, w), where each label was looked for; see `attend`.
        """
        decoded, weights = self._decode(images)
        return self.decoder.logits(decoded), decoded.flatten(1), self._map(weights)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits: float32 also under autocast, (B, K)."""
        return self.decoder.logits(self._decode(images)[0])

    def forward_train(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the losses need.

        Args:
            images: float, (B, in_chans, img_size, img_size), normalised.

        Returns:
            logits: float32 also under autocast, (B, K).
            queries: float32, (K, D), the label queries, scaled to length 1.
        """
        return self.forward(images), F.normalize(self.decoder.queries.float(), dim=1)

    def forward_features(self, images: Tensor) -> Tensor:
        """Return what the head sees, all decoded labels after one another: (B, K * D)."""
        return self._decode(images)[0].flatten(1)

    def _decode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.encoder.forward_features(images)
        decoded: tuple[Tensor, Tensor] = self.decoder(tokens[:, self.encoder.num_prefix_tokens :])
        return decoded

    def _map(self, weights: Tensor) -> Tensor:
        """(B, K, N) to float32 (B, K, h, w)."""
        return weights.float().reshape(*weights.shape[:2], *self.encoder.config.grid_size)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Tell timm which parameter belongs to which layer; the encoder's norm and the decoder are the last.

        Args:
            coarse: part of timm's signature; there is one granularity here.
        """
        del coarse
        return layers_of_encoder()

    def no_weight_decay(self) -> set[str]:
        """Name the parameters of more than one dimension that weight decay leaves alone."""
        return {"encoder.pos_embed", "encoder.cls_token", "decoder.queries"}
