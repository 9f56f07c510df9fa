"""Optimizer parameter groups: layer-wise learning-rate decay, and who is exempt from weight decay."""

from __future__ import annotations

from typing import Any

from timm.models import group_parameters
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from fer_app.errors import ConfigError


def param_groups(model: nn.Module, *, lr: float, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """Make an optimizer's parameter groups, early layers with smaller rates, with MAE's exponents (`util/lr_decay.py`).

    Layer 0 is the stem with the class token and the positions, block i is layer i + 1, everything else (norms, head,
    projection) is layer depth + 1; layer k has the scale `layer_decay ** (depth + 1 - k)`. Parameters of at most one
    dimension and those that `model.no_weight_decay()` names have no weight decay. Frozen parameters are left out.

    With a `layer_decay` of 1 layers do not matter: there are at most two groups, any model will do, and a model
    without `no_weight_decay` has no exceptions. For `MaskedAutoencoder` that is what MAE pre-trains with: its class
    and mask tokens do decay.

    Args:
        model: has `group_matcher` and `no_weight_decay`, as timm defines them.
        lr: the learning rate of the last layer.
        weight_decay: of the parameters that decay.
        layer_decay: factor from a layer to the one before it, in (0, 1].

    Returns:
        Groups with `params`, `weight_decay`, `lr_scale`, `lr` (= lr * lr_scale, right until a schedule first sets it)
        and `name` (`layer_3_decay`, or `decay` when layers do not matter). torch's schedulers multiply this `lr`; a
        loop that sets rates itself must write `rate * group["lr_scale"]`.

    Raises:
        ConfigError: `layer_decay` is not in (0, 1].
        TypeError: the model does not say which layer a parameter belongs to. timm would then put all of them in one
            layer and ignore the exceptions from weight decay, without an error.
    """
    if not 0.0 < layer_decay <= 1.0:
        raise ConfigError(f"layer_decay must be in (0, 1], got {layer_decay}")
    matcher = getattr(model, "group_matcher", None)
    no_weight_decay = getattr(model, "no_weight_decay", None)
    exceptions: set[str] = no_weight_decay() if no_weight_decay is not None else set()
    layers: dict[str, int] = {}
    groups: list[dict[str, Any]]
    if layer_decay == 1.0:
        groups = param_groups_weight_decay(model, weight_decay, no_weight_decay_list=exceptions)
    elif matcher is None or no_weight_decay is None:
        raise TypeError(f"layer-wise decay needs group_matcher and no_weight_decay, {type(model).__name__} lacks them")
    else:
        layers = group_parameters(model, matcher(), reverse=True)
        groups = param_groups_layer_decay(
            model, weight_decay=weight_decay, no_weight_decay_list=exceptions, layer_decay=layer_decay
        )
    name_of = {parameter: name for name, parameter in model.named_parameters()}
    for group in groups:
        first = name_of[group["params"][0]]
        decays = group["params"][0].ndim > 1 and first not in exceptions
        layer = f"layer_{layers[first]}_" if layers else ""
        group["name"] = f"{layer}{'decay' if decays else 'no_decay'}"
        group["lr_scale"] = group.get("lr_scale", 1.0)
        group["lr"] = lr * group["lr_scale"]
    return groups
