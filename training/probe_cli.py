"""`fer probe`: how good the features of an encoder are, before any fine-tuning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer


def probe(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="NAME|PATH", help="A pre-trained encoder's .safetensors, a classifier's, or a bundled model's name."
        ),
    ],
    data: Annotated[Path, typer.Option("--data", help="Labelled faces: FERPlus, RAF-DB, a folder a class, ...")],
    split: Annotated[Literal["valid", "test"], typer.Option("--split", help="What is scored.")] = "valid",
    k: Annotated[int, typer.Option("--k", min=1, help="Neighbours of the k-NN probe.")] = 20,
    temperature: Annotated[
        float, typer.Option("--temperature", help="A neighbour votes with exp(cosine / temperature).")
    ] = 0.07,
    drop_contempt: Annotated[
        bool, typer.Option("--drop-contempt", help="Leave out the class contempt and its faces.")
    ] = False,
    untrained: Annotated[
        bool, typer.Option("--untrained", help="Random weights in the place of the encoder's, for comparison.")
    ] = False,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:1.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
) -> None:
    """Score frozen features: by their nearest neighbours, and by one linear layer."""
    from training.checkpoint import checkpoint_at
    from training.probe_report import ProbeOptions, run_probe

    options = ProbeOptions(
        checkpoint=checkpoint_at(checkpoint),
        data=data,
        split=split,
        drop_contempt=drop_contempt,
        k=k,
        temperature=temperature,
        untrained=untrained,
        device=device,
    )
    report = run_probe(options)
    if report.caution is not None:
        typer.echo(f"fer: {report.caution}", err=True)
    if as_json:
        typer.echo(json.dumps(report.to_dict()))
        return
    for line in report.lines():
        typer.echo(line)
