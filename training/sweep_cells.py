"""A folder of recipes as cells: which runs it means, in which order, and what each of them has come to."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any

from fer_app.errors import ConfigError
from training.data.splits import Split, share_faces
from training.next_step import scored_split
from training.recipe import Recipe
from training.recipe_files import bundled_recipes, load_recipe
from training.run_folder import RunFolder

_STAGES = ("pretrain", "finetune")


@dataclass(frozen=True, eq=False)
class Cell:
    """One run of a sweep.

    Attributes:
        name: the recipe's file below the folder, without its suffix.
        recipe: with the cell's seed.
        run_dir: an ordinary run folder, see `training.run_folder`.
        start: the cell whose encoder this one starts from, where its `init` or its teacher is another recipe's.
        split: what it is scored on, if it can be.
    """

    name: str
    recipe: Recipe
    run_dir: Path
    start: Cell | None = None
    split: Split = "valid"

    @property
    def title(self) -> str:
        """What messages call it."""
        return f"{self.name} seed {self.recipe.seed}"

    @property
    def only_pretrains(self) -> bool:
        """Whether it makes an encoder, which cannot be scored."""
        return self.recipe.stages[-1] == "pretrain"

    @property
    def checkpoint(self) -> Path:
        """What the last stage made: the best, where it selects."""
        return self._stages[-1].made

    @property
    def holds_run(self) -> bool:
        """Whether its folder holds a run, begun or done, of whatever recipe."""
        return self._run.holds_run

    @property
    def diverged(self) -> bool:
        """Whether its loss was no longer finite when it was last run."""
        return any(stage.diverged.is_file() for stage in self._stages)

    def refuse_another_recipe(self) -> None:
        """See that the run in the folder, if there is one, is of this recipe.

        Raises:
            CheckpointError: it is not, or cannot be read.
        """
        self._run.refuse_another_recipe(self.recipe.to_json(), instead="move it away, or pass another --output")

    def summaries(self) -> list[dict[str, Any]] | None:
        """Return what each stage left when it was done; None while one is not.

        Raises:
            CheckpointError: a file is damaged.
        """
        found = []
        for stage in self._stages:
            summary = stage.summary()
            if summary is None:
                return None
            found.append(summary)
        return found

    @property
    def _run(self) -> RunFolder:
        return RunFolder(self.run_dir, make=False)

    @property
    def _stages(self) -> list[RunFolder]:
        return [RunFolder(self.run_dir / stage, make=False) for stage in self.recipe.stages]


def bundled_folders() -> dict[str, int]:
    """Return the folders that ship with the package, and how many recipes lie in and below each."""
    folders: dict[str, int] = {}
    for name in bundled_recipes():
        for parent in PurePosixPath(name).parents:
            if parent.name:
                folders[parent.as_posix()] = folders.get(parent.as_posix(), 0) + 1
    return folders


def plan(
    folder: str, out: Path, seeds: int, overrides: list[str] | None = None, split: Split | None = None
) -> list[Cell]:
    """Return the cells of a folder in the order in which they run.

    All recipes with their first seed come first, then all with their second; a recipe whose encoder another one starts
    from comes before it. Recipes that only pre-train run once.

    Args:
        folder: a folder with recipes in and below it, or the name of a bundled one.
        out: the cell of recipe R and seed S gets the folder `out/R/seed-S`.
        seeds: so many, counted from the recipe's own.
        overrides: `table.key=value` for every recipe; one of a stage's table for those that have the table.
        split: what models are scored on; None for what `training.next_step.scored_split` takes for each.

    Raises:
        ConfigError: no such folder, recipes with problems, or ones that are trained on what they would be scored on;
            all of them in one message.
    """
    recipes = _load(_files(folder), overrides or [])
    before = {name: _beside(name, recipe) for name, recipe in recipes.items()}
    splits = {name: _split(recipe, split) for name, recipe in recipes.items()}
    if problems := _problems(recipes, before) + _trained_on(recipes, splits):
        raise ConfigError("; ".join(problems))
    cells: dict[tuple[str, int], Cell] = {}

    def add(name: str, turn: int) -> Cell:
        recipe, start = recipes[name], before[name]
        if (name, turn) not in cells:
            first = None if start is None else add(start, 0)
            seeded = recipe.model_copy(update={"seed": recipe.seed + turn})
            cells[name, turn] = Cell(name, seeded, out / name / f"seed-{seeded.seed}", first, splits[name])
        return cells[name, turn]

    for turn in range(seeds):
        for name, recipe in recipes.items():
            if turn == 0 or recipe.stages[-1] != "pretrain":
                add(name, turn)
    return list(cells.values())


def _files(folder: str) -> dict[str, str]:
    """Return what `load_recipe` takes for each recipe of a folder, by its path below the folder without the suffix."""
    bundled = {path.resolve(): name for name, path in bundled_recipes().items()}
    is_bundled = folder.strip("/") in bundled_folders()
    root = Path(str(resources.files("training") / "recipes")) / folder.strip("/") if is_bundled else Path(folder)
    if not root.is_dir():
        raise ConfigError(f"no folder {folder!r}: neither a bundled one nor a directory; fer sweep --list shows them")
    paths = {path.relative_to(root).with_suffix("").as_posix(): path for path in sorted(root.rglob("*.toml"))}
    if not paths:
        raise ConfigError(f"{folder} holds no recipe (*.toml)")
    return {name: bundled.get(path.resolve(), str(path)) for name, path in paths.items()}


def _load(files: dict[str, str], overrides: list[str]) -> dict[str, Recipe]:
    """Read all recipes.

    Raises:
        ConfigError: with the problems of all.
    """
    recipes, problems, used = {}, [], set()
    for name, file in files.items():
        try:
            plain = load_recipe(file)
            fitting = [value for value in overrides if _has_table(plain, value)]
            used |= set(fitting)
            recipes[name] = load_recipe(file, fitting) if fitting else plain
        except ConfigError as error:
            problems.append(str(error))
    if not problems:
        problems = [f"--set {value!r}: no recipe here has this table" for value in overrides if value not in used]
    if problems:
        raise ConfigError("; ".join(problems))
    return recipes


def _has_table(recipe: Recipe, override: str) -> bool:
    table = override.partition("=")[0].partition(".")[0].strip()
    return table not in _STAGES or getattr(recipe, table) is not None


def _beside(name: str, recipe: Recipe) -> str | None:
    """Return the recipe that this one's `init` or teacher names, as the folder's recipes are named."""
    if recipe.starts_from is None:
        return None
    return (PurePosixPath(name).parent / recipe.starts_from).as_posix()


def _named(recipe: Recipe) -> str:
    """Return the key that names the recipe it starts from, with its value."""
    if recipe.init.startswith("recipe:"):
        return f"init = {recipe.init!r}"
    return f"pretrain.mimco.teacher = 'recipe:{recipe.starts_from}'"


def _split(recipe: Recipe, asked: Split | None) -> Split:
    """Return what a recipe's model is scored on."""
    if asked is not None or recipe.finetune is None:
        return asked or "valid"
    return scored_split(recipe) or "valid"


