"""What is loaded when the program starts and when it predicts: looked at from outside, in a fresh interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# No prediction may load one of these, installed or not; the last ones are imported only where they are asked for.
BANNED = {
    "torch",
    "torchvision",
    "timm",
    "lightning",
    "onnx",
    "onnxscript",
    "facenet_pytorch",
    "models",
    "training",
    "export",
    "fastapi",
    "gradio",
    "pandas",
    "uvicorn",
    "matplotlib",
    "pyarrow",
    "ray",
    "av",
}
SLOW_TO_IMPORT = {"onnxruntime", "cv2"}
REPORT = """
import json, sys
print("loaded", json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
COMMAND = """
import sys
from fer_app.cli import main
sys.argv = ["fer", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    assert not end.code, f"exit status {end.code}"
print("the command ended well")
"""
PREDICTION = """
import sys
from fer_app import Recognizer
photo, model = sys.argv[1:]
faces = Recognizer(model=model, device="cpu").predict(photo)
print("faces found:", len(faces))
"""


def run(code: str, *arguments: str | Path, cwd: Path, path: Path | None = None) -> tuple[str, set[str]]:
    """Run code in a fresh interpreter, with warnings as errors, and away from the tree; fail when it fails.

    Returns:
        What it printed, and the top-level names of all modules that were loaded when it ended.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code + REPORT, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said, found, names = done.stdout.rpartition("loaded ")
    assert found, done.stdout
    return said, set(json.loads(names))


def test_import_is_light(tmp_path: Path) -> None:
    said, loaded = run("import fer_app; print('imported', fer_app.__name__)", cwd=tmp_path)
    assert said == "imported fer_app\n"
    assert "fer_app" in loaded
    assert not loaded & (BANNED | SLOW_TO_IMPORT | {"numpy", "PIL", "typer"})


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["predict", "--help"], ["annotate", "--help"], ["bench", "--help"], ["ui", "--help"]],
    ids=" ".join,
)
def test_help_is_light(arguments: list[str], tmp_path: Path) -> None:
    said, loaded = run(COMMAND, *arguments, cwd=tmp_path)
    assert said.endswith("the command ended well\n")
    assert "typer" in loaded
    assert not loaded & (BANNED | SLOW_TO_IMPORT)


def test_help_names_the_commands_of_every_folder(tmp_path: Path) -> None:
    said, _ = run(COMMAND, "--help", cwd=tmp_path)
    for command in ("predict", "annotate", "ui", "bench", "models", "doctor", "train", "eval", "export", "sweep"):
        assert f" {command} " in said


def test_prediction_in_python_loads_no_framework(astronaut_path: Path, tiny_model: Path, tmp_path: Path) -> None:
    said, loaded = run(PREDICTION, astronaut_path, tiny_model, cwd=tmp_path)
    assert said == "faces found: 1\n"
    assert loaded >= SLOW_TO_IMPORT
    assert not loaded & BANNED


def test_prediction_at_the_command_line_loads_no_framework(
    astronaut_path: Path, tiny_model: Path, tmp_path: Path
) -> None:
    arguments = ["predict", astronaut_path, "--model", tiny_model, "--device", "cpu", "--format", "jsonl"]
    said, loaded = run(COMMAND, *arguments, "--output", "drawn", cwd=tmp_path)
    record, sentinel = said.splitlines()
    assert json.loads(record)["face"] == 0
    assert sentinel == "the command ended well"
    assert list((tmp_path / "drawn").iterdir())
    assert loaded >= SLOW_TO_IMPORT
    assert not loaded & BANNED


@pytest.mark.parametrize("name", sorted(BANNED))
def test_a_banned_module_would_be_seen(name: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.py").write_text("", encoding="utf-8")
    _, loaded = run(f"import {name}", cwd=tmp_path, path=tmp_path)
    assert loaded & BANNED == {name}


def test_a_failing_run_would_be_seen(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="no such thing"):
        run("raise SystemExit('no such thing')", cwd=tmp_path)
    with pytest.raises(AssertionError, match="exit status 2"):
        run(COMMAND, "no-such-command", cwd=tmp_path)
