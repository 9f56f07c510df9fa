"""Pictures in, one piece of HTML out: drawn pictures whose faces can be chosen, probabilities, crops, downloads."""

from __future__ import annotations

import base64
import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from fer_app.alignment import align_faces
from fer_app.annotate import draw_faces
from fer_app.classifier import EVIDENCE, OnnxClassifier
from fer_app.contract import Contract
from fer_app.errors import FerError
from fer_app.image_io import write_image
from fer_app.output_files import short_stem
from fer_app.preprocess import to_input
from fer_app.recognizer import Prediction, Recognizer
from fer_app.results import Faces
from fer_app.sinks import CsvSink
from fer_app.ui.heat import heat_picture, speaking_for
from fer_app.ui.html import bars, download, escaped, file_url, named, problem, read_by, said_of

MOST_PICTURES = 32
"""So many pictures are read at once."""

NOTHING = '<p class="fer-hint">The faces will be shown here.</p>'
"""Where there are no pictures yet."""


def show_photos(recognizer: Recognizer, paths: Sequence[str], folder: Path, *, model: str = "") -> str:
    """Read the faces of pictures, and show them.

    Args:
        recognizer: reads them.
        paths: files, as they were uploaded; what is no picture is told of.
        folder: empty; gets the drawn pictures and the tables.
        model: what the recognizer's classifier is called, which is told.
    """
    if not paths:
        return NOTHING
    problems = []
    if len(paths) > MOST_PICTURES:
        problems.append(problem(f"{len(paths)} pictures are too many at once; the first {MOST_PICTURES} were read"))
    shown: list[str] = []
    read: list[tuple[Faces, Path]] = []

    def failed(source: object, error: FerError) -> None:
        problems.append(problem(named(error, str(source))))

    for prediction in recognizer.predict_many(list(paths[:MOST_PICTURES]), on_error=failed):
        faces = _renamed(prediction.faces)
        drawn = _drawn_path(folder, faces.source)
        write_image(drawn, draw_faces(prediction.image, faces))
        shown.append(_picture(faces, drawn, _evidence(prediction, recognizer), len(shown)))
        read.append((faces, drawn))
    tables = _tables([faces for faces, _ in read], folder, model)
    return f'<div class="fer-photos">{"".join(problems)}{_gallery(read)}{"".join(shown)}{tables}</div>'


def records_of(recognizer: Recognizer, paths: Sequence[str]) -> list[dict[str, object]]:
    """Read the faces of pictures into the public JSON records; a picture that cannot be read has `error` instead.

    Args:
        recognizer: reads them.
        paths: files, as they were uploaded.
    """
    errors: list[dict[str, object]] = []

    def failed(source: object, error: FerError) -> None:
        errors.append({"source": Path(str(source)).name, "error": named(error, str(source))})

    read = recognizer.predict_many(list(paths[:MOST_PICTURES]), on_error=failed)
    records = [record for prediction in read for record in _renamed(prediction.faces).records()]
    return records + errors


def _renamed(faces: Faces) -> Faces:
    """Name the picture as its owner does, and not by its place in the upload folder."""
    return dataclasses.replace(faces, source=Path(faces.source).name)


def _title(faces: Faces, i: int) -> str:
    return f"Face {i + 1}: {said_of(faces, i)}"


def _count(faces: Faces) -> str:
    return "no face" if len(faces) == 0 else "1 face" if len(faces) == 1 else f"{len(faces)} faces"


def _drawn_path(folder: Path, source: str) -> Path:
    stem = short_stem(source)
    for number in itertools.count(1):
        path = folder / f"{stem}_faces{'' if number == 1 else f'_{number}'}.jpg"
        if not path.exists():
            return path
    raise AssertionError("numbers do not end")


def _picture(faces: Faces, drawn: Path, evidence: Sequence[str], number: int) -> str:
    name = f"fer-p{number}"
    buttons = "".join(_box(faces, i, f"{name}-f{i}") for i in range(len(faces)))
    panels = "".join(_panel(faces, i, evidence[i], f"{name}-f{i}") for i in range(len(faces)))
    nobody = '<p class="fer-hint">No face was found in this picture.</p>' if len(faces) == 0 else ""
    alt = f"{faces.source}: {_count(faces)}" + "".join(f"; {_title(faces, i)}" for i in range(len(faces)))
    return (
        f'<section class="fer-photo" id="{name}" aria-label="{escaped(faces.source)}"{" hidden" if number else ""}>'
        f'<div class="fer-picture" style="--ratio:{faces.width / faces.height:.4f}">'
        f'<img src="{file_url(drawn)}" width="{faces.width}" height="{faces.height}" alt="{escaped(alt)}">'
        f"{buttons}</div>"
        f'<div class="fer-faces"><p class="fer-source">{escaped(faces.source)}: {_count(faces)}</p>{nobody}{panels}'
        f"<p>{download(drawn, 'Drawn picture')}</p></div></section>"
    )


