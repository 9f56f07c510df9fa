from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from fer_app import cuda_driver, session
from fer_app.bench import as_text, machine
from fer_app.cli import app
from fer_app.model_store import resolve_model

RUNNER = CliRunner()
STAGES = ("decode", "detect", "align", "classify", "end to end")


def bench(*arguments, status=0):
    result = RUNNER.invoke(app, ["bench", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == status, result.stderr
    return result


@pytest.fixture(scope="module")
def two_models(tmp_path_factory, tiny_model, astronaut_path):
    """What comes out for two models, a picture with a face and one without: text and JSON."""
    folder = tmp_path_factory.mktemp("bench")
    cv2.imwrite(str(folder / "empty.png"), np.full((120, 160, 3), 90, np.uint8))
    arguments = [
        tiny_model,
        "default",
        "--device",
        "cpu",
        "--seconds",
        "0",
        "--batch",
        "1,3",
        "--threads",
        "1",
        "--precision",
        "fp32",
    ]
    pictures = ["--images", astronaut_path, "--images", folder / "empty.png"]
    shown = bench(*arguments, *pictures, "--json", folder / "out.json")
    assert shown.stderr == ""
    return shown.stdout, json.loads((folder / "out.json").read_text())


def test_every_step_is_there(two_models):
    _, report = two_models
    assert report["schema_version"] == 1
    assert [row["stage"] for row in report["rows"]] == ["decode"] * 2 + ["detect"] * 2 + ["align"] * 2 + [
        "classify"
    ] * 4 + ["end to end"] * 4
    works = {stage: [row["work"] for row in report["rows"] if row["stage"] == stage] for stage in STAGES}
    assert works["detect"] == ["astronaut.jpg, 1 face", "empty.png, 0 faces"]
    assert works["align"] == ["astronaut.jpg, 1 face, to 16 px", "astronaut.jpg, 1 face, to 48 px"]
    assert works["classify"] == ["1 face", "1 face", "3 faces", "3 faces"]
    models = [row["model"] for row in report["rows"] if row["stage"] == "end to end"]
    assert models == ["tiny fp32", "mimic_hybrid_ferplus fp32"] * 2


def test_figures_fit_together(two_models):
    _, report = two_models
    best = max(product["gflop_per_s_best"] for product in report["products"])
    flop = {model["label"]: model["flop_per_face"] for model in report["models"]}
    for row in report["rows"]:
        assert row["runs"] >= 1
        assert 0 < row["ms_best"] <= row["ms_p50"] <= row["ms_p99"]
        assert row["images_per_s"] == pytest.approx(1e3 * row["images"] / row["ms_p50"])
        if row["stage"] != "classify":
            assert row["share_of_peak"] is None
            continue
        assert row["images"] == int(row["work"].split()[0])
        assert row["gflop_per_s"] == pytest.approx(flop[row["model"]] * row["images_per_s"] / 1e9)
        least_ms = flop[row["model"]] * row["images"] / best / 1e6
        assert row["share_of_peak"] == pytest.approx(least_ms / row["ms_best"])
        assert (row["times_as_fast_as_first"] == 1) == (row["model"] == "tiny fp32")
    assert {product["arithmetic"] for product in report["products"]} == {"fp32"}


def test_the_machine_and_the_models_are_named(two_models, tiny_model):
    import onnxruntime

    text, report = two_models
    described = report["machine"]
    assert described["cpu"]
    assert (described["device"], described["provider"]) == ("cpu", "CPUExecutionProvider")
    assert (described["threads"], described["onnxruntime"]) == (1, onnxruntime.__version__)
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (tiny_model, resolve_model())]
    assert [model["sha256"] for model in report["models"]] == digests
    for said in (described["cpu"], ", 1 thread,", onnxruntime.__version__, *(digest[:16] for digest in digests)):
        assert said in text
    assert "48 FLOP" in text


def test_the_table(two_models):
    """A line a row, in their order; what tells models apart is left out where there is one."""
    text, report = two_models
    heading, *lines = [line for line in text.partition("\nstep ")[2].splitlines() if line]
    assert heading.split() == ["work", "model", "runs", "ms", "p50", "ms", "p99", "images/s", "of", "peak", "ratio"]
    for line, row in zip(lines, report["rows"], strict=True):
        assert line.startswith(row["stage"])
        for said in (row["work"], row["model"] or "", str(row["runs"])):
            assert f" {said} " in line or not said
        assert ("%" in line) == (row["stage"] == "classify")
    alone = as_text({**report, "models": report["models"][:1]}).partition("\nstep ")[2].partition("\n")[0]
    assert alone.split() == ["work", "runs", "ms", "p50", "ms", "p99", "images/s", "of", "peak"]


def test_without_arguments_it_measures_the_bundled_model_on_made_up_pictures():
    text = bench("--device", "cpu", "--seconds", "0", "--batch", "2").stdout
    for said in (
        "mimic_hybrid_ferplus int8",
        "1920 x 1080, 32 faces",
        "640 x 480, 1 face",
        "% int8)",
        "peak      int8",
    ):
        assert said in text


def test_a_model_in_several_arithmetics_side_by_side(astronaut_path, tmp_path):
    arguments = ["-d", "cpu", "--precision", "fp32,int8", "--seconds", 0, "--batch", 2, "--images", astronaut_path]
    bench(*arguments, "--json", tmp_path / "out.json")
    report = json.loads((tmp_path / "out.json").read_text())
    assert [model["precision"] for model in report["models"]] == ["fp32", "int8"]
    assert {product["arithmetic"] for product in report["products"]} == {"fp32", "int8"}
    best = {
        name: max(p["gflop_per_s_best"] for p in report["products"] if p["arithmetic"] == name)
        for name in ("fp32", "int8")
    }
    rows = [row for row in report["rows"] if row["stage"] == "classify"]
    for row, model in zip(rows, report["models"], strict=True):
        assert row["model"] == model["label"]
        least_ms = sum(2 * flop / best[name] / 1e6 for name, flop in model["flop_by_arithmetic"].items())
        assert row["share_of_peak"] == pytest.approx(least_ms / row["ms_best"])
        assert sum(model["flop_by_arithmetic"].values()) == model["flop_per_face"]


def test_one_file_in_two_precisions_is_one_model(tiny_model, astronaut_path):
    text = bench(
        tiny_model, "-d", "cpu", "--precision", "auto,fp32", "--seconds", 0, "--batch", 1, "--images", astronaut_path
    ).stdout
    assert text.count("tiny fp32") == 1


def test_models_of_one_name_are_told_apart_by_their_paths(tiny_model, astronaut_path, tmp_path):
    shutil.copy(tiny_model, tmp_path / "tiny.onnx")
    arguments = ["-d", "cpu", "--seconds", 0, "--batch", 1, "--images", astronaut_path]
    text = bench(tiny_model, tmp_path / "tiny.onnx", *arguments).stdout
    assert f"model     {tiny_model}: " in text
    assert f"model     {tmp_path / 'tiny.onnx'}: " in text


@pytest.mark.parametrize(
    "arguments",
    [
        ["--batch", "0"],
        ["--batch", "1,,2"],
        ["--batch", "many"],
        ["--device", "gpu"],
        ["--precision", "fp32,int4"],
        ["--seconds", "-1"],
        ["--gpu-memory", "0"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_status_2(arguments):
    assert bench(*arguments, status=2).stdout == ""


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["no-such-model"], "no model 'no-such-model'"),
        (["--device", "cuda"], "cannot run on cuda:0"),
        (["--cuda-graphs"], "cannot run on cuda:0"),
        (["--precision", "int8"], "not in int8"),
        (["--images", "empty.png"], "no face in the pictures"),
        (["--images", "none.png"], "none.png"),
        (["--json", "none/a.json"], "does not exist"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_measured_is_one_line(tiny_model, tmp_path, monkeypatch, more, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    cv2.imwrite("empty.png", np.full((120, 160, 3), 90, np.uint8))
    result = bench(tiny_model, "--seconds", 0, "--json", "out.json", *more, status=1)
    assert said in result.stderr
    assert (len(result.stderr.splitlines()), result.stdout) == (1, "")
    assert [path.name for path in tmp_path.iterdir()] == ["empty.png"]


def test_a_full_disk_does_not_take_the_table_with_it(tiny_model):
    result = bench(tiny_model, "--seconds", 0, "--json", "/dev/full", status=1)
    assert "classify" in result.stdout
    assert result.stderr.splitlines()[-1] == "fer: error: /dev/full: cannot be written: No space left on device"


def test_auto_says_why_it_took_the_cpu(tiny_model, astronaut_path, monkeypatch):
    monkeypatch.setattr(session, "nvidia_device_visible", lambda: True)
    monkeypatch.setattr(session, "_PROVIDERS", {**session._PROVIDERS, "cuda": ("NoSuchProvider",)})
    text = bench(tiny_model, "--seconds", 0, "--batch", 1, "--images", astronaut_path).stdout
    assert "\nnote      cannot run on cuda:0" in text


def test_a_gpu_is_named(monkeypatch):
    monkeypatch.setattr(machine, "device_name", lambda ordinal: f"GPU number {ordinal}")
    described = machine.describe_machine("cuda:1", 3)
    assert (described["gpu"], described["provider"]) == ("GPU number 1", "CUDAExecutionProvider")
    assert described["threads"] == 3
    report = {"machine": described, "models": [], "products": [], "rows": []}
    assert "gpu       GPU number 1 (cuda:1)" in as_text(report)


@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals and signals as POSIX has them")
def test_interrupted(tiny_model, tmp_path):
    """Status 130, no traceback, no file; the line that showed how far it was is gone."""
    import pty

    command = [sys.executable, "-c", "from fer_app.cli import main; main()", "bench", str(tiny_model)]
    command += ["--device", "cpu", "--seconds", "60", "--json", str(tmp_path / "out.json")]
    control, terminal = pty.openpty()
    shown = b""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=terminal) as process:
        os.close(terminal)
        while b"measuring" not in shown:
            shown += os.read(control, 4096)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    while True:
        try:
            piece = os.read(control, 4096)
        except OSError:  # how Linux says that the other side is closed
            break
        if not piece:
            break
        shown += piece
    os.close(control)
    assert process.returncode == 130
    assert out == b""
    assert b"Traceback" not in shown
    assert b"\r\x1b[K" in shown.rpartition(b"of about 60 s")[2]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.gpu
@pytest.mark.parametrize("more", [[], ["--cuda-graphs", "--gpu-memory", "4096"]], ids=["plain", "graphs"])
def test_on_cuda(more):
    text = bench("--device", "cuda", "--seconds", "5", *more).stdout
    assert cuda_driver.device_name(0) in text
    assert session.parse_device("cuda").kind in text
