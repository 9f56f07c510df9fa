"""Several processes, one device each: how they are started, and what they tell each other.

Gradients are averaged by torch's DDP or FSDP through Lightning Fabric. What goes through here is small: who writes,
which signal came, means of the loss terms. It takes a gloo group of its own, so that it never waits for a GPU.
"""

from __future__ import annotations

import functools
import logging
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, ParamSpec, TypeGuard, TypeVar, get_args

import torch
from lightning.fabric import Fabric
from torch import Tensor, distributed, nn

from fer_app.errors import ConfigError, ProviderUnavailableError
from training.sampling import Share

StrategyName = Literal["auto", "ddp", "fsdp"]
AcceleratorName = Literal["auto", "cpu", "cuda"]

_PATIENCE = timedelta(days=7)

T = TypeVar("T")
P = ParamSpec("P")


@dataclass(frozen=True, kw_only=True)
class Processes:
    """The processes that are asked for.

    Attributes:
        devices: on this machine; None for torchrun's number, else 1; `auto` for all GPUs.
        nodes: machines; None for torchrun's number, else 1.
        strategy: `auto` is DDP for several processes.
        accelerator: what each computes on.
    """

    devices: int | Literal["auto"] | None = None
    nodes: int | None = None
    strategy: StrategyName = "auto"
    accelerator: AcceleratorName = "auto"


def is_strategy(name: str) -> TypeGuard[StrategyName]:
    """Whether there is such a strategy."""
    return name in get_args(StrategyName)


def is_accelerator(name: str) -> TypeGuard[AcceleratorName]:
    """Whether there is such an accelerator."""
    return name in get_args(AcceleratorName)


def launch(precision: Literal["bf16", "fp32"], processes: Processes | None = None) -> Fabric:
    """Start the processes of a run, or join those that torchrun has started.

    Without torchrun, the other processes of this machine run the whole command again, under their own LOCAL_RANK.

    Args:
        precision: the recipe's.
        processes: None for one on the best device, or what torchrun has started.

    Raises:
        ConfigError: the numbers contradict torchrun's, or the machines cannot find each other.
        ProviderUnavailableError: fewer GPUs than asked for, or none.
    """
    processes = processes or Processes()
    strategy, accelerator = processes.strategy, processes.accelerator
    devices, nodes = _numbers(processes.devices, processes.nodes)
    _need_gpus(devices, strategy, accelerator)
    # How torch's processes found each other is no news; what may be wrong still is.
    for name in ("lightning.fabric", "lightning.pytorch"):  # the latter, once imported, takes over the former's words
        logging.getLogger(name).setLevel(logging.WARNING)
    # Strides of dimensions of size 1 (a gray picture's channel, a 1x1 kernel) have no meaning, and DDP compares them.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    # The processes to be started: when the first one is killed, each would print where in torch it noticed.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    chosen: Any = strategy
    if strategy == "fsdp":
        from training.fsdp import fsdp_strategy

        chosen = fsdp_strategy()
    elif strategy == "auto" and (nodes > 1 or devices not in (1, "auto")):
        chosen = "ddp"
    torch.backends.cudnn.allow_tf32 = False  # float32 is what is computed in float32; the rest is bf16
    fabric = Fabric(
        accelerator=accelerator,
        devices=devices,
        num_nodes=nodes,
        strategy=chosen,
        precision="bf16-mixed" if precision == "bf16" else "32-true",
    )
    fabric.launch()
    return fabric