def _box(faces: Faces, i: int, name: str) -> str:
    x0, y0, x1, y1 = np.clip(faces.detections.boxes[i], 0, [faces.width, faces.height] * 2).tolist()
    place = (
        f"left:{100 * x0 / faces.width:.3f}%;top:{100 * y0 / faces.height:.3f}%;"
        f"width:{100 * (x1 - x0) / faces.width:.3f}%;height:{100 * (y1 - y0) / faces.height:.3f}%"
    )
    return (
        f'<button type="button" class="fer-box" style="{place}" data-fer-face="{name}" aria-controls="{name}" '
        f'aria-pressed="{"false" if i else "true"}" aria-label="{escaped(_title(faces, i))}"></button>'
    )


def _panel(faces: Faces, i: int, evidence: str, name: str) -> str:
    flags = f'<p class="fer-flags">{escaped(", ".join(faces.quality[i]))}</p>' if faces.quality[i] else ""
    probs = dict(zip(faces.labels, faces.probs[i].tolist(), strict=True))
    return (
        f'<article class="fer-face" id="{name}"{" hidden" if i else ""}><h2>{escaped(_title(faces, i))}</h2>{flags}'
        f'<div class="fer-evidence">{evidence}</div>'
        f"{bars(probs, f'Probabilities of face {i + 1}')}</article>"
    )


def _gallery(read: Sequence[tuple[Faces, Path]]) -> str:
    """Show small pictures to choose from where there are several."""
    if len(read) < 2:
        return ""
    buttons = "".join(
        f'<button type="button" data-fer-photo="fer-p{n}" aria-controls="fer-p{n}" '
        f'aria-pressed="{"false" if n else "true"}"><img src="{file_url(path)}" alt="" loading="lazy">'
        f"<span>{escaped(faces.source)}: {_count(faces)}</span></button>"
        for n, (faces, path) in enumerate(read)
    )
    return f'<div class="fer-gallery" role="group" aria-label="Pictures">{buttons}</div>'


def _tables(read: Sequence[Faces], folder: Path, model: str) -> str:
    if not read:
        return ""
    as_json, as_csv = folder / "faces.json", folder / "faces.csv"
    records = [record for faces in read for record in faces.records()]
    as_json.write_text(json.dumps(records, ensure_ascii=False, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    with CsvSink(as_csv) as sink:
        for faces in read:
            sink.write(faces)
    links = f'<p class="fer-downloads">All faces: {download(as_json, "JSON")} {download(as_csv, "CSV")}</p>'
    return read_by(model) + links


def _evidence(prediction: Prediction, recognizer: Recognizer) -> list[str]:
    """Show each face as the network got it and, where the network tells, which patches spoke for its label."""
    classifier, faces = recognizer.classifier, prediction.faces
    contract = recognizer.contract
    crops = align_faces(prediction.image, faces.detections.landmarks, img_size=contract.img_size, crop=contract.crop)
    seen = seen_pixels(to_input(crops, contract), contract)
    shown = [
        _figure(pixels, f"Face {i + 1} as the model saw it", "What the model saw") for i, pixels in enumerate(seen)
    ]
    if isinstance(classifier, OnnxClassifier) and EVIDENCE in classifier.outputs:
        for i, evidence in enumerate(classifier.evidence(crops)):
            label = faces.label(i)
            heat = heat_picture(seen[i], speaking_for(evidence, int(faces.top[i])))
            alt = f"Patches of face {i + 1} that spoke for {label}, orange, and against it, blue"
            shown[i] += _figure(heat, alt, f"For {label}: orange; against: blue")
    return shown


def _figure(pixels: npt.NDArray[np.uint8], alt: str, caption: str) -> str:
    return (
        f'<figure><img src="{_as_png(pixels)}" width="112" height="112" alt="{escaped(alt)}">'
        f"<figcaption>{escaped(caption)}</figcaption></figure>"
    )


def seen_pixels(inputs: npt.NDArray[np.float32], contract: Contract) -> npt.NDArray[np.uint8]:
    """Undo the normalisation of the network's input.

    Args:
        inputs: float32, (N, C, H, W), as `fer_app.preprocess.to_input` gives them.
        contract: of the classifier.

    Returns:
        uint8, (N, H, W, C).
    """
    mean, std = (np.asarray(values, np.float32).reshape(1, -1, 1, 1) for values in (contract.mean, contract.std))
    pixels = np.rint((inputs * std + mean) * 255).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))


def _as_png(pixels: npt.NDArray[np.uint8]) -> str:
    bgr = pixels[..., ::-1] if pixels.shape[2] == 3 else pixels
    _, encoded = cv2.imencode(".png", np.ascontiguousarray(bgr))
    return "data:image/png;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")
