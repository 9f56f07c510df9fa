"""Which file may import what: the whole table, checked on the syntax tree of every file of the four folders.

The linter's lists (`*/ruff.toml`) catch most of this while one types; they must agree with the table. What is loaded
in the end, through whatever path, is checked by `test_start_up.py`.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("fer_app", "models", "training", "export")
FILES = sorted(path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))

# Besides the standard library, each folder may import these packages and nothing else.
THIRD_PARTY = {
    "fer_app": {"PIL", "av", "cv2", "matplotlib", "numpy", "onnxruntime", "pillow_heif", "pyarrow", "rich", "typer"},
    "models": {"numpy", "timm", "torch"},
    "training": {
        "PIL",
        "cv2",
        "lightning",
        "matplotlib",
        "numpy",
        "onnxruntime",
        "pydantic",
        "rich",
        "safetensors",
        "sklearn",
        "timm",
        "torch",
        "torchvision",
        "typer",
    },
    "export": {
        "PIL",
        "cv2",
        "numpy",
        "onnx",
        "onnxruntime",
        "onnxscript",
        "pydantic",
        "rich",
        "safetensors",
        "timm",
        "torch",
        "torchvision",
        "typer",
    },
}
# These are welcome in one place alone.
ONE_PLACE = {
    "facenet_pytorch": "export/mtcnn_onnx.py",
    "av": "fer_app/video/",
    # What the page is made of.
    "fastapi": "fer_app/ui/",
    "gradio": "fer_app/ui/",
    "starlette": "fer_app/ui/",
    "uvicorn": "fer_app/ui/",
}
# In fer_app these are imported inside functions only: they are slow to import, or not in the base install.
DEFERRED = {"matplotlib", "onnxruntime", "pillow_heif", "pyarrow", "ray", "trackers"}

# What each folder may import of the other folders; a prefix of the dotted name.
OWN = {
    "fer_app": ("fer_app",),
    "models": ("models", "fer_app.errors"),
    "training": ("training", "models", "fer_app"),
    "export": ("export", "training", "models", "fer_app"),
}
# Inside fer_app a module imports only from rows above its own (and from its own package); `__init__` is fer_app itself.
ROWS = (
    {"errors", "labels"},
    {
        "atomic_file",
        "contract",
        "cuda_driver",
        "extras",
        "output_files",
        "quiet_decoders",
        "results",
        "source_files",
        "stop_signals",
        "worker_processes",
    },
    {"tensorrt_cache"},
    {
        "anonymise",
        "boxes",
        "image_io",
        "label_layout",
        "model_store",
        "preprocess",
        "session",
        "sinks",
        "smoothing",
        "video",
    },
    {"bound_batches"},
    {"alignment", "annotate", "classifier", "detection", "parquet_sink", "quality", "tracking"},
    {"model_choice"},
    {"backends"},
    {"recognizer"},
    {"bench", "video_faces"},
    {"__init__"},
    {"ui"},
    {"cli"},
)
ROW_OF = {name: number for number, row in enumerate(ROWS) for name in row}

# What the linter must know in every folder where the table above does not allow it.
HEAVY = {"facenet_pytorch", "gradio", "lightning", "onnx", "onnxscript", "timm", "torch", "torchvision"}
DISTRIBUTIONS = {"PIL": "pillow", "cv2": "opencv-python", "sklearn": "scikit-learn"}


class Import(NamedTuple):
    line: int
    name: str  # dotted and absolute, with the imported attribute at the end of a `from`
    deferred: bool  # inside a function, or for the type checker alone


def find_imports(path: str, source: str) -> Iterator[Import]:
    """Every import in a file, relative ones made absolute, `import_module("...")` and `__import__("...")` included."""
    package = path.split("/")[:-1]

    def visit(node: ast.AST, deferred: bool) -> Iterator[Import]:
        match node:
            case ast.Import(names=names):
                yield from (Import(node.lineno, alias.name, deferred) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                start = package[: len(package) - level + 1] if level else []
                base = ".".join(start + ([module] if module else []))
                yield from (Import(node.lineno, f"{base}.{alias.name}", deferred) for alias in names)
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield Import(node.lineno, name, deferred)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, deferred or defers(node, child))

    yield from visit(ast.parse(source, path), deferred=False)


def defers(node: ast.AST, child: ast.AST) -> bool:
    """Whether `child` does not run when the module is imported."""
    match node:
        case ast.FunctionDef(body=body) | ast.AsyncFunctionDef(body=body):
            return child in body
        case ast.Lambda():
            return True
        case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING"), body=body):
            return child in body
    return False


def part_of(dotted: str) -> str:
    """The module of `fer_app` that a dotted name belongs to: a key of `ROW_OF`."""
    second = dotted.split(".")[1] if "." in dotted else ""
    return second if second in ROW_OF or (ROOT / "fer_app" / f"{second}.py").exists() else "__init__"


def problems_of(path: str, source: str) -> list[str]:
    """What is wrong with the imports of one file; `path` is relative to the root of the repository."""
    folder = path.split("/")[0]
    found = []
    own_part = path.split("/")[1].removesuffix(".py")
    if folder == "fer_app" and own_part not in ROW_OF:
        return [f"{path}: {own_part!r} has no row in ROWS of {Path(__file__).name}; give it one"]
    for line, name, deferred in find_imports(path, source):
        where = f"{path}:{line}: imports {name}"
        top = name.split(".")[0]
        if top in FOLDERS:
            if not any(name == own or name.startswith(own + ".") for own in OWN[folder]):
                found.append(f"{where}; {folder} may import {', '.join(OWN[folder])}")
            elif folder == "fer_app":
                part = part_of(name)
                if part != own_part and ROW_OF.get(part, len(ROWS)) >= ROW_OF[own_part]:
                    found.append(f"{where}; {part} is not above {own_part} in ROWS")
        elif top in ONE_PLACE:
            if not path.startswith(ONE_PLACE[top]):
                found.append(f"{where}; that belongs in {ONE_PLACE[top]} alone")
        elif top not in sys.stdlib_module_names:
            if top not in THIRD_PARTY[folder]:
                found.append(f"{where}; {folder} may import {', '.join(sorted(THIRD_PARTY[folder]))}")
            elif folder == "fer_app" and top in DEFERRED and not deferred:
                found.append(f"{where} at module level; {top} is imported inside functions only")
    return found


@pytest.mark.parametrize("path", FILES)
def test_file_follows_the_table(path: str) -> None:
    assert problems_of(path, (ROOT / path).read_text(encoding="utf-8")) == []


def test_every_folder_has_files() -> None:
    assert {path.split("/")[0] for path in FILES} == set(FOLDERS)


@pytest.mark.parametrize(
    ("path", "source", "said"),
    [
        ("fer_app/boxes.py", "import torch", "imports torch"),
        ("fer_app/boxes.py", "def f():\n    import torch.nn as nn", "boxes.py:2: imports torch.nn"),
        ("fer_app/boxes.py", "from importlib import import_module\nimport_module('torch')", "imports torch"),
        ("fer_app/boxes.py", "import importlib\nimportlib.import_module('timm.layers')", "imports timm.layers"),
        ("fer_app/boxes.py", "__import__('onnx')", "imports onnx"),
        ("fer_app/boxes.py", "import scipy", "imports scipy"),
        ("fer_app/boxes.py", "try:\n    import lightning\nexcept ImportError:\n    pass", "imports lightning"),
        ("fer_app/boxes.py", "if True:\n    from models.vit import vit_config", "imports models.vit.vit_config"),
        ("fer_app/boxes.py", "import gradio", "belongs in fer_app/ui/"),
        ("fer_app/cli/ui.py", "def f():\n    import uvicorn", "belongs in fer_app/ui/"),
        ("fer_app/ui/server.py", "from fer_app.cli import main", "cli is not above ui"),
        ("fer_app/boxes.py", "def f():\n    import av", "belongs in fer_app/video/"),
        ("fer_app/boxes.py", "from facenet_pytorch import MTCNN", "belongs in export/mtcnn_onnx.py"),
        ("fer_app/boxes.py", "from fer_app.recognizer import Recognizer", "recognizer is not above boxes"),
        ("fer_app/boxes.py", "from .recognizer import Recognizer", "recognizer is not above boxes"),
        ("fer_app/boxes.py", "from . import session", "session is not above boxes"),
        ("fer_app/boxes.py", "from fer_app import Recognizer", "__init__ is not above boxes"),
        ("fer_app/boxes.py", "import fer_app", "__init__ is not above boxes"),
        ("fer_app/detection/mtcnn.py", "from ..cli import main", "cli is not above detection"),
        ("fer_app/detection/__init__.py", "from ..alignment import f", "alignment is not above detection"),
        ("fer_app/recognizer.py", "import fer_app.cli.predict", "cli is not above recognizer"),
        ("fer_app/newcomer.py", "", "'newcomer' has no row"),
        ("fer_app/newcomer/part.py", "", "'newcomer' has no row"),
        ("fer_app/session.py", "import onnxruntime", "at module level"),
        ("fer_app/session.py", "class A:\n    import onnxruntime", "at module level"),
        ("fer_app/session.py", "def f(a=__import__('onnxruntime')): ...", "at module level"),
        ("models/vit.py", "from fer_app.contract import Contract", "models may import models, fer_app.errors"),
        ("models/vit.py", "from fer_app import errors_of", "models may import models, fer_app.errors"),
        ("models/vit.py", "import cv2", "imports cv2"),
        ("models/vit.py", "import onnxruntime", "imports onnxruntime"),
        ("models/vit.py", "from training import recipe", "imports training.recipe"),
        ("models/vit.py", "import gradio", "belongs in fer_app/ui/"),
        ("training/loop.py", "from export.parity import check", "imports export.parity.check"),
        ("training/losses/scl_loss.py", "from ...export import parity", "imports export.parity"),
        ("training/loop.py", "import onnx", "imports onnx"),
        ("training/loop.py", "import gradio.blocks", "belongs in fer_app/ui/"),
        ("export/parity.py", "import gradio", "belongs in fer_app/ui/"),
        ("export/parity.py", "import facenet_pytorch", "belongs in export/mtcnn_onnx.py"),
    ],
)
def test_checker_finds_a_forbidden_import(path: str, source: str, said: str) -> None:
    found = problems_of(path, source)
    assert len(found) == 1
    assert said in found[0]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("fer_app/session.py", "import os.path, numpy as np\nfrom fer_app.errors import FerError"),
        ("fer_app/session.py", "def f():\n    import onnxruntime"),
        ("fer_app/session.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import onnxruntime"),
        ("fer_app/detection/mtcnn.py", "from fer_app.detection.pyramid import f\nfrom . import pyramid\nimport cv2"),
        ("fer_app/cli/ui.py", "def f():\n    from fer_app.ui.server import serve"),
        ("fer_app/ui/server.py", "import gradio, uvicorn\nfrom fer_app.video_faces import annotate_video"),
        ("fer_app/cli/predict.py", "from fer_app import Recognizer, results\nimport fer_app.recognizer, typer"),
        ("fer_app/__init__.py", "def __getattr__(name):\n    from fer_app.recognizer import Recognizer"),
        ("models/vit.py", "import torch\nfrom fer_app.errors import FerError\nfrom fer_app import errors"),
        ("training/loop.py", "from models.vit import vit_config\nfrom fer_app.contract import Contract"),
        ("export/mtcnn_onnx.py", "import facenet_pytorch, onnx\nfrom training.checkpoint import load"),
    ],
)
def test_checker_lets_allowed_imports_pass(path: str, source: str) -> None:
    assert problems_of(path, source) == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_linter_bans_what_the_table_does_not_allow(folder: str) -> None:
    tidy = tomllib.loads((ROOT / folder / "ruff.toml").read_text())["lint"]["flake8-tidy-imports"]
    banned = set(tidy["banned-api"])
    other_folders = {name for name in FOLDERS if not any(own.startswith(name) for own in OWN[folder])}
    assert banned >= (HEAVY - THIRD_PARTY[folder]) | other_folders
    assert not banned & (THIRD_PARTY[folder] | set(OWN[folder]))
    assert set(tidy.get("banned-module-level-imports", ())) == (DEFERRED if folder == "fer_app" else set())


def test_linter_bans_every_part_of_fer_app_in_models_but_the_errors() -> None:
    tidy = tomllib.loads((ROOT / "models/ruff.toml").read_text())["lint"]["flake8-tidy-imports"]
    banned = {name.removeprefix("fer_app.") for name in tidy["banned-api"] if name.startswith("fer_app.")}
    assert banned == set(ROW_OF) - {"errors", "__init__"} | {"Recognizer"}


@pytest.mark.parametrize(
    ("folder", "extras"),
    [
        ("fer_app", ["heic", "parquet", "plots"]),
        ("models", ["train"]),
        ("training", ["train"]),
        ("export", ["train", "export"]),
    ],
)
def test_what_a_folder_imports_is_declared(folder: str, extras: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + [line for extra in extras for line in project["optional-dependencies"][extra]]
    declared = {re.split(r"[^\w-]", line)[0] for line in lines}
    wanted = {DISTRIBUTIONS.get(name, name.replace("_", "-")) for name in THIRD_PARTY[folder]}
    assert wanted <= declared
