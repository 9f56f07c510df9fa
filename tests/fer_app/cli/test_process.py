"""What only shows when `fer` is a process of its own: terminals, signals, pipes."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

from fer_app.cli.table import cells

FER = [sys.executable, "-c", "from fer_app.cli import main; main()"]
pytestmark = pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals and signals as POSIX has them")


@pytest.fixture
def arguments(tiny_model):
    return [*FER, "predict", "--device", "cpu", "--no-detect", "--model", str(tiny_model)]


@pytest.fixture
def many(tmp_path, astronaut_path):
    for i in range(20):
        shutil.copy(astronaut_path, tmp_path / f"a-name-of-some-length-{i}.jpg")
    (tmp_path / "bad.jpg").write_text("bad")
    return tmp_path


def in_terminal(command, columns, **streams) -> tuple[str, subprocess.CompletedProcess]:
    """Run with the streams that are named "terminal" on a pseudo-terminal; returns what it showed."""
    import pty
    import threading

    control, terminal = pty.openpty()
    shown = bytearray()

    def collect():
        while True:
            try:
                piece = os.read(control, 4096)
            except OSError:  # how Linux says that the other side is closed
                return
            if not piece:
                return
            shown.extend(piece)

    reader = threading.Thread(target=collect)
    reader.start()
    streams = {name: terminal if stream == "terminal" else stream for name, stream in streams.items()}
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm"}
    done = subprocess.run(command, env=environment, check=False, timeout=60, **streams)
    os.close(terminal)
    reader.join(timeout=10)
    os.close(control)
    return shown.decode(), done


def test_a_table_fits_its_terminal(arguments, many):
    shown, done = in_terminal([*arguments, str(many)], 70, stdout="terminal", stderr=subprocess.PIPE)
    assert done.returncode == 1
    lines = shown.splitlines()
    assert len(lines) == 21
    assert max(cells(line) for line in lines) <= 70
    assert "neu hap" not in lines[0]
    assert b"pictures" not in done.stderr.replace(b"not a picture", b"")


def test_a_pipe_gets_the_whole_table_and_no_colour(arguments, many):
    done = subprocess.run([*arguments, str(many)], capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert "neu hap sur" in lines[0]
    assert all(str(many) in line for line in lines[1:])
    assert "\x1b" not in done.stdout + done.stderr
    assert len(done.stderr.splitlines()) == 2


def test_many_pictures_show_a_bar_and_complaints_beside_it(arguments, many):
    shown, done = in_terminal([*arguments, str(many), "-f", "jsonl"], 100, stdout=subprocess.PIPE, stderr="terminal")
    assert "pictures" in shown
    assert "bad.jpg" in shown
    assert "1 of 21 sources could not be read" in shown
    assert len(done.stdout.splitlines()) == 20
    assert b"\x1b" not in done.stdout


def test_interrupted(arguments):
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([*arguments, "-"], **pipes) as process:
        time.sleep(1.0)  # by now it waits for the picture
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == b""
    assert b"Traceback" not in err


def test_a_reader_that_goes_away(arguments, many):
    command = [*arguments, *[str(many / "a-name-of-some-length-0.jpg")] * 100, "-f", "jsonl"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        first = process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read()
    assert first.startswith(b'{"schema_version"')
    assert process.returncode == 1
    assert err == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")  # noqa: PTH110
@pytest.mark.parametrize("kind", ["table", "jsonl", "csv"])
def test_a_full_disk(arguments, astronaut_path, kind):
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        done = subprocess.run(
            [*arguments, str(astronaut_path), "-f", kind], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("fer: error: the results cannot be written to standard output: ")


def test_closed_streams(arguments, astronaut_path, tmp_path):
    command = shlex.join([*arguments, str(astronaut_path), "-o", str(tmp_path / "out")])
    done = subprocess.run(["sh", "-c", f"{command} >&-"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out" / "astronaut_faces.jpg").is_file()
    done = subprocess.run(["sh", "-c", f"{shlex.join(arguments)} - <&-"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "fer: -: the file is empty"


def test_a_name_that_is_no_text(arguments, tmp_path, astronaut_path):
    if sys.platform == "darwin":
        pytest.skip("file names are UTF-8 there")
    name = os.fsencode(tmp_path) + b"/\xff.jpg"
    shutil.copy(astronaut_path, name)
    for kind in ("table", "jsonl", "csv"):
        done = subprocess.run(
            [*map(os.fsencode, arguments), name, b"-f", kind.encode()], capture_output=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_rows_are_utf_8_whatever_the_terminal_takes(kind, tmp_path, astronaut_path):
    """As on Windows, where what goes into a file has the encoding of old programs."""
    picture = tmp_path / "Schüler 😀.jpg"
    picture.write_bytes(astronaut_path.read_bytes())
    command = [sys.executable, "-c", "from fer_app.cli import main; main()", "predict", str(picture), "-f", kind]
    done = subprocess.run(command, capture_output=True, check=False, env=os.environ | {"PYTHONIOENCODING": "cp1252"})
    assert (done.returncode, done.stderr) == (0, b"")
    assert "Schüler 😀.jpg" in done.stdout.decode("utf-8")
    assert b"\r" not in done.stdout


def test_training_without_its_packages_names_the_extra(tmp_path):
    """As in the base install, where none of them is there."""
    code = (
        "import sys\n"
        "for name in ('torch', 'timm', 'lightning', 'safetensors'):\n"
        "    sys.modules[name] = None\n"
        "from fer_app.cli import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", code, "train", "debug", "--data", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("fer: error: `fer train` needs ")
    assert line.endswith('pip install "fer-mimic[train]"')
