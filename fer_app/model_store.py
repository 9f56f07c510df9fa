"""The bundled weights: what there is, and whether each file is what the manifest says."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import tomllib
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, get_args

from fer_app.contract import Precision
from fer_app.errors import ModelIntegrityError, ModelNotFoundError

DEFAULT = "default"
WEIGHTS = Path(__file__).resolve().parent / "weights"
MANIFEST = "manifest.toml"
ROLES: Final = ("fast", "accurate")
"""What a bundled classifier may be chosen for; each role is a name for at most one of them."""


@dataclass(frozen=True, kw_only=True)
class BundledFile:
    """One file of the manifest.

    Attributes:
        name: what it is called, as in `--model NAME`.
        file: its path inside `fer_app/weights`, with forward slashes.
        sha256: the digest of its bytes, in hexadecimal.
        license: one line.
    """

    name: str
    file: str
    sha256: str
    license: str

    @property
    def path(self) -> Path:
        """Where the file lies."""
        return WEIGHTS / self.file


@dataclass(frozen=True, kw_only=True)
class DetectorEntry(BundledFile):
    """A network of the face detector; `source` says where its weights come from."""

    source: str = ""


@dataclass(frozen=True, kw_only=True)
class VariantEntry(BundledFile):
    """The same classifier in another arithmetic.

    Attributes:
        precision: which; the model's own file is float32.
        contract_sha256: `Contract.digest` of the contract inside the file.
        metrics: what was measured again with this file.
    """

    precision: Precision
    contract_sha256: str
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class ModelEntry(BundledFile):
    """A bundled classifier.

    Attributes:
        contract_sha256: `Contract.digest` of the contract inside the file.
        role: one of `ROLES`, by which it may be called too; empty for none.
        default: taken when the user names no model; exactly one is.
        training_data: one line.
        card: the page that describes it, a file beside its own.
        date: when it was bundled, year-month-day.
        metrics: measured shares, e.g. `{"ferplus_valid_accuracy": 0.85}`.
        variants: the same in other arithmetics; tables [[model.variant]] in the manifest.
    """

    contract_sha256: str
    role: str = ""
    default: bool = False
    training_data: str = ""
    card: str = ""
    date: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    variants: tuple[VariantEntry, ...] = ()

    def is_called(self, name: str | Path) -> bool:
        """Whether a user who says `name` means this one: by its name, its role, or as the default."""
        return name == self.name or (bool(self.role) and name == self.role) or (self.default and name == DEFAULT)

    @property
    def title(self) -> str:
        """Its name, with its role and whether it is the default."""
        notes = ", ".join([self.role] * bool(self.role) + [DEFAULT] * self.default)
        return f"{self.name} ({notes})" if notes else self.name


def bundled_models() -> tuple[ModelEntry, ...]:
    """Return the bundled classifiers, in the order of the manifest; there may be none.

    Raises:
        ModelIntegrityError: the manifest is missing or damaged.
    """
    return tuple(_model(**values) for values in _manifest(WEIGHTS / MANIFEST)["model"])


def find_bundled(name: str | Path = DEFAULT) -> ModelEntry | None:
    """Return the bundled classifier that a name, a role or `default` means; None where it is something else.

    Raises:
        ModelIntegrityError: the manifest is missing or damaged.
    """
    return next((entry for entry in bundled_models() if entry.is_called(name)), None)


def bundled_titles() -> str:
    """Return the bundled classifiers in words, for messages."""
    return ", ".join(entry.title for entry in bundled_models()) or "none"


def is_bundled_name(name: str | Path) -> bool:
    """Whether a bundled classifier is meant, and no file: by a name, `default`, or a role, were there none of it.

    Raises:
        ModelIntegrityError: the manifest is missing or damaged.
    """
    return name in ROLES or find_bundled(name) is not None


def read_card(name: str = DEFAULT) -> str:
    """Return the page that describes a bundled classifier, as Markdown.

    Args:
        name: its name or role, or `default`.

    Raises:
        ModelNotFoundError: no such model is bundled, or its page is missing.
        ModelIntegrityError: the manifest is missing or damaged.
    """
    entry = find_bundled(name)
    if entry is None:
        raise _not_found(name)
    try:
        return (WEIGHTS / entry.card).read_text(encoding="utf-8")
    except OSError as error:
        raise ModelNotFoundError(
            f"the card of {entry.name} cannot be read: {error}; install fer-mimic again"
        ) from error


def bundled_detectors() -> tuple[DetectorEntry, ...]:
    """Return the networks of the face detector.

    Raises:
        ModelIntegrityError: the manifest is missing or damaged.
    """
    return tuple(DetectorEntry(**values) for values in _manifest(WEIGHTS / MANIFEST)["detector"])


def resolve_model(name_or_path: str | Path = DEFAULT) -> Path:
    """Find a classifier's file; a bundled one is verified, once per process.

    Args:
        name_or_path: `default`, the name or role of a bundled classifier, or the path of an ONNX file.

    Raises:
        ModelNotFoundError: neither a bundled name nor a file.
        ModelIntegrityError: the bundled file is not the one that the manifest describes.
    """
    entry = find_bundled(name_or_path)
    if entry is not None:
        return verify(entry)
    path = Path(name_or_path)
    if path.is_file():
        return path
    raise _not_found(name_or_path)


def _not_found(name: str | Path) -> ModelNotFoundError:
    """Say that a model is neither bundled nor a file, and what is there instead."""
    if name == DEFAULT:
        return ModelNotFoundError("no classifier is bundled with this version; name a file with --model MODEL.onnx")
    if name in ROLES:
        return ModelNotFoundError(
            f"no model of the role {name!r} is bundled with this version; there are: {bundled_titles()}"
        )
    return ModelNotFoundError(
        f"no model {str(name)!r}: there is no such file, and the bundled ones are: {bundled_titles()}"
    )


def resolve_detector(name: str) -> Path:
    """Find the file of one of the detector's networks, verified once per process.

    Args:
        name: such as `mtcnn-pnet`.

    Raises:
        ModelNotFoundError: the manifest has no such network, or its file is missing.
        ModelIntegrityError: the file is not the one that the manifest describes.
    """
    for entry in bundled_detectors():
        if entry.name == name:
            return verify(entry)
    raise ModelNotFoundError(f"no network {name!r} of a face detector is bundled with this version")


def verify(entry: BundledFile) -> Path:
    """Return the file of an entry after comparing its sha256 with the manifest's, once per process.

    Raises:
        ModelNotFoundError: the file is missing.
        ModelIntegrityError: the digests differ.
    """
    return _verified(entry.path, entry.sha256)


@functools.cache
def _verified(path: Path, sha256: str) -> Path:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"the bundled file {path} is missing; install fer-mimic again") from error
    if found != sha256:
        raise ModelIntegrityError(
            f"the bundled file {path} is damaged: its sha256 is {found}, expected {sha256}; install fer-mimic again"
        )
    return path


def _model(*, name: str, license: str, variant: list[dict[str, Any]], **values: Any) -> ModelEntry:
    variants = tuple(VariantEntry(name=name, license=license, **other) for other in variant)
    return ModelEntry(name=name, license=license, variants=variants, **values)


@functools.cache
def _manifest(path: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        with path.open("rb") as file:
            tables = tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ModelIntegrityError(f"{path}: {error}; install fer-mimic again") from error
    kinds: dict[str, type[BundledFile]] = {"model": ModelEntry, "detector": DetectorEntry}
    problems = [f"unknown table {name}" for name in sorted(tables.keys() - kinds.keys())]
    for table, kind in kinds.items():
        for values in tables.setdefault(table, []):
            label = f"{table} {values.get('name', '?')}"
            others = values.setdefault("variant", []) if table == "model" else []
            problems += _wrong_keys(label, kind, values.keys() - {"variant"}, elsewhere={"variants"})
            for other in others:
                problems += _wrong_keys(f"{label}, variant", VariantEntry, other.keys(), elsewhere={"name", "license"})
                if other.get("precision") not in get_args(Precision):
                    problems.append(f"{label}, variant: precision is {other.get('precision')!r}")
    models = tables["model"]
    if models and sum(bool(values.get("default")) for values in models) != 1:
        problems.append("exactly one model must have default = true")
    problems += _wrong_roles(models)
    if problems:
        raise ModelIntegrityError(f"{path}: {'; '.join(problems)}")
    return tables


def _wrong_roles(models: list[dict[str, Any]]) -> list[str]:
    """Say which roles do not exist, or are given twice; a name must not be a role, which could mean another model."""
    roles = [values["role"] for values in models if "role" in values]
    problems = [f"no such role: {role!r}" for role in roles if role not in ROLES]
    problems += [f"two models have the role {role!r}" for role in ROLES if roles.count(role) > 1]
    return problems + [f"model {name}: that is a role" for name in ROLES if name in [m.get("name") for m in models]]


def _wrong_keys(label: str, kind: type[BundledFile], keys: Set[str], elsewhere: Set[str]) -> list[str]:
    """Say which keys of a table are unknown or missing; fields of `elsewhere` are not expected in it."""
    fields = {f.name: f for f in dataclasses.fields(kind) if f.name not in elsewhere}
    required = {
        name
        for name, f in fields.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    unknown = [f"{label}: unknown key {key}" for key in sorted(keys - fields.keys())]
    return unknown + [f"{label}: {key} is missing" for key in sorted(required - keys)]
