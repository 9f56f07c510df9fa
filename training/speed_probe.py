"""Speed and memory of a few training steps, measured before a run on a copy of the model."""

from __future__ import annotations

import copy
import time
from itertools import chain, islice, repeat
from typing import NamedTuple

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor

from fer_app.errors import ConfigError
from training.distributed import World
from training.loop import LoopSettings, make_optimizer, mark_forward_methods, prepare_model
from training.memory import peak_bytes, reset_peak
from training.objective import Objective

_STEPS = 4
_SIDE, _SECONDS = 768, 0.1  # of the matrices and the time that tell how fast an arithmetic is


class Speed(NamedTuple):
    """What the probe found: samples/s of all processes, and this one's peak of `training.memory` where it is known."""

    samples_per_s: float
    peak_bytes: int | None


def measure_speed(objective: Objective, settings: LoopSettings, fabric: Fabric) -> Speed:
    """Take a few steps of one pass each, of forward, backward and optimiser; the run itself is untouched.

    Raises:
        ConfigError: torch cannot compile on this machine.
    """
    world = World(fabric)
    groups = objective.param_groups()
    model = copy.deepcopy(objective.model)
    prepare_model(model, settings, fabric.device)
    twins = dict(zip(objective.model.parameters(), model.parameters(), strict=True))
    for group in groups:
        group["params"] = [twins[parameter] for parameter in group["params"]]
    wrapped, optimizer = fabric.setup(model, make_optimizer(groups, settings))
    mark_forward_methods(wrapped, objective)
    wrapped.train()
    started, done, before = 0.0, 0, objective.state()
    # The last one, which does all that a method comes to do.
    epoch = objective.start_epoch(settings.epochs - 1, settings.batch_size, world.share)
    batches = chain.from_iterable(epoch.starting_at(0) for _ in repeat(None))  # as often as it takes
    reset_peak(fabric.device)
    for i, batch in enumerate(islice(batches, _STEPS)):
        try:
            with fabric.autocast():
                losses = objective.losses(wrapped, batch, np.random.default_rng(0))
            fabric.backward(losses["loss"])
        except RuntimeError as error:
            if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                reason = str(error).partition("\n")[0]
                raise ConfigError(f"compile = true: torch cannot compile on this machine: {reason}") from error
            raise
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if i == 0:  # the first step allocates
            started = _time_when_done(losses)
        else:
            done += len(batch)
    objective.restore(before)
    return Speed(world.total(done / (_time_when_done(losses) - started)), peak_bytes(fabric.device))


def _time_when_done(losses: dict[str, Tensor]) -> float:
    """Return the time, in s, when the device has done all that was asked of it: a GPU is only given work."""
    losses["loss"].item()
    return time.perf_counter()


def bf16_slowdown(device: torch.device) -> float:
    """Return how many times as long matrix products take in bfloat16 as in float32.

    Processors with AVX512-BF16 and no AMX may be slower in it, others are four times as fast.
    """
    rates = []
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.full((_SIDE, _SIDE), 0.5, dtype=dtype, device=device)
        a @ a  # the first one picks a kernel
        begun, done = time.perf_counter(), 0
        while (spent := time.perf_counter() - begun) < _SECONDS:
            a @ a
            done += 1
        rates.append(done / spent)
    return rates[0] / rates[1]
