"""Miniature data sets, written once a test run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.miniature import write_mini_ferplus


@pytest.fixture(scope="session")
def mini_ferplus(tmp_path_factory) -> Path:
    """A FERPlus folder of 96 + 32 drawn faces, whose classes can be learnt."""
    return write_mini_ferplus(tmp_path_factory.mktemp("mini"))
