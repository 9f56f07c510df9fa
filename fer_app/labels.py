"""The canonical expression labels: FERPlus's eight, in FERPlus's order and spelling.

Source: Barsoum et al. 2016 (arXiv:1608.01041), the columns of the published `label.csv`. FER2013's own order is a
different one; data-set readers map to this one.
"""

from __future__ import annotations

LABELS: tuple[str, ...] = (
    "neutral",
    "happiness",
    "surprise",
    "sadness",
    "anger",
    "disgust",
    "fear",
    "contempt",
)
