from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

import fer_app
from fer_app import cuda_driver, model_store, session
from fer_app.cli import app
from fer_app.labels import LABELS

RUNNER = CliRunner()


def fer(*arguments, stdin=None, status=0):
    result = RUNNER.invoke(app, [str(argument) for argument in arguments], input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == status, result.stderr
    return result


@pytest.fixture
def predict(tiny_model):
    def run(*arguments, stdin=None, status=0):
        return fer("predict", *arguments, "--model", tiny_model, "--device", "cpu", stdin=stdin, status=status)

    return run


def save(path, colour=(200, 60, 60), size=(30, 40)):
    path.parent.mkdir(parents=True, exist_ok=True)
    bgr = np.full((*size, 3), colour[::-1], np.uint8)
    path.write_bytes(cv2.imencode(path.suffix, bgr)[1].tobytes())
    return path


@pytest.fixture
def folder(tmp_path, astronaut, astronaut_path):
    """A good picture, one without a face, a damaged one, one on its side, one with a Unicode name in a subfolder."""
    shutil.copy(astronaut_path, tmp_path / "good.jpg")
    save(tmp_path / "empty.png", size=(120, 160))
    (tmp_path / "corrupt.jpg").write_bytes(astronaut_path.read_bytes()[:3000])
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "sub").mkdir()
    shutil.copy(astronaut_path, tmp_path / "sub" / "Γειά 顔.jpg")
    return tmp_path


def test_version():
    assert fer("--version").stdout == f"fer {fer_app.__version__}\n"


def test_no_arguments_show_the_help():
    assert "predict" in RUNNER.invoke(app, []).output


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict"],
        ["nonsense"],
        ["predict", "x.jpg", "--format", "xml"],
        ["predict", "x.jpg", "--device", "gpu"],
        ["predict", "x.jpg", "--batch-size", "0"],
        ["predict", "x.jpg", "--min-face", "3"],
        ["predict", "x.jpg", "--gpu-memory", "0"],
        ["predict", "x.jpg", "--uncertain-below", "1.5"],
        ["annotate", "x.mp4", "--uncertain-below", "-0.1"],
        ["ui", "--uncertain-below", "84"],
        ["doctor", "--device", "gpu"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_status_2(arguments):
    assert fer(*arguments, status=2).stdout == ""


def test_table(predict, astronaut_path):
    header, row = predict(astronaut_path).stdout.splitlines()
    assert header.split()[:4] == ["picture", "face", "expression", "second"]
    assert row.split()[0] == str(astronaut_path)
    assert row.split()[1] == "1"
    assert row.count("%") == 2


def test_a_threshold_of_ones_own(predict, astronaut_path):
    told = {}
    for below in ("0", "1"):
        asked = ("--uncertain-below", below)
        row = predict(astronaut_path, *asked).stdout.splitlines()[1]
        record = json.loads(predict(astronaut_path, *asked, "--format", "jsonl").stdout)
        first, second = sorted(record["probs"], key=record["probs"].get, reverse=True)[:2]
        told[below] = record
        assert record["label"] == first
        assert record["uncertain"] == (below == "1") == row.endswith("uncertain")
        assert (f"{first}? " in row and f"{second}? " in row) == (below == "1")
    assert told["0"] | {"uncertain": True} == told["1"]
    predict(astronaut_path, "--uncertain-below", "nan", status=2)


def test_a_folder_of_everything(predict, folder):
    result = predict(folder, "--recursive", "--format", "jsonl", status=1)
    records = {record["source"]: record for record in map(json.loads, result.stdout.splitlines())}
    assert set(records) == {str(folder / name) for name in ("good.jpg", "empty.png", "sub/Γειά 顔.jpg")}
    assert records[str(folder / "empty.png")]["face"] is None
    assert records[str(folder / "good.jpg")]["face"] == 0
    assert len(result.stdout.splitlines()) == 3
    complaint, summary = result.stderr.splitlines()
    assert "corrupt.jpg" in complaint
    assert summary == "fer: 1 of 4 sources could not be read"


def test_subfolders_only_when_asked(predict, folder):
    (folder / "corrupt.jpg").unlink()
    lines = predict(folder, "--format", "jsonl").stdout.splitlines()
    assert len(lines) == 2
    (folder / "empty").mkdir()
    assert "--recursive" in predict(folder / "empty", status=1).stderr


def test_patterns(predict, folder):
    records = [json.loads(line) for line in predict(folder / "*.png", "--format", "jsonl").stdout.splitlines()]
    assert [record["source"] for record in records] == [str(folder / "empty.png")]


def test_what_is_missing_is_reported_and_the_rest_goes_on(predict, folder):
    result = predict(folder / "nothing.jpg", folder / "good.jpg", folder / "*.webp", "-f", "jsonl", status=1)
    assert len(result.stdout.splitlines()) == 1
    assert "nothing.jpg: no such file" in result.stderr
    assert "2 of 3 sources could not be read" in result.stderr


def test_no_face_is_a_row_and_no_error(predict, folder):
    assert predict(folder / "empty.png").stdout.splitlines()[1].split() == [
        str(folder / "empty.png"),
        "-",
        "no",
        "face",
    ]


def test_csv(predict, folder):
    result = predict(folder / "good.jpg", folder / "empty.png", "--format", "csv")
    good, empty = csv.DictReader(io.StringIO(result.stdout))
    assert good["face"] == "0"
    assert good["label"] in LABELS
    assert float(good["box_x1"]) > float(good["box_x0"])
    assert sum(float(good[f"prob_{label}"]) for label in LABELS) == pytest.approx(1, abs=1e-4)
    assert empty["source"] == str(folder / "empty.png")
    assert empty["face"] == empty["label"] == ""


def test_standard_input(predict, astronaut_path):
    (line,) = predict("-", "--format", "jsonl", stdin=astronaut_path.read_bytes()).stdout.splitlines()
    assert json.loads(line)["source"] == "-"
    assert json.loads(line)["face"] == 0
    assert "-: the file is empty" in predict("-", stdin=b"", status=1).stderr


def test_face_crops(predict, tmp_path):
    red, blue = save(tmp_path / "red.png", (255, 0, 0)), save(tmp_path / "blue.png", (0, 0, 255))
    lines = predict(red, blue, "--no-detect", "--format", "jsonl").stdout.splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["label"] for record in records] == ["anger", "sadness"]
    assert records[0]["box"] == {"x0": 0, "y0": 0, "x1": 40, "y1": 30}
    assert records[0]["landmarks"] is None


