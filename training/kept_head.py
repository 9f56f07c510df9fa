"""Fine-tuning that goes on with the head of the classifier it starts from, where that one knows the classes."""

from __future__ import annotations

from torch import nn

from training.checkpoint import init_path, is_checkpoint, load_checkpoint, load_weights


def take_head(model: nn.Module, init: str, class_names: tuple[str, ...]) -> str:
    """Give a classifier the head, and the norm before it, of the one that its encoder is from.

    They are taken where all classes are among those of the other one, in whatever order; else both stay new. The
    projection, which only training uses, comes along if it has the same shape.

    Args:
        model: a `MimicClassifier` of these classes.
        init: the recipe's: `bundled`, `bundled:NAME`, or a checkpoint.
        class_names: K names, the rows of the model's head.

    Returns:
        A line that says what was done.

    Raises:
        CheckpointError: the checkpoint cannot be read, or is of another architecture.
    """
    path = init_path(init)
    if not is_checkpoint(path):
        return "head: new, as the weights come without one"
    weights, info = load_checkpoint(path)
    if info.contract is None:
        return "head: new, as the weights come without one"
    if "head.weight" not in weights:
        return f"head: new, as that of {path.name} is of another kind"
    known = info.contract.labels
    if other := [name for name in class_names if name not in known]:
        return f"head: new, as {path.name} does not know {', '.join(other)}"
    rows = [known.index(name) for name in class_names]
    own = model.state_dict()
    kept = {name: tensor for name, tensor in weights.items() if name.startswith(("fc_norm.", "head."))}
    kept |= {name: kept[name][rows] for name in ("head.weight", "head.bias")}
    projection = {name: tensor for name, tensor in weights.items() if name.startswith("projection.")}
    if all(name in own and own[name].shape == tensor.shape for name, tensor in projection.items()):
        kept |= projection
    load_weights(model, kept, may_lack=own.keys() - kept.keys())
    return f"head: that of {path.name}, which knows all classes"
