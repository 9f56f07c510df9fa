"""Where a checkpoint comes from: the run that made it, and the runs that it started from, oldest first.

A run folder tells more than a checkpoint alone: `done.json` beside it has the machine and the program. A bundled
checkpoint keeps no path of the machine that trained it; `without_paths` puts the recipe's name in its place.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fer_app.errors import ExportError
from training.checkpoint import CheckpointInfo, is_checkpoint, read_info
from training.json_file import read_json
from training.recipe_files import bundled_recipes, load_recipe

_NOT_FILES = ("scratch", "bundled", "timm:", "recipe:")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of `fer train`.

    Attributes:
        name: of its recipe.
        recipe: as the checkpoint has it, with a name where `init` was a path.
        seconds: of all its stages that are known.
        counters: of its last stage: `epochs`, `steps`.
        done: what `done.json` of that stage says; empty where there is none.
    """

    name: str
    recipe: Mapping[str, Any]
    seconds: int
    counters: Mapping[str, int]
    done: Mapping[str, Any]

    @property
    def epochs(self) -> str:
        """How long its last stage was trained, in words."""
        planned = self.recipe[self.recipe["stages"][-1]]["epochs"]
        return f"{self.counters['epochs']} of {planned}"

    def command(self) -> str:
        """Return the line that does the same again, with all that differs from the recipe of that name."""
        words = ["fer", "train", self.name, "--data", "ferplus/"]
        for change in self._changes():
            key, _, value = change.partition("=")
            if key == "init" and value.startswith("recipe:"):
                change = f"init=runs/{value.removeprefix('recipe:')}/finetune/best.safetensors"
            words += ["--set", shlex.quote(change)]
        return " ".join([*words, "--run-dir", f"runs/{self.name}"])

    def _changes(self) -> list[str]:
        if self.name not in bundled_recipes():
            return []
        written = dict(_leaves(json.loads(load_recipe(self.name).to_json())))
        own = dict(_leaves(self.recipe))
        return [
            f"{key}={value if isinstance(value, str) else json.dumps(value)}"
            for key, value in own.items()
            if key in written and value != written[key] and key not in ("name", "summary")
        ]


def lineage(checkpoint: Path, info: CheckpointInfo) -> list[Run]:
    """Follow `init` from a checkpoint to the first run.

    Args:
        checkpoint: a classifier, best where its run has left it.
        info: its header.

    Raises:
        ExportError: a file that a run started from is not there, or is nobody's we know.
        CheckpointError: such a file cannot be read.
    """
    run = checkpoint.parent.parent
    done = {stage: _done(run / stage) for stage in info.recipe["stages"]}
    last = info.recipe["stages"][-1]
    made = Run(
        name=info.recipe.get("name", ""),
        recipe=without_paths(info.recipe),
        seconds=info.counters["seconds"] + sum(done[stage].get("seconds", 0) for stage in done if stage != last),
        counters=info.counters,
        done=done[last] if checkpoint.parent.name == last else {},
    )
    init = info.recipe.get("init", "scratch")
    before = lineage(Path(init), read_info(Path(init))) if _is_file(init) else []
    return [*before, made]


def without_paths(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's recipe with `init = "recipe:NAME"` where it was the path of what NAME has made.

    Raises:
        ExportError: the path leads nowhere, or not to a checkpoint of ours.
    """
    init = recipe.get("init", "scratch")
    return dict(recipe) | ({"init": f"recipe:{read_info(Path(init)).recipe['name']}"} if _is_file(init) else {})


def _is_file(init: str) -> bool:
    if init.startswith(_NOT_FILES):
        return False
    if not is_checkpoint(Path(init)):
        raise ExportError(
            f"the checkpoint started from {init}, which is no checkpoint of ours, or not there: its card could not say "
            "what it is; bundle from the folder in which it was trained"
        )
    return True


def _done(stage: Path) -> dict[str, Any]:
    return read_json(stage / "done.json") or {}


def _leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