def _trained_on(recipes: dict[str, Recipe], splits: dict[str, Split]) -> list[str]:
    """Say which recipes are trained on faces that they would be scored on."""
    found = [
        f"{name} (trained on {recipe.finetune.split}, scored on {splits[name]})"
        for name, recipe in recipes.items()
        if recipe.stages[-1] == "finetune" and recipe.finetune is not None
        if share_faces(splits[name], recipe.finetune.split)
    ]
    return [f"trained on what they would be scored on, pass another --split: {', '.join(found)}"] if found else []


def _problems(recipes: dict[str, Recipe], before: dict[str, str | None]) -> list[str]:
    """Return what is wrong with the recipes that start from others."""
    found = []
    for name, recipe in recipes.items():
        start = before[name]
        if start is None:
            continue
        if start not in recipes:
            found.append(f"{name}: {_named(recipe)}: no recipe {start} in the folder")
            continue
        if recipes[start].stages != ("pretrain",):
            found.append(f"{name}: {_named(recipe)}: {start} does more than pre-train")
        chain: list[str] = [name]
        while (following := before.get(chain[-1])) is not None and following not in chain:
            chain.append(following)
        if following == name:
            found.append(f"{name}: {_named(recipe)} leads back to it: {' -> '.join([*chain, name])}")
    return found
