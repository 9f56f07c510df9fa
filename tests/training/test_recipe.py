from pathlib import Path

import pytest

from fer_app.errors import ConfigError
from training.recipe import PretrainTable, Recipe
from training.recipe_files import load_recipe

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


def test_a_recipes_digest_stays() -> None:
    """Weights that were published name their recipe by its digest: what is added to recipes must leave it as it is."""
    digest = "d007e3c50d08cb84c81d9c7c281b26da5a5c6035524305b3da9ccebc76c5a941"
    words = [
        "name=mimic_hybrid_ferplus",
        "summary=residual stem + transformer, 48 px, MSCL on FERPlus; the bundled model",
    ]
    assert load_recipe("hybrid_ferplus", words).sha256 == digest


def test_learning_rate_follows_the_batch(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, MINIMAL))
    assert recipe.name == "mine"
    assert recipe.finetune is not None
    assert recipe.finetune.lr == 2e-4


def test_learning_rate_follows_the_accumulated_batch(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, MINIMAL), ["finetune.accumulate=4"])
    assert recipe.finetune is not None
    assert recipe.finetune.lr == 8e-4
    with pytest.raises(ConfigError, match=r"finetune\.accumulate"):
        load_recipe(write(tmp_path, MINIMAL), ["finetune.accumulate=0"])


def test_later_fields_count_only_when_they_are_set(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    plain, same, other = (load_recipe(path, [f"finetune.accumulate={n}"] if n else []) for n in (0, 1, 2))
    assert not any(name in plain.to_json() for name in ("accumulate", "compile", "checkpoint_activations"))
    assert '"compile": true' in load_recipe(path, ["compile=true"]).to_json()
    assert same.sha256 == plain.sha256
    assert other.sha256 != plain.sha256
    assert '"accumulate": 2' in other.to_json()
    assert Recipe.model_validate_json(other.to_json()) == other
    assert Recipe.model_validate_json(plain.to_json()) == plain


def test_digest_depends_on_values_and_not_on_layout(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    assert load_recipe(path).sha256 == load_recipe(path, ["seed=0"]).sha256
    assert load_recipe(path).sha256 != load_recipe(path, ["seed=1"]).sha256


def test_words_for_the_reader_are_shown_and_held_nowhere(tmp_path: Path) -> None:
    told = (
        'hardware = "a GPU"\nexpected = { data_set = "RAF-DB", split = "test", accuracy = 91.1, source = "Table I" }\n'
    )
    plain, wordy = load_recipe(write(tmp_path, MINIMAL)), load_recipe(write(tmp_path, told + MINIMAL))
    assert plain.notes() == []
    assert wordy.notes() == ["expected: 91.10 % on RAF-DB Test (Table I)", "hardware: a GPU"]
    assert wordy.to_json() == plain.to_json()
    assert wordy.sha256 == plain.sha256
    assert wordy.model_dump(mode="json") == plain.model_dump(mode="json")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["finetune.loss=scl"], "mix_prob = 0"),
        (["finetune.views=1"], "views = 2"),
        (["finetune.votes=multi_target"], "multi_target"),
        (['stages=["pretrain", "finetune"]'], "no [pretrain] table"),
        (['stages=["finetune", "finetune"]'], "once"),
        (["stages=[]"], "empty"),
        (["model.img_size=50"], "multiple"),
        (["model.in_chans=1"], "rgb needs in_chans 3"),
        (["model.mean=[0.5]"], "mean has 1 values"),
        (["finetune.epochs='ten'"], "finetune.epochs"),
        (["finetune.betas=[0.9, 1.0]"], "finetune.betas.1"),
        (["finetune.warmup_epochs=2"], "longer than epochs"),
        (["finetune.base_lr=inf"], "finetune.base_lr"),
        (["finetune.weight_decay=inf"], "finetune.weight_decay"),
        (["model.std=[nan, 1.0, 1.0]"], "model.std.0"),
        (["seed=9223372036854775808"], "seed"),
        (["finetune.augment.hflip=2"], "finetune.augment.hflip"),
        (["nonsense"], "expected table.key=value"),
        (["seed.x=1"], "seed"),
        (["base=debug"], "unknown key base"),
        (["expected.acuracy=9"], "expected.acuracy (did you mean accuracy?)"),
        (["expected={ data_set = 'x', split = 'test', accuracy = 101.0, source = 'x' }"], "expected.accuracy"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(write(tmp_path, "seed = 0\n" + MINIMAL), overrides)
    assert said in str(caught.value)


def test_json_form_reads_back() -> None:
    recipe = load_recipe("mimic_tiny_ferplus")
    assert Recipe.model_validate_json(recipe.to_json()) == recipe


def test_a_key_of_a_later_version_leaves_older_digests_as_they_are(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, MINIMAL))
    assert "contempt" not in recipe.to_json()
    dropped = load_recipe(write(tmp_path, MINIMAL), ["finetune.contempt=drop"])
    assert '"contempt": "drop"' in dropped.to_json()
    assert dropped.sha256 != recipe.sha256
    assert '"contempt"' not in load_recipe("debug", ['stages=["pretrain"]']).to_json()


def test_a_network_without_blocks_needs_a_stem_and_has_no_class_token(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    stem = ["model.depth=0", "model.stem=conv", "model.patch_size=4", "model.stem_channels=[4, 6, 8]"]
    config = load_recipe(path, stem).model.vit_config()
    assert (config.depth, config.class_token) == (0, False)
    assert load_recipe(path, stem[1:]).model.vit_config().class_token
    with pytest.raises(ConfigError, match=r"\[model\] depth = 0 is for stem"):
        load_recipe(path, ["model.depth=0"])
    with pytest.raises(ConfigError, match=r"no class token: leave out finetune\.global_pool = 'token'"):
        load_recipe(path, [*stem, "finetune.global_pool=token"])
    moco = "pretrain={method = 'moco_v3', epochs = 1, batch_size = 8, base_lr = 1e-3}"
    with pytest.raises(ConfigError, match=r"no class token: leave out pretrain\.method = 'moco_v3'"):
        load_recipe(path, [*stem, moco])


@pytest.mark.parametrize(
    ("method", "beta", "ratio"),
    [("mae", 0.95, 0.75), ("hog", 0.999, 0.4), ("simmim", 0.999, 0.6), ("moco_v3", 0.999, 0.75), ("mimco", 0.999, 0.6)],
)
def test_pretraining_has_the_published_settings_of_its_method(method: str, beta: float, ratio: float) -> None:
    asked = {"method": method, "epochs": 1, "batch_size": 2, "base_lr": 1e-3}
    table = PretrainTable.model_validate(asked)
    assert (table.betas, table.mask_ratio) == ((0.9, beta), ratio)
    chosen = PretrainTable.model_validate(asked | {"betas": [0.8, 0.9], "mask_ratio": 0.5})
    assert (chosen.betas, chosen.mask_ratio) == ((0.8, 0.9), 0.5)


def test_a_method_that_there_is_not_is_named() -> None:
    with pytest.raises(ValueError, match=r"'mae', 'hog'"):
        PretrainTable.model_validate({"method": "beit"})
