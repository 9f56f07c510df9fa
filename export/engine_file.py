"""Engines of TensorRT and what lies beside each: the contract, and where and with what the engine runs.

`model.fp16.engine` is TensorRT's own; `model.fp16.engine.json` is ours.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from fer_app.atomic_file import replacing
from fer_app.contract import Contract
from fer_app.errors import InputError, ModelContractError, ModelIntegrityError, ModelNotFoundError
from training.evaluation import file_sha256

RECORD_VERSION: Final = 1


class Batches(NamedTuple):
    """The batch sizes of an engine's optimisation profile: it takes `least` to `most`, and is tuned for `usual`."""

    least: int = 1
    usual: int = 32
    most: int = 128

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read three numbers such as `1,32,128`.

        Raises:
            InputError: they are not three whole numbers from 1 on that do not fall.
        """
        parts = text.split(",")
        if len(parts) == 3 and all(part.strip().isdecimal() for part in parts):
            least, usual, most = (int(part) for part in parts)
            if 1 <= least <= usual <= most:
                return cls(least, usual, most)
        raise InputError(f"{text!r} are no batch sizes: give the least, the usual and the most, such as 1,32,128")

    def shapes(self, contract: Contract) -> tuple[tuple[int, ...], ...]:
        """Return the three shapes of a profile for a classifier's input."""
        image = (contract.in_chans, contract.img_size, contract.img_size)
        return tuple((count, *image) for count in self)

    def cut(self, count: int, batch_size: int) -> Iterator[tuple[int, int, int]]:
        """Cut so many pictures into runs.

        Args:
            count: of pictures; may be 0.
            batch_size: at most so many a run, where the engine takes so few.

        Yields:
            The first picture of a run, the one after its last, and the batch that the engine is given, which is filled
            up where the pictures are fewer than it takes.
        """
        step = max(self.least, min(batch_size, self.most))
        for start in range(0, count, step):
            stop = min(start + step, count)
            yield start, stop, max(stop - start, self.least)


@dataclass(frozen=True, kw_only=True)
class EngineRecord:
    """What lies beside an engine.

    Attributes:
        contract: of the classifier; its precision is the engine's.
        tensorrt: the version that built the engine.
        gpu: the name of the GPU that it was built on.
        capability: of that GPU, such as `9.0`.
        batches: what the engine takes.
        sha256: of the engine.
        differences: batch size to largest difference of a logit from the checkpoint's.
        images_per_s: measured when it was built, with the usual batch.
        checkpoint_sha256: of what it was made from.
    """

    contract: Contract
    tensorrt: str
    gpu: str
    capability: str
    batches: Batches
    sha256: str
    differences: dict[int, float]
    images_per_s: float
    checkpoint_sha256: str

    def write(self, engine: Path) -> None:
        """Write it beside an engine."""
        values = dataclasses.asdict(self) | {"record_version": RECORD_VERSION, "batches": self.batches._asdict()}
        with replacing(record_of(engine)) as temporary:
            temporary.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def record_of(engine: Path) -> Path:
    """Return where the record of an engine lies."""
    return engine.with_name(f"{engine.name}.json")


def read_record(engine: Path) -> EngineRecord:
    """Read what lies beside an engine, and see that the engine is the one that it describes.

    Raises:
        ModelNotFoundError: no such engine.
        ModelContractError: nothing lies beside it, or something else.
        ModelIntegrityError: the engine is another one, or damaged.
    """
    if not engine.is_file():
        raise ModelNotFoundError(f"no engine at {engine}")
    path = record_of(engine)
    if not path.is_file():
        raise ModelContractError(
            f"{engine} has no contract beside it ({path.name}): keep both together; fer export --format tensorrt "
            "writes them"
        )
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = values.pop("record_version")
        if version != RECORD_VERSION:
            raise ModelContractError(f"{path} has version {version}, this program reads {RECORD_VERSION}")
        values["contract"] = Contract.from_json(json.dumps(values["contract"]))
        values["batches"] = Batches(**values["batches"])
        values["differences"] = {int(batch): value for batch, value in values["differences"].items()}
        record = EngineRecord(**values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelContractError(f"{path} is no contract of an engine: {error}") from error
    found = file_sha256(engine)
    if found != record.sha256:
        raise ModelIntegrityError(
            f"{engine} is damaged, or not the engine that {path.name} describes: its sha256 is {found}, "
            f"expected {record.sha256}"
        )
    return record
