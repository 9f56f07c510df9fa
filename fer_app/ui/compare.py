"""Two classifiers on the same faces: side by side, and how often they agree."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fer_app.annotate import draw_faces
from fer_app.errors import FerError
from fer_app.image_io import write_image
from fer_app.recognizer import Prediction, Recognizer
from fer_app.results import Faces
from fer_app.ui.html import escaped, file_url, named, problem, said_of

MOST_COMPARED = 200
"""So many pictures are compared at once."""
_MOST_DRAWN = 12
NOTHING = '<p class="fer-hint">Both results will be shown here.</p>'
"""Where there are no pictures yet."""


def show_comparison(recognizers: Sequence[Recognizer], names: Sequence[str], paths: Sequence[str], folder: Path) -> str:
    """Read the same faces with two classifiers, and show both.

    Args:
        recognizers: two; the first one also finds the faces.
        names: of the two.
        paths: files, as they were uploaded; what is no picture is told of.
        folder: empty; gets the drawn pictures.
    """
    if not paths:
        return NOTHING
    problems: list[str] = []
    if len(paths) > MOST_COMPARED:
        problems.append(problem(f"{len(paths)} pictures are too many at once; the first {MOST_COMPARED} were compared"))

    def failed(source: object, error: FerError) -> None:
        problems.append(problem(named(error, str(source))))

    first, second = recognizers
    drawn: list[str] = []
    pairs: list[tuple[Faces, Faces]] = []
    for one in first.predict_many(list(paths[:MOST_COMPARED]), on_error=failed):
        (other,) = second.classify([one.image], [one.faces.detections], [one.faces.source])
        if len(drawn) < _MOST_DRAWN:
            drawn.append(_side_by_side(one, other, names, folder, len(drawn)))
        pairs.append((one.faces, other))
    return f'<div class="fer-comparison">{"".join(problems)}{_agreement(pairs, names)}{"".join(drawn)}</div>'


def agreement(pairs: Sequence[tuple[Faces, Faces]]) -> tuple[int, int]:
    """Count how many faces got the same label from both, and how many faces there are."""
    same = sum(a.label(i) == b.label(i) for a, b in pairs for i in range(len(a)))
    return same, sum(len(a) for a, _ in pairs)


def _agreement(pairs: Sequence[tuple[Faces, Faces]], names: Sequence[str]) -> str:
    same, total = agreement(pairs)
    if total == 0:
        return '<p class="fer-hint">No face was found.</p>' if pairs else ""
    rows = "".join(
        f'<tr><th scope="row">{escaped(Path(a.source).name)}</th><td>{i + 1}</td>'
        f"<td>{escaped(said_of(a, i))}</td><td>{escaped(said_of(b, i))}</td>"
        f"<td>{'same' if a.label(i) == b.label(i) else '<strong>differs</strong>'}</td></tr>"
        for a, b in pairs
        for i in range(len(a))
    )
    heads = "".join(f'<th scope="col">{escaped(text)}</th>' for text in ("Picture", "Face", *names, "Label"))
    return (
        f"<p><strong>The same label for {same} of {total} faces ({same / total:.0%}).</strong></p>"
        f'<div class="fer-table"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _side_by_side(one: Prediction, other: Faces, names: Sequence[str], folder: Path, number: int) -> str:
    figures = ""
    for k, (name, faces) in enumerate(zip(names, (one.faces, other), strict=True)):
        path = folder / f"{number}-{k}.jpg"
        write_image(path, draw_faces(one.image, faces))
        said = "; ".join(said_of(faces, i) for i in range(len(faces))) or "no face"
        alt = escaped(f"{Path(faces.source).name} by {name}: {said}")
        figures += (
            f'<figure><img src="{file_url(path)}" width="{faces.width}" height="{faces.height}" loading="lazy" '
            f'alt="{alt}"><figcaption>{escaped(name)}</figcaption></figure>'
        )
    return f'<div class="fer-pair">{figures}</div>'
