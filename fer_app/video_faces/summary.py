"""What a video showed, in one JSON file: whose expressions for how long, made by which model with which settings."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fer_app.atomic_file import replacing
from fer_app.output_files import writing_to
from fer_app.results import Faces
from fer_app.video import VideoInfo

SUMMARY_VERSION = 1
_DIGITS = 6


@dataclass
class _Person:
    """How long one track showed each expression."""

    first_s: float
    last_s: float
    faces: int
    seconds: npt.NDArray[np.float64]  # (K,)


class FaceTally:
    """Counts faces, and adds up how long each expression was shown: each face until the next frame."""

    def __init__(self, labels: tuple[str, ...], longest_s: float = float("inf")) -> None:
        """Begin a video.

        Args:
            labels: the model's.
            longest_s: a face counts until the next frame, but no longer than that, seconds.
        """
        self._labels, self._longest_s = labels, longest_s
        self.frames = self.frames_with_faces = self.faces = 0
        self._persons: dict[int, _Person] = {}
        self._open: tuple[float, list[tuple[int, int]]] | None = None  # since when, and track and label of each face
        self._begin_s = 0.0
        self._end_s = 0.0

    def add(self, faces: Faces) -> None:
        """Take the next frame of the video; the smoothed probabilities count where there are some."""
        time_s = faces.time_s or 0.0
        self._end(time_s)
        if not self.frames:
            self._begin_s = time_s
        self.frames += 1
        self.faces += len(faces)
        self.frames_with_faces += len(faces) > 0
        probs = faces.probs if faces.smoothed_probs is None else faces.smoothed_probs
        ids = [] if faces.track_ids is None else faces.track_ids.tolist()
        shown = list(zip(ids, probs.argmax(axis=1).tolist(), strict=True))
        for track, _ in shown:
            person = self._persons.get(track)
            if person is None:
                person = self._persons[track] = _Person(time_s, time_s, 0, np.zeros(len(self._labels)))
            person.last_s, person.faces = time_s, person.faces + 1
        self._open = time_s, shown

    def result(self, end_s: float) -> dict[str, Any]:
        """Give the counts and shares as the summary has them.

        Args:
            end_s: when the last frame stops being shown.
        """
        self._end(end_s)
        total = sum((person.seconds for person in self._persons.values()), np.zeros(len(self._labels)))
        tracks = [
            {
                "track_id": track,
                "first_s": person.first_s,
                "last_s": person.last_s,
                "faces": person.faces,
                "face_seconds": round(float(person.seconds.sum()), _DIGITS),
                "expressions": self._shares(person.seconds),
            }
            for track, person in sorted(self._persons.items())
        ]
        return {
            "frames": self.frames,
            "seconds": round(self._end_s - self._begin_s, _DIGITS),
            "frames_with_faces": self.frames_with_faces,
            "faces": self.faces,
            "face_seconds": round(float(total.sum()), _DIGITS),
            "expressions": self._shares(total),
            "tracks": tracks,
        }

    def _end(self, time_s: float) -> None:
        """Note how long the frame before was shown."""
        if self._open is not None:
            since_s, shown = self._open
            for track, label in shown:
                self._persons[track].seconds[label] += min(max(0.0, time_s - since_s), self._longest_s)
            self._open = None
        self._end_s = max(self._end_s, time_s)

    def _shares(self, seconds: npt.NDArray[np.float64]) -> dict[str, float] | None:
        """Give the share of the time for each expression; None where there was no face, or for no time."""
        if not seconds.sum():
            return None
        shares = seconds / seconds.sum()
        return {label: round(share, _DIGITS) for label, share in zip(self._labels, shares.tolist(), strict=True)}


def video_record(info: VideoInfo) -> dict[str, Any]:
    """Give what the summary says of the video as it was before it was read."""
    return {
        "width": info.width,
        "height": info.height,
        "rotation": info.rotation,
        "codec": info.codec or None,
        "average_fps": info.average_fps,
        "is_variable_rate": info.is_variable_rate,
        "duration_s": info.duration_s,
        "frame_count": info.frame_count,
        "audio_codec": info.audio_codec,
    }


def write_summary(path: Path, summary: dict[str, Any]) -> None:
    """Write NAME.json; it appears when it is whole.

    Raises:
        InputError: the disk is full, for instance.
    """
    text = json.dumps(summary, ensure_ascii=False, indent=2, allow_nan=False)
    with writing_to(path), replacing(path) as temporary:
        # Bytes of a file name that are no UTF-8 become escapes, which JSON has too.
        temporary.write_text(text.encode("utf-8", "backslashreplace").decode("utf-8") + "\n", encoding="utf-8")


def read_summary(path: Path) -> dict[str, Any] | None:
    """Read NAME.json; None when there is none, or it is no summary of a version that is known here."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("summary_version") == SUMMARY_VERSION else None
