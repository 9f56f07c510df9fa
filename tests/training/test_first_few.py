import pytest

from training.first_few import first_few


@pytest.mark.parametrize(
    ("count", "said"), [(0, ""), (1, "a0"), (3, "a0, a1, a2"), (4, "a0, a1, a2, ..."), (9, "a0, a1, a2, ...")]
)
def test_names_the_first_and_says_that_there_are_more(count: int, said: str) -> None:
    assert first_few([f"a{i}" for i in range(count)], 3) == said


def test_the_separator_stands_before_the_ellipsis_too() -> None:
    assert first_few(["a: b, c"] * 6, separator="; ") == "; ".join(["a: b, c"] * 5 + ["..."])
