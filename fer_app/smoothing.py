"""Probabilities of tracked faces over time: an exponential mean whose memory is measured in seconds, not in frames."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fer_app.results import NO_TRACK

Float32 = npt.NDArray[np.float32]

# After so many half-lives a millionth of what was is left: it is forgotten, and takes no memory.
_FORGOTTEN_HALF_LIVES = 20


class TrackSmoother:
    """Smooths each track's probabilities; nothing else of a face is touched.

    What was seen t seconds ago counts half as much after each half-life, whether there were many frames since then,
    few, or none because the face was hidden. So a video gives nearly the same curves at 15 and at 60 frames a second.
    The first face of a track is given as it is: nothing is mixed in that was not seen.
    """

    def __init__(self, half_life_s: float) -> None:
        """Begin without tracks.

        Args:
            half_life_s: seconds, at least 0; with 0 nothing is smoothed.

        Raises:
            ValueError: it is negative or not finite.
        """
        if not 0 <= half_life_s < float("inf"):
            raise ValueError(f"half_life_s is {half_life_s}, must be 0 or more")
        self.half_life_s = half_life_s
        self._tracks: dict[int, tuple[float, npt.NDArray[np.float64]]] = {}

    def update(self, track_ids: npt.NDArray[np.int64], probs: Float32, time_s: float) -> Float32:
        """Take the faces of one frame, later than the one before.

        Args:
            track_ids: int64, (N,); faces of `NO_TRACK` are not smoothed.
            probs: float32, (N, K), each row sums to 1.
            time_s: when the frame is shown, seconds.

        Returns:
            float32, (N, K), each row sums to 1.
        """
        smoothed = probs.astype(np.float64)
        if self.half_life_s:
            for i, track in enumerate(track_ids.tolist()):
                if track == NO_TRACK:
                    continue
                if track in self._tracks:
                    last_s, before = self._tracks[track]
                    kept = 0.5 ** (max(time_s - last_s, 0.0) / self.half_life_s)
                    smoothed[i] += kept * (before - smoothed[i])
                self._tracks[track] = time_s, smoothed[i].copy()
            oldest_s = time_s - _FORGOTTEN_HALF_LIVES * self.half_life_s
            self._tracks = {track: state for track, state in self._tracks.items() if state[0] >= oldest_s}
        return smoothed.astype(np.float32)
