"""Where a checkpoint comes from: the run that made it, and the runs that it started from, oldest first.

An ensemble comes from the runs of its members, and from their being joined; a run with teachers from theirs too; what
was balanced from what it was before.

A run folder tells more than a checkpoint alone: `done.json` beside it has the machine and the program. A bundled
checkpoint keeps no path of the machine that trained it; `without_paths` puts the recipe's name in its place, and what
was known of its runs stays in its header, so that what is trained on from a copy of it can tell them too.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fer_app.errors import CheckpointError, ExportError
from training.balance import BALANCED
from training.checkpoint import CheckpointInfo, is_checkpoint, read_info
from training.ensemble import ENSEMBLE
from training.json_file import read_json
from training.recipe_files import bundled_recipes, load_recipe

# What is said in the place of a file: these words, and what begins so.
_WORDS = ("scratch", "bundled")
_PREFIXES = ("bundled:", "timm:", "recipe:")


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
    def origins(self) -> Sequence[str]:
        """What it was made from, as the recipe names it: `init`, and teachers."""
        return _origins(self.recipe)

    def told(self) -> Iterator[str]:
        """Say in lines of Markdown what it was trained on, for how long, and where."""
        stage = self.recipe[self.recipe["stages"][-1]]
        faces = f"FERPlus {stage.get('split', 'train-main')}" + (f" ({stage['votes']})" if "votes" in stage else "")
        epochs = f"{self.counters['epochs']} of {stage['epochs']} epochs"
        steps = f"{self.counters['steps']} steps" + (f" of {self._processes} processes" if self._processes > 1 else "")
        yield f"- `{self.name}`: {faces}, seed {self.recipe['seed']}; {epochs}, {steps},"
        if teachers := _teachers(self.recipe):
            named = ", ".join(f"`{teacher.removeprefix('recipe:')}`" for teacher in teachers)
            yield f"  {self.recipe['finetune']['distill']['weight']:.0%} of the targets are the answers of {named};"
        machine, program = (self.done.get(key, "not recorded") for key in ("machine", "program"))
        yield f"  {self.seconds / 3600:.2f} hours. Machine: {machine}. Program: {program}."

    def command(self) -> str:
        """Return the line that does the same again, with all that it sets otherwise than the recipe of that name."""
        words = ["fer", "train", self.name, "--data", "ferplus/"]
        for change in self._changes():
            words += ["--set", shlex.quote(change)]
        if self._processes > 1:
            words += ["--devices", str(self._processes)]
        return " ".join([*words, "--run-dir", f"runs/{self.name}"])

    @property
    def _processes(self) -> int:
        """How many shared each step, which the batch and the learning rate grow with; older runs do not tell."""
        return int(self.done.get("processes", 1))

    def _changes(self) -> list[str]:
        if self.name not in bundled_recipes():
            return []
        written = dict(_leaves(json.loads(load_recipe(self.name).to_json())))
        own = {key: _typed(value) for key, value in _leaves(self.recipe) if key not in ("name", "summary")}
        return [
            f"{key}={value if isinstance(value, str) else json.dumps(value)}"
            for key, value in own.items()
            if key not in written or value != written[key]
        ]


@dataclass(frozen=True)
class Joining:
    """One `fer ensemble`.

    Attributes:
        name: of its file, where there is more than one.
        members: the recipes that its members were trained by; `bundled:NAME` of a bundled model, which has a card
            itself.
        mirrored: whether they see mirror images too.
    """

    name: str
    members: Sequence[str]
    mirrored: bool = False

    @property
    def origins(self) -> Sequence[str]:
        """What it was made from: its members."""
        return self.members

    def told(self) -> Iterator[str]:
        """Say in lines of Markdown what was joined."""
        members = ", ".join(map(_with_card, self.members))
        file = "" if self.name == ENSEMBLE else f" ({self.name})"
        seen = ", of each face and its mirror image" if self.mirrored else ""
        yield f"- `fer ensemble`{file}: the mean of the calibrated logits of {members}{seen}."

    def command(self) -> str:
        """Return the line that does the same again."""
        files = " ".join(_bundled(name) or _made_by(name) for name in self.members)
        seen = " --mirrored" if self.mirrored else ""
        return f"fer ensemble {files}{seen} --data ferplus/ -o {_made_by(self.name)}"


@dataclass(frozen=True)
class Balancing:
    """One `fer balance`.

    Attributes:
        name: of the recipe of what it made.
        of: the recipe that made what was balanced; `bundled:NAME` of a bundled model, which has a card itself.
        tau: how far.
    """

    name: str
    of: str
    tau: float

    @property
    def origins(self) -> Sequence[str]:
        """What it was made from."""
        return [self.of]

    def told(self) -> Iterator[str]:
        """Say in lines of Markdown what was done."""
        of = _with_card(self.of)
        yield f"- `fer balance`: rare classes of {of} lifted by the bias of the head, tau {self.tau:g}."

    def command(self) -> str:
        """Return the line that does the same again."""
        of = _bundled(self.of) or _made_by(self.of)
        return f"fer balance {of} --tau {self.tau:g} --data ferplus/ -o {_made_by(self.name)}"


Step = Run | Joining | Balancing
"""What made a checkpoint, or something that it comes from."""


def lineage(checkpoint: Path, info: CheckpointInfo, above: frozenset[Path] = frozenset()) -> list[Step]:
    """Follow `init` and teachers from a checkpoint to the first runs, an ensemble to its members', each told once.

    Where a header has it already, it is that.

    Args:
        checkpoint: a classifier, best where its run has left it.
        info: its header.
        above: resolved files that it was followed to from.

    Raises:
        ExportError: a file that a run started from is not there, is nobody's we know, or was overwritten by what was
            made from it.
        CheckpointError: such a file cannot be read.
    """
    if checkpoint.resolve() in above:
        raise ExportError(f"{checkpoint} comes from itself: what it was made from was overwritten")
    if info.lineage:
        return [_from_json(step, checkpoint) for step in info.lineage]
    above |= {checkpoint.resolve()}
    if BALANCED in info.recipe:
        done = info.recipe[BALANCED]
        before = _before([Path(done["of"])] if _is_file(done["of"]) else [], above)
        return [*before, Balancing(info.recipe["name"], _portable(done["of"]).removeprefix("recipe:"), done["tau"])]
    if "members" in info.recipe:
        members = info.recipe["members"]
        names = [_portable(member).removeprefix("recipe:") for member in members]
        before = _before([Path(member) for member in members if _is_file(member)], above)
        return [*before, Joining(_recipe_name(checkpoint), names, bool(info.recipe.get("mirrored", False)))]
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
    return [*_before([Path(file) for file in _origins(info.recipe) if _is_file(file)], above), made]


def as_json(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """Return a lineage as a checkpoint's header keeps it."""
    return [dataclasses.asdict(step) for step in steps]


