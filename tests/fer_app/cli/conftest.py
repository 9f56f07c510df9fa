from __future__ import annotations

import pytest
from typer.testing import CliRunner

from fer_app.cli import app


@pytest.fixture
def annotate(tiny_model, tmp_path):
    """Run `fer annotate` with a small model, and expect its exit status."""

    def run(*arguments, status=0):
        fixed = ["-o", tmp_path / "out", "--model", tiny_model, "--device", "cpu"]
        result = CliRunner().invoke(app, [str(argument) for argument in ["annotate", *arguments, *fixed]])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert result.exit_code == status, result.stderr
        return result

    return run
