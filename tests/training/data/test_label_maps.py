"""The table of labels: what each set's own labels become, and how sets that name their own are ordered."""

from __future__ import annotations

import pytest

from fer_app.errors import DatasetError
from fer_app.labels import LABELS
from training.data.ferplus_votes import VOTE_COLUMNS
from training.data.label_maps import LABEL_MAPS, SYNONYMS, own_classes

SEVEN = tuple(label for label in LABELS if label != "contempt")


def meaning(name: str) -> list[str | None]:
    label_map = LABEL_MAPS[name]
    places = [label_map.class_index(own, "here") for own in label_map.canonical]
    return [None if place is None else label_map.class_names[place] for place in places]


def test_every_set_has_its_own_order():
    # As the owners number them: FER2013 from 0, RAF-DB from 1, AffectNet from 0 with three that are no expression.
    assert meaning("fer2013") == ["anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral"]
    assert meaning("raf-db") == ["surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"]
    order = ["neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt"]
    assert meaning("affectnet") == [*order, None, None, None]
    assert list(LABEL_MAPS["raf-db"].canonical) == list("1234567")
    assert [name.casefold() for name in VOTE_COLUMNS] == list(LABEL_MAPS["ferplus"].canonical)


def test_contempt_is_kept_or_absent():
    kept = {name for name, label_map in LABEL_MAPS.items() if "contempt" in label_map.class_names}
    assert kept == {"ferplus", "affectnet"}
    for name, label_map in LABEL_MAPS.items():
        assert label_map.class_names == (LABELS if name in kept else SEVEN)


@pytest.mark.parametrize(("name", "own"), [("raf-db", "0"), ("raf-db", "8"), ("fer2013", "7"), ("affectnet", "x")])
def test_an_unknown_label_names_file_and_line(name, own):
    with pytest.raises(DatasetError, match=f"labels.txt, line 3: unknown label '{own}', expected one of "):
        LABEL_MAPS[name].class_index(own, "labels.txt, line 3")


def test_known_words_become_canonical_labels_in_canonical_order():
    names, places = own_classes(["sad", "Happy", "angry", "sad"], "here")
    assert names == ("happiness", "sadness", "anger")
    assert {own: names[place] for own, place in places.items()} == {
        "sad": "sadness",
        "Happy": "happiness",
        "angry": "anger",
    }
    assert own_classes(LABELS, "here")[0] == LABELS
    assert set(SYNONYMS.values()) == set(LABELS)


@pytest.mark.parametrize("names", [["happy", "bored"], ["happy", "happiness", "sad"], ["1", "0"]])
def test_other_words_stay_as_they_are(names):
    assert own_classes(names, "here")[0] == tuple(sorted(names))


def test_one_class_is_too_few():
    with pytest.raises(DatasetError, match="here: a classifier needs two classes or more, found happy"):
        own_classes(["happy", "happy"], "here")
