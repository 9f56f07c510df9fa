"""`fer models`: what is bundled."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from fer_app.model_store import DetectorEntry, ModelEntry


def models(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Only this one, by its name or role  [default: all]")
    ] = None,
    card: Annotated[
        bool, typer.Option("--card", help="Print the page that describes a model, without NAME the default one's.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Show the bundled models: role, labels, input, licence, accuracy, sha256; or the card of one."""
    from fer_app.model_store import DEFAULT, bundled_detectors, bundled_models, find_bundled, read_card, resolve_model

    if card and as_json:
        raise typer.BadParameter("a card is text: leave out --json", param_hint="--card")
    if card:
        _print_card(read_card(name or DEFAULT))
        return
    if name is not None and find_bundled(name) is None:
        resolve_model(name)  # says what there is
        raise typer.BadParameter(
            f"{name!r} is no bundled model; `fer contract show` describes files", param_hint="NAME"
        )
    _print_all(
        [entry for entry in bundled_models() if name is None or entry.is_called(name)],
        () if name else bundled_detectors(),
        as_json=as_json,
    )


def _print_all(entries: Sequence[ModelEntry], found: Sequence[DetectorEntry], *, as_json: bool) -> None:
    from fer_app.model_store import verify

    classifiers = [_describe(entry) for entry in entries]
    detectors = [dataclasses.asdict(entry) | {"bytes": verify(entry).stat().st_size} for entry in found]
    if as_json:
        typer.echo(json.dumps({"models": classifiers, "detectors": detectors}, indent=2, ensure_ascii=False))
        return
    if not classifiers:
        typer.echo("No classifier is bundled with this version; name a file with `fer predict --model MODEL.onnx`.")
    for entry, model in zip(entries, classifiers, strict=True):
        _print(entry.title, _lines(model))
    for detector in detectors:
        rows = {
            "file": f"{detector['file']}, {_size(detector['bytes'])}",
            "licence": detector["license"],
            "source": detector["source"],
            "sha256": detector["sha256"],
        }
        _print(f"{detector['name']} (face detector)", rows)


def _print_card(text: str) -> None:
    """Print a card: laid out on a terminal, elsewhere the Markdown that it is. Marks for programs are left out."""
    text = re.sub(r"(?m)^<!--.*-->\n+", "", text)
    if not sys.stdout.isatty():
        typer.echo(text, nl=False)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(text))


def _describe(entry: ModelEntry) -> dict[str, Any]:
    from fer_app.classifier import OnnxClassifier
    from fer_app.model_store import verify

    path = verify(entry)
    contract = OnnxClassifier(path, device="cpu", threads=1).contract
    return {
        "name": entry.name,
        "role": entry.role,
        "default": entry.default,
        "file": entry.file,
        "bytes": path.stat().st_size,
        "labels": list(contract.labels),
        "img_size": contract.img_size,
        "color_mode": contract.color_mode,
        "crop": contract.crop,
        "license": entry.license,
        "metrics": dict(entry.metrics),
        "training_data": entry.training_data,
        "card": entry.card,
        "sha256": entry.sha256,
        "contract_sha256": entry.contract_sha256,
        "variants": [
            {
                "precision": other.precision,
                "file": other.file,
                "bytes": verify(other).stat().st_size,
                "metrics": dict(other.metrics),
                "sha256": other.sha256,
                "contract_sha256": other.contract_sha256,
            }
            for other in entry.variants
        ],
    }


def _lines(model: dict[str, Any]) -> dict[str, str]:
    variants = {
        f"in {other['precision']}": f"{other['file']}, {_size(other['bytes'])}; {_shares(other['metrics'])}"
        for other in model["variants"]
    }
    return {
        "file": f"{model['file']}, {_size(model['bytes'])}",
        "labels": " ".join(model["labels"]),
        "input": f"{model['img_size']} x {model['img_size']} px, {model['color_mode']}, crop {model['crop']}",
        "licence": model["license"],
        "accuracy": _shares(model["metrics"]),
        "trained on": model["training_data"],
        "card": f"fer models {model['name']} --card" if model["card"] else "",
        "sha256": model["sha256"],
        **variants,
    }


def _shares(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {100 * share:.2f}%" for name, share in metrics.items())


def _print(title: str, rows: dict[str, str]) -> None:
    typer.echo(title)
    for name, value in rows.items():
        if value:
            typer.echo(f"  {name:<10}  {value}")


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"
