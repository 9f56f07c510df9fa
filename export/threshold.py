"""What counts as uncertain of files that are exported: below the threshold that fits their own probabilities."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from fer_app.contract import Contract
from training.checkpoint import CheckpointInfo
from training.data.image_set import ImageSet
from training.data.splits import share_faces
from training.evaluation import LogitsSource, fitting_threshold, open_classifier


def own_threshold(contract: Contract, classifier: LogitsSource, choice: ImageSet | None) -> Contract:
    """Return a contract with the threshold that fits a classifier's own probabilities.

    Args:
        contract: as the checkpoint has it; without a threshold it stays so, as `choice` may have been trained on.
        classifier: the network in another arithmetic.
        choice: the faces that the checkpoint's threshold was chosen on; None leaves it as it is.
    """
    if choice is None or not contract.uncertain_below:
        return contract
    return contract.replace(uncertain_below=fitting_threshold(classifier, choice))


def with_threshold(checkpoint: Path, info: CheckpointInfo, dev: ImageSet | None) -> CheckpointInfo:
    """Return what a checkpoint says, with the threshold that its weights have on `dev`; older ones have none.

    Args:
        checkpoint: the weights as they are kept.
        info: what they say; of ones that were trained on `dev` it stays as it is.
        dev: the faces of FERPlus's `dev`; None leaves it as it is, too.
    """
    if dev is None or info.contract is None or share_faces("dev", info.recipe["finetune"]["split"]):
        return info
    threshold = fitting_threshold(open_classifier(checkpoint, device="cpu"), dev)
    return dataclasses.replace(info, contract=info.contract.replace(uncertain_below=threshold))
