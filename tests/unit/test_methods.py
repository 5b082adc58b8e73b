"""L-CAD and text-to-image as methods: preparing, predicting, decoding and finishing."""

import warnings

import numpy as np
import pytest
import torch
from tiny import MAX_TOKENS, tiny_lcad, tiny_picture, tiny_text_to_image

from colorlab.color import rgb_to_lab
from colorlab.conditioning import Conditioning
from colorlab.errors import RangeError
from colorlab.images import to_uint8
from colorlab.methods.base import ConditioningWarning, gray_image
from colorlab.methods.cache import FieldCache, tensor_bytes
from colorlab.methods.folder import METHODS, find_method
from colorlab.networks.luminance import decode_with_taps
from colorlab.sampling.noise import initial_noise
from colorlab.sampling.schedules import NoiseSchedule
from colorlab.settings import Settings
from colorlab.strokes import Stroke

SETTINGS = Settings(num_inference_steps=4)


@pytest.fixture
def cond(picture):
    return Conditioning(gray=picture, prompt="a red car")


def test_the_methods_of_the_table_exist_under_their_names():
    for name in METHODS:
        assert find_method(name).name == name
    with pytest.raises(RangeError, match="no method 'lcda'; there are: colorizediffusion, ctrlcolor, diffcolor, lcad"):
        find_method("lcda")


def test_prepared_has_the_shapes_of_the_latents(lcad, cond):
    prepared = lcad.prepare(cond, SETTINGS)
    assert prepared.latent_shape == (4, 4, 4)
    assert prepared.taps[-1].shape == (1, 8, 4, 4)
    assert prepared.text["cond"].shape == (1, MAX_TOKENS, 16)
    assert set(prepared.tensors()) == {"text.cond", "text.uncond", *(f"taps.{index}" for index in range(6))}
    assert prepared.num_bytes == tensor_bytes(list(prepared.tensors().values()))


def test_wide_pictures_get_wide_latents(lcad):
    prepared = lcad.prepare(Conditioning(gray=tiny_picture(20, 80)), SETTINGS)
    assert prepared.latent_shape == (4, 2, 8)


def test_changing_the_prompt_encodes_the_prompt_alone(lcad, cond):
    lcad.prepare(cond, SETTINGS)
    before = dict(lcad.network_calls)
    assert before == {"text_encoder": 2, "luminance_encoder": 1}
    lcad.prepare(cond.replace(prompt="a blue car"), SETTINGS)
    assert lcad.network_calls == {"text_encoder": 3, "luminance_encoder": 1}
    lcad.prepare(cond.replace(gray=tiny_picture(48, 48)), SETTINGS)
    assert lcad.network_calls == {"text_encoder": 3, "luminance_encoder": 2}


def test_the_cache_keeps_fields_apart_and_its_newest_value():
    cache = FieldCache(max_bytes_per_field=8)
    big = cache.get("taps", 0, lambda: torch.zeros(100))
    for key in range(5):
        cache.get("text", key, lambda: torch.zeros(2))
    assert cache.get("taps", 0, lambda: torch.ones(1)) is big
    assert cache.num_bytes == 400 + 8
    cache.get("taps", 1, lambda: torch.zeros(1))
    assert cache.num_bytes == 4 + 8
    cache.clear()
    assert cache.num_bytes == 0


def test_predictions_are_named_float32_and_one_network_call(lcad, cond):
    prepared = lcad.prepare(cond, SETTINGS)
    latents = initial_noise(0, 0, (1, *prepared.latent_shape))
    predictions = lcad.predict(prepared, latents, 751, SETTINGS)
    assert list(predictions) == ["uncond", "cond"] == list(lcad.guidance_passes(SETTINGS))
    assert all(prediction.shape == latents.shape for prediction in predictions.values())
    assert lcad.network_calls["unet"] == 1
    assert not torch.equal(predictions["uncond"], predictions["cond"])


def test_a_pass_of_the_batch_is_the_network_called_by_hand(lcad, cond):
    prepared = lcad.prepare(cond, SETTINGS)
    latents = initial_noise(0, 0, (1, *prepared.latent_shape))
    with torch.no_grad():
        by_hand = lcad.unet(
            torch.cat([latents, prepared.taps[-1]], 1), 751, encoder_hidden_states=prepared.text["cond"]
        ).sample
    predicted = lcad.predict(prepared, latents, 751, SETTINGS)["cond"]
    assert torch.allclose(predicted, by_hand, atol=1e-5)


def test_other_prediction_types_arrive_as_noise(cond):
    epsilon, velocity = tiny_lcad(), tiny_lcad(schedule=NoiseSchedule(prediction_type="v_prediction"))
    prepared = epsilon.prepare(cond, SETTINGS)
    latents = initial_noise(0, 0, (1, *prepared.latent_shape))
    raw = epsilon.predict(prepared, latents, 751, SETTINGS)["cond"]
    expected = velocity.schedule.to_noise_pred(raw, latents, 751)
    assert torch.equal(velocity.predict(prepared, latents, 751, SETTINGS)["cond"], expected)
    assert not torch.equal(expected, raw)


