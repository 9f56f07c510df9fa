"""One engine out of one ONNX file, through the package `tensorrt`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import torch

from export.engine_file import Batches
from export.tensorrt_package import Gpu, load_tensorrt, make_logger
from fer_app.atomic_file import replacing
from fer_app.classifier import INPUT_NAME, OUTPUT_NAME
from fer_app.contract import Contract
from fer_app.errors import EngineBuildError


def build_engine(
    network: Path,
    contract: Contract,
    batches: Batches,
    gpu: Gpu,
    *,
    timing_cache: Path | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> bytes:
    """Build an engine; this takes minutes, fewer with a timing cache of an earlier build.

    The network is strongly typed: each of its tensors is computed in the type that the ONNX file gives it.

    Args:
        network: an ONNX classifier in the precision that the engine is to have, in a folder for passing files.
        contract: of the classifier; a float32 one has no TF32 in its engine either.
        batches: the optimisation profile.
        gpu: where it will run.
        timing_cache: a file that keeps how long TensorRT's ways of computing took; read if it is there, then written.
        tell: called with a line about what was not as expected.

    Returns:
        The engine, serialised.

    Raises:
        MissingExtraError: the package is not installed, or too old.
        EngineBuildError: TensorRT cannot read the network or build the engine; the message has its reason.
    """
    tensorrt = load_tensorrt()
    logger = make_logger(tensorrt)
    with torch.cuda.device(gpu.ordinal):
        builder = tensorrt.Builder(logger)
        typed = 1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        parsed = builder.create_network(typed)
        parser = tensorrt.OnnxParser(parsed, logger)
        if not parser.parse_from_file(str(_logits_only(network))):
            said = [parser.get_error(number).desc() for number in range(parser.num_errors)]
            raise EngineBuildError(f"TensorRT {tensorrt.__version__} cannot read the network: {_reason(said)}")
        config = builder.create_builder_config()
        profile = builder.create_optimization_profile()
        profile.set_shape(INPUT_NAME, *batches.shapes(contract))
        if config.add_optimization_profile(profile) < 0:
            raise EngineBuildError(f"TensorRT refuses batches of {batches}: {_reason(logger.errors)}")
        if contract.precision == "fp32":
            config.clear_flag(tensorrt.BuilderFlag.TF32)
        _use_timing_cache(config, timing_cache, tell)
        plan = builder.build_serialized_network(parsed, config)
        if plan is None:
            raise EngineBuildError(
                f"TensorRT {tensorrt.__version__} cannot build a {contract.precision} engine on {gpu.name}: "
                f"{_reason(logger.errors)}"
            )
        if timing_cache is not None:
            with replacing(timing_cache) as temporary:
                temporary.write_bytes(bytes(config.get_timing_cache().serialize()))
    return bytes(plan)


def _logits_only(path: Path) -> Path:
    """Write an ONNX file beside another, without its further outputs, which an engine would compute each time."""
    model = onnx.load(path, load_external_data=False)
    logits = [output for output in model.graph.output if output.name == OUTPUT_NAME]
    del model.graph.output[:]
    model.graph.output.extend(logits)
    target = path.with_name(f"logits-{path.name}")
    target.write_bytes(model.SerializeToString())
    return target


def _use_timing_cache(config: Any, path: Path | None, tell: Callable[[str], None]) -> None:
    if path is None:
        return
    there = path.read_bytes() if path.is_file() else b""
    if not config.set_timing_cache(config.create_timing_cache(there), False):
        tell(f"{path} is of another GPU or version of TensorRT: begun anew")
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _reason(said: list[str]) -> str:
    return "; ".join(line.partition("\n")[0] for line in said[:3]) or "it gives no reason"
