import csv
from pathlib import Path

import numpy as np
import pytest

from fer_app.errors import InputError
from training.predictions import Predictions

PROBS = np.array([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.05, 0.05, 0.9], [0.1, 0.8, 0.1]], np.float32)
PREDICTIONS = Predictions(("a", "b.png", "c,d", "n\udce9"), ("x", "y", "z"), np.array([0, 1, 1, 1]), PROBS)


def test_mistakes_come_with_the_most_confident_first() -> None:
    assert PREDICTIONS.mistakes().tolist() == [2, 1]


def test_report_of_some() -> None:
    assert PREDICTIONS.report().accuracy == 0.5
    some = PREDICTIONS.report(np.array([True, False, False, True]))
    assert (some.n, some.accuracy) == (2, 1.0)


def test_a_row_a_face(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    PREDICTIONS.write_csv(path)
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["name", "label", "predicted", "prob_x", "prob_y", "prob_z"]
    assert rows[1] == ["a", "x", "x", "0.700000", "0.200000", "0.100000"]
    assert rows[3][:3] == ["c,d", "y", "z"]
    assert rows[4][0] == PREDICTIONS.names[3]
    assert len(rows) == 5


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        PREDICTIONS.write_csv(tmp_path / "no" / "predictions.csv")
