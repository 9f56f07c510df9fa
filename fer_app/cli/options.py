"""Options that several commands have, with one wording and one set of values."""

from __future__ import annotations

from typing import Annotated

import typer

from fer_app.errors import InputError

ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME|PATH",
        help="A bundled model's name or role (see `fer models`), an ONNX file, or a folder of `fer export`.",
    ),
]
DeviceOption = Annotated[
    str, typer.Option("--device", "-d", metavar="NAME", help="auto, cpu, cuda, cuda:N or tensorrt.")
]
GpuMemoryOption = Annotated[
    int | None,
    typer.Option(
        "--gpu-memory", min=1, metavar="MB", help="At most so much memory of a CUDA device  [default: no limit]"
    ),
]
CudaGraphsOption = Annotated[
    bool, typer.Option("--cuda-graphs", help="On CUDA, record the classifier's work once and replay it.")
]
PrecisionOption = Annotated[
    str,
    typer.Option(
        "--precision",
        metavar="NAME",
        help="Arithmetic of the classifier: auto, fp32, fp16, bf16 or int8 (see `fer models`).",
    ),
]
UncertainBelowOption = Annotated[
    float | None,
    typer.Option(
        "--uncertain-below",
        min=0,
        max=1,
        metavar="P",
        help="Show labels less probable than P (0 to 1) as uncertain; 0 turns that off  [default: the model's own]",
    ),
]
BackendOption = Annotated[
    str,
    typer.Option(
        "--backend",
        metavar="NAME",
        help="What computes the classifier: onnx, torch (.safetensors) or tensorrt (.engine).",
    ),
]


def refuse_unknown(device: str, precision: str, backend: str = "onnx") -> None:
    """Take a name that means no device, no precision, or no backend, for wrong usage."""
    from fer_app.backends import ONNX, backend_names
    from fer_app.model_choice import PRECISIONS
    from fer_app.session import parse_device

    try:
        parse_device(device)
    except InputError as error:
        raise typer.BadParameter(str(error), param_hint="--device") from error
    if precision not in PRECISIONS:
        raise typer.BadParameter(f"{precision!r} is none of {', '.join(PRECISIONS)}", param_hint="--precision")
    if backend != ONNX and backend not in backend_names():
        raise typer.BadParameter(f"{backend!r} is none of {', '.join(backend_names())}", param_hint="--backend")
