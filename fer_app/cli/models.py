"""`fer models`: what is bundled."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from fer_app.model_store import ModelEntry


def models(as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False) -> None:
    """Show the bundled models: labels, input, licence, accuracy, sha256."""
    from fer_app.model_store import bundled_detectors, bundled_models, verify

    classifiers = [_describe(entry) for entry in bundled_models()]
    detectors = [dataclasses.asdict(entry) | {"bytes": verify(entry).stat().st_size} for entry in bundled_detectors()]
    if as_json:
        typer.echo(json.dumps({"models": classifiers, "detectors": detectors}, indent=2, ensure_ascii=False))
        return
    if not classifiers:
        typer.echo("No classifier is bundled with this version; name a file with `fer predict --model MODEL.onnx`.")
    for model in classifiers:
        _print(f"{model['name']}{' (default)' if model['default'] else ''}", _lines(model))
    for detector in detectors:
        rows = {
            "file": f"{detector['file']}, {_size(detector['bytes'])}",
            "licence": detector["license"],
            "source": detector["source"],
            "sha256": detector["sha256"],
        }
        _print(f"{detector['name']} (face detector)", rows)


def _describe(entry: ModelEntry) -> dict[str, Any]:
    from fer_app.classifier import OnnxClassifier
    from fer_app.model_store import verify

    path = verify(entry)
    contract = OnnxClassifier(path, device="cpu", threads=1).contract
    return {
        "name": entry.name,
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
        "card": model["card"],
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
