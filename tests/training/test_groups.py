from pathlib import Path

import numpy as np
import pytest

from fer_app.errors import DatasetError
from training.groups import NO_GROUP, read_groups, score_groups
from training.predictions import Predictions


def table(folder: Path, *lines: str) -> Path:
    path = folder / "groups.csv"
    path.write_text("name,age,camera\n" + "".join(f"{line}\n" for line in lines))
    return path


def test_groups_by_name(tmp_path: Path) -> None:
    file = table(tmp_path, "a,old,1", "b,young,2", "c,,1", "b,young,3")
    assert read_groups(file, "age", ("b", "a", "c", "d")) == ("young", "old", NO_GROUP, NO_GROUP)


def test_names_may_be_whole_paths(tmp_path: Path) -> None:
    file = table(tmp_path, "a.png,old,1")
    assert read_groups(file, "age", (str(tmp_path / "a.png"),)) == ("old",)


def test_a_table_of_paths_will_do_and_the_column_with_the_faces_counts(tmp_path: Path) -> None:
    file = tmp_path / "faces.csv"
    file.write_text("path,label,age\nx/a.png,fear,old\nx/b.png,fear,young\n")
    assert read_groups(file, "age", ("x/b.png", "x/a.png")) == ("young", "old")
    file.write_text("name,path,age\nAnna,x/a.png,old\nBert,x/b.png,young\n")
    assert read_groups(file, "age", ("x/b.png", "Anna.png")) == ("young", NO_GROUP)
    with pytest.raises(DatasetError, match=r"column name has 'Anna', its column path has 'x/a.png', a face is called"):
        read_groups(file, "age", ("c",))


@pytest.mark.parametrize(
    ("column", "names", "said"),
    [
        ("agee", ("a",), "no column agee; it has name, age, camera"),
        ("camera", ("a",), "line 3: a is in two groups, '1' and '2'"),
        ("age", ("x", "y"), "has none of the 2 faces: its column name has 'a', a face is called 'x'"),
    ],
)
def test_errors_say_what_is_there(tmp_path: Path, column: str, names: tuple[str, ...], said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        read_groups(table(tmp_path, "a,old,1", "a,old,2"), column, names)


def test_each_group_has_its_own_figures() -> None:
    probs = np.array([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.4, 0.6]], np.float32)
    predictions = Predictions(tuple("abcd"), ("x", "y"), np.array([0, 1, 1, 0]), probs)
    scored = score_groups(predictions, ("old", NO_GROUP, "young", "old"))
    assert list(scored) == ["old", "young", NO_GROUP]
    assert [report.n for report in scored.values()] == [2, 1, 1]
    assert [report.accuracy for report in scored.values()] == [0.5, 1.0, 0.0]
