"""Layer-wise learning-rate decay: early layers of a pre-trained encoder move less (Clark et al. 2020, ELECTRA)."""

from __future__ import annotations

from typing import Any

from timm.models import group_parameters
from timm.optim import param_groups_layer_decay
from torch import nn


def param_groups(model: nn.Module, *, lr: float, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """Make an optimizer's parameter groups with MAE's exponents (`util/lr_decay.py`).

    Layer 0 is the stem with the class token and the positions, block i is layer i + 1, everything else (norms, head,
    projection) is layer depth + 1; layer k has the scale `layer_decay ** (depth + 1 - k)`. Parameters of at most one
    dimension and those that `model.no_weight_decay()` names have no weight decay. Frozen parameters are left out.

    Args:
        model: has `group_matcher` and `no_weight_decay`, as timm defines them.
        lr: the learning rate of the last layer.
        weight_decay: of the parameters that decay.
        layer_decay: 1 gives every layer the same rate.

    Returns:
        Groups with `params`, `weight_decay`, `lr_scale`, `lr` (= lr * lr_scale, right until a schedule first sets it)
        and `name` (`layer_3_decay`). torch's schedulers multiply this `lr`; a loop that sets rates itself must write
        `rate * group["lr_scale"]`.

    Raises:
        TypeError: the model does not say which layer a parameter belongs to. timm would then put all of them in one
            layer and ignore the exceptions from weight decay, without an error.
        ValueError: `layer_decay` is not in (0, 1].
    """
    if not 0.0 < layer_decay <= 1.0:
        raise ValueError(f"layer_decay must be in (0, 1], got {layer_decay}")
    matcher = getattr(model, "group_matcher", None)
    exceptions = getattr(model, "no_weight_decay", None)
    if matcher is None or exceptions is None:
        raise TypeError(f"layer-wise decay needs group_matcher and no_weight_decay, {type(model).__name__} lacks them")
    layers: dict[str, int] = group_parameters(model, matcher(), reverse=True)
    name_of = {parameter: name for name, parameter in model.named_parameters()}
    excepted: set[str] = exceptions()
    groups: list[dict[str, Any]] = param_groups_layer_decay(
        model, weight_decay=weight_decay, no_weight_decay_list=excepted, layer_decay=layer_decay
    )
    for group in groups:
        first = group["params"][0]
        decays = first.ndim > 1 and name_of[first] not in excepted
        group["name"] = f"layer_{layers[name_of[first]]}_{'decay' if decays else 'no_decay'}"
        group["lr"] = lr * group["lr_scale"]
    return groups
