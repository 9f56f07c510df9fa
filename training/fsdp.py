"""Weights kept in pieces over several GPUs (FSDP; Zhao et al. 2023, arXiv:2304.11277), and put together to be saved."""

from __future__ import annotations

import copy
from typing import Any

import torch
from lightning.fabric.strategies.fsdp import FSDPStrategy
from timm.models.vision_transformer import Block
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecision

from fer_app.errors import ConfigError

# Whole tensors in main memory, of the first process alone.
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def fsdp_strategy() -> FSDPStrategy:
    """Return the strategy: every transformer block is a unit, what is outside of them is one more.

    Weights, gradients and inputs keep their float32: what is to be bf16 is autocast's affair, as it is without pieces.
    """
    kept = MixedPrecision(cast_root_forward_inputs=False)
    return FSDPStrategy(auto_wrap_policy={Block}, state_dict_type="full", mixed_precision=kept)


def is_sharded(model: nn.Module) -> bool:
    """Whether the model holds pieces."""
    return bool(FullyShardedDataParallel.fsdp_modules(model))


def need_plain_run(*, ema: bool, compiles: bool, checkpoints_activations: bool, frozen_networks: bool = False) -> None:
    """Refuse what was not made to work with weights in pieces.

    Raises:
        ConfigError: one of them is asked for.
    """
    asked = {
        "ema_decay": ema,
        "compile": compiles,
        "checkpoint_activations": checkpoints_activations,
        "a momentum encoder or a teacher": frozen_networks,
    }
    if names := [name for name, wanted in asked.items() if wanted]:
        raise ConfigError(f"--strategy fsdp does not go with {', '.join(names)}: turn that off, or use --strategy ddp")


class ShardedWeights:
    """Takes the pieces' weights out and puts them in; every method is called in all processes."""

    def __init__(self, whole: nn.Module, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Hold the parts.

        Args:
            whole: the network before it was cut; a copy of it is what `network` returns.
            model: the wrapped network.
            optimizer: the one that steps the pieces.
        """
        self._network = copy.deepcopy(whole).cpu()
        (self._root,) = FullyShardedDataParallel.fsdp_modules(model, root_only=True)
        self._optimizer = optimizer

    def network(self) -> nn.Module:
        """Return the network with its present weights, in main memory; only the first process has these."""
        if weights := get_model_state_dict(self._root, options=_WHOLE):
            self._network.load_state_dict(weights)
        return self._network

    def state(self) -> dict[str, Any]:
        """Return whole weights and optimiser state for a file; empty but in the first process."""
        return {
            "model": get_model_state_dict(self._root, options=_WHOLE),
            "optimizer": get_optimizer_state_dict(self._root, self._optimizer, options=_WHOLE),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned; every process has read the file."""
        set_model_state_dict(self._root, state["model"], options=_WHOLE)
        set_optimizer_state_dict(self._root, self._optimizer, state["optimizer"], options=_WHOLE)

    def finite(self) -> bool:
        """Whether this process's pieces are."""
        return bool(nn.utils.get_total_norm(list(self._root.parameters())).isfinite())
