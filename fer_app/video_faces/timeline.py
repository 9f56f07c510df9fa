"""The expressions of each person over time, reduced while a video is read to what a plot can show.

Probabilities are averaged in bins of time. Where a video outlasts the bins, every two of them become one, so that ten
seconds and ten hours take the same memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fer_app.results import NO_TRACK, Faces

# More panels than that are no longer looked at.
MAX_PERSONS = 8
# Who is seen for less is a passer-by or a wrong detection, where anybody is seen for longer.
SHORTEST_S = 1.0
_FIRST_BIN_S = 0.05
_MAX_BINS = 800
# A track that was not seen for so long never comes back; `fer_app.tracking` gives up after less.
_GONE_S = 2.0


class PersonCurve(NamedTuple):
    """What one track showed.

    Attributes:
        track_id: its number.
        first_s: when it was first seen, seconds.
        last_s: when it was last seen.
        seconds: how long it was seen.
        times_s: float64, (T,), seconds, increasing; a point at both ends of every stretch in which the face was seen.
        probs: float64, (T, K); NaN between two stretches.
    """

    track_id: int
    first_s: float
    last_s: float
    seconds: float
    times_s: npt.NDArray[np.float64]
    probs: npt.NDArray[np.float64]


class Timeline(NamedTuple):
    """What a plot shows.

    Attributes:
        labels: the K labels.
        begin_s: of the first frame, seconds.
        end_s: when the last frame stops being shown.
        bin_s: over how much time probabilities are averaged.
        persons: who was seen for longest, in this order.
        left_out: how many more tracks there were.
    """

    labels: tuple[str, ...]
    begin_s: float
    end_s: float
    bin_s: float
    persons: list[PersonCurve]
    left_out: int


@dataclass
class _Track:
    """One track: for each bin the K sums of probability times seconds, and the seconds."""

    first_s: float
    last_s: float
    seconds: float
    bins: dict[int, npt.NDArray[np.float64]]  # number of the bin to (K + 1,)


class ExpressionTimeline:
    """Takes a video frame by frame; its memory does not grow with the length.

    A face counts from its frame to the next one. Held are the tracks that may go on, and those of the others that were
    seen for longest.
    """

    def __init__(
        self,
        labels: tuple[str, ...],
        *,
        bin_s: float = _FIRST_BIN_S,
        max_bins: int = _MAX_BINS,
        max_persons: int = MAX_PERSONS,
        longest_s: float = float("inf"),
    ) -> None:
        """Begin a video.

        Args:
            labels: the model's.
            bin_s: length of a bin at first, seconds.
            max_bins: when there are more, every two become one.
            max_persons: how many tracks are given in the end.
            longest_s: a frame is shown until the next one, but no longer than that, seconds.
        """
        self._labels, self._bin_s, self._max_bins, self._max_persons = labels, bin_s, max_bins, max_persons
        self._longest_s = longest_s
        self._tracks: dict[int, _Track] = {}
        self._dropped = 0
        self._begin_s: float | None = None
        self._open: tuple[float, dict[int, npt.NDArray[np.float64]]] | None = (
            None  # since when, and probs of each track
        )

    @property
    def held_bins(self) -> int:
        """How many bins of all tracks are in memory."""
        return sum(len(track.bins) for track in self._tracks.values())

    def add(self, faces: Faces) -> None:
        """Take the next frame of the video; the smoothed probabilities count where there are some."""
        time_s = faces.time_s or 0.0
        if self._begin_s is None:
            self._begin_s = time_s
        since_s = time_s if self._open is None else self._open[0]
        self._close(time_s)
        probs = (faces.probs if faces.smoothed_probs is None else faces.smoothed_probs).astype(np.float64)
        ids = [] if faces.track_ids is None else faces.track_ids.tolist()
        shown = {track: row for track, row in zip(ids, probs, strict=False) if track != NO_TRACK}
        for number in shown:
            track = self._tracks.setdefault(number, _Track(time_s, time_s, 0.0, {}))
            track.last_s = time_s
        self._open = time_s, shown
        self._drop(min(since_s, time_s - _GONE_S))

    def result(self, end_s: float) -> Timeline:
        """Give the curves of those who were seen for longest.

        Args:
            end_s: when the last frame stops being shown, seconds.
        """
        begin_s = self._begin_s or 0.0
        end_s = max(end_s, begin_s, self._open[0] if self._open else begin_s)
        self._close(end_s)
        ranked = sorted(self._tracks.items(), key=lambda item: (-item[1].seconds, item[0]))
        longest = [item for item in ranked if item[1].seconds >= SHORTEST_S] or ranked[:1]
        kept = longest[: self._max_persons]
        persons = [self._curve(number, track, end_s) for number, track in kept if track.bins]
        left_out = self._dropped + len(ranked) - len(persons)
        return Timeline(self._labels, begin_s, end_s, self._bin_s, persons, left_out)

    def _close(self, time_s: float) -> None:
        """Note what the frame before showed until now."""
        if self._open is None or self._begin_s is None:
            return
        since_s, shown = self._open
        self._open = None
        time_s = min(time_s, since_s + self._longest_s)
        if time_s <= since_s:
            return
        while (time_s - self._begin_s) / self._bin_s > self._max_bins:
            self._halve()
        from_bin, to_bin = ((t - self._begin_s) / self._bin_s for t in (since_s, time_s))
        for number, probs in shown.items():
            track = self._tracks[number]
            track.seconds += time_s - since_s
            row = np.append(probs, 1.0) * self._bin_s
            for index in range(int(from_bin), int(np.ceil(to_bin))):
                share = min(index + 1, to_bin) - max(index, from_bin)
                if share > 1e-9:  # else it is a rounding
                    track.bins[index] = track.bins.get(index, 0.0) + share * row

    def _halve(self) -> None:
        """Make one bin of every two."""
        self._bin_s *= 2
        for track in self._tracks.values():
            merged: dict[int, npt.NDArray[np.float64]] = {}
            for index, row in track.bins.items():
                merged[index // 2] = merged.get(index // 2, 0.0) + row
            track.bins = merged

    def _drop(self, gone_s: float) -> None:
        """Forget tracks that were last seen before `gone_s` and are too short to be given in the end."""
        gone = [number for number, track in self._tracks.items() if track.last_s < gone_s]
        if len(gone) > self._max_persons:
            gone.sort(key=lambda number: (-self._tracks[number].seconds, number))
            for number in gone[self._max_persons :]:
                del self._tracks[number]
                self._dropped += 1

    def _curve(self, number: int, track: _Track, end_s: float) -> PersonCurve:
        begin_s = self._begin_s or 0.0
        indices = np.array(sorted(track.bins))
        sums = np.stack([track.bins[index] for index in indices.tolist()])
        means = sums[:, :-1] / sums[:, -1:]
        times: list[float] = []
        rows: list[npt.NDArray[np.float64]] = []
        for stretch in np.split(np.arange(len(indices)), np.flatnonzero(np.diff(indices) > 1) + 1):
            edges = indices[stretch[0]], indices[stretch[-1]] + 1
            if times:
                times.append((times[-1] + begin_s + edges[0] * self._bin_s) / 2)
                rows.append(np.full(len(self._labels), np.nan))
            middles = begin_s + (indices[stretch] + 0.5) * self._bin_s
            first, last = (begin_s + edge * self._bin_s for edge in edges)
            times += [first, *middles.tolist(), min(last, max(end_s, float(middles[-1])))]
            rows += [means[stretch[0]], *means[stretch], means[stretch[-1]]]
        return PersonCurve(number, track.first_s, track.last_s, track.seconds, np.array(times), np.stack(rows))
