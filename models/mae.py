"""Masked autoencoders (He et al. 2022, arXiv:2111.06377): pre-training an encoder by painting in removed patches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fer_app.errors import ConfigError
from models.pos_embed import sincos_2d
from models.vit import INIT_STD, Blocks, VisionTransformer, init_transformer_weights, make_norm, transformer_block

NORM_PIX_EPS = 1e-6


def random_masking(
    tokens: Tensor,
    mask_ratio: float,
    *,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Keep a random subset of every sample's tokens: those with the smallest noise.

    Args:
        tokens: (B, N, D).
        mask_ratio: share of tokens to remove; `int(N * (1 - mask_ratio))` are kept.
        noise: (B, N), the randomness itself; drawn uniformly when not given.
        generator: the source of `noise` when it is not given; torch's global one by default.

    Returns:
        kept: (B, n, D), in the order of their noise.
        mask: float32, (B, N), 0 where kept, 1 where removed, in the order of the tokens.
        ids_restore: int64, (B, N); gathering [kept, removed] with it gives the order of the tokens back.

    Raises:
        ConfigError: the ratio keeps no token, or removes none.
    """
    batch, num_tokens, dim = tokens.shape
    len_keep = int(num_tokens * (1 - mask_ratio))
    if not 1 <= len_keep < num_tokens:
        raise ConfigError(f"mask_ratio {mask_ratio} keeps {len_keep} of {num_tokens} tokens; both parts need one")
    if noise is None:
        noise = torch.rand(batch, num_tokens, device=tokens.device, generator=generator)
    ids_shuffle = noise.argsort(dim=1)
    ids_restore = ids_shuffle.argsort(dim=1)
    ids_keep = ids_shuffle[:, :len_keep]
    kept = tokens.gather(1, ids_keep[..., None].expand(-1, -1, dim))
    mask = (ids_restore >= len_keep).to(torch.float32)
    return kept, mask, ids_restore


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """Cut pictures into flat patches.

    Args:
        images: (B, C, H, W); H and W multiples of `patch_size`.
        patch_size: p, in px.

    Returns:
        (B, N, p * p * C), patches row by row; within a patch row, column, channel, the channel fastest.
    """
    batch, channels, height, width = images.shape
    p = patch_size
    patches = images.reshape(batch, channels, height // p, p, width // p, p)
    return patches.permute(0, 2, 4, 3, 5, 1).reshape(batch, (height // p) * (width // p), p * p * channels)


def unpatchify(patches: Tensor, patch_size: int, grid_size: tuple[int, int]) -> Tensor:
    """Put flat patches together again; the inverse of `patchify`.

    Args:
        patches: (B, h * w, p * p * C).
        patch_size: p, in px.
        grid_size: (h, w), in patches.

    Returns:
        (B, C, h * p, w * p).
    """
    height, width = grid_size
    p = patch_size
    batch, _, values = patches.shape
    channels = values // (p * p)
    images = patches.reshape(batch, height, width, p, p, channels)
    return images.permute(0, 5, 1, 3, 2, 4).reshape(batch, channels, height * p, width * p)


class MaskedAutoencoder(nn.Module):
    """An encoder that sees few patches and a light decoder that paints the others.

    Decoder parameters carry the names of the published code (`decoder_blocks.0...`, `mask_token`); the encoder's are
    under `encoder.`. Both position embeddings are fixed, as in the paper.

    Args:
        encoder: the encoder to pre-train, with a patch stem; its position embedding is frozen.
        decoder_embed_dim: width of the decoder.
        decoder_depth: blocks of the decoder.
        decoder_num_heads: attention heads of the decoder.
        mask_ratio: share of patches to remove.
        norm_pix_loss: whether the target of a patch is standardised by its own mean and variance.

    Raises:
        ConfigError: the encoder has a convolutional stem, or the decoder's sizes do not fit together.
    """

    def __init__(
        self,
        encoder: VisionTransformer,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 8,
        decoder_num_heads: int = 16,
        mask_ratio: float = 0.75,
        norm_pix_loss: bool = True,
    ) -> None:
        super().__init__()
        config = encoder.config
        if config.stem != "patch":
            raise ConfigError(
                "pre-training that removes patches needs stem = 'patch': the receptive fields of a convolutional stem "
                "overlap, so tokens that stay would show the pixels of tokens that are removed; "
                "pretrain.method = 'simmim' masks pixels instead"
            )
        if decoder_embed_dim % decoder_num_heads or decoder_embed_dim % 4:
            raise ConfigError(
                f"decoder_embed_dim {decoder_embed_dim} must be a multiple of 4 and of "
                f"decoder_num_heads {decoder_num_heads}"
            )
        self.encoder = encoder
        self.encoder.pos_embed.requires_grad_(False)
        self.mask_ratio = mask_ratio
        self.norm_pix_loss = norm_pix_loss
        self.decoder_embed = nn.Linear(config.embed_dim, decoder_embed_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_embed_dim))
        self.decoder_pos_embed: Tensor
        positions = sincos_2d(decoder_embed_dim, config.grid_size, config.class_token)
        self.register_buffer("decoder_pos_embed", positions[None])
        self.decoder_blocks = Blocks(
            *(transformer_block(decoder_embed_dim, decoder_num_heads, mlp_ratio=4.0) for _ in range(decoder_depth))
        )
        self.decoder_norm = make_norm(decoder_embed_dim)
        self.decoder_pred = nn.Linear(decoder_embed_dim, config.patch_size**2 * config.in_chans)
        for module in (self.decoder_embed, self.decoder_blocks, self.decoder_norm, self.decoder_pred):
            module.apply(init_transformer_weights)
        nn.init.normal_(self.mask_token, std=INIT_STD)

    def forward_encoder(
        self, images: Tensor, noise: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Encode what masking leaves.

        Args:
            images: float, (B, in_chans, img_size, img_size), normalised.
            noise: (B, N), see `random_masking`.
            generator: see `random_masking`.

        Returns:
            latent: (B, 1 + n, D), the class token and the n kept tokens.
            mask: float32, (B, N), 1 where removed.
            ids_restore: int64, (B, N).
        """
        kept, mask, ids_restore = random_masking(
            self.encoder.embed(images), self.mask_ratio, noise=noise, generator=generator
        )
        return self.encoder.encode(kept), mask, ids_restore

    def forward_decoder(self, latent: Tensor, ids_restore: Tensor) -> Tensor:
        """Predict every patch.

        Args:
            latent: (B, 1 + n, D), as `forward_encoder` returns it.
            ids_restore: int64, (B, N).

        Returns:
            pred: (B, N, p * p * C), in `patchify`'s order.
        """
        prefix = self.encoder.num_prefix_tokens
        tokens = self.decoder_embed(latent)
        patches = tokens[:, prefix:]
        batch, num_patches = ids_restore.shape
        mask_tokens = self.mask_token.to(tokens.dtype).expand(batch, num_patches - patches.shape[1], -1)
        patches = torch.cat([patches, mask_tokens], dim=1)
        patches = patches.gather(1, ids_restore[..., None].expand(-1, -1, patches.shape[2]))
        tokens = torch.cat([tokens[:, :prefix], patches], dim=1) + self.decoder_pos_embed
        pred: Tensor = self.decoder_pred(self.decoder_norm(self.decoder_blocks(tokens)))
        return pred[:, prefix:]

    def target(self, images: Tensor) -> Tensor:
        """Return what is to be predicted of pictures as the encoder saw them: float32, (B, N, p * p * C)."""
        target = patchify(images.float(), self.encoder.config.patch_size)
        if self.norm_pix_loss:
            # The published code divides by the unbiased variance.
            # Written out: on a CPU `torch.var` is many times slower.
            target = target - target.mean(dim=-1, keepdim=True)
            variance = target.square().sum(dim=-1, keepdim=True) / (target.shape[-1] - 1)
            target = target / (variance + NORM_PIX_EPS).sqrt()
        return target

    def forward_loss(self, images: Tensor, pred: Tensor, mask: Tensor) -> Tensor:
        """Return the mean squared error over the removed patches, a float32 scalar.

        Args:
            images: (B, in_chans, img_size, img_size), as the encoder saw them.
            pred: (B, N, p * p * C).
            mask: (B, N), 1 where removed.
        """
        loss = (pred.float() - self.target(images)).square().mean(dim=-1)
        return (loss * mask).sum() / mask.sum()

    def forward(
        self, images: Tensor, noise: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mask, encode, decode and compare.

        Args:
            images: float, (B, in_chans, img_size, img_size), normalised.
            noise: (B, N), see `random_masking`.
            generator: see `random_masking`.

        Returns:
            loss: float32 scalar.
            pred: (B, N, p * p * C), the painted patches in `patchify`'s order.
            mask: float32, (B, N), 1 where removed.
        """
        latent, mask, ids_restore = self.forward_encoder(images, noise, generator)
        pred = self.forward_decoder(latent, ids_restore)
        return self.forward_loss(images, pred, mask), pred, mask
