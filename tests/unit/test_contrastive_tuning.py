"""Losses of DiffColor's first stage, against hand-computed numbers, and the stages' one iteration."""

import math

import pytest
import torch
from tiny import tiny_diffcolor, tiny_picture

from colorlab.conditioning import Conditioning
from colorlab.errors import RangeError, StateError
from colorlab.mechanisms.contrastive_tuning import (
    ContrastiveTuning,
    contrastive_loss,
    directional_loss,
    luma_loss,
    split_prompts,
)
from colorlab.methods.adaptation import Adaptation
from colorlab.settings import Settings
from colorlab.tuning.judge import Judge, random_crops
from colorlab.tuning.optimizer import Moments, adam_step, clip_gradients
from colorlab.tuning.plan import PRESETS, TuningPlan, find_plan
from colorlab.tuning.stages import EMBEDDING, RECONSTRUCTION, iteration_generator
from colorlab.tuning.weights import TunedNetwork, tracked
from colorlab.tuning.wiring import Wiring

CONTEXT = "a photo of a cat"


def make_wiring(**values):
    method = tiny_diffcolor()
    plan = PRESETS["smoke"]
    settings = Settings(num_inference_steps=4).with_mechanism("contrastive_tuning", **{**plan.mechanism, **values})
    return Wiring(method, Conditioning(gray=tiny_picture(), prompt=CONTEXT), settings, plan, None)


def gradient_of(stage, weights, iteration=0):
    with tracked(weights) as leaves:
        loss = stage.evaluate(leaves, iteration).loss
        return float(loss.detach()), dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


# Losses.


def test_the_contrastive_loss_of_three_texts_is_the_one_computed_by_hand():
    similarities = torch.tensor([[0.3, 0.1, 0.2]], requires_grad=True)
    powers = [math.exp(s / 0.1) for s in (0.3, 0.1, 0.2)]
    loss = contrastive_loss(similarities, 0.1)
    assert float(loss.detach()) == pytest.approx(-math.log(powers[0] / sum(powers)), rel=1e-6)
    loss.backward()
    assert similarities.grad[0, 0] < 0
    assert (similarities.grad[0, 1:] > 0).all()
    assert float(contrastive_loss(torch.zeros(2, 4), 0.07)) == pytest.approx(math.log(4))


def test_the_directional_loss_is_zero_along_the_words_and_grows_against_them():
    direction = torch.tensor([[1.0, 2.0, 0.0]])
    along, across, against = (
        float(directional_loss(change, direction))
        for change in (3 * direction, torch.tensor([[2.0, -1.0, 0.0]]), -direction)
    )
    assert along == pytest.approx(0, abs=1e-5)
    assert across == pytest.approx(3 * math.log(2), rel=1e-5)
    assert against > 10


def test_the_luma_loss_sees_structure_and_not_color():
    gray = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25
    assert float(luma_loss(gray.repeat(1, 3, 1, 1), gray)) == pytest.approx(0, abs=1e-3)
    assert float(luma_loss(gray.flip(-1).repeat(1, 3, 1, 1), gray)) > 0.05


def test_anti_color_prompts_are_parted_by_semicolons():
    assert split_prompts("a gray {}; a sepia {} ;") == ("a gray {}", "a sepia {}")
    with pytest.raises(RangeError, match="holds no prompt"):
        split_prompts(" ; ")
    wiring = make_wiring(anti_color="a grayscale image of {}")
    assert wiring.judge.texts == ("a colorful photo of a cat", "a grayscale image of a cat")


def test_prompts_may_hold_other_braces_and_the_context_any_case():
    settings = Settings().with_mechanism("contrastive_tuning", anti_color="a {gray} {}; {0} {; sepia", positive="{}")
    assert ContrastiveTuning().texts(" A Photo of a cat", settings) == ("a cat", "a {gray} a cat", "{0} {", "sepia")


def test_a_temperature_of_nothing_is_refused():
    with pytest.raises(RangeError, match="above 0 is expected"):
        contrastive_loss(torch.zeros(1, 3), 0.0)


def test_pictures_of_stage_2_follow_the_embedding_and_are_the_same_every_time():
    stage = make_wiring().stage("embedding", {}, {})
    weights = stage.initial()
    outcome = stage.evaluate(weights, 0)
    picture = stage.picture(weights, outcome)
    assert picture.shape[:2] == (1, 3)
    assert not picture.requires_grad
    assert torch.equal(picture, stage.picture(weights, stage.evaluate(weights, 5)))
    other = stage.picture({"tokens": 30 * weights["tokens"].flip(1)}, outcome)
    assert float((other - picture).abs().max()) > 1e-3


# What stages are made of.