def test_limits(predict, astronaut_path):
    assert "no face" in predict(astronaut_path, "--min-face", "400").stdout
    assert "--max-pixels" in predict(astronaut_path, "--max-pixels", "1000", status=1).stderr
    assert "no face" not in predict(astronaut_path, "--max-faces", "1", "--batch-size", "1").stdout


def test_drawn_pictures_have_names_of_their_own(predict, tmp_path, astronaut_path):
    for name in ("a/photo.jpg", "b/photo.jpg", "out/photo_faces.jpg"):
        (tmp_path / name).parent.mkdir()
        shutil.copy(astronaut_path, tmp_path / name)
    save(tmp_path / "a" / "PHOTO.JPG", size=(100, 100))
    save(tmp_path / "a" / "scan.bmp", size=(100, 100))
    out = tmp_path / "out"
    sources = ("a/photo.jpg", "b/photo.jpg", "a/PHOTO.JPG", "a/scan.bmp", "out/photo_faces.jpg")
    for _ in range(2):  # again: the same names, nothing new
        predict(*(tmp_path / source for source in sources), "--output", out)
        assert sorted(path.name for path in out.iterdir()) == [
            "PHOTO_faces_4.jpg",
            "photo_faces.jpg",
            "photo_faces_2.jpg",
            "photo_faces_3.jpg",
            "photo_faces_faces.jpg",
            "scan_faces.jpg",
        ]
    assert (out / "photo_faces.jpg").read_bytes() == astronaut_path.read_bytes()
    drawn = cv2.imread(str(out / "photo_faces_2.jpg"))
    assert np.abs(drawn.astype(int) - cv2.imread(str(astronaut_path))).max() > 100


def test_a_picture_whose_name_is_as_long_as_names_may_be_is_drawn(predict, tmp_path, astronaut_path):
    longest = tmp_path / f"{'x' * 251}.jpg"
    shutil.copy(astronaut_path, longest)
    predict(longest, astronaut_path, "--output", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "astronaut_faces.jpg",
        f"{'x' * 200}_faces.jpg",
    ]


def test_what_was_drawn_is_not_drawn_again(predict, folder):
    for _ in range(2):
        result = predict(folder, "-r", "-o", folder / "sub" / "drawn", "-f", "jsonl", status=1)
        assert len(result.stdout.splitlines()) == 3
    drawn = sorted(path.name for path in (folder / "sub" / "drawn").iterdir())
    assert drawn == ["empty_faces.png", "good_faces.jpg", "Γειά 顔_faces.jpg"]
    # Asked for by name, or as a folder of its own, it is a picture like any other.
    assert (
        len(predict(folder / "sub" / "drawn", "-o", folder / "sub" / "drawn", "-f", "jsonl").stdout.splitlines()) == 3
    )


