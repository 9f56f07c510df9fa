from pathlib import Path

import pytest

from fer_app.errors import ConfigError
from fer_app.labels import LABELS
from training.recipe_files import bundled_recipes, load_recipe

MINIMAL = """
stages = ["finetune"]
[finetune]
epochs = 1
batch_size = 512
base_lr = 1e-4
"""


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", bundled_recipes())
def test_every_bundled_recipe_loads_and_says_what_it_is(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.summary
    assert recipe.contract().labels == LABELS
    assert recipe.contract().recipe_sha256 == recipe.sha256


def test_there_are_the_promised_recipes() -> None:
    assert {"debug", "mimic_tiny_ferplus", "mimic_hybrid_ferplus"} <= set(bundled_recipes())


def test_overrides_replace_and_add(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    recipe = load_recipe(path, ["finetune.epochs=7", "finetune.loss=ce", "seed = 3", "finetune.augment.hflip=0.5"])
    assert recipe.finetune is not None
    assert (recipe.finetune.epochs, recipe.finetune.loss, recipe.seed) == (7, "ce", 3)
    assert recipe.finetune.augment.hflip == 0.5


def test_a_recipe_may_hold_differences_alone(tmp_path: Path) -> None:
    (tmp_path / "below.toml").write_text(
        'name = "b"\nsummary = "b"\nhardware = "h"\nseed = 3\n'
        'expected = { data_set = "b", split = "test", accuracy = 90.0, source = "b" }\n'
        + MINIMAL
        + "betas = [0.8, 0.9]\n[finetune.augment]\nhflip = 0.5\nblur_p = 0.1\n"
    )
    path = write(
        tmp_path,
        'base = "below.toml"\n[finetune]\nepochs = 4\nbetas = [0.7, 0.9]\n[finetune.augment]\nblur_p = 0.2\n',
    )
    recipe = load_recipe(path, ["finetune.batch_size=128"])
    assert (recipe.name, recipe.summary, recipe.expected) == ("mine", "", None)  # they were said of the base
    assert (recipe.seed, recipe.hardware) == (3, "h")
    assert recipe.finetune is not None
    assert (recipe.finetune.epochs, recipe.finetune.batch_size, recipe.finetune.base_lr) == (4, 128, 1e-4)
    assert recipe.finetune.betas == (0.7, 0.9)
    assert (recipe.finetune.augment.hflip, recipe.finetune.augment.blur_p) == (0.5, 0.2)


def test_the_base_may_be_a_bundled_recipe(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, 'base = "debug"\nseed = 5\n'))
    assert recipe.model == load_recipe("debug").model
    assert (recipe.name, recipe.seed) == ("mine", 5)


def test_a_base_may_have_a_base_itself(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "near.toml").write_text('base = "low.toml"\nseed = 3\n[finetune]\nepochs = 4\n')
    (tmp_path / "far" / "low.toml").write_text("seed = 2\n" + MINIMAL + "min_lr = 1e-6\n")
    recipe = load_recipe(write(tmp_path, 'base = "far/near.toml"\n[finetune]\nbatch_size = 64\n'))
    assert recipe.finetune is not None
    assert (recipe.name, recipe.seed, recipe.finetune.epochs, recipe.finetune.batch_size) == ("mine", 3, 4, 64)
    assert recipe.finetune.min_lr == 1e-6
    for name in ("finetune", "mae/vit_l16", "mimic/vit_l16_ferplus_paper"):
        own = load_recipe(write(tmp_path, f'base = "{name}"\nseed = 7\n'))
        assert own.to_json() == load_recipe(name, ["seed=7", "name=mine", "summary=''"]).to_json()


def test_bases_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('base = "b.toml"\n' + MINIMAL)
    (tmp_path / "b.toml").write_text('base = "a.toml"\n')
    with pytest.raises(ConfigError) as caught:
        load_recipe(write(tmp_path, 'base = "a.toml"'))
    assert str(caught.value).startswith("b.toml: base leads back to itself: ")
    assert str(caught.value).endswith("mine.toml -> a.toml -> b.toml -> a.toml")


@pytest.mark.parametrize(
    ("override", "holds"),
    [
        ("seed=3", True),
        ("checkpoint_minutes=1.0", True),
        ("finetune.epochs=20", False),
        ("precision=fp32", False),
        ("init=bundled", False),
        ("model.depth=3", False),
    ],
)
def test_the_expected_figure_is_the_unchanged_recipes(override: str, holds: bool) -> None:
    name = "mimic/vit_b16_ferplus_paper"
    assert load_recipe(name).notes()[0].startswith("expected: 89.74 % on FERPlus Test")
    changed = load_recipe(name, [override])
    assert changed.expected is not None
    assert changed.expected.split == "test"  # where to score it
    note = changed.notes()[0]
    assert note == f"expected: 89.74 % on FERPlus Test (MIMIC Table I{'' if holds else '; of the unchanged recipe'})"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            'base = "debugg"',
            "mine.toml: base: no recipe 'debugg': neither a bundled name nor a file; did you mean 'debu",
        ),
        ("base = 3", "mine.toml: base is not the name of a recipe"),
        ('base = "mine.toml"', "mine.toml -> mine.toml"),
        ('base = "debug"\nmodel = 3', "mine.toml: model: "),
        ('base = "debug"\n[finetune]\nepochz = 3', "unknown key finetune.epochz (did you mean epochs?)"),
    ],
)
def test_a_base_that_does_not_do_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(write(tmp_path, text))
    assert said in str(caught.value)


def test_all_problems_are_told_at_once_with_the_nearest_names(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + "epochz = 3\nmixup_alpha = 'two'\n[model]\ndepht = 3\nimg_size = 0\n")
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    message = str(caught.value)
    assert "unknown key finetune.epochz (did you mean epochs?)" in message
    assert "finetune.mixup_alpha" in message
    assert "unknown key model.depht (did you mean depth?)" in message
    assert "model.img_size" in message


def test_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'mimic_tiny_ferplus'"):
        load_recipe("mimic_tiny_ferpls")


def test_invalid_toml_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mine\.toml: not valid TOML"):
        load_recipe(write(tmp_path, "stages = ["))
