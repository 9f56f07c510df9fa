"""The facade: pictures in, faces with their expressions out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, TypeAlias, cast, overload

import numpy as np
import numpy.typing as npt

from fer_app.alignment import align_faces, alignable
from fer_app.backends import ONNX, open_classifier
from fer_app.classifier import Classifier
from fer_app.contract import Contract
from fer_app.detection import MtcnnDetector
from fer_app.errors import FerError, InputError
from fer_app.image_io import DEFAULT_MAX_PIXELS, from_pil, read_image
from fer_app.model_store import DEFAULT
from fer_app.quality import face_quality
from fer_app.results import Detections, Faces
from fer_app.session import DEFAULT_GPU, GpuOptions, device_problem, parse_device

if TYPE_CHECKING:
    from PIL.Image import Image

UInt8 = npt.NDArray[np.uint8]
Source: TypeAlias = "str | Path | bytes | BinaryIO | UInt8 | Image"

# The pictures of one chunk are in memory together: 8 Mpx are 24 MB, and ten times that while faces are searched.
_CHUNK_PIXELS = 8_000_000


class Prediction(NamedTuple):
    """One picture and what was found in it.

    Attributes:
        source: as it was given.
        image: uint8, (H, W, 3), RGB, upright.
        faces: the faces, in px of `image`.
    """

    source: Source
    image: UInt8
    faces: Faces


class Recognizer:
    """Finds the faces in pictures and reads their expressions.

    Example:
        >>> from fer_app import Recognizer
        >>> faces = Recognizer().predict("photo.jpg")
        >>> [faces.label(i) for i in range(len(faces))]

    Attributes:
        classifier: reads the expressions.
        detector: finds the faces; None with `detect=False`.
        contract: the classifier's, with the threshold that was asked for.
    """

    def __init__(
        self,
        model: str | Path | Classifier = DEFAULT,
        *,
        device: str = "auto",
        precision: str = "auto",
        backend: str = ONNX,
        batch_size: int = 32,
        min_face_px: float = 40,
        max_faces: int | None = None,
        detect: bool = True,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        uncertain_below: float | None = None,
        threads: int | None = None,
        gpu: GpuOptions = DEFAULT_GPU,
    ) -> None:
        """Load the detector and the classifier.

        Args:
            model: the name of a bundled classifier, the path of an ONNX file or a folder made by `fer export`, or a
                classifier; other backends have their own kinds of files.
            device: `auto`, `cpu`, `cuda`, `cuda:N`, `tensorrt` or `tensorrt:N`; the detector runs on CUDA where the
                classifier runs on TensorRT, because an engine serves one picture size.
            precision: of the classifier, as `fer_app.model_choice.choose_model` takes it.
            backend: what computes the classifier, one of `fer_app.backends.backend_names()`.
            batch_size: at most this many faces are classified, and this many pictures held in memory, at once.
            min_face_px: side in px of the smallest face looked for.
            max_faces: keep only this many faces of a picture, the largest ones; `None` keeps all.
            detect: `False` when every picture is a face crop already.
            max_pixels: a picture file with more is refused before it is decoded.
            uncertain_below: a face whose largest probability is below it is marked uncertain; 0 marks none. `None` is
                the model's own threshold.
            threads: CPU threads; `None` is one per physical core.
            gpu: what is asked of a CUDA device; detector and classifier have half of its memory each.

        Raises:
            InputError: an argument out of its range, or the device does not have what `gpu` asks for.
            MissingExtraError: the backend needs a package that is not installed.
            ModelError: the model is not found, damaged, or has no fitting contract; the device cannot be used.
        """
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}, must be at least 1")
        if uncertain_below is not None and not 0 <= uncertain_below <= 1:
            raise InputError(f"uncertain_below is {uncertain_below}, must be 0 to 1")
        share = gpu.share(2) if detect else gpu
        if isinstance(model, str | Path):
            model = open_classifier(
                model,
                backend=backend,
                device=device,
                precision=precision,
                batch_size=batch_size,
                threads=threads,
                gpu=share,
            )
        self.classifier: Classifier = model
        self.contract: Contract = model.contract
        if uncertain_below is not None:
            self.contract = model.contract.replace(uncertain_below=uncertain_below)
        self.detector: MtcnnDetector | None = None
        if detect:
            self.detector = MtcnnDetector(
                min_face_px=min_face_px,
                max_faces=max_faces,
                steady=True,
                device=detector_device(device, backend),
                threads=threads,
                gpu=share,
            )
        self._batch_size = batch_size
        self._max_pixels = max_pixels

    @overload
    def predict(self, source: list[Source] | tuple[Source, ...]) -> list[Faces]: ...

    @overload
    def predict(self, source: Source) -> Faces: ...

    def predict(self, source: Source | list[Source] | tuple[Source, ...]) -> Faces | list[Faces]:
        """Read the expressions in one picture or in several.

        Args:
            source: a path, a file's bytes, an open binary file, a uint8 RGB array (H, W, 3), a grey one (H, W), a PIL
                image, or a list of any of these. Files and PIL images are turned upright first.

        Returns:
            The faces of the picture, largest first; for a list, one `Faces` a picture, in its order. A picture without
            a face is a `Faces` of length 0, not an error.

        Raises:
            InputError: a source that is no picture; with a list, nothing is returned then (see `predict_many`).
            ModelError: the device failed.
        """
        if isinstance(source, list | tuple):
            return [prediction.faces for prediction in self.predict_many(source)]
        (prediction,) = self.predict_many([source])
        return prediction.faces

    def predict_many(
        self, sources: Iterable[Source], *, on_error: Callable[[Source, FerError], None] | None = None
    ) -> Iterator[Prediction]:
        """Read the expressions in any number of pictures, a chunk in memory at a time.

        Args:
            sources: as `predict` takes them; read as needed, so it may be endless.
            on_error: called with a source that cannot be read and the reason; the rest goes on. `None` raises.

        Yields:
            One prediction a readable picture, in the order of the sources.

        Raises:
            InputError: a source that is no picture, and `on_error` is None.
            ModelError: the device failed.
        """
        chunk: list[tuple[Source, str, UInt8]] = []
        pixels = 0
        for source in sources:
            try:
                name, image = self._read(source)
            except FerError as error:
                if on_error is None:
                    raise
                on_error(source, error)
                continue
            area = image.shape[0] * image.shape[1]
            if chunk and (len(chunk) == self._batch_size or pixels + area > _CHUNK_PIXELS):
                yield from self._predict_chunk(chunk)
                chunk, pixels = [], 0
            chunk.append((source, name, image))
            pixels += area
        yield from self._predict_chunk(chunk)

    def predict_images(self, images: Sequence[UInt8], names: Sequence[str]) -> list[Faces]:
        """Read the expressions in decoded pictures, all in one batch.

        Args:
            images: uint8, (H, W, 3) each, RGB; sizes may differ.
            names: what `Faces.source` says for each.

        Raises:
            ModelError: the device failed.
        """
        return self.classify(images, self.detect(images), names)

    def detect(self, images: Sequence[UInt8]) -> list[Detections]:
        """Find the faces in decoded pictures; without a detector, every picture is one.

        A detection is left out when its landmarks cannot be moved onto the model's crop at all, because they coincide
        or are in no order of a face: it is no face that anybody could read, and must not end a run.

        Args:
            images: uint8, (H, W, 3) each, RGB; sizes may differ.

        Raises:
            ModelError: the device failed.
        """
        if self.detector is None:
            return [Detections.whole_picture(image.shape[1], image.shape[0]) for image in images]
        crop = self.contract.crop
        return [one[alignable(one.landmarks, crop)] for one in self.detector.detect(images)]

    def follow(self, image: UInt8, expected: npt.NDArray[np.float32]) -> Detections:
        """Find again faces whose place is about known; several times as fast as `detect`.

        Args:
            image: uint8, (H, W, 3), RGB.
            expected: float32, (N, 4), x0 y0 x1 y1 in px, where faces should be.

        Returns:
            Those of the N faces that are there, as `detect` gives them.

        Raises:
            ModelError: the device failed.
        """
        if self.detector is None:
            return Detections.whole_picture(image.shape[1], image.shape[0])
        found = self.detector.follow(image, expected)
        return found[alignable(found.landmarks, self.contract.crop)]

    def classify(self, images: Sequence[UInt8], found: Sequence[Detections], names: Sequence[str]) -> list[Faces]:
        """Read the expressions of faces that were found.

        Args:
            images: uint8, (H, W, 3) each, RGB; sizes may differ.
            found: what `detect` gave for each.
            names: what `Faces.source` says for each.

        Raises:
            ModelError: the device failed.
        """
        if not images:
            return []
        if self.detector is None:
            probs = self.classifier.probs(list(images))
        else:
            img_size, crop = self.contract.img_size, self.contract.crop
            crops = [
                align_faces(image, one.landmarks, img_size=img_size, crop=crop)
                for image, one in zip(images, found, strict=True)
            ]
            probs = self.classifier.probs(np.concatenate(crops))
        ends = np.cumsum([len(one) for one in found])
        per_picture = np.split(probs, ends[:-1])
        return [self._faces(*columns) for columns in zip(names, images, found, per_picture, strict=True)]

    def _predict_chunk(self, chunk: list[tuple[Source, str, UInt8]]) -> Iterator[Prediction]:
        results = self.predict_images([image for _, _, image in chunk], [name for _, name, _ in chunk])
        for (source, _, image), faces in zip(chunk, results, strict=True):
            yield Prediction(source, image, faces)

    def _faces(self, name: str, image: UInt8, found: Detections, probs: npt.NDArray[np.float32]) -> Faces:
        return Faces(
            source=name,
            width=image.shape[1],
            height=image.shape[0],
            detections=found,
            probs=probs,
            labels=self.contract.labels,
            uncertain=probs.max(axis=1, initial=0.0) < self.contract.uncertain_below,
            quality=face_quality(image, found),
        )

    def _read(self, source: Source) -> tuple[str, UInt8]:
        """Return the name and the upright RGB pixels of any kind of source."""
        if isinstance(source, np.ndarray):
            return "<array>", _from_array(source)
        if isinstance(source, str | Path):
            return str(source), read_image(source, max_pixels=self._max_pixels)
        if isinstance(source, bytes):
            return "<bytes>", read_image(source, max_pixels=self._max_pixels)
        if hasattr(source, "read"):
            file = cast("BinaryIO", source)
            return str(getattr(file, "name", "<stream>")), read_image(file, max_pixels=self._max_pixels)
        return _from_pil(source)


def detector_device(device: str, backend: str = ONNX) -> str:
    """Return where the detector runs when the classifier runs on `device`: on CUDA instead of TensorRT.

    It is ONNX Runtime's whatever the classifier's backend is: a GPU that only the latter can use is left to that.

    Raises:
        InputError: no such device name.
    """
    asked = parse_device(device)
    chosen = str(asked._replace(kind="cuda") if asked.kind == "tensorrt" else asked)
    return "cpu" if backend != ONNX and device_problem(chosen) else chosen


def _from_array(array: npt.NDArray[np.generic]) -> UInt8:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,)) or 0 in array.shape:
        raise InputError(f"an array of {array.dtype} {array.shape} is no picture; expected uint8 (H, W, 3) or (H, W)")
    pixels = array.astype(np.uint8, copy=False)
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


def _from_pil(source: object) -> tuple[str, UInt8]:
    from PIL import Image

    if not isinstance(source, Image.Image):
        kind = type(source).__name__
        raise InputError(f"{kind} is no picture; expected a path, bytes, a binary file, an array or a PIL image")
    return str(getattr(source, "filename", "")) or "<image>", from_pil(source)
