"""`fer contract`: what an ONNX file says of itself, and files of other people that are taught to say it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from fer_app.contract import Contract
    from fer_app.session import Session

contract = typer.Typer(
    help="Show a model's contract, or write one into a copy of any ONNX classifier.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
ModelArgument = Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="An ONNX image classifier.")]


@contract.command("init")
def init(
    model: ModelArgument,
    labels: Annotated[str, typer.Option("--labels", metavar="A,B,...", help="The classes, in the outputs' order.")],
    img_size: Annotated[int, typer.Option("--img-size", min=1, metavar="PX", help="Side of the square input.")],
    mean: Annotated[
        str, typer.Option("--mean", metavar="M,...", help="Taken from pixels; one number, or one a channel.")
    ],
    std: Annotated[
        str, typer.Option("--std", metavar="S,...", help="Divides pixels then; one number, or one a channel.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="COPY.onnx", help="The copy to write.")],
    color_mode: Annotated[
        Literal["rgb", "bgr", "gray"], typer.Option("--color-mode", help="The colours that the network takes.")
    ] = "rgb",
    channels: Annotated[
        int | None,
        typer.Option("--channels", min=1, max=3, help="Channels of the input  [default: 3; 1 for gray]"),
    ] = None,
    white: Annotated[
        float, typer.Option("--white", min=1e-9, metavar="N", help="White on the scale of mean and std: 1 or 255.")
    ] = 1.0,
    layout: Annotated[
        Literal["nchw", "nhwc"], typer.Option("--layout", help="Channels first, or last as in TensorFlow.")
    ] = "nchw",
    output: Annotated[
        Literal["logits", "probs"], typer.Option("--output", help="What the network answers.")
    ] = "logits",
    output_name: Annotated[
        str | None, typer.Option("--output-name", metavar="NAME", help="The output to take, where there are several.")
    ] = None,
    own_labels: Annotated[
        bool, typer.Option("--own-labels", help="Keep the labels as given: happy is not made happiness.")
    ] = False,
    crop: Annotated[str, typer.Option("--crop", metavar="NAME", help="How faces are cut out.")] = "fer48-v1",
    interpolation: Annotated[
        Literal["bilinear", "bicubic"], typer.Option("--interpolation", help="How small crops are scaled up.")
    ] = "bilinear",
    temperature: Annotated[
        float, typer.Option("--temperature", metavar="T", help="Logits are divided by it before softmax.")
    ] = 1.0,
    uncertain_below: Annotated[
        float, typer.Option("--uncertain-below", metavar="P", help="Less probable answers count as uncertain.")
    ] = 0.0,
    license_text: Annotated[str, typer.Option("--license", metavar="TEXT", help="Of the weights, one line.")] = "",
) -> None:
    """Write a contract into a copy of somebody's ONNX classifier, so that fer predict and fer eval take it."""
    from export.adopt import Foreign, adopt, canonical_labels
    from fer_app.alignment import template_named
    from fer_app.contract import Contract

    names = [name.strip() for name in labels.split(",")]
    given = tuple(names) if own_labels else canonical_labels(names)
    template_named(crop)
    chans = channels or (1 if color_mode == "gray" else 3)
    means, stds = (
        _numbers(text, chans, white, option, reverse=color_mode == "bgr")
        for text, option in ((mean, "--mean"), (std, "--std"))
    )
    made = Contract(
        labels=given,
        img_size=img_size,
        color_mode="gray" if color_mode == "gray" else "rgb",
        in_chans=chans,
        mean=means,
        std=stds,
        crop=crop,
        interpolation=interpolation,
        temperature=temperature,
        uncertain_below=uncertain_below,
        license=license_text,
    )
    foreign = Foreign(layout=layout, bgr=color_mode == "bgr", outputs=output, output_name=output_name)
    difference = adopt(model, out, made, foreign)
    if tuple(names) != given:
        renamed = ", ".join(f"{old} -> {new}" for old, new in zip(names, given, strict=True) if old != new)
        typer.echo(f"fer: labels in our spelling: {renamed}", err=True)
    _print_contract(made)
    typer.echo(f"{out}  answers as the original does, to {difference:.1e}")


@contract.command("show")
def show(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="An ONNX file, a .safetensors checkpoint, an .engine, or a bundled model's name."
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print the contract as JSON.")] = False,
) -> None:
    """Show what a model file says of itself; of an ONNX file its inputs and outputs too."""
    from export.engine_file import read_record
    from fer_app.classifier import read_contract
    from fer_app.model_store import is_bundled_name, resolve_model
    from fer_app.session import open_session

    path = resolve_model(model) if is_bundled_name(model) else Path(model)
    if path.suffix == ".safetensors":
        found = _of_checkpoint(path)
    elif path.suffix == ".engine":
        record = read_record(path)
        found = record.contract
        if not as_json:
            _row("engine", f"TensorRT {record.tensorrt}, {record.gpu}, batches {' / '.join(map(str, record.batches))}")
    else:
        session = open_session(path, device="cpu", threads=1)
        if not as_json:
            _print_network(session)
        found = read_contract(session, str(path))
    if as_json:
        typer.echo(found.to_json())
    else:
        _print_contract(found)


def _numbers(text: str, chans: int, white: float, option: str, *, reverse: bool) -> tuple[float, ...]:
    """Read one number a channel, on the scale 0..1, red first."""
    try:
        values = [float(part) / white for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no list of numbers", param_hint=option) from error
    if len(values) == 1:
        values *= chans
    if len(values) != chans:
        raise typer.BadParameter(f"{len(values)} numbers for {chans} channels", param_hint=option)
    return tuple(reversed(values) if reverse else values)


def _of_checkpoint(path: Path) -> Contract:
    from fer_app.errors import CheckpointError
    from training.checkpoint import read_info

    found = read_info(path).contract
    if found is None:
        raise CheckpointError(f"{path} is an encoder alone: it has no contract")
    return found


def _print_network(session: Session) -> None:
    inputs = zip(session.input_names, session.input_types, session.input_shapes, strict=True)
    for name, kind, shape in inputs:
        _row("input", f"{name} {kind} ({', '.join(str(size or '?') for size in shape)})")
    for name, shape in zip(session.output_names, session.output_shapes, strict=True):
        _row("output", f"{name} ({', '.join(str(size or '?') for size in shape)})")


def _print_contract(found: Contract) -> None:
    for name, value in dataclasses.asdict(found).items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {figure}" for key, figure in value.items())
        elif isinstance(value, tuple):
            value = ", ".join(f"{one:g}" if isinstance(one, float) else str(one) for one in value)
        if value != "":
            _row(name, str(value))


def _row(name: str, value: str) -> None:
    typer.echo(f"{name:<15}  {value}")
