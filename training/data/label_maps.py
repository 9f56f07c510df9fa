"""How every data set's own labels become the canonical ones; the one table of them.

Own labels are written as the data set writes them: the number in a file as its digits, the name of a folder or column
in lower case. None marks labels that are left out (no expression, unknown, no face). A set without contempt has seven
classes, in canonical order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from fer_app.errors import DatasetError
from fer_app.labels import LABELS


@dataclass(frozen=True)
class LabelMap:
    """One data set's labels.

    Attributes:
        canonical: own label -> canonical label, or None where rows of this label are left out.
    """

    canonical: Mapping[str, str | None]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The canonical labels that the set has, in canonical order."""
        return tuple(label for label in LABELS if label in self.canonical.values())

    def class_index(self, own: str, where: str) -> int | None:
        """Return the place of an own label in `class_names`, or None where its rows are left out.

        Args:
            own: as the data set writes it; the case of letters does not count.
            where: file and line, for the error.

        Raises:
            DatasetError: the set has no such label.
        """
        key = own.strip().casefold()
        if key not in self.canonical:
            raise DatasetError(f"{where}: unknown label {own!r}, expected one of {', '.join(self.canonical)}")
        label = self.canonical[key]
        return None if label is None else self.class_names.index(label)


def _numbered(labels: Iterable[str | None], first: int = 0) -> LabelMap:
    return LabelMap({str(number): label for number, label in enumerate(labels, start=first)})


LABEL_MAPS: Final[Mapping[str, LabelMap]] = {
    # Barsoum et al. 2016 (arXiv:1608.01041): the columns of label.csv and fer2013new.csv. Contempt: kept.
    "ferplus": LabelMap({**{label: label for label in LABELS}, "unknown": None, "nf": None}),
    # Goodfellow et al. 2013 (arXiv:1307.0414). Contempt: absent.
    "fer2013": _numbered(("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")),
    "fer2013-folders": LabelMap(
        {
            "angry": "anger",
            "disgust": "disgust",
            "fear": "fear",
            "happy": "happiness",
            "neutral": "neutral",
            "sad": "sadness",
            "surprise": "surprise",
        }
    ),
    # Li, Deng and Du 2017 (CVPR), basic emotions. Contempt: absent.
    "raf-db": _numbered(("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"), first=1),
    # Mollahosseini et al. 2017 (arXiv:1708.03985); 8 to 10 are none, uncertain, no face. Contempt: kept (AffectNet-8).
    "affectnet": _numbered(
        ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt", None, None, None)
    ),
}

# What folders and tables of users call the canonical labels.
SYNONYMS: Final[Mapping[str, str]] = {
    **{label: label for label in LABELS},
    "happy": "happiness",
    "surprised": "surprise",
    "sad": "sadness",
    "angry": "anger",
    "disgusted": "disgust",
    "afraid": "fear",
    "fearful": "fear",
    "contemptuous": "contempt",
}


def own_classes(names: Iterable[str], where: str) -> tuple[tuple[str, ...], Mapping[str, int]]:
    """Order the classes of a set that names its own.

    If all names mean canonical labels, each another one, the classes are those labels in canonical order; otherwise
    they keep their names, sorted.

    Args:
        names: the set's names; repeats do not count.
        where: for the error.

    Returns:
        The class names, and for each own name its place among them.

    Raises:
        DatasetError: fewer than two classes.
    """
    own = sorted(set(names))
    if len(own) < 2:
        raise DatasetError(f"{where}: a classifier needs two classes or more, found {', '.join(own) or 'none'}")
    meant = {name: SYNONYMS.get(name.casefold()) for name in own}
    if None in meant.values() or len(set(meant.values())) < len(own):
        return tuple(own), {name: place for place, name in enumerate(own)}
    class_names = tuple(label for label in LABELS if label in meant.values())
    return class_names, {name: class_names.index(label) for name, label in meant.items() if label is not None}
