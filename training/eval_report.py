"""What `fer eval` does: score a model on a labelled set, and write pictures, predictions or a folder with all of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from fer_app.atomic_file import replacing
from fer_app.errors import FerError, InputError
from training.checkpoint import read_info
from training.data.datasets import Contempt, Reader, Split, at, load, relabel
from training.data.ferplus_votes import VoteMode
from training.data.image_set import ImageSet
from training.data.locate import locate
from training.data.splits import share_faces
from training.evaluation import FeaturesSource, LogitsSource, crops_of, file_sha256, open_classifier, predict
from training.feature_map import SEED, embed, stratified_rows
from training.groups import read_groups, score_groups
from training.metrics import ClassificationReport
from training.plots import draw_confusion, draw_embedding, draw_faces, draw_reliability
from training.predictions import Predictions

Picture = Literal["confusion", "reliability", "tsne", "mistakes"]
PICTURES: Final[tuple[Picture, ...]] = get_args(Picture)
MISTAKES_SHOWN: Final = 40
_NAME_LETTERS: Final = 24


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """What is scored and how; `fer eval`'s options of the same names."""

    model: Path
    data: Path
    split: Split = "valid"
    votes: VoteMode = "majority"
    drop_contempt: bool = False
    device: str = "auto"
    flip: bool = False
    group_by: str | None = None
    groups: Path | None = None
    tsne_limit: int = 2000

    def to_dict(self) -> dict[str, Any]:
        """Return them as JSON has them."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A model scored on a set.

    Attributes:
        options: how.
        reader: tells the set.
        classifier: what was scored.
        faces: N of them, in the model's labels.
        predictions: of the N faces.
        figures: of all faces.
        groups: figures of each group, where there are groups.
        caution: says in one line that the model may have been trained on these faces; None where it was not.
    """

    options: EvalOptions
    reader: Reader
    classifier: LogitsSource
    faces: ImageSet
    predictions: Predictions
    figures: ClassificationReport
    groups: Mapping[str, ClassificationReport]
    caution: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what `fer eval --json` prints."""
        options = self.options
        grouped = {group: report.summary() for group, report in self.groups.items()}
        return {
            **self.figures.to_dict(),
            "model_sha256": file_sha256(options.model),
            "data_set": self.reader.name,
            "split": options.split,
            "votes": options.votes,
            "test_time_flip": options.flip,
            **({"group_by": options.group_by, "groups": grouped} if options.group_by is not None else {}),
        }

    def draw(self, picture: Picture, path: Path) -> None:
        """Write one picture.

        Raises:
            InputError: it cannot be written, or t-SNE is asked of an ONNX file.
            DatasetError: there are too few faces for t-SNE.
            MissingExtraError: t-SNE without scikit-learn.
        """
        title = self._title() + (", test-time flip" if self.options.flip else "")
        if picture == "confusion":
            draw_confusion(self.figures, path, title=f"{title}, n = {self.figures.n}")
        elif picture == "reliability":
            draw_reliability(self.predictions.calibration(), path, title=title)
        elif picture == "tsne":
            self._draw_tsne(path)
        else:
            self._draw_mistakes(path, title)

    def write(self, folder: Path) -> dict[str, str]:
        """Write report.json, predictions.csv and every picture; a t-SNE that cannot be made is left out.

        Returns:
            Why, for each file that was left out.

        Raises:
            InputError: a file cannot be written.
        """
        skipped: dict[str, str] = {}
        self.predictions.write_csv(folder / "predictions.csv")
        for picture in PICTURES:
            path = folder / f"{picture}.png"
            try:
                self.draw(picture, path)
            except FerError as error:
                if picture != "tsne":
                    raise
                path.unlink(missing_ok=True)  # of an earlier report: it would be taken for this one's
                skipped[path.name] = str(error)
        report = {**self.to_dict(), "options": self.options.to_dict(), "skipped": skipped}
        with replacing(folder / "report.json") as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        return skipped

    def _title(self) -> str:
        options = self.options
        rule = f" ({options.votes})" if self.reader.name.startswith("ferplus") else ""
        return f"{options.model.name}, {self.reader.title} {options.split}{rule}"

    def _draw_tsne(self, path: Path) -> None:
        source = _features_source(self.classifier, self.options.model)
        targets = self.predictions.targets
        rows = stratified_rows(targets, self.options.tsne_limit)
        points = embed(source.features(crops_of(self.faces)[rows]))
        counted = f"{len(rows)} of {len(targets)} faces" if len(rows) < len(targets) else f"{len(rows)} faces"
        title = f"{self._title()}\nt-SNE of the features, {counted}, coloured by true class, seed {SEED}"
        draw_embedding(points, targets[rows], self.predictions.labels, path, title=title)

    def _draw_mistakes(self, path: Path, title: str) -> None:
        said = self.predictions
        wrong = said.mistakes()
        shown = wrong[:MISTAKES_SHOWN]
        captions = []
        for i in shown.tolist():
            true, predicted = said.targets[i], said.predicted[i]
            caption = f"{said.labels[true]} →\n{said.labels[predicted]} {said.probs[i, predicted]:.2f}"
            captions.append((_shortened(said.names[i]), caption))
        many = f"the {len(shown)} most confident of {len(wrong)} mistakes" if len(wrong) else "no mistakes"
        head = f"{title}, n = {self.figures.n}\n{many}: true → predicted, its probability"
        draw_faces(crops_of(self.faces)[shown], captions, path, title=head)


def run_evaluation(options: EvalOptions, pictures: Mapping[Picture, Path], folder: Path | None) -> Evaluation:
    """Score a model; what would stop the writing afterwards is found before.

    Args:
        options: what and how.
        pictures: that `draw` will write, and where to.
        folder: that `write` will fill; it is made.

    Raises:
        FerError: of the model, the data or the groups; or something that is asked for cannot be written.
    """
    classifier = open_classifier(options.model, device=options.device)
    if "tsne" in pictures:
        _features_source(classifier, options.model)
    for path in pictures.values():
        if not path.parent.is_dir():
            raise InputError(f"{path}: the folder {path.parent} does not exist; make it first")
    contract = classifier.contract
    contempt: Contempt = "drop" if options.drop_contempt else "keep"
    root = locate([options.data]).need_faces()
    faces = load(
        root,
        options.split,
        img_size=contract.img_size,
        color_mode=contract.color_mode,
        votes=options.votes,
        eval_votes=options.votes,
        contempt=contempt,
    )
    caution = _trained_on(options, set(faces.class_names), set(contract.labels))
    faces = relabel(faces, contract.labels)
    reader, base = at(root)
    groups = _groups(options, reader, base, faces.names)
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the folder {folder}: {error}") from error
    predictions = predict(classifier, faces, flip=options.flip)
    return Evaluation(
        options=options,
        reader=reader,
        classifier=classifier,
        faces=faces,
        predictions=predictions,
        figures=predictions.report(),
        groups=score_groups(predictions, groups) if groups is not None else {},
        caution=caution,
    )


def _trained_on(options: EvalOptions, classes: set[str], labels: set[str]) -> str | None:
    """Return a caution where a checkpoint's recipe trained on the split, and the set has the classes of the one it saw.

    A checkpoint does not keep which set that was.
    """
    if options.model.suffix != ".safetensors":
        return None
    trained = read_info(options.model).finetuned_on
    is_alike = classes == labels or (options.drop_contempt and labels - classes == {"contempt"})
    if trained is None or not is_alike or not share_faces(options.split, trained):
        return None
    return (
        f"{options.model.name} was trained on {trained}, which has faces of {options.split}: "
        "if this is the set that it was trained on, these are no figures for new faces"
    )


def _groups(options: EvalOptions, reader: Reader, base: Path, names: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return each face's group, from the table that is named, or from the labelled table itself."""
    if options.group_by is None:
        return None
    if options.groups is not None:
        return read_groups(options.groups, options.group_by, names)
    if reader.name != "csv":
        raise InputError(
            f"--group-by {options.group_by}: {reader.title} has no columns; "
            f"give a table with the columns name (or path) and {options.group_by} by --groups"
        )
    return read_groups(base, options.group_by, names, keys=("path",))


def _features_source(classifier: LogitsSource, model: Path) -> FeaturesSource:
    if not (isinstance(classifier, FeaturesSource) and "features" in classifier.outputs):
        raise InputError(
            f"{model} has no features for t-SNE: export it again, or give the .safetensors checkpoint it was made from"
        )
    return classifier


def _shortened(name: str) -> str:
    """Return a name, or the end of a long one."""
    return name if len(name) <= _NAME_LETTERS else "..." + name[-_NAME_LETTERS + 3 :]
