"""`fer train` and `fer eval`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from training.distributed import Processes
    from training.eval_report import Evaluation

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
    devices: Annotated[
        str | None,
        typer.Option(
            "--devices", metavar="N|auto", help="Processes on this machine, a GPU each; auto: all GPUs  [default: 1]"
        ),
    ] = None,
    nodes: Annotated[
        int | None, typer.Option("--nodes", min=1, help="Machines, if torchrun does not start the run  [default: 1]")
    ] = None,
    strategy: Annotated[str, typer.Option("--strategy", help="auto, ddp or fsdp.")] = "auto",
    accelerator: Annotated[str, typer.Option("--accelerator", help="auto, cpu or cuda.")] = "auto",
    show: Annotated[bool, typer.Option("--list", help="Show the bundled recipes and stop.")] = False,
) -> None:
    """Train a model from a recipe: pre-train, then fine-tune."""
    from training.recipe_files import bundled_recipes, load_recipe

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
    from training.distributed import launch
    from training.ending import together
    from training.interruption import RunInterruptedError
    from training.next_step import next_step
    from training.report import Report
    from training.stages import run_recipe

    wanted = _processes(devices, nodes, strategy, accelerator)
    folder = run_dir or Path("runs") / parsed.name
    sources = locate(data)
    fabric = launch(parsed.precision, wanted)
    report = Report(sys.stderr if fabric.is_global_zero else None)
    try:
        with together(fabric):
            checkpoint = run_recipe(
                parsed, sources, folder, report, resume=resume, tensorboard=tensorboard, fabric=fabric
            )
    except RunInterruptedError as interruption:
        report.line(f"fer: {interruption}")
        raise typer.Exit(interruption.exit_status) from interruption
    if not fabric.is_global_zero:
        return
    typer.echo(str(checkpoint))
    report.line(next_step(parsed, checkpoint, sources))


def _processes(devices: str | None, nodes: int | None, strategy: str, accelerator: str) -> Processes:
    """Read the options that say which processes to start."""
    from training.distributed import Processes, is_accelerator, is_strategy

    if not is_strategy(strategy):
        raise typer.BadParameter(f"{strategy!r} is none of auto, ddp, fsdp", param_hint="--strategy")
    if not is_accelerator(accelerator):
        raise typer.BadParameter(f"{accelerator!r} is none of auto, cpu, cuda", param_hint="--accelerator")
    number: int | Literal["auto"] | None = None
    if devices == "auto":
        number = "auto"
    elif devices is not None:
        if not (devices.isdecimal() and int(devices) > 0):
            raise typer.BadParameter(f"{devices!r} is neither a number of processes nor auto", param_hint="--devices")
        number = int(devices)
    return Processes(devices=number, nodes=nodes, strategy=strategy, accelerator=accelerator)


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="NAME|PATH",
            help="A bundled model's name or role, a .safetensors checkpoint, an .onnx file or an .engine.",
        ),
    ],
    data: Annotated[Path, typer.Option("--data", help="Labelled faces: FERPlus, RAF-DB, a folder a class, ...")],
    split: Annotated[
        str, typer.Option("--split", help="train, train-main, dev, valid, test or train+valid.")
    ] = "valid",
    votes: Annotated[str, typer.Option("--votes", help="How FERPlus's votes become labels.")] = "majority",
    drop_contempt: Annotated[
        bool, typer.Option("--drop-contempt", help="Leave out the class contempt and its faces.")
    ] = False,
    flip: Annotated[
        bool, typer.Option("--flip", help="Score the mean of each face's and its mirror image's probabilities.")
    ] = False,
    group_by: Annotated[
        str | None, typer.Option("--group-by", metavar="COLUMN", help="Also score every group of faces.")
    ] = None,
    groups: Annotated[
        Path | None,
        typer.Option("--groups", metavar="CSV", help="Has groups by name or path  [default: the labelled CSV itself]"),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or tensorrt.")] = "auto",
    precision: Annotated[
        str, typer.Option("--precision", metavar="NAME", help="Of a bundled model: auto, fp32, fp16, bf16 or int8.")
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="DIR", help="Write JSON, predictions and all pictures to a folder."),
    ] = None,
    confusion: Annotated[
        Path | None, typer.Option("--confusion", metavar="PNG", help="Draw the confusion matrix.")
    ] = None,
    reliability: Annotated[
        Path | None, typer.Option("--reliability", metavar="PNG", help="Draw accuracy against confidence.")
    ] = None,
    tsne: Annotated[
        Path | None, typer.Option("--tsne", metavar="PNG", help="Draw the features in the plane; of checkpoints only.")
    ] = None,
    mistakes: Annotated[
        Path | None, typer.Option("--mistakes", metavar="PNG", help="Draw the most confident mistakes.")
    ] = None,
    tsne_limit: Annotated[int, typer.Option("--tsne-limit", min=4, help="Faces in the t-SNE, at most.")] = 2000,
) -> None:
    """Score a model on labelled faces."""
    from training.data.datasets import SPLITS
    from training.data.ferplus_votes import VOTE_MODES
    from training.eval_report import EvalOptions, Picture, run_evaluation
    from training.evaluation import model_file

    if split not in SPLITS:
        raise typer.BadParameter(f"{split!r} is none of {', '.join(SPLITS)}", param_hint="--split")
    rules = [mode for mode in VOTE_MODES if mode != "multi_target"]  # which has no one right answer
    if votes not in rules:
        raise typer.BadParameter(f"{votes!r} is none of {', '.join(rules)}", param_hint="--votes")
    if groups is not None and group_by is None:
        raise typer.BadParameter("name the column that has the groups by --group-by", param_hint="--groups")
    asked: dict[Picture, Path | None] = {
        "confusion": confusion,
        "reliability": reliability,
        "tsne": tsne,
        "mistakes": mistakes,
    }
    pictures = {picture: path for picture, path in asked.items() if path is not None}
    options = EvalOptions(
        model=model_file(model, precision=precision, device=device),
        data=data,
        split=split,
        votes=votes,
        drop_contempt=drop_contempt,
        device=device,
        flip=flip,
        group_by=group_by,
        groups=groups,
        tsne_limit=tsne_limit,
    )
    evaluation = run_evaluation(options, pictures, report)
    if (caution := evaluation.caution) is not None:
        typer.echo(f"fer: {caution}", err=True)
    for picture, path in pictures.items():
        evaluation.draw(picture, path)
    if report is not None:
        for file, reason in evaluation.write(report).items():
            typer.echo(f"{file} left out: {reason}", err=True)
    _print_figures(evaluation, as_json=as_json)


def _print_figures(evaluation: Evaluation, *, as_json: bool) -> None:
    """Print what was scored, as one JSON object or as tables."""
    figures = evaluation.to_dict()
    if as_json:
        typer.echo(json.dumps(figures))
        return
    from training.tables import group_lines, report_lines

    lines = report_lines(evaluation.figures, test_time_flip=evaluation.options.flip)
    if evaluation.options.group_by is not None:
        lines += ["", *group_lines(evaluation.options.group_by, evaluation.groups)]
    for line in [*lines, f"model sha256 {figures['model_sha256']}"]:
        typer.echo(line)