def test_taps_enter_the_decoder_unless_switched_off(lcad, cond):
    prepared = lcad.prepare(cond, SETTINGS)
    latents = initial_noise(0, 0, (1, *prepared.latent_shape))
    off = SETTINGS.with_mechanism("luminance_guidance", is_on=False)
    with torch.no_grad():
        plain = (decode_with_taps(lcad.vae, latents).clamp(-1, 1) + 1) / 2
        assert torch.equal(lcad.decode(latents, prepared, off), plain)
        assert not torch.allclose(lcad.decode(latents, prepared, SETTINGS), plain, atol=1e-3)
        silent = SETTINGS.with_mechanism("luminance_guidance", gain=0.0)
        assert torch.allclose(lcad.decode(latents, prepared, silent), plain, atol=1e-5)


def test_the_finished_picture_has_the_size_and_lightness_of_the_input(lcad, cond):
    prepared = lcad.prepare(cond, SETTINGS)
    decoded = lcad.decode(initial_noise(0, 0, (1, *prepared.latent_shape)), prepared, SETTINGS)
    finished = to_uint8(lcad.finish_image(decoded, cond, SETTINGS))
    assert finished.shape == (40, 56, 3)
    as_image = torch.from_numpy(finished).permute(2, 0, 1)[None].float() / 255
    lightness_in = rgb_to_lab(gray_image(cond).expand(-1, 3, -1, -1))[:, 0]
    assert float((rgb_to_lab(as_image)[:, 0] - lightness_in).abs().max()) < 0.5
    published = lcad.finish_image(decoded, cond, SETTINGS.replace(as_published=True))
    assert torch.equal(published, decoded)


def test_gray_is_required_and_said_so(lcad):
    with pytest.raises(RangeError, match="lcad needs gray"):
        lcad.prepare(Conditioning(prompt="a red car"), SETTINGS)


def test_strength_below_one_has_no_meaning_here(lcad, cond):
    with pytest.raises(RangeError, match=r"strength is 0\.5"):
        lcad.prepare(cond, SETTINGS.replace(strength=0.5))


def test_noise_in_every_step_needs_a_solver_that_adds_it(lcad, cond):
    with pytest.raises(RangeError, match=r"eta is 0\.5, but euler adds no noise"):
        lcad.prepare(cond, SETTINGS.replace(eta=0.5, solver="euler"))


@pytest.mark.parametrize(
    ("mechanisms", "message"),
    [
        ({"sag": {"is_on": True}}, "no mechanism 'sag'; it has channel_extension"),
        ({"luminance_guidance": {"gain": -1}}, "luminance_guidance.gain is -1"),
    ],
)
def test_mechanisms_that_do_not_exist_are_refused(lcad, cond, mechanisms, message):
    with pytest.raises(RangeError, match=message):
        lcad.prepare(cond, SETTINGS.replace(mechanisms=mechanisms))


def test_fields_that_are_not_read_are_said_so(lcad, cond):
    stroke = Stroke(points=((3.0, 3.0),), color=(200, 40, 40), radius_px=2)
    prepared = lcad.prepare(cond.replace(strokes=[stroke]), SETTINGS)
    assert prepared.notes == ("lcad does not read strokes; it is ignored.",)


def test_the_empty_prompt_works_and_equals_the_unconditional_pass(lcad, picture):
    prepared = lcad.prepare(Conditioning(gray=picture), SETTINGS)
    assert prepared.notes == ()
    assert torch.equal(prepared.text["cond"], prepared.text["uncond"])


def test_a_prompt_of_500_words_is_cut_with_a_warning(colorizer, picture):
    words = "red " * 500
    with pytest.warns(ConditioningWarning, match="1500 tokens and this model reads 10") as caught:
        run = colorizer.start(picture, prompt=words)
    assert caught[0].filename == __file__
    assert run.segments[0].prepared.text["cond"].shape == (1, MAX_TOKENS, 16)


def test_unknown_words_are_warned_about(colorizer, picture):
    with pytest.warns(ConditioningWarning, match="2 tokens that this model does not know"):
        colorizer.start(picture, prompt="a réd car")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        colorizer.start(picture, prompt="a red car")


def test_missing_components_are_named():
    components = tiny_lcad().components
    del components["vae"]
    with pytest.raises(RangeError, match="vae did not come"):
        type(tiny_lcad())(components, 32)


def test_text_to_image_paints_a_square_from_words_alone():
    method = tiny_text_to_image()
    conditioning = Conditioning(prompt="a red car")
    prepared = method.prepare(conditioning, SETTINGS)
    latents = initial_noise(0, 0, (1, *prepared.latent_shape))
    assert set(method.predict(prepared, latents, 751, SETTINGS)) == {"uncond", "cond"}
    decoded = method.decode(latents, prepared, SETTINGS)
    assert decoded.shape == (1, 3, 32, 32)
    assert method.finish_image(decoded, conditioning, SETTINGS) is decoded
    assert np.all((decoded.numpy() >= 0) & (decoded.numpy() <= 1))


def test_half_precision_networks_give_float32_predictions(cond):
    method = tiny_lcad()
    for network in method.networks.values():
        network.to(torch.bfloat16)
    prepared = method.prepare(cond, SETTINGS)
    assert prepared.taps[0].dtype == torch.bfloat16
    latents = initial_noise(0, 0, (1, *prepared.latent_shape))
    assert method.predict(prepared, latents, 751, SETTINGS)["cond"].dtype == torch.float32
    assert method.decode(latents, prepared, SETTINGS).dtype == torch.float32
