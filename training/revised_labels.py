"""What became of a run's candidate labels: figures, a table of all faces, and a contact sheet of some."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from fer_app.atomic_file import replacing
from fer_app.errors import CheckpointError, InputError
from training.confidences import Confidences
from training.data.image_set import ImageSet
from training.evaluation import crops_of
from training.recipe import FinetuneTable, Recipe

TABLE_NAME: Final = "confidences.csv"
_SHOWN: Final = 40
_LETTERS: Final = 3  # of a candidate's name, so that several fit below a face


class RevisedLabels:
    """Tells which faces were revised, and to what; a face's given label is the largest of its targets."""

    def __init__(self, recipe: Recipe, table: FinetuneTable, faces: ImageSet) -> None:
        """Hold references; nothing is copied.

        Args:
            recipe: supplies the name.
            table: how often a sheet is drawn, and the number of epochs.
            faces: N of them, with targets.
        """
        assert faces.targets is not None  # fine-tuning has refused others
        self._given = faces.targets.argmax(dim=1)
        self._recipe, self._faces = recipe, faces
        self._every, self._epochs = table.partial_labels.sheet_every, table.epochs

    def figures(self, confidences: Confidences) -> dict[str, float]:
        """Return `revised`, the share of all faces, and `revised_to_given`, the share of these with the given label."""
        revised = confidences.revised.cpu()
        found = {"revised": float(confidences.revised_share)}
        if revised.any():
            found["revised_to_given"] = float((_labels(confidences) == self._given)[revised].float().mean())
        return found

    def write(self, folder: Path, confidences: Confidences) -> None:
        """Write a row a face to `confidences.csv`.

        Its columns are `name`, `given`, `candidates` joined by `|`, `revised` (the label that the face was revised to,
        or nothing), and `confidence_LABEL` for every label.

        Raises:
            CheckpointError: it cannot be written.
        """
        names, path = self._faces.class_names, folder / TABLE_NAME
        revised, labels, values = (
            confidences.revised.tolist(),
            _labels(confidences).tolist(),
            confidences.values.tolist(),
        )
        try:
            with (
                replacing(path) as temporary,
                temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
            ):
                rows = csv.writer(file, lineterminator="\n")
                rows.writerow(["name", "given", "candidates", "revised", *(f"confidence_{name}" for name in names)])
                for i, name in enumerate(self._faces.names):
                    settled = names[labels[i]] if revised[i] else ""
                    sure = (f"{value:.6g}" for value in values[i])
                    rows.writerow(
                        [name, names[int(self._given[i])], "|".join(self._candidates(confidences, i)), settled, *sure]
                    )
        except (InputError, OSError) as error:
            raise CheckpointError(f"cannot write {path}: {error}") from error

    def due(self, epoch: int) -> bool:
        """Whether a sheet is drawn after so many epochs: every few, and after the last; never, with 0."""
        return self._every > 0 and (epoch % self._every == 0 or epoch == self._epochs)

    def draw(self, folder: Path, confidences: Confidences, epoch: int) -> None:
        """Write `revised/epoch-0005.png`, where it is due: some of the revised faces, evenly spaced, and their labels.

        Args:
            folder: the stage's.
            confidences: as they are now.
            epoch: epochs done.

        Raises:
            CheckpointError: the picture cannot be written.
        """
        if not self.due(epoch):
            return
        from training.plots import draw_faces  # matplotlib is slow to import, and needed nowhere else here

        revised = torch.nonzero(confidences.revised.cpu()).flatten()
        shown = revised[torch.arange(min(_SHOWN, len(revised))) * len(revised) // min(_SHOWN, max(len(revised), 1))]
        names, labels = self._faces.class_names, _labels(confidences)
        captions = []
        for i in shown.tolist():
            short = " ".join(name[:_LETTERS] for name in self._candidates(confidences, i))
            captions.append((f"given: {names[int(self._given[i])]}", f"{short}\n→ {names[int(labels[i])]}"))
        path = folder / "revised" / f"epoch-{epoch:04d}.png"
        ambiguous = int((confidences.candidates.sum(dim=1) > 1).sum())
        title = (
            f"{self._recipe.name}, epoch {epoch} of {self._epochs}: {len(revised)} of {ambiguous} faces with several "
            f"candidates are revised, {len(shown)} shown: candidates → revised label"
        )
        try:
            path.parent.mkdir(exist_ok=True)
            draw_faces(crops_of(self._faces.subset(shown)), captions, path, title=title)
        except (InputError, OSError) as error:
            raise CheckpointError(f"cannot write {path}: {error}") from error

    def _candidates(self, confidences: Confidences, face: int) -> list[str]:
        return [self._faces.class_names[k] for k in torch.nonzero(confidences.candidates[face]).flatten().tolist()]


def _labels(confidences: Confidences) -> Tensor:
    """Return each face's most certain label: int64, (N,)."""
    return confidences.values.cpu().argmax(dim=1)
