"""Fixtures that several folders use, and what runs when no marker is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# A machine that does other work too is no mistake of what is tested.
settings.register_profile("fer", deadline=None)
settings.load_profile("fer")

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes minutes or needs a GPU, unless `-m` names it."""
    expression = config.option.markexpr or ""
    for marker in ("slow", "gpu"):
        if marker in expression:
            continue
        for item in items:
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=f"marked {marker}: run with -m {marker}"))


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the working tree."""
    return REPOSITORY


@pytest.fixture(scope="session")
def astronaut_path() -> Path:
    """The public-domain portrait in examples/: one face, 512 x 512 px."""
    return REPOSITORY / "examples" / "astronaut.jpg"


@pytest.fixture(scope="session")
def _astronaut_pixels(astronaut_path):
    import numpy as np
    from PIL import Image

    with Image.open(astronaut_path) as picture:
        return np.asarray(picture.convert("RGB"))


@pytest.fixture
def astronaut(_astronaut_pixels):
    """The portrait as uint8 RGB (512, 512, 3); a copy that the test may change."""
    return _astronaut_pixels.copy()


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """An ONNX classifier of known answers: mean red makes anger, green happiness, blue sadness."""
    return REPOSITORY / "tests" / "fer_app" / "data" / "tiny.onnx"


@pytest.fixture(scope="session")
def explained_model() -> Path:
    """The same that also gives `features` and `evidence`."""
    return REPOSITORY / "tests" / "fer_app" / "data" / "tiny_explained.onnx"


@pytest.fixture(scope="session")
def ferplus_dir() -> Path:
    """The real FERPlus folder or archive named by FER_DATA; without it the test is skipped, visibly."""
    named = os.environ.get("FER_DATA")
    if not named:
        pytest.skip("FER_DATA does not name the FERPlus folder or archive")
    path = Path(named)
    assert path.exists(), f"FER_DATA names {path}, which does not exist"
    return path


@pytest.fixture(scope="session")
def mini_ferplus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A FERPlus folder of 96 + 32 drawn faces, whose classes can be learnt."""
    from tests.training.miniature import write_mini_ferplus  # needs what training needs

    return write_mini_ferplus(tmp_path_factory.mktemp("mini"))