def _numbers(devices: int | Literal["auto"] | None, nodes: int | None) -> tuple[int | Literal["auto"], int]:
    """Return processes a machine, and machines."""
    if distributed.is_available() and distributed.is_torchelastic_launched():
        here, whole = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
        asked = (here if devices in (None, "auto") else devices, nodes or whole // here)
        if asked != (here, whole // here) or whole % here:
            raise ConfigError(
                f"torchrun started {whole} processes, {here} of them here, and --devices and --nodes say "
                f"{asked[0]} on each of {asked[1]}: leave them out under torchrun"
            )
        return here, whole // here
    nodes = nodes or 1
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK") if name not in os.environ]
    if nodes > 1 and missing and "SLURM_NTASKS" not in os.environ:
        raise ConfigError(
            f"--nodes {nodes}: the machines cannot find each other without {', '.join(missing)} in the environment: "
            "set them on each, or start the run with torchrun"
        )
    return (1 if devices is None else devices), nodes


def _need_gpus(devices: int | Literal["auto"], strategy: StrategyName, accelerator: AcceleratorName) -> None:
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if strategy == "fsdp" and (accelerator == "cpu" or not there):
        why = "--accelerator is cpu" if there else "torch finds none here"
        raise ProviderUnavailableError(f"--strategy fsdp needs NVIDIA GPUs, and {why}: use --strategy ddp")
    if accelerator == "cuda" and not there:
        raise ProviderUnavailableError("--accelerator cuda: torch finds no NVIDIA GPU here; use cpu or auto")
    if accelerator != "cpu" and there and devices != "auto" and devices > there:
        raise ProviderUnavailableError(f"--devices {devices}: torch finds {there} GPUs here")


class World:
    """The processes of a run, seen from one of them. With one process, nothing is sent anywhere.

    Attributes:
        rank: this process, from 0.
        size: how many there are.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.rank, self.size = fabric.global_rank, fabric.world_size

    @property
    def share(self) -> Share:
        """This process's part of every step."""
        return Share(self.rank, self.size)

    def first(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Let the first process call something that writes files, say; all wait, and get the result.

        Raises:
            Exception: what `work` raised, in the first process.
            SystemExit: in the others, whose user hears of it from the first.
        """
        if self.size == 1:
            return work(*args, **kwargs)
        told: list[Any] = [False, None]
        if self.rank == 0:
            try:
                told = [True, work(*args, **kwargs)]
            finally:
                distributed.broadcast_object_list(told, src=0, group=_control_group())
        else:
            distributed.broadcast_object_list(told, src=0, group=_control_group())
            if not told[0]:
                raise SystemExit(1)
        result: T = told[1]
        return result

    def highest(self, *values: int) -> tuple[int, ...]:
        """Return the highest that any process gives, place by place; all wait for each other."""
        if self.size == 1:
            return values
        together = torch.tensor(values, dtype=torch.int64)
        distributed.all_reduce(together, op=distributed.ReduceOp.MAX, group=_control_group())
        return tuple(together.tolist())

    def total(self, value: float) -> float:
        """Return the sum over the processes."""
        if self.size == 1:
            return value
        together = torch.tensor(value, dtype=torch.float64)
        distributed.all_reduce(together, group=_control_group())
        return float(together)

    def mean(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the mean of each scalar term over the processes, on their devices and without waiting for these."""
        if self.size == 1:
            return terms
        together = torch.stack([term.detach().float() for term in terms.values()])
        distributed.all_reduce(together)
        return dict(zip(terms, (together / self.size).unbind(), strict=True))


@functools.cache
def _control_group() -> Any:
    """Return a group that sends from main memory, whatever the gradients take.

    It waits for the first process as long as that counts shards or scores a network; torch's default is half an hour.
    A process that is gone breaks its connections or is found by `training.ending`, so nobody waits for it here.
    """
    return distributed.new_group(backend="gloo", timeout=_PATIENCE)


def own_share() -> Share:
    """Return which of how many processes this is."""
    if not distributed.is_available() or not distributed.is_initialized():
        return Share()
    return Share(distributed.get_rank(), distributed.get_world_size())


def gather(z: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Put the codes and targets of all processes together, for a loss that contrasts them all.

    Every process then computes the same loss; only its own rows of `z` have a gradient there. That gradient is
    multiplied by the number of processes, as DDP divides the sum over them by it.

    Args:
        z: (M, d), this process's; every process has as many rows.
        targets: (M, K).

    Returns:
        (processes x M, d) and (processes x M, K), the processes one after the other.
    """
    size = own_share().world_size
    if size == 1:
        return z, targets
    codes = [torch.empty_like(z) for _ in range(size)]
    all_targets = [torch.empty_like(targets) for _ in range(size)]
    distributed.all_gather(codes, z.detach().contiguous())
    distributed.all_gather(all_targets, targets.contiguous())
    own = z.view_as(z)
    if own.requires_grad:
        own.register_hook(lambda gradient: gradient * size)  # type: ignore[no-untyped-call]
    codes[distributed.get_rank()] = own
    return torch.cat(codes), torch.cat(all_targets)


def gather_rows(rows: Tensor) -> tuple[Tensor, int]:
    """Put rows that need no gradient, the keys of a contrastive loss, of all processes together.

    A mean over each process's own queries, which DDP averages over the processes, is then the mean over all of them.

    Args:
        rows: (M, d), this process's; every process has as many.

    Returns:
        (processes x M, d), the processes one after the other, and where this one's begin.
    """
    size = own_share().world_size
    if size == 1:
        return rows, 0
    parts = [torch.empty_like(rows) for _ in range(size)]
    distributed.all_gather(parts, rows.detach().contiguous())
    return torch.cat(parts), distributed.get_rank() * len(rows)


def synchronised(model: nn.Module) -> nn.Module:
    """Let batch norms see the samples of all processes, where there are several that compute on a GPU each.

    torch has no such norm for CPUs: there, each process's norms see its own samples.
    """
    if own_share().world_size == 1 or distributed.get_backend() != "nccl":
        return model
    converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    return converted
