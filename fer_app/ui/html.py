"""Small pieces of HTML that several parts of the page have."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from fer_app.annotate import label_colour
from fer_app.results import Faces


def escaped(text: object) -> str:
    """Make a text safe in HTML and in attributes, on one line: Gradio's Markdown ends HTML at an empty line."""
    return html.escape(" ".join(str(text).split()))


def problem(text: object) -> str:
    """Say what went wrong, in a sentence that a screen reader reads at once."""
    sentence = str(text).strip()
    sentence = sentence[:1].upper() + sentence[1:]
    return f'<p class="fer-problem" role="alert">{escaped(sentence)}{"" if sentence.endswith(".") else "."}</p>'


def named(text: object, path: str | Path) -> str:
    """Return what is said of a file with its name in the place of its path, which tells nobody anything."""
    return str(text).replace(str(path), Path(path).name) if str(path) else str(text)


def file_url(path: Path) -> str:
    """Give the address of a file in the upload folder, relative to the page."""
    return f"gradio_api/file={quote(str(path))}"


def download(path: Path, text: str) -> str:
    """Make a link that saves a file of the upload folder."""
    return f'<a class="fer-download" href="{file_url(path)}" download="{escaped(path.name)}">{escaped(text)}</a>'


def css_colour(label: str, index: int) -> str:
    """Give the colour of a class, as in drawn pictures.

    Args:
        label: the class.
        index: its place among the model's.
    """
    return "#{:02x}{:02x}{:02x}".format(*label_colour(label, index))


def said_of(faces: Faces, index: int) -> str:
    """Say the expression of a face; where it is uncertain, both candidates.

    Args:
        faces: of a picture.
        index: the face's 0-based number in it.
    """
    first, second = (f"{faces.labels[k]} {100 * faces.probs[index, k]:.0f} %" for k in faces.candidates(index))
    return f"uncertain, {first} or {second}" if faces.uncertain[index] else first


def read_by(model: str) -> str:
    """Say which model read a result.

    Args:
        model: what it is called; nothing is said of an empty name.
    """
    return f'<p class="fer-hint">Read by {escaped(model)}.</p>' if model else ""


def bars(probs: Mapping[str, float], caption: str) -> str:
    """Draw probabilities as a table of bars, in the order of the model's labels.

    Args:
        probs: probability by label.
        caption: what they are of; for screen readers.
    """
    most = max(probs, key=lambda label: probs[label])
    rows = "".join(
        f'<tr class="{"fer-most" if label == most else ""}"><th scope="row">{escaped(label)}</th>'
        f'<td class="fer-track" aria-hidden="true">'
        f'<span style="width:{100 * value:.1f}%;background:{css_colour(label, i)}"></span></td>'
        f"<td>{100 * value:.1f} %</td></tr>"
        for i, (label, value) in enumerate(probs.items())
    )
    return f'<table class="fer-bars"><caption>{escaped(caption)}</caption><tbody>{rows}</tbody></table>'


def definitions(entries: Mapping[str, str]) -> str:
    """List titles with their texts."""
    rows = "".join(f"<dt>{escaped(title)}</dt><dd>{escaped(text)}</dd>" for title, text in entries.items())
    return f'<dl class="fer-card">{rows}</dl>'
