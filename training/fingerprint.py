"""What a run remembers of its data, so that it does not go on with other data unawares."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from training.data.image_set import ImageSet

_PICTURES = 256  # are looked at; all of a large set would take minutes to read

_WORDS = {"names": "names of the pictures", "targets": "labels", "pixels": "pixels", "teachers": "teachers"}


def fingerprint(
    images: Tensor, *, names: Iterable[str] = (), class_names: Iterable[str] = (), targets: Tensor | None = None
) -> dict[str, Any]:
    """Return plain values that tell one set of samples from another.

    Args:
        images: uint8, (N, C, H, W); up to 256 of them, evenly spaced, are looked at.
        names: of all pictures, where they have any.
        class_names: in their order.
        targets: (N, K), where there are labels.
    """
    some = images[torch.linspace(0, len(images) - 1, min(_PICTURES, len(images))).long()]
    return {
        "samples": len(images),
        "classes": list(class_names),
        "names": _digest("\n".join(names).encode(errors="surrogateescape")),
        "targets": _digest(b"" if targets is None else targets.contiguous().numpy().tobytes()),
        "pixels": _digest(some.contiguous().numpy().tobytes()),
    }


def faces_digest(faces: ImageSet) -> str:
    """Return a digest of names, classes and labels in their order; pixels do not count, as they come in many sizes."""
    labels = None if faces.targets is None else faces.targets.argmax(dim=1).tolist()
    return _digest(json.dumps([faces.names, faces.class_names, labels]).encode())


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return in words how the data has changed; nothing where it has not."""
    found = []
    if saved["samples"] != now["samples"]:
        found.append(f"{saved['samples']} samples then, {now['samples']} now")
    if saved["classes"] != now["classes"]:
        found.append(f"classes {', '.join(saved['classes'])} then, {', '.join(now['classes'])} now")
    found += [f"other {words}" for key, words in _WORDS.items() if saved.get(key) != now.get(key)]
    return found


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
