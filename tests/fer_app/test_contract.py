"""The contract: round trip, and every way in which one can be wrong."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer_app.contract import CONTRACT_VERSION, Contract
from fer_app.errors import ModelContractError
from fer_app.labels import LABELS

REQUIRED: dict[str, Any] = {
    "labels": LABELS,
    "img_size": 48,
    "mean": (0.5, 0.4, 0.3),
    "std": (0.25, 0.2, 0.3),
    "crop": "fer48-v1",
}
EVERYTHING: dict[str, Any] = REQUIRED | {
    "color_mode": "gray",
    "in_chans": 1,
    "mean": (0.507,),
    "std": (0.255,),
    "interpolation": "bicubic",
    "temperature": 1.25,
    "uncertain_below": 0.4,
    "precision": "int8",
    "license": "research data; ask before selling – ©",
    "metrics": {"ferplus_valid_accuracy": 0.8},
    "recipe_sha256": "ab" * 32,
    "version": CONTRACT_VERSION,
}


def test_everything_is_written_and_read_back() -> None:
    contract = Contract(**EVERYTHING)
    assert set(EVERYTHING) == {f.name for f in dataclasses.fields(Contract)}
    assert Contract.from_json(contract.to_json()) == contract
    assert dataclasses.asdict(Contract.from_json(contract.to_json())) == EVERYTHING


def test_defaults_are_filled_in_when_fields_are_left_out() -> None:
    contract = Contract.from_json(json.dumps(REQUIRED))
    assert contract == Contract(**REQUIRED)
    assert (contract.color_mode, contract.in_chans, contract.interpolation) == ("rgb", 3, "bilinear")
    assert (contract.temperature, contract.uncertain_below, contract.version) == (1.0, 0.0, 1)
    assert contract.precision == "fp32"


def test_json_is_one_line_with_sorted_keys() -> None:
    text = Contract(**EVERYTHING).to_json()
    assert "\n" not in text
    assert "©" in text
    assert list(json.loads(text)) == sorted(json.loads(text))


@given(
    mean=st.tuples(*[st.floats(0, 1)] * 3),
    std=st.tuples(*[st.floats(1e-6, 1)] * 3),
    temperature=st.floats(1e-3, 1e3),
)
def test_floats_survive_json_exactly(mean: tuple[float, ...], std: tuple[float, ...], temperature: float) -> None:
    contract = Contract(**REQUIRED | {"mean": mean, "std": std, "temperature": temperature})
    assert Contract.from_json(contract.to_json()) == contract


def test_digest_is_the_contents() -> None:
    contract = Contract(**REQUIRED)
    assert len(contract.digest) == 64
    assert contract.digest == Contract.from_json(contract.to_json()).digest
    assert contract.digest != contract.replace(temperature=1.1).digest


def test_replace_changes_a_copy_and_checks_it() -> None:
    contract = Contract(**REQUIRED)
    assert contract.replace(temperature=2.0).temperature == 2.0
    assert contract.temperature == 1.0
    with pytest.raises(ModelContractError, match="temperature is -1"):
        contract.replace(temperature=-1.0)


def test_contract_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Contract(**REQUIRED).img_size = 64  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": 2}, "version is 2, this program reads 1"),
        ({"version": 0}, "version is 0"),
        ({"labels": ("happy",)}, "fewer than two"),
        ({"labels": ("happy", "sad", "happy")}, "repeats a name"),
        ({"img_size": 0}, "img_size is 0"),
        ({"img_size": -48}, "img_size is -48"),
        ({"color_mode": "bgr"}, "color_mode is 'bgr'"),
        ({"in_chans": 2}, "must be 1 or 3"),
        ({"in_chans": 1, "mean": (0.5,), "std": (0.2,)}, "color_mode rgb needs in_chans 3"),
        ({"mean": (0.5,)}, "mean has 1 values for 3 channels"),
        ({"std": (0.5, 0.5)}, "std has 2 values for 3 channels"),
        ({"mean": (0.5, math.nan, 0.5)}, "mean is"),
        ({"mean": (0.5, math.inf, 0.5)}, "mean is"),
        ({"std": (0.5, 0.0, 0.5)}, "std is"),
        ({"std": (0.5, -0.1, 0.5)}, "std is"),
        ({"std": (0.5, math.nan, 0.5)}, "std is"),
        ({"crop": ""}, "crop is empty"),
        ({"interpolation": "nearest"}, "interpolation is 'nearest'"),
        ({"temperature": 0.0}, "temperature is 0"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"uncertain_below": -0.1}, "uncertain_below is -0.1"),
        ({"uncertain_below": 1.1}, "uncertain_below is 1.1"),
        ({"uncertain_below": math.nan}, "uncertain_below is nan"),
    ],
)
def test_wrong_value_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelContractError, match=said):
        Contract(**REQUIRED | changes)
    with pytest.raises(ModelContractError, match=said):
        Contract.from_json(json.dumps(REQUIRED | changes))


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ModelContractError, match=r"img_size is 0.*crop is empty.*temperature is 0"):
        Contract(**REQUIRED | {"img_size": 0, "crop": "", "temperature": 0.0})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[]", "not a JSON object"),
        ('"fer48-v1"', "not a JSON object"),
        (json.dumps(REQUIRED | {"tempreature": 1, "crops": 2}), "unknown fields: crops, tempreature"),
        (json.dumps({"img_size": 48}), "lacks: crop, labels, mean, std"),
        (json.dumps(REQUIRED | {"mean": 0.5}), "mean = 0.5, expected a list"),
        (json.dumps(REQUIRED | {"labels": "neutral"}), "labels = 'neutral', expected a list"),
        (json.dumps(REQUIRED | {"img_size": "48"}), "wrong kind"),
        (json.dumps(REQUIRED | {"temperature": None}), "wrong kind"),
        (json.dumps(REQUIRED | {"mean": ["a", "b", "c"]}), "wrong kind"),
        (json.dumps(REQUIRED | {"labels": [["a"], ["b"]]}), "wrong kind"),
    ],
)
def test_text_that_is_no_contract_is_refused(text: str, said: str) -> None:
    with pytest.raises(ModelContractError, match=said):
        Contract.from_json(text)


@pytest.mark.parametrize(
    "changes",
    [
        {"img_size": 48.5},
        {"img_size": True},
        {"labels": [1, 2, 3]},
        {"crop": 7},
        {"license": 7},
        {"metrics": [1]},
        {"metrics": {"accuracy": "high"}},
        {"recipe_sha256": 5},
        {"version": 1.5},
        {"mean": [True, True, True]},
    ],
)
def test_value_of_another_kind_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ModelContractError):
        Contract.from_json(json.dumps(REQUIRED | changes))
