"""The classifiers that the page offers, each loaded when it is first chosen."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path

from fer_app.classifier import Classifier, OnnxClassifier
from fer_app.errors import InputError
from fer_app.model_choice import choose_model
from fer_app.model_store import DEFAULT, ModelEntry, bundled_models, find_bundled
from fer_app.recognizer import Recognizer

# Detectors of so many different settings are kept; each has three small networks.
_KEPT_RECOGNIZERS = 4


class ModelShelf:
    """Gives recognizers by the name of their classifier; may be asked from any thread.

    Attributes:
        names: of the classifiers, in the order in which they are offered.
    """

    def __init__(
        self, models: Sequence[str], *, device: str, max_pixels: int, uncertain_below: float | None = None
    ) -> None:
        """Find the files; the first classifier is loaded, so that what is wrong shows at once.

        Args:
            models: names or paths; `default` also offers all others that are bundled.
            device: as `fer_app.session.open_session` takes it.
            max_pixels: a picture file with more is refused.
            uncertain_below: less probable labels are uncertain; None for each model's own threshold.

        Raises:
            InputError: two files have the same name, or the threshold is none.
            ModelError: one is not found or damaged.
        """
        self._device, self._max_pixels, self._uncertain_below = device, max_pixels, uncertain_below
        self._files: dict[str, Path] = {}
        self._entries: dict[str, ModelEntry] = {}
        for model in models:
            self._add(model)
        if DEFAULT in models:
            for entry in bundled_models():
                if entry.name not in self._files:
                    self._add(entry.name)
        self.names = tuple(self._files)
        self._lock = threading.Lock()
        self._classifiers: dict[str, Classifier] = {}
        self._recognizers: dict[tuple[str, float, int | None], Recognizer] = {}
        self.recognizer(self.names[0])

    def _add(self, model: str) -> None:
        entry = find_bundled(model)
        name = entry.name if entry else Path(model).stem
        if entry and self._entries.get(name) == entry:  # named twice, by its name and by its role perhaps
            return
        if name in self._files:
            raise InputError(f"two models are called {name!r}; rename one of the files")
        self._files[name] = choose_model(model, device=self._device)
        if entry:
            self._entries[name] = entry

    def title(self, name: str) -> str:
        """Give the name of a classifier with its role, and whether it is the default.

        Args:
            name: one of `names`.
        """
        return self._entries[name].title if name in self._entries else name

    def named(self, name: str) -> str:
        """Give that one of `names` which somebody means.

        Args:
            name: it, or a bundled model's role, title, or `default`.

        Raises:
            InputError: no such name.
        """
        if name in self._files:
            return name
        for own, entry in self._entries.items():
            if entry.is_called(name) or entry.title == name:
                return own
        raise InputError(f"there is no model {name!r} here; there are: {', '.join(map(self.title, self._files))}")

    def recognizer(self, name: str, *, min_face_px: float = 40, max_faces: int | None = None) -> Recognizer:
        """Give the recognizer of a classifier.

        Args:
            name: as `named` takes it.
            min_face_px: smallest face looked for, px.
            max_faces: only the largest so many faces of a picture.

        Raises:
            InputError: no such name, or a setting out of its range.
            ModelError: the file cannot be used.
        """
        name = self.named(name)
        key = name, min_face_px, max_faces
        with self._lock:
            if key not in self._recognizers:
                if name not in self._classifiers:
                    self._classifiers[name] = OnnxClassifier(self._files[name], device=self._device)
                while len(self._recognizers) >= _KEPT_RECOGNIZERS:
                    del self._recognizers[next(iter(self._recognizers))]
                self._recognizers[key] = Recognizer(
                    self._classifiers[name],
                    device=self._device,
                    min_face_px=min_face_px,
                    max_faces=max_faces,
                    max_pixels=self._max_pixels,
                    uncertain_below=self._uncertain_below,
                )
            return self._recognizers[key]

    def sha256(self, name: str) -> str:
        """Give the digest of a classifier's file, in hexadecimal.

        Args:
            name: as `named` takes it.

        Raises:
            InputError: no such name.
        """
        with self._files[self.named(name)].open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def card(self, name: str) -> dict[str, str]:
        """Say what is known of a classifier, in words by title; what is not known is left out.

        Args:
            name: one of `names`.

        Raises:
            InputError: no such name.
            ModelError: the file cannot be used.
        """
        contract = self.recognizer(name).contract
        entry = self._entries.get(name)
        metrics = dict(contract.metrics) or (dict(entry.metrics) if entry else {})
        accuracy = [
            f"{100 * value:.2f} % ({key.removesuffix('_accuracy').replace('_', ' ')})"
            for key, value in metrics.items()
            if key.endswith("_accuracy") and not key.endswith("_mean_class_accuracy")
        ]
        known = {
            "Accuracy": ", ".join(accuracy),
            "Licence": contract.license or (entry.license if entry else ""),
            "Trained on": entry.training_data if entry else "",
            "Date": entry.date if entry else "",
            "Uncertain": f"labels below {contract.uncertain_below:.1%}" if contract.uncertain_below else "never",
            "Labels": ", ".join(contract.labels),
            "Input": f"{contract.img_size} x {contract.img_size} px, {contract.color_mode}, {contract.precision}",
            "File": f"{self._files[name].name}, {self._files[name].stat().st_size / 1e6:.1f} MB",
        }
        return {title: text for title, text in known.items() if text}
