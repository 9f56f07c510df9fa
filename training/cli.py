"""`fer train` and `fer eval`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

DataOption = Annotated[
    list[Path] | None,
    typer.Option("--data", help="Pictures: labelled faces, general photos. Repeat for several."),
]


def train(
    recipe: Annotated[str | None, typer.Argument(help="A bundled recipe's name, or a TOML file.")] = None,
    data: DataOption = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Change one value of the recipe.")
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option("--run-dir", help="Where checkpoints and metrics go  [default: runs/RECIPE]")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from what --run-dir holds.")] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write logs for TensorBoard, which must be installed.")
    ] = False,
    show: Annotated[bool, typer.Option("--list", help="Show the bundled recipes and stop.")] = False,
) -> None:
    """Train a model from a recipe: pre-train, then fine-tune."""
    from training.recipe import bundled_recipes, load_recipe

    if show:
        names = bundled_recipes()
        width = max(map(len, names))
        for name in names:
            listed = load_recipe(name)
            typer.echo(f"{name:{width}}  {listed.summary}")
            for note in listed.notes():
                typer.echo(f"{'':{width}}  {note}")
        return
    if recipe is None:
        raise typer.BadParameter("name a recipe, or pass --list to see them", param_hint="RECIPE")
    parsed = load_recipe(recipe, overrides)
    if not data:
        raise typer.BadParameter("where are the pictures? pass --data at least once", param_hint="--data")
    from training.data.locate import locate
    from training.interruption import RunInterruptedError
    from training.report import Report
    from training.stages import run_recipe

    report = Report(sys.stderr)
    folder = run_dir or Path("runs") / parsed.name
    try:
        checkpoint = run_recipe(parsed, locate(data), folder, report, resume=resume, tensorboard=tensorboard)
    except RunInterruptedError as interruption:
        report.line(f"fer: {interruption}")
        raise typer.Exit(interruption.exit_status) from interruption
    typer.echo(str(checkpoint))
    if parsed.stages[-1] == "finetune":  # an encoder alone can be neither scored nor exported
        report.line(f"next: fer eval {checkpoint} --data DIR --split valid, then fer export {checkpoint} -o model.onnx")


def evaluate(
    model: Annotated[Path, typer.Argument(help="A .safetensors checkpoint or an .onnx file.")],
    data: Annotated[Path, typer.Option("--data", help="Labelled faces: FERPlus, RAF-DB, a folder a class, ...")],
    split: Annotated[
        str, typer.Option("--split", help="train, train-main, dev, valid, test or train+valid.")
    ] = "valid",
    votes: Annotated[str, typer.Option("--votes", help="How FERPlus's votes become labels.")] = "majority",
    drop_contempt: Annotated[
        bool, typer.Option("--drop-contempt", help="Leave out the class contempt and its faces.")
    ] = False,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or tensorrt.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
    confusion: Annotated[
        Path | None, typer.Option("--confusion", metavar="PNG", help="Also draw the confusion matrix.")
    ] = None,
) -> None:
    """Score a model on labelled faces."""
    from training.data.datasets import SPLITS, at, load, relabel
    from training.data.ferplus_votes import VOTE_MODES
    from training.data.locate import locate
    from training.evaluation import evaluate as score
    from training.evaluation import file_sha256, open_classifier

    if split not in SPLITS:
        raise typer.BadParameter(f"{split!r} is none of {', '.join(SPLITS)}", param_hint="--split")
    rules = [mode for mode in VOTE_MODES if mode != "multi_target"]  # which has no one right answer
    if votes not in rules:
        raise typer.BadParameter(f"{votes!r} is none of {', '.join(rules)}", param_hint="--votes")
    classifier = open_classifier(model, device=device)
    contract = classifier.contract
    root = locate([data]).need_faces()
    faces = load(
        root,
        split,
        img_size=contract.img_size,
        color_mode=contract.color_mode,
        votes=votes,
        eval_votes=votes,
        contempt="drop" if drop_contempt else "keep",
    )
    report = score(classifier, relabel(faces, contract.labels))
    reader = at(root)[0]
    sha256 = file_sha256(model)
    if confusion is not None:
        from training.plots import draw_confusion

        rule = f" ({votes})" if reader.name.startswith("ferplus") else ""
        draw_confusion(report, confusion, title=f"{model.name}, {reader.title} {split}{rule}, n = {report.n}")
    if as_json:
        source = {"data_set": reader.name, "split": split, "votes": votes}
        typer.echo(json.dumps({**report.to_dict(), "model_sha256": sha256, **source}))
        return
    from training.tables import report_lines

    for line in report_lines(report):
        typer.echo(line)
    typer.echo(f"model sha256 {sha256}")
