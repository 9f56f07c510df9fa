"""`fer data`: what one does with a data set before training on it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from training.data.check import DataCheck
    from training.data.prepare import Prepared

data = typer.Typer(
    help="Look through a data set, and align its faces.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@data.command("check")
def check(
    path: Annotated[Path, typer.Argument(metavar="DIR", help="A folder, an archive of FERPlus, or a table.")],
    labels_only: Annotated[
        bool, typer.Option("--labels-only", help="See whether pictures are there, but do not decode them.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Say which data set it is, count its faces, and list what is missing or unreadable (exit status 1)."""
    from training.data.check import check as look_through

    found = look_through(path, decode=not labels_only)
    if as_json:
        typer.echo(json.dumps(found.to_dict(), ensure_ascii=False))
    else:
        _print(found)
    if found.problems:
        raise typer.Exit(1)


@data.command("prepare")
def prepare(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="A labelled set, as `fer data check` knows it, or a folder of photos.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", "--out", metavar="DIR", help="A new folder for the shards.")
    ],
    split: Annotated[
        list[str] | None,
        typer.Option("--split", help="train, valid or test; repeat for several  [default: all]"),
    ] = None,
    img_size: Annotated[
        int | None,
        typer.Option(
            "--img-size",
            min=16,
            max=1024,
            help="Side of the crops, px; best the model's  [default: the default model's]",
        ),
    ] = None,
    all_faces: Annotated[
        bool, typer.Option("--all-faces", help="Take every face of a folder's pictures, without labels.")
    ] = False,
    on_missing: Annotated[
        Literal["drop", "keep"],
        typer.Option("--on-missing", help="A picture without a face: leave it out, or keep it whole."),
    ] = "drop",
    min_face: Annotated[
        float, typer.Option("--min-face", min=12, metavar="PX", help="Smallest face to look for, as in `fer predict`.")
    ] = 40,
    min_confidence: Annotated[
        float, typer.Option("--min-confidence", min=0, max=1, help="Faces that the detector is less sure of are none.")
    ] = 0,
    closer_look: Annotated[
        bool,
        typer.Option(
            "--closer-look/--no-closer-look",
            help="Look again, enlarged, in tiny pictures, tight crops and at a set's own boxes.",
        ),
    ] = True,
    image_format: Annotated[
        Literal["png", "webp"], typer.Option("--format", help="Both lossless; webp is smaller and slower.")
    ] = "png",
    shard_size: Annotated[int, typer.Option("--shard-size", min=1, metavar="N", help="Pictures a shard.")] = 1000,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, metavar="N", help="Processes  [default: one a core]")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on in a folder that a stopped run left.")] = False,
) -> None:
    """Find and align faces as `fer predict` does, and write them to tar shards that `--data` takes."""
    from fer_app.errors import StoppedError
    from fer_app.session import physical_cores
    from training.data.prepare import prepare as run
    from training.data.prepare_faces import Settings
    from training.data.prepare_source import list_pictures
    from training.report import Report

    settings = Settings(
        img_size=img_size or _served_px(),
        min_face_px=min_face,
        min_confidence=min_confidence,
        closer_look=closer_look,
        on_missing=on_missing,
        all_faces=all_faces,
        image_format=image_format,
    )
    report = Report(sys.stderr)
    pictures = list_pictures(source, splits=split or (), all_faces=all_faces)
    count = sum(map(len, pictures.parts.values()))
    report.line(f"{pictures.title}, {pictures.where}: {count} pictures")
    many = workers or physical_cores()
    try:
        made = run(pictures, output, settings, shard_size=shard_size, workers=many, resume=resume, report=report)
    except StoppedError as stopped:
        report.line(f"fer: {stopped}")
        raise typer.Exit(stopped.exit_status) from stopped
    _print_prepared(made)
    report.line(f"next: fer train RECIPE --data {output}")
    if made.unreadable:
        raise typer.Exit(1)


def _served_px() -> int:
    """Return the side of the crops that the default bundled model is given."""
    from fer_app.classifier import OnnxClassifier
    from fer_app.model_store import resolve_model

    return OnnxClassifier(resolve_model(), device="cpu").contract.img_size


def _print_prepared(made: Prepared) -> None:
    columns = ("pictures", "found", "found_closer", "kept_whole", "dropped", "unreadable", "faces")
    typer.echo(f"{'':<6}" + "".join(f"{name.replace('_', ' '):>14}" for name in columns))
    for name, split in made.splits.items():
        typer.echo(f"{name:<6}" + "".join(f"{split[column]:>14}" for column in columns))


def _print(found: DataCheck) -> None:
    typer.echo(f"{found.title} in {found.path}")
    typer.echo(f"{len(found.class_names)} classes; contempt: {found.contempt}")
    width = max([len(name) for name in found.class_names] + [len("published")])
    typer.echo(" ".join([f"{'':<{width}}", *(f"{part:>8}" for part in found.splits)]).rstrip())
    for name in found.class_names:
        typer.echo(" ".join([f"{name:<{width}}", *(f"{s.per_class[name]:>8}" for s in found.splits.values())]))
    typer.echo(" ".join([f"{'all':<{width}}", *(f"{s.n:>8}" for s in found.splits.values())]))
    if any(s.published is not None for s in found.splits.values()):
        sizes = [f"{'-' if s.published is None else s.published:>8}" for s in found.splits.values()]
        typer.echo(" ".join([f"{'published':<{width}}", *sizes]))
    if found.absent:
        typer.echo(f"not here: {', '.join(found.absent)}")
    for problem in found.problems:
        typer.echo(f"problem: {problem}")
    typer.echo(f"{len(found.problems)} problems" if found.problems else "nothing is missing or unreadable")
