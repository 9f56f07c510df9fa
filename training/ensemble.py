"""Ensembles: trained classifiers joined into one checkpoint, which is scored, exported and served like any other.

The logits are the mean of the members' (`models.ensemble`), over mirror images too if wanted; one temperature and one
threshold of the whole are fitted on the faces of `dev`, as a training run fits its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torch import nn

from fer_app.contract import Contract
from fer_app.errors import CheckpointError, InputError
from models.ensemble import Ensemble
from training.checkpoint import CheckpointInfo, recipe_digest, recipe_word, save_checkpoint
from training.evaluation import file_sha256, load_classifier
from training.selection import Selection, calibrated, held_out, scores

ENSEMBLE: Final = "ensemble"
"""What the checkpoint of one says where others have the name of their recipe."""


@dataclass(frozen=True)
class Member:
    """One classifier of an ensemble.

    Attributes:
        path: of its checkpoint.
        network: with its weights, in eval mode.
        info: what the checkpoint says.
        contract: the part of that which a classifier has.
    """

    path: Path
    network: nn.Module
    info: CheckpointInfo
    contract: Contract


def join(paths: Sequence[Path], target: Path, data: Path | None = None, *, mirrored: bool = False) -> CheckpointInfo:
    """Write the ensemble of some classifiers.

    Args:
        paths: two or more checkpoints; one is enough with its mirror images.
        target: the file to write.
        data: labelled faces, whose `dev` calibrates; None leaves the temperature at 1, and nothing is uncertain.
        mirrored: whether members see mirror images too.

    Returns:
        What the new checkpoint says.

    Raises:
        CheckpointError: a member is missing, damaged, no classifier, or an ensemble itself; members differ in their
            classes, their input or the split that they were trained on; that split has faces of `dev`; or the file
            cannot be written.
        DatasetError: of `data`.
        InputError: `target` is a member.
    """
    members = [_member(path) for path in paths]
    _need_likeness(members, fewest=1 if mirrored else 2)
    if target.exists() and any(target.samefile(member.path) for member in members):
        raise InputError(f"{target} is a member itself: name another file to write")
    network = Ensemble(
        [member.network for member in members],
        [member.contract.temperature for member in members],
        mirrored=mirrored,
    ).eval()
    figures = {} if data is None else _figures(network, members[0], data)
    info = _info(members, figures, mirrored=mirrored)
    save_checkpoint(target, network.state_dict(), info)
    return info


def _member(path: Path) -> Member:
    network, info = load_classifier(path)
    if "members" in info.architecture:
        raise CheckpointError(f"{path} is an ensemble itself: name its members")
    assert info.contract is not None  # a classifier has one
    return Member(path, network, info, info.contract)


def _need_likeness(members: Sequence[Member], fewest: int) -> None:
    """Refuse networks that cannot answer together.

    Raises:
        CheckpointError: there are too few, or one is unlike the first.
    """
    if len(members) < fewest:
        raise CheckpointError("an ensemble has two members or more, unless it sees mirror images too")
    first = members[0]
    for other in members[1:]:
        if apart := other.contract.apart_from(first.contract):
            raise CheckpointError(f"{other.path} and {first.path} differ in {', '.join(apart)}")
        if other.info.finetuned_on != first.info.finetuned_on:
            raise CheckpointError(
                f"{other.path} was trained on {other.info.finetuned_on or 'an unknown split'}, {first.path} on "
                f"{first.info.finetuned_on or 'an unknown one'}: nobody could say what their ensemble may be scored on"
            )


def _figures(network: nn.Module, first: Member, data: Path) -> dict[str, float]:
    """Return what `dev` calibrates, and the scores there.

    Raises:
        CheckpointError: the members were trained on it.
        DatasetError: of the data.
    """
    contract = first.contract
    try:
        dev = held_out(contract, first.info.finetuned_on, data)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; leave out --data") from error
    return Selection(dev).figures(network, contract)


def _info(members: Sequence[Member], figures: Mapping[str, float], *, mirrored: bool) -> CheckpointInfo:
    seen = {"mirrored": True} if mirrored else {}
    recipe: dict[str, Any] = {
        "name": ENSEMBLE,
        "stages": ["finetune"],
        "finetune": {"split": members[0].info.finetuned_on},
        "members": [recipe_word(member.path) for member in members],
        "members_sha256": [file_sha256(member.path) for member in members],
        **seen,
    }
    licenses = dict.fromkeys(member.contract.license for member in members)
    plain = members[0].contract.replace(
        temperature=1.0,
        uncertain_below=0.0,
        metrics={},
        license="; ".join(licenses),
        recipe_sha256=recipe_digest(recipe),
    )
    return CheckpointInfo(
        kind="classifier",
        architecture={"members": [member.info.architecture for member in members], **seen},
        counters={"seconds": sum(member.info.counters.get("seconds", 0) for member in members)},
        recipe=recipe,
        metrics=scores(figures),
        contract=calibrated(plain, figures),
    )
