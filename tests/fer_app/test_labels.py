"""The labels are a public format: their order and spelling never change by accident."""

from __future__ import annotations

from fer_app.labels import LABELS


def test_labels_are_the_eight_of_ferplus_in_its_order() -> None:
    assert LABELS == ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
