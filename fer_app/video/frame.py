"""One picture of a video, and what is known of a video before it is read."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class VideoFrame:
    """A picture and when it is shown.

    Attributes:
        image: uint8, (H, W, 3), RGB, upright, square pixels; the receiver's own.
        index: which picture of the video this is, from 0, counted over all pictures and not only the chosen ones.
        pts: when it is shown, in units of `time_base`, from the video's time zero. Exact.
        time_base: seconds a unit.
        duration: how long it is shown, until the next picture of the video, in units of `time_base`; None when live.
    """

    image: npt.NDArray[np.uint8]
    index: int
    pts: int
    time_base: Fraction
    duration: int | None = None

    @property
    def time_s(self) -> float:
        """When it is shown, seconds from the video's time zero."""
        return float(self.pts * self.time_base)


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a video before it is read.

    Attributes:
        source: the file.
        width: of the pictures as they are given (upright, square pixels, after any scaling down), px.
        height: likewise.
        rotation: degrees clockwise by which the stored pictures are turned to be upright: 0, 90, 180 or 270.
        mirrored: whether they are flipped from left to right after that.
        sample_aspect_ratio: width over height of a stored pixel.
        codec: name of the video codec, e.g. `h264`.
        average_fps: pictures a second over the whole video; None when not known.
        time_base: seconds a unit of `VideoFrame.pts`.
        duration_s: of the video as the file declares it, its sound included; None when it does not.
        frame_count: pictures as the file declares them; None when it does not.
        is_variable_rate: whether the pictures are known not to be equally far apart.
        audio_codec: of the sound that a written copy gets, e.g. `aac`; None without sound.
        origin_s: the file's own time that is called zero here. 0 except where a file counts from an arbitrary number
            (MPEG-TS), or starts its pictures before zero.
    """

    source: str
    width: int
    height: int
    rotation: int
    mirrored: bool
    sample_aspect_ratio: Fraction
    codec: str
    average_fps: float | None
    time_base: Fraction
    duration_s: float | None
    frame_count: int | None
    is_variable_rate: bool
    audio_codec: str | None
    origin_s: Fraction

    @property
    def has_audio(self) -> bool:
        """Whether there is sound."""
        return self.audio_codec is not None
