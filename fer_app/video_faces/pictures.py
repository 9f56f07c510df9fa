"""The pictures that sum up a video: the timeline and the storyboard, collected while it is read."""

from __future__ import annotations

from fer_app.output_files import writing_to
from fer_app.video_faces.outputs import OutputPaths
from fer_app.video_faces.stages import DrawnFaces
from fer_app.video_faces.storyboard import Storyboard
from fer_app.video_faces.storyboard_sheet import draw_sheet, write_sheet
from fer_app.video_faces.timeline import ExpressionTimeline
from fer_app.video_faces.timeline_plot import plot_timeline


class SummaryPictures:
    """Collects what the pictures of one video show, if there are any; their memory does not grow with its length."""

    def __init__(
        self,
        paths: OutputPaths,
        title: str,
        labels: tuple[str, ...],
        uncertain_below: float,
        *,
        blur: bool,
        longest_s: float = float("inf"),
    ) -> None:
        """Begin a video.

        Args:
            paths: say which pictures are wanted.
            title: the heading.
            labels: the model's.
            uncertain_below: the recognizer's threshold.
            blur: make the faces unrecognisable.
            longest_s: a frame is shown until the next one, but no longer than that, seconds.
        """
        self._paths, self._title, self._labels, self._blur = paths, title, labels, blur
        self._timeline = ExpressionTimeline(labels, longest_s=longest_s) if paths.timeline else None
        self._storyboard = Storyboard(labels, uncertain_below, blur=blur) if paths.storyboard else None

    def add(self, one: DrawnFaces) -> None:
        """Take the next frame."""
        if self._timeline is not None:
            self._timeline.add(one.faces)
        if self._storyboard is not None:
            self._storyboard.add(one.frame.image, one.faces, one.unseen)

    def write(self, end_s: float) -> None:
        """Write the pictures of what was read so far.

        Args:
            end_s: when the last frame stops being shown, seconds.

        Raises:
            InputError: the disk is full, for instance.
        """
        if self._paths.timeline and self._timeline is not None:
            with writing_to(self._paths.timeline):
                plot_timeline(self._paths.timeline, self._timeline.result(end_s), self._title)
        if self._paths.storyboard and self._storyboard is not None:
            sheet = draw_sheet(self._storyboard.result(), self._labels, self._title, blurred=self._blur)
            with writing_to(self._paths.storyboard):
                write_sheet(self._paths.storyboard, sheet)
