"""Face detection with MTCNN on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from fer_app.boxes import squared
from fer_app.detection import cascade
from fer_app.detection.area_resize import Frame
from fer_app.detection.proposals import WINDOW_PX, Crew, Stage
from fer_app.errors import InputError
from fer_app.model_store import resolve_detector
from fer_app.results import Detections
from fer_app.session import DEFAULT_GPU, GpuOptions, open_session, parse_device, physical_cores

# MTCNN names left and right as the picture shows them, this project as the subject has them.
_TO_SUBJECT_ORDER = [1, 0, 2, 4, 3]
# What a network gets at once on a CPU, so that its feature maps fit into a core's cache (pixels for P-Net, then
# crops), and on an accelerator, which wants more to do and has other limits.
_CPU_PORTIONS = {"pnet": 2**16, "rnet": 64, "onet": 8}
_ACCELERATOR_PORTIONS = {"pnet": 2**20, "rnet": 512, "onet": 256}
# Pictures of one call are taken together up to so many pixels, and further ones after that: bounds memory.
_PIXELS_AT_ONCE = 2**23


class MtcnnDetector:
    """Finds faces and their five landmarks in pictures of any size.

    Boxes, landmarks and confidence are those of facenet-pytorch 2.5.3's `MTCNN.detect` with the same settings, and so
    is their order (largest first); only the names of left and right differ. With `steady` the landmarks are better.

    Attributes:
        device: where the three networks run.
    """

    def __init__(
        self,
        *,
        min_face_px: float = 40,
        thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7),
        max_faces: int | None = None,
        steady: bool = False,
        device: str = "cpu",
        threads: int | None = None,
        gpu: GpuOptions = DEFAULT_GPU,
    ) -> None:
        """Load the three networks.

        Args:
            min_face_px: side in px of the smallest window that is searched, at least 12; the time falls with its
                square. Boxes are fitted after that, so a box may come out narrower than this.
            thresholds: least face probability after P-, R- and O-Net.
            max_faces: keep only this many faces of a picture, the largest ones; `None` keeps all.
            steady: O-Net looks at each face that is found twice more, and its landmarks are the mean: they move by a
                quarter less when a picture's colours or size change. Of faces that are followed only those at the
                picture's edge are, which it matters most for. `Recognizer` does so.
            device: as `fer_app.session.open_session` takes it.
            threads: CPU threads that share the work; `None` is one per physical core.
            gpu: what is asked of a CUDA device. The networks keep within its memory together, and record no graphs:
                pictures come in all sizes.

        Raises:
            InputError: a setting out of its range.
            ProviderUnavailableError: the device cannot be used.
        """
        if not min_face_px >= WINDOW_PX:
            raise InputError(f"min_face_px is {min_face_px}; MTCNN's smallest window is {WINDOW_PX} px")
        if len(thresholds) != 3 or not all(0 <= value <= 1 for value in thresholds):
            raise InputError(f"thresholds are {thresholds}; they are three probabilities, for P-, R- and O-Net")
        if max_faces is not None and max_faces < 1:
            raise InputError(f"max_faces is {max_faces}; it must be at least 1, or None for all")
        self.min_face_px = min_face_px
        self.thresholds = thresholds
        self.max_faces = max_faces
        self._steady = steady
        share = replace(gpu, graphs=False).share(3)
        self._pnet, self.device = _load("pnet", device, share)
        self._rnet, _ = _load("rnet", device, share)
        self._onet, _ = _load("onet", device, share)
        self._crew = Crew(physical_cores() if threads is None else threads)

    def detect(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[Detections]:
        """Find the faces of several pictures, which may differ in size.

        Args:
            images: uint8, (H, W, 3) each, RGB; any memory layout.

        Returns:
            One `Detections` a picture, largest box first (by area); empty where there is no face, and for a picture
            smaller than `min_face_px`.

        Raises:
            InputError: an array that is no such picture.
        """
        for i, image in enumerate(images):
            _need_picture(i, image)
        return [found for group in _groups(images) for found in self._detect_together(group)]

    def follow(self, image: npt.NDArray[np.uint8], expected: npt.NDArray[np.float32]) -> Detections:
        """Find again faces whose place is about known, as in the next frame of a video: R-Net and O-Net alone.

        The second and third network move a box by a good part of its size, so that a face is found whose box overlaps
        the expected one well. Other faces are not found, and two boxes that come to lie on one face are one.

        Args:
            image: uint8, (H, W, 3), RGB.
            expected: float32, (N, 4), x0 y0 x1 y1 in px, where faces should be; may reach beyond the picture.

        Returns:
            At most N faces, as `detect` gives them.

        Raises:
            InputError: an array that is no such picture.
        """
        _need_picture(0, image)
        squares = squared(np.asarray(expected, np.float32))
        candidates = cascade.Candidates(
            squares, np.ones(len(squares), np.float32), frames=np.zeros(len(squares), np.intp)
        )
        (found,) = self._decide([Frame(image, whole=False)], candidates, all_steady=False)
        return found

    def _detect_together(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[Detections]:
        frames = self._crew.each(Frame, images)
        candidates = cascade.propose(self._pnet, frames, self.min_face_px, self.thresholds[0], self._crew)
        return self._decide(frames, candidates, all_steady=True)

    def _decide(self, frames: Sequence[Frame], candidates: cascade.Candidates, *, all_steady: bool) -> list[Detections]:
        """Run the second and third stage; one result a frame."""
        candidates = cascade.refine(self._rnet, frames, candidates, self.thresholds[1], self._crew)
        faces, landmarks = cascade.finish(self._onet, frames, candidates, self.thresholds[2], self._crew)
        size = faces.boxes[:, 2:] - faces.boxes[:, :2]
        # A box that regression has turned inside out is no place in the picture.
        real = (size > 0).all(axis=1)
        largest_first = np.argsort(-size.prod(axis=1), kind="stable")
        kept = [
            largest_first[(real & (faces.frames == i))[largest_first]][: self.max_faces] for i in range(len(frames))
        ]
        rows = np.concatenate([*kept, np.zeros(0, np.intp)]).astype(np.intp)
        faces, landmarks = faces.take(rows), landmarks[rows]
        if self._steady:
            again = np.arange(len(rows)) if all_steady else cascade.cut_off(frames, faces)
            if len(again):
                landmarks[again] = cascade.steadied(self._onet, frames, faces.take(again), landmarks[again], self._crew)
        return [
            Detections(
                boxes=faces.boxes[own], confidence=faces.probs[own], landmarks=landmarks[own][:, _TO_SUBJECT_ORDER]
            )
            for own in (faces.frames == i for i in range(len(frames)))
        ]


def _need_picture(number: int, image: npt.NDArray[np.uint8]) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InputError(f"picture {number} is {image.dtype} {image.shape}; detection takes uint8 (H, W, 3) RGB")


def _load(name: str, device: str, gpu: GpuOptions) -> tuple[Stage, str]:
    # One thread a run: runs share the cores, and what lies between them does too.
    session = open_session(resolve_detector(f"mtcnn-{name}"), device=device, threads=1, gpu=gpu)
    portions = _CPU_PORTIONS if parse_device(session.device).kind == "cpu" else _ACCELERATOR_PORTIONS
    return Stage(lambda images: session.run({"images": images})[0], portions[name]), session.device


def _groups(images: Sequence[npt.NDArray[np.uint8]]) -> Iterator[list[npt.NDArray[np.uint8]]]:
    group: list[npt.NDArray[np.uint8]] = []
    pixels = 0
    for image in images:
        pixels += image.shape[0] * image.shape[1]
        if group and pixels > _PIXELS_AT_ONCE:
            yield group
            group, pixels = [], image.shape[0] * image.shape[1]
        group.append(image)
    if group:
        yield group
