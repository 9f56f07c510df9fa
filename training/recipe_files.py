"""Recipe files: TOML with a base and overrides, read into a `training.recipe.Recipe`.

A file may hold differences alone: `base = "NAME"` takes the rest from another recipe, which may have a base itself.
Unknown keys are refused with the nearest valid name, and every problem of a file is reported at once.
"""

from __future__ import annotations

import difflib
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from fer_app.errors import ConfigError
from training.augment import AugmentSpec
from training.contrastive_tables import MimcoTable, MocoTable
from training.distillation_table import DistillTable
from training.margin_mix_table import MarginMixTable
from training.model_table import ModelTable
from training.recipe import (
    ExpectedTable,
    FinetuneTable,
    LabelDecoderTable,
    PllTable,
    PretrainTable,
    Recipe,
)

_BESIDE_FIGURE = {"name", "summary", "seed", "checkpoint_minutes", "weights_license", "hardware", "expected"}
"""Keys that may change while a published figure stays one of the recipe."""

_KINDS = ("mimic", "few_labels")
"""How pydantic's errors tell the tables that `[finetune]` may be."""


def bundled_recipes() -> dict[str, Path]:
    """Return the recipes that ship with the package, by name: the path below `recipes/` without the suffix."""
    folder = Path(str(resources.files("training") / "recipes"))
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.toml"))}


def load_recipe(name_or_path: str, overrides: list[str] | None = None) -> Recipe:
    """Read a bundled recipe (by name) or a TOML file, with `table.key=value` overrides.

    The expected figure stays where overrides change what is trained, for it says where to score too; its words then
    tell, unless the figure is itself one of the overrides.

    Raises:
        ConfigError: no such recipe, no valid TOML, bases in a circle, or fields that are unknown or wrong (all of them
            in one message).
    """
    bundled = bundled_recipes()
    path = bundled.get(name_or_path, Path(name_or_path))
    values = _on_its_bases(_read(path, name_or_path), path, name_or_path)
    values.setdefault("name", name_or_path if name_or_path in bundled else path.stem)
    for override in overrides or []:
        _apply_override(values, override)
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{path.name}: " + "; ".join(_describe(error))) from error
    keys = {override.partition("=")[0].partition(".")[0].strip() for override in overrides or []}
    if recipe.expected is None or "expected" in keys or keys <= _BESIDE_FIGURE:
        return recipe
    told = recipe.expected.model_copy(update={"source": f"{recipe.expected.source}; of the unchanged recipe"})
    return recipe.model_copy(update={"expected": told})


def _read(path: Path, name: str) -> dict[str, Any]:
    """Return a file's values; `name` is what was asked for."""
    if not path.is_file():
        near = difflib.get_close_matches(name, bundled_recipes(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else "fer train --list shows the bundled ones"
        raise ConfigError(f"no recipe {name!r}: neither a bundled name nor a file; {hint}")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # some editors mark it
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def _on_its_bases(values: dict[str, Any], path: Path, name: str) -> dict[str, Any]:
    """Lay a file's values over those of the recipe that its `base` names, and those over its base's, and so on.

    A base is a bundled recipe or a file beside the one that names it. What describes it alone stays behind: its name,
    its summary and its expected figure.
    """
    above, chain = values, {path.resolve(): name}
    while "base" in above:
        base = above.pop("base")
        if not isinstance(base, str):
            raise ConfigError(f"{path.name}: base is not the name of a recipe")
        path, named_in = bundled_recipes().get(base, path.parent / base), path
        if path.resolve() in chain:
            raise ConfigError(f"{named_in.name}: base leads back to itself: {' -> '.join([*chain.values(), base])}")
        try:
            below = _read(path, base)
        except ConfigError as error:
            raise ConfigError(f"{named_in.name}: base: {error}") from error
        chain[path.resolve()] = base
        above = _merged({key: below[key] for key in below.keys() - {"name", "summary", "expected"}}, above)
    return above


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return both, tables joined key by key; where both have a value it is `above`'s."""
    merged = {**below, **above}
    for key in below.keys() & above.keys():
        if isinstance(below[key], dict) and isinstance(above[key], dict):
            merged[key] = _merged(below[key], above[key])
    return merged


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"--set {override!r}: expected table.key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()  # a bare word is a string, so that shells need no second quotes
    *tables, last = key.strip().split(".")
    table = values
    for name in tables:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {override!r}: {name} is not a table")
    table[last] = value


def _describe(error: ValidationError) -> list[str]:
    """Return one sentence a problem, with its `table.key` and, for unknown keys, the nearest valid name."""
    problems = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"] if part not in _KINDS)
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(item["loc"][-1]), _valid_keys(item["loc"][:-1]), n=1)
            problems.append(f"unknown key {where}" + (f" (did you mean {near[0]}?)" if near else ""))
        elif item["type"] == "missing":
            problems.append(f"{where} is missing")
        elif item["type"] == "default_factory_not_called":
            continue  # it follows from another value, whose own problem is told
        else:
            message = item["msg"].removeprefix("Value error, ")
            problems.append(f"{where}: {message}" if where else message)
    return problems


def _valid_keys(location: tuple[int | str, ...]) -> list[str]:
    tables: dict[tuple[int | str, ...], type[BaseModel]] = {
        (): Recipe,
        ("model",): ModelTable,
        ("pretrain",): PretrainTable,
        ("finetune", "mimic"): FinetuneTable,
        ("finetune", "few_labels"): MarginMixTable,
        ("expected",): ExpectedTable,
        ("pretrain", "augment"): AugmentSpec,
        ("pretrain", "moco"): MocoTable,
        ("pretrain", "moco", "second_augment"): AugmentSpec,
        ("pretrain", "mimco"): MimcoTable,
        ("finetune", "mimic", "augment"): AugmentSpec,
        ("finetune", "mimic", "distill"): DistillTable,
        ("finetune", "mimic", "pll"): PllTable,
        ("finetune", "mimic", "label_decoder"): LabelDecoderTable,
        ("finetune", "few_labels", "augment"): AugmentSpec,
    }
    return list(tables[location].model_fields) if location in tables else []