def test_an_output_folder_that_cannot_be(predict, tmp_path, astronaut_path):
    (tmp_path / "file").write_text("")
    result = predict(astronaut_path, "--output", tmp_path / "file", status=1)
    assert result.stderr == f"fer: error: {tmp_path / 'file'}: is a file; --output takes a folder\n"


def test_model_errors_are_one_line(astronaut_path, tmp_path):
    result = fer("predict", astronaut_path, "--model", "nonsense", status=1)
    assert result.stderr.startswith("fer: error: no model 'nonsense'")
    assert len(result.stderr.splitlines()) == 1
    (tmp_path / "bad.onnx").write_text("bad")
    result = fer("predict", astronaut_path, "--model", tmp_path / "bad.onnx", "--device", "cpu", status=1)
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


def test_a_device_that_is_not_there_is_one_line(astronaut_path, tiny_model, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    result = fer("predict", astronaut_path, "--model", tiny_model, "--device", "cuda", status=1)
    assert result.stderr.startswith("fer: error: cannot run on cuda:0")
    assert len(result.stderr.splitlines()) == 1


def test_cuda_graphs_are_not_left_out_in_silence(astronaut_path, tiny_model, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for device, said in (("cpu", "CUDA graphs"), ("auto", "cannot run on cuda:0")):
        result = fer("predict", astronaut_path, "-m", tiny_model, "-d", device, "--cuda-graphs", status=1)
        assert result.stderr.startswith(f"fer: error: {said}")
        assert (result.stdout, len(result.stderr.splitlines())) == ("", 1)


def test_auto_says_what_it_chose_where_there_was_a_choice(astronaut_path, tiny_model, monkeypatch):
    monkeypatch.setattr(session, "nvidia_device_visible", lambda: True)
    monkeypatch.setattr(session, "_PROVIDERS", {**session._PROVIDERS, "cuda": ("NoSuchProvider",)})
    result = fer("predict", astronaut_path, "--model", tiny_model)
    assert result.stderr.startswith("fer: running on cpu: cannot run on cuda:0")
    assert len(result.stderr.splitlines()) == 1


@pytest.fixture
def bundle(tmp_path, monkeypatch, tiny_model):
    """One bundled classifier, besides the real detector."""
    from hashlib import sha256

    weights = tmp_path / "weights"
    shutil.copytree(model_store.WEIGHTS, weights)
    manifest = (weights / "manifest.toml").read_text()
    detectors = manifest[manifest.index("\n[[detector]]\n") + 1 :].split("\n[[model]]")[0]
    digest = sha256(tiny_model.read_bytes()).hexdigest()
    shutil.copy(tiny_model, weights / "tiny.onnx")
    (weights / "manifest.toml").write_text(
        f'{detectors}\n[[model]]\nname = "tiny"\nfile = "tiny.onnx"\nsha256 = "{digest}"\n'
        'contract_sha256 = "0"\nlicense = "a test file"\nrole = "fast"\ndefault = true\ncard = "tiny.md"\n'
        "metrics = { ferplus_valid_accuracy = 0.8512 }\n"
    )
    (weights / "tiny.md").write_text("# tiny\n\n<!-- measured: begin -->\n\n- **85 %**\n")
    monkeypatch.setattr(model_store, "WEIGHTS", weights)
    return weights


def test_models(bundle, tiny_model):
    shown = fer("models").stdout
    for expected in (
        "tiny (fast, default)",
        "neutral happiness surprise",
        "16 x 16 px, rgb",
        "a test file",
        "85.12%",
        "mtcnn-onet",
    ):
        assert expected in shown
    (model,) = json.loads(fer("models", "--json").stdout)["models"]
    assert model["name"] == "tiny"
    assert model["labels"] == list(LABELS)
    assert model["metrics"] == {"ferplus_valid_accuracy": 0.8512}
    assert model["bytes"] == tiny_model.stat().st_size
    assert len(model["sha256"]) == 64
    assert (model["role"], model["card"]) == ("fast", "tiny.md")
    one = fer("models", "fast").stdout
    assert one.startswith("tiny (fast, default)\n")
    assert "mtcnn" not in one
    assert "there are: tiny (fast, default)" in fer("models", "accurate", status=1).stderr
    assert "is no bundled model" in fer("models", tiny_model, status=2).stderr


def test_card_of_a_model(bundle, monkeypatch):
    for arguments in ((), ("tiny",), ("fast",)):
        assert fer("models", "--card", *arguments).stdout == "# tiny\n\n- **85 %**\n"
    assert "leave out --json" in fer("models", "--card", "--json", status=2).stderr
    assert "no model 'other'" in fer("models", "--card", "other", status=1).stderr


def test_models_when_none_is_bundled(bundle):
    text = (bundle / "manifest.toml").read_text()
    (bundle / "manifest.toml").write_text(text.split("\n[[model]]")[0])
    # The manifest is read once a process; another path is another manifest.
    model_store.WEIGHTS = bundle.rename(bundle.with_name("emptied"))
    assert "No classifier is bundled" in fer("models").stdout


def test_the_bundled_model_is_the_default(bundle, tmp_path):
    red = save(tmp_path / "red.png", (255, 0, 0))
    for arguments in ([], ["--model", "tiny"], ["--model", "fast"], ["--model", "default"]):
        lines = fer("predict", red, "--no-detect", "--device", "cpu", "--format", "jsonl", *arguments).stdout
        assert json.loads(lines)["label"] == "anger"


def test_doctor(bundle):
    shown = fer("doctor", "--device", "cpu").stdout
    for expected in ("onnxruntime", "opencv", "cpu", "cuda", "tensorrt", "tiny", "mtcnn-pnet", "as in the manifest"):
        assert expected in shown
    assert "ms (first run" in shown
    assert "for one face, tiny, on cpu" in shown
    assert shown.splitlines()[-1] == "all is well"


def test_doctor_finds_a_damaged_file(bundle):
    content = bytearray((bundle / "mtcnn" / "rnet.onnx").read_bytes())
    content[-1] ^= 1
    (bundle / "mtcnn" / "rnet.onnx").write_bytes(content)
    shown = fer("doctor", "--device", "cpu", status=1).stdout
    assert "rnet.onnx is damaged" in shown
    assert "all is well" not in shown


def test_doctor_looks_at_every_arithmetic_of_a_model(bundle):
    manifest = (bundle / "manifest.toml").read_text()
    variant = f'[[model.variant]]\nprecision = "int8"\nfile = "tiny.int8.onnx"\nsha256 = "{"0" * 64}"\n'
    variant += 'contract_sha256 = "0"\nmetrics = {}\n'
    shutil.copy(bundle / "tiny.onnx", bundle / "tiny.int8.onnx")
    # The manifest is read once a process; another path is another manifest.
    model_store.WEIGHTS = bundle.rename(bundle.with_name("more"))
    (model_store.WEIGHTS / "manifest.toml").write_text(manifest + variant)
    shown = fer("doctor", "--device", "cpu", status=1).stdout
    assert "tiny int8" in shown
    assert "tiny.int8.onnx is damaged" in shown


def test_doctor_runs_every_model(bundle):
    """Also those after one that cannot be run."""
    manifest = (bundle / "manifest.toml").read_text()
    (bundle / "first.onnx").write_bytes(b"no network")
    sha256 = hashlib.sha256(b"no network").hexdigest()
    first = f'[[model]]\nname = "first"\nfile = "first.onnx"\nsha256 = "{sha256}"\n'
    first += 'contract_sha256 = "0"\nlicense = "none"\n\n'
    model_store.WEIGHTS = bundle.rename(bundle.with_name("two"))
    (model_store.WEIGHTS / "manifest.toml").write_text(manifest.replace("[[model]]", first + "[[model]]", 1))
    shown = fer("doctor", "--device", "cpu", status=1).stdout
    assert "first.onnx" in shown
    assert "for one face, tiny, on cpu" in shown
    assert "all is well" not in shown


def test_doctor_names_the_gpus(bundle, monkeypatch):
    monkeypatch.setattr(session, "device_problem", lambda name: "" if name == "cuda" else f"no {name}")
    monkeypatch.setattr(cuda_driver, "device_count", lambda: 2)
    monkeypatch.setattr(cuda_driver, "device_name", lambda ordinal: f"GPU number {ordinal}")
    shown = [line.split("  ") for line in fer("doctor", "--device", "cpu").stdout.splitlines()]
    rows = {line[1]: line[-1].strip() for line in shown if len(line) > 2}
    assert (rows["cuda:0"], rows["cuda:1"]) == ("GPU number 0", "GPU number 1")
    assert rows["tensorrt"] == "no tensorrt"
    assert "tensorrt:0" not in rows


def test_doctor_says_why_a_device_cannot_be_used(bundle, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    shown = fer("doctor", "--device", "cuda", status=1).stdout
    assert "problem: cannot run on cuda:0" in shown
