"""Pictures of what a masked network paints, drawn every few epochs of its pre-training."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fer_app.errors import CheckpointError, InputError
from fer_app.preprocess import to_input
from models.mae import NORM_PIX_EPS, MaskedAutoencoder, patchify, unpatchify
from models.simmim import SimMim
from training.recipe import PretrainTable, Recipe

PICTURES: Final = 8
_MASK_STREAM: Final = 0x9EC  # tells these draws apart from every other use of the same seed
_ROWS: Final = ("masked", "predicted", "original")
_HIDDEN: Final = 0.6  # the gray of what is masked, of 1

MaskedNetwork = MaskedAutoencoder | SimMim
"""What predicts the masked parts of pictures; both give (loss, prediction, mask)."""


class Reconstructions:
    """Shows the same few pictures under the same masks after every few epochs.

    The masks come from a generator of their own, so that training draws what it would draw without them.
    """

    def __init__(self, recipe: Recipe, table: PretrainTable, images: Tensor, *, n_noise: int | None = None) -> None:
        """Take a few pictures, evenly spaced.

        Args:
            recipe: supplies the normalisation, the grid and the seed.
            table: how often, and the number of epochs.
            images: uint8, (N, C, H, W).
            n_noise: numbers that mask a picture; one a patch unless given.
        """
        shown = min(PICTURES, len(images))
        crops = images[torch.arange(shown) * len(images) // shown]
        grid = recipe.model.img_size // recipe.model.patch_size
        rng = np.random.default_rng([recipe.seed, _MASK_STREAM])
        self._noise = torch.from_numpy(rng.random((shown, n_noise or grid * grid), dtype=np.float32))
        self._crops = (crops[:, 0] if crops.shape[1] == 1 else crops.permute(0, 2, 3, 1)).contiguous().numpy()
        self._recipe, self._every, self._epochs = recipe, table.reconstructions_every, table.epochs

    def due(self, epoch: int) -> bool:
        """Whether they are drawn after so many epochs: every few, and after the last; never, where the table has 0."""
        return self._every > 0 and (epoch % self._every == 0 or epoch == self._epochs)

    def draw(self, folder: Path, model: MaskedNetwork, epoch: int) -> None:
        """Write `reconstructions/epoch-0005.png`, where it is due.

        Args:
            folder: the stage's.
            model: is left as it was.
            epoch: epochs done.

        Raises:
            CheckpointError: the picture cannot be written.
        """
        if not self.due(epoch):
            return
        from training.plots import draw_picture_rows  # matplotlib is slow to import, and needed nowhere else here

        device = next(model.parameters()).device
        images = torch.from_numpy(to_input(self._crops, self._recipe.contract())).to(device)
        pixels = self._rows(model, images, self._noise.to(device))
        path = folder / "reconstructions" / f"epoch-{epoch:04d}.png"
        title = f"{self._recipe.name}, epoch {epoch} of {self._epochs}: {model.mask_ratio:.0%} masked"
        try:
            path.parent.mkdir(exist_ok=True)
            draw_picture_rows(pixels, path, title=title)
        except (InputError, OSError) as error:
            raise CheckpointError(f"cannot write {path}: {error}") from error

    def _rows(self, model: MaskedNetwork, images: Tensor, noise: Tensor) -> dict[str, NDArray[np.uint8]]:
        """Return the rows of the picture by name, uint8 (B, H, W, 1 or 3)."""
        contract = self._recipe.contract()
        rows = repaint(model, images, noise) if isinstance(model, SimMim) else reconstruct(model, images, noise)
        return {name: pixels_of(row, contract.mean, contract.std) for name, row in zip(_ROWS, rows, strict=True)}


@torch.no_grad()
def reconstruct(model: MaskedAutoencoder, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Paint the masked patches of pictures.

    With `norm_pix_loss` the network predicts patches without their own mean and contrast; each is given those of the
    original, which the network never saw. So the row shows the shapes that it found, not the light.

    Args:
        model: is left in the mode it was in.
        images: float32, (B, C, H, W), normalised.
        noise: (B, N), see `random_masking`.

    Returns:
        masked: float32, (B, C, H, W), NaN in masked patches.
        painted: the same, the visible patches original and the masked ones predicted.
        images: as they came.
    """
    pred, mask = predictions_of(model, images, noise)
    config = model.encoder.config
    patches, painted = patchify(images, config.patch_size), pred.float()
    if model.norm_pix_loss:
        variance, mean = torch.var_mean(patches, dim=-1, correction=1, keepdim=True)
        painted = painted * (variance + NORM_PIX_EPS).sqrt() + mean
    hidden = mask[..., None].bool()
    masked = patches.masked_fill(hidden, torch.nan)
    both = torch.where(hidden, painted, patches)
    side, grid = config.patch_size, config.grid_size
    return unpatchify(masked, side, grid), unpatchify(both, side, grid), images


def repaint(model: SimMim, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Paint the masked squares of pictures; as `reconstruct`, but with the predicted pixels as they are.

    Args:
        model: is left in the mode it was in.
        images: float32, (B, C, H, W), normalised.
        noise: (B, `num_squares`), see `models.simmim.SimMim.forward`.
    """
    pred, mask = predictions_of(model, images, noise)
    return images.masked_fill(mask, torch.nan), torch.where(mask, pred.float(), images), images


@torch.no_grad()
def predictions_of(model: MaskedNetwork, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return a masked network's predictions and mask, see its `forward`, in eval mode; its own mode is left."""
    was_training = model.training
    model.eval()
    try:
        # Compiling for this batch and this mode would take longer than the picture.
        with torch.compiler.set_stance("force_eager"):
            _, pred, mask = model(images, noise)
    finally:
        model.train(was_training)
    return pred, mask


def pixels_of(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> NDArray[np.uint8]:
    """Undo the normalisation: uint8, (B, H, W, C), gray where there is NaN."""
    shape = (1, -1, 1, 1)
    shares = images.cpu() * torch.tensor(std).reshape(shape) + torch.tensor(mean).reshape(shape)
    shares = shares.nan_to_num(nan=_HIDDEN).clamp(0, 1)
    return np.asarray((255 * shares).round().to(torch.uint8).permute(0, 2, 3, 1).numpy())