def test_adam_is_the_library_s():
    start = {"a": torch.randn(3, 2), "b": torch.randn(4)}
    leaves = {name: value.clone().requires_grad_(True) for name, value in start.items()}
    library = torch.optim.Adam(leaves.values(), lr=1e-2)
    weights, moments = start, Moments()
    for step in range(5):
        gradients = {name: torch.sin(value + step) for name, value in weights.items()}
        for leaf in leaves.values():
            leaf.grad = torch.sin(leaf.detach() + step)
        library.step()
        weights, moments = adam_step(weights, gradients, moments, learning_rate=1e-2)
    assert all(torch.allclose(weights[name], leaf.detach(), atol=1e-6) for name, leaf in leaves.items())
    clipped, norm = clip_gradients({"a": torch.tensor([3.0, 4.0])}, 1.0)
    assert norm == pytest.approx(5)
    assert float(clipped["a"].norm()) == pytest.approx(1)


@pytest.mark.parametrize("trained", ["lora", "full"])
def test_a_tuned_network_begins_as_the_network_and_its_changes_are_those_of_an_adaptation(trained):
    method = tiny_diffcolor()
    network = TunedNetwork(method.unet, trained=trained, rank=2, seed=0)
    latents, tokens = torch.randn(1, 4, 4, 4), method.encode_prompt(CONTEXT).tokens
    weights = network.initial()
    with torch.no_grad():
        before = method.unet(latents, torch.tensor(300), encoder_hidden_states=tokens).sample
        assert torch.allclose(network.predict(weights, latents, 300, tokens), before, atol=1e-6)
        moved = {name: value + 0.05 * torch.randn_like(value) for name, value in weights.items()}
        after = network.predict(moved, latents, 300, tokens)
    assert not torch.allclose(after, before, atol=1e-3)
    adapted = method.adapted(
        Adaptation({f"contrastive/{name}": value for name, value in network.changes(moved).items()}, {"base": ""})
    )
    with torch.no_grad():
        merged = adapted.unet(latents, torch.tensor(300), encoder_hidden_states=tokens).sample
    assert torch.allclose(merged, after, atol=1e-4)


def test_crops_are_a_function_of_the_generator_and_the_first_is_the_picture():
    image = torch.rand(1, 3, 20, 30)
    crops = [random_crops(image, 3, iteration_generator(0, "contrastive", 5)) for _ in range(2)]
    assert torch.equal(crops[0], crops[1])
    assert crops[0].shape == (4, 3, 20, 30)
    assert torch.equal(crops[0][:1], image)
    assert not torch.equal(crops[0], random_crops(image, 3, iteration_generator(0, "contrastive", 6)))


def test_a_model_without_clip_cannot_be_judged():
    method = tiny_diffcolor()
    del method.components["projected_image_encoder"]
    with pytest.raises(StateError, match="no projected_image_encoder"):
        Judge(method, ["a cat"])


# Stages.


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"judged": "generated"},
        {"loss": "directional"},
        {"trained": "full"},
        {"through": "chain"},
        {"denoise_weight": 1.0, "luma_weight": 0.0, "prior_weight": 0.0, "contrastive_weight": 0.0},
    ],
)
def test_every_option_of_stage_1_has_a_gradient_and_is_a_pure_function(values):
    stage = make_wiring(**values).stage("contrastive", {}, {})
    weights = stage.initial()
    loss, gradients = gradient_of(stage, weights)
    assert math.isfinite(loss)
    assert sum(float(gradient.abs().sum()) for gradient in gradients.values()) > 0
    assert gradient_of(stage, weights)[0] == loss
    assert gradient_of(stage, weights, iteration=1)[0] != loss


def test_the_prior_term_is_zero_before_tuning():
    stage = make_wiring(contrastive_weight=0.0, luma_weight=0.0, prior_weight=1.0).stage("contrastive", {}, {})
    assert gradient_of(stage, stage.initial())[0] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", ["contrastive", EMBEDDING, RECONSTRUCTION])
def test_a_step_down_the_gradient_lowers_the_loss_of_its_iteration(name):
    stage = make_wiring(trained="full").stage(name, {}, {})
    weights = stage.initial()
    loss, gradients = gradient_of(stage, weights)
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients.values()))
    lowered = {key: value - 1e-3 / norm * gradients[key] for key, value in weights.items()}
    assert gradient_of(stage, lowered)[0] < loss


# Plans.


def test_presets_exist_and_nonsense_is_refused():
    assert dict(find_plan("paper").num_steps) == {"contrastive": 1500, "embedding": 500, "reconstruction": 1000}
    assert TuningPlan.from_dict(find_plan("notebook").to_dict()) == find_plan("notebook")
    with pytest.raises(RangeError, match="one of 'smoke', 'notebook', 'paper' is expected"):
        find_plan("fast")
    with pytest.raises(RangeError, match="give embedding steps"):
        TuningPlan({"contrastive": 1, "embedding": 0, "reconstruction": 1})
    with pytest.raises(RangeError, match="integer of at least 0"):
        TuningPlan({"contrastive": -1, "embedding": 0, "reconstruction": 0})
