"""The mechanism protocol and its first three instances."""

import math

import numpy as np
import pytest
import torch

from colorlab.errors import RangeError
from colorlab.mechanisms.base import PHASES, Call, Parameter
from colorlab.mechanisms.channel_extension import ChannelExtension
from colorlab.mechanisms.classifier_free_guidance import ClassifierFreeGuidance
from colorlab.mechanisms.luminance_guidance import LuminanceGuidance
from colorlab.sampling.records import StepRecord
from colorlab.settings import Settings

MECHANISMS = (ChannelExtension(), ClassifierFreeGuidance(), LuminanceGuidance())


@pytest.mark.parametrize("mechanism", MECHANISMS, ids=lambda mechanism: mechanism.name)
def test_every_mechanism_has_a_phase_words_a_switch_and_defaults_in_range(mechanism):
    assert mechanism.phase in PHASES
    assert mechanism.doc.endswith(".")
    assert "\n" not in mechanism.doc
    assert mechanism.in_force(Settings())["is_on"] is True
    for parameter in mechanism.parameters:
        assert parameter.check(parameter.default, mechanism.name) == parameter.default
        assert parameter.doc


@pytest.mark.parametrize("mechanism", MECHANISMS, ids=lambda mechanism: mechanism.name)
def test_the_switch_turns_it_off_and_is_seen_in_its_state(mechanism):
    settings = Settings().with_mechanism(mechanism.name, is_on=False)
    assert not mechanism.is_on(settings)
    assert mechanism.state(settings).is_on is False
    assert mechanism.state(Settings()).phase == mechanism.phase


@pytest.mark.parametrize("value", [True, "1", -0.1, 4.1, math.nan, None, (1.0,)])
def test_a_number_is_refused_outside_its_range_and_kind(value):
    with pytest.raises(RangeError, match=r"m\.gain is .*a number from 0 to 4 is expected"):
        Parameter("gain", 1.0, low=0.0, high=4.0).check(value, "m")


def test_the_other_kinds_of_parameters_are_checked():
    assert Parameter("gains", (), high=2.0).check([1, 2], "m") == (1.0, 2.0)
    with pytest.raises(RangeError, match="list of numbers"):
        Parameter("gains", (), high=2.0).check([3.0], "m")
    assert Parameter("form", "a", choices=("a", "b")).check("b", "m") == "b"
    with pytest.raises(RangeError, match="one of a, b"):
        Parameter("form", "a", choices=("a", "b")).check("c", "m")
    with pytest.raises(RangeError, match="True or False"):
        Parameter("flag", True).check(1, "m")


def test_an_unknown_parameter_is_named_with_those_that_exist():
    with pytest.raises(RangeError, match="no parameter 'gian'; it has is_on, gain, tap_gains"):
        LuminanceGuidance().in_force(Settings().with_mechanism("luminance_guidance", gian=1.0))


def test_guidance_of_scale_one_is_off_and_asks_for_one_pass():
    guidance, predictions = ClassifierFreeGuidance(), {"cond": torch.randn(1, 4, 2, 2)}
    off = Settings(guidance_scale=1.0)
    assert guidance.passes(off) == ("cond",)
    assert guidance.guide(predictions, off) is predictions["cond"]
    switched = Settings(guidance_scale=5.0).with_mechanism(guidance.name, is_on=False)
    assert guidance.passes(switched) == ("cond",)
    assert guidance.in_force(switched)["guidance_scale"] == 5.0


def test_guidance_extrapolates_along_the_difference():
    guidance, settings = ClassifierFreeGuidance(), Settings(guidance_scale=3.0)
    uncond, cond = torch.zeros(1, 4, 2, 2), torch.ones(1, 4, 2, 2)
    assert guidance.passes(settings) == ("uncond", "cond")
    assert torch.equal(guidance.guide({"uncond": uncond, "cond": cond}, settings), 3 * cond)


def test_the_guidance_field_is_the_length_of_the_difference():
    predictions = {"uncond": torch.zeros(1, 4, 2, 3), "cond": torch.full((1, 4, 2, 3), 0.5)}
    record = StepRecord(7, 301, predictions, predictions["cond"], predictions["cond"])
    call = Call(Settings(), {}, {"step": 7}, torch.zeros(1, 4, 2, 3), record)
    field = ClassifierFreeGuidance().explain(call)["guidance_field"]
    assert np.allclose(field.array, 1.0)
    assert field.axes == ("h", "w")
    assert field.provenance["step"] == 7
    assert ClassifierFreeGuidance().explain(Call(Settings(), {}, {}, torch.zeros(1, 4, 2, 3))) == {}


def test_channel_extension_appends_the_tap_and_off_is_zeros():
    extension, latents, tap = ChannelExtension(), torch.randn(1, 4, 2, 2), torch.randn(1, 3, 2, 2)
    assert torch.equal(extension.extend(latents, tap, Settings()), torch.cat([latents, tap], 1))
    off = extension.extend(latents, tap, Settings().with_mechanism(extension.name, is_on=False))
    assert torch.equal(off, torch.cat([latents, torch.zeros_like(tap)], 1))


def test_luminance_gains_multiply_and_off_is_none():
    luminance = LuminanceGuidance()
    assert luminance.gains(3, Settings()) == (1.0, 1.0, 1.0)
    assert luminance.gains(2, Settings().with_mechanism(luminance.name, gain=2.0, tap_gains=(0.5, 0.0))) == (1.0, 0.0)
    assert luminance.gains(3, Settings().with_mechanism(luminance.name, is_on=False)) is None
    with pytest.raises(RangeError, match="2 numbers, but this model has 3 taps"):
        luminance.gains(3, Settings().with_mechanism(luminance.name, tap_gains=(1.0, 1.0)))
