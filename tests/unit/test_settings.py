import copy
import dataclasses
import json
import math
import pickle
from typing import Any

import pytest

from colorlab.errors import RangeError
from colorlab.settings import SOLVER_NAMES, TIMESTEP_SPACINGS, Settings

FULL = Settings(
    num_inference_steps=7,
    guidance_scale=2.5,
    solver="dpmpp_2m",
    timestep_spacing="trailing",
    eta=0.25,
    strength=0.75,
    seed=2**62,
    mechanisms={"b": {"y": (0.5, 1.0), "x": 1.5}, "a": {"is_on": False, "mode": "first"}},
    as_published=True,
)


def test_defaults_are_those_of_the_documentation() -> None:
    assert Settings().to_dict() == {
        "num_inference_steps": 20,
        "guidance_scale": 5.0,
        "solver": "ddim",
        "timestep_spacing": "leading",
        "eta": 0.0,
        "strength": 1.0,
        "seed": 0,
        "mechanisms": {},
        "as_published": False,
    }


@pytest.mark.parametrize("settings", [Settings(), FULL])
def test_round_trips_lose_nothing(settings: Settings) -> None:
    for other in (
        Settings.from_json(settings.to_json()),
        Settings.from_dict(settings.to_dict()),
        pickle.loads(pickle.dumps(settings)),
        copy.deepcopy(settings),
        settings.replace(),
    ):
        assert other == settings
        assert hash(other) == hash(settings)
        assert other.to_json() == settings.to_json()


def test_every_solver_and_spacing_is_taken() -> None:
    for solver in SOLVER_NAMES:
        for spacing in TIMESTEP_SPACINGS:
            assert Settings(solver=solver, timestep_spacing=spacing).solver == solver


def test_solver_names_are_those_of_the_solvers() -> None:
    from colorlab.sampling import SOLVERS

    assert set(SOLVER_NAMES) == set(SOLVERS)


def test_settings_are_frozen_all_the_way_down() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        FULL.seed = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        FULL.mechanisms["b"]["x"] = 2.0  # type: ignore[index]
    source: dict[str, dict[str, Any]] = {"a": {"x": 1}}
    settings = Settings(mechanisms=source)
    source["a"]["x"] = 2
    assert settings.mechanisms["a"]["x"] == 1


def test_the_order_of_mechanisms_and_the_kind_of_number_do_not_count() -> None:
    assert Settings(mechanisms={"a": {}, "b": {}}) == Settings(mechanisms={"b": {}, "a": {}})
    whole, real = (Settings(mechanisms={"a": {"x": value}}) for value in (1, 1.0))
    assert whole == real
    assert hash(whole) == hash(real)
    assert hash(Settings(mechanisms={"a": {}, "b": {}})) == hash(Settings(mechanisms={"b": {}, "a": {}}))


def test_one_mechanism_is_changed_and_all_others_kept() -> None:
    changed = FULL.with_mechanism("b", x=3.0)
    assert changed.mechanisms["b"] == {"x": 3.0, "y": (0.5, 1.0)}
    assert changed.mechanisms["a"] == FULL.mechanisms["a"]
    assert FULL.mechanisms["b"]["x"] == 1.5
    assert Settings().with_mechanism("c", z=1).mechanisms == {"c": {"z": 1}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_inference_steps": 0}, "integer from 1 to 1000"),
        ({"num_inference_steps": 1001}, "integer from 1 to 1000"),
        ({"num_inference_steps": 2.0}, "2.0"),
        ({"num_inference_steps": True}, "True"),
        ({"guidance_scale": 0.9}, "1 to 100"),
        ({"guidance_scale": math.nan}, "nan"),
        ({"guidance_scale": "5"}, "'5'"),
        ({"eta": 1.1}, "0 to 1"),
        ({"strength": -0.1}, "0 to 1"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**63}, "seed"),
        ({"seed": None}, "None"),
        ({"solver": "pndm"}, "there are only: ddim, euler, dpmpp_2m"),
        ({"solver": ["ddim"]}, "there are only"),
        ({"timestep_spacing": "cosine"}, "leading, linspace, trailing"),
        ({"as_published": 1}, "True or False"),
        ({"mechanisms": None}, "mapping"),
        ({"mechanisms": {"a": 1}}, "mapping"),
        ({"mechanisms": {"a": {"x": math.inf}}}, "a.x is inf"),
        ({"mechanisms": {"a": {"x": None}}}, "a.x is None"),
        ({"mechanisms": {"a": {"x": [1, "b"]}}}, "a.x"),
    ],
)
def test_bad_values_give_one_clear_sentence(changes: dict[str, Any], words: str) -> None:
    for make in (lambda: Settings(**changes), lambda: Settings().replace(**changes)):
        with pytest.raises(RangeError) as caught:
            make()
        assert words in str(caught.value)
        assert str(caught.value).endswith(".")


def test_unknown_fields_are_told() -> None:
    with pytest.raises(RangeError, match="no field 'steps'; there are: num_inference_steps"):
        Settings().replace(steps=3)
    with pytest.raises(RangeError, match="no field 'steps'"):
        Settings.from_json('{"steps": 3}')


@pytest.mark.parametrize("text", ["", "{", "[]", "3", None])
def test_bad_json_is_told(text: Any) -> None:
    with pytest.raises(RangeError, match="The settings are"):
        Settings.from_json(text)


def test_json_without_a_field_takes_its_default() -> None:
    assert Settings.from_json(json.dumps({"seed": 4})) == Settings(seed=4)