def _from_json(step: dict[str, Any], checkpoint: Path) -> Step:
    kind = Joining if "members" in step else Balancing if "tau" in step else Run
    try:
        return kind(**step)
    except TypeError as error:
        raise CheckpointError(f"{checkpoint} has a lineage that is not ours: {error}") from error


def _before(checkpoints: Sequence[Path], above: frozenset[Path]) -> list[Step]:
    """Return what has made any of these, each step once."""
    steps = [step for checkpoint in checkpoints for step in lineage(checkpoint, read_info(checkpoint), above)]
    return list({step.command(): step for step in steps}.values())


def without_paths(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's recipe with `recipe:NAME` where it had the path of what NAME has made.

    Paths are in `init`, in `members`, in the teachers of `finetune.distill` and in what was balanced. That of MimCo's
    teacher stays.

    Raises:
        ExportError: a path leads nowhere, or not to a checkpoint of ours.
    """
    if BALANCED in recipe:
        before = {name: value for name, value in recipe.items() if name != BALANCED}
        told = recipe[BALANCED] | {"of": _portable(recipe[BALANCED]["of"])}
        return without_paths(before) | {BALANCED: told}
    if "members" in recipe:
        return dict(recipe) | {"members": [_portable(member) for member in recipe["members"]]}
    told = dict(recipe) | ({"init": _portable(recipe["init"])} if "init" in recipe else {})
    if teachers := [_portable(teacher) for teacher in _teachers(recipe)]:
        told["finetune"] = told["finetune"] | {"distill": told["finetune"]["distill"] | {"teachers": teachers}}
    return told


def _origins(recipe: Mapping[str, Any]) -> list[str]:
    return [recipe.get("init", "scratch"), *_teachers(recipe)]


def _teachers(recipe: Mapping[str, Any]) -> list[str]:
    """Return the classifiers that taught beside the labels, as the recipe names them."""
    if "finetune" not in recipe.get("stages", ()):
        return []
    distill = recipe["finetune"].get("distill") or {}
    return list(distill.get("teachers", ()))


def _typed(value: Any) -> Any:
    """Return a value as a command has it: in the place of `recipe:NAME` the file that NAME's command writes."""
    if isinstance(value, list):
        return [_typed(item) for item in value]
    if isinstance(value, str) and value.startswith("recipe:"):
        return _made_by(value.removeprefix("recipe:"))
    return value


def _made_by(name: str) -> str:
    """Return the file that the command of a recipe, the ensemble's, or what balances writes."""
    return (
        f"runs/{name}.safetensors"
        if _is_ensemble(name) or name.endswith(f"_{BALANCED}")
        else f"runs/{name}/finetune/best.safetensors"
    )


def _bundled(member: str) -> str:
    """Return the name in `bundled:NAME`, or nothing."""
    kind, _, name = member.partition(":")
    return name if kind == "bundled" else ""


def _with_card(member: str) -> str:
    name = _bundled(member)
    return f"`{name}` ([bundled]({name}.md))" if name else f"`{member}`"


def _portable(file: str) -> str:
    return f"recipe:{_recipe_name(Path(file))}" if _is_file(file) else file


def _recipe_name(checkpoint: Path) -> str:
    """Return the recipe of a checkpoint; of an ensemble `ensemble`, or `ensemble_2` if its file is called so."""
    name = str(read_info(checkpoint).recipe["name"])
    return checkpoint.stem if name == ENSEMBLE and _is_ensemble(checkpoint.stem) else name


def _is_ensemble(name: str) -> bool:
    return re.fullmatch(rf"{ENSEMBLE}(_\d+)?", name) is not None


def _is_file(init: str) -> bool:
    if init in _WORDS or init.startswith(_PREFIXES):
        return False
    if not is_checkpoint(Path(init)):
        raise ExportError(
            f"the checkpoint comes from {init}, which is no checkpoint of ours, or not there: its card could not say "
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
