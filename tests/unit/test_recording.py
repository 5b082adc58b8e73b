"""Recording: any call of a UNet pipeline can be asked like a run, and does not notice that it is listened to."""

import inspect
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_pipelines import (
    NEGATIVE,
    PIPELINES,
    PROMPT,
    SIZE,
    VARIANTS,
    add_lora,
    call,
    change,
    diffusers,
    hooks_of,
    tiny_pipeline,
)

import colorlab
from colorlab.errors import RangeError, StateError
from colorlab.images import to_uint8
from colorlab.inspection.places import template_tokens
from colorlab.inspection.replay import replay_step
from colorlab.networks.sites import uncompiled
from colorlab.runs.queries import Queries

CROSS = "mid_block.attentions.0.transformer_blocks.0.attn2"
SELF = "mid_block.attentions.0.transformer_blocks.0.attn1"
# The tiny tokenizer spells: <start> a r e d c a r <end> ...
CAR = [5, 6, 7]
H, W = SIZE[0] // 8, SIZE[1] // 8
LATENT_BYTES = 4 * H * W * 4


def recorded(pipe, **arguments):
    """Call a pipeline while it is recorded; return the recording and the pictures."""
    with colorlab.record(pipe) as recording:
        pictures = call(pipe, **arguments)
    return recording, pictures


class Seen:
    """An attention processor that computes the full matrix by hand, in float64, and then lets the real one work."""

    def __init__(self, real):
        self.real, self.probs, self.image_probs = real, None, None

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **more):
        def heads(tokens):
            return tokens.double().unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        def matrix(key):
            return (heads(attn.to_q(hidden_states)) @ heads(key).transpose(-1, -2) * attn.scale).softmax(dim=-1)

        context, images = encoder_hidden_states, ()
        if isinstance(context, tuple):
            context, images = context
        self.probs = matrix(attn.to_k(hidden_states if context is None else context))
        if images:
            self.image_probs = matrix(self.real.to_k_ip[0](images[0].flatten(1, 2)))
        return self.real(attn, hidden_states, encoder_hidden_states, **more)


def brute_force(recording, step, path):
    """Return attention (rows, heads, Q, K) float64 of a step, and that to the pictures of an IP-Adapter."""
    moment = recording.moment(step)
    layer = uncompiled(moment.network).get_submodule(path)
    real = layer.processor
    seen = Seen(real)
    # `set_processor` would drop the adapter's weights on the way.
    layer._modules.pop("processor", None)
    layer.processor = seen
    try:
        moment.predict(nullcontext())
    finally:
        layer.__dict__.pop("processor", None)
        layer.processor = real
    return seen.probs, seen.image_probs


def grid_of(recording, path):
    return next(site.grid for site in recording.moment(0).sites if site.path == path)


# The support matrix.


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", PIPELINES)
def test_support_matrix(name, variant):
    # Compiling two levels takes half a minute.
    pipe = tiny_pipeline(name, num_levels=1 if variant == "compiled" else 2)
    more = change(pipe, variant)
    alone, before = call(pipe, **more), hooks_of(pipe)
    recording, pictures = recorded(pipe, **more)
    assert torch.equal(pictures, alone)
    assert hooks_of(pipe) == before

    step = recording.num_steps - 1
    word = recording.attention(step, word="car", site=CROSS)
    pixel = recording.attention(step, pixel=(40, 20), site=SELF, guidance_pass="uncond")
    for exhibit in (word, pixel):
        assert (exhibit.verdict, exhibit.provenance["difference"]) == ("close" if variant == "compiled" else "exact", 0)
        assert exhibit.provenance["reasons"] == (["is_compiled True became False"] if variant == "compiled" else [])
        assert exhibit.array.std() > 0
    probs, _ = brute_force(recording, step, CROSS)
    expected = probs[1, :, :, CAR].sum(dim=-1).mean(dim=0).unflatten(0, grid_of(recording, CROSS))
    assert np.abs(word.array - expected.numpy()).max() <= 1e-5
    probs, _ = brute_force(recording, step, SELF)
    grid = grid_of(recording, SELF)
    cell = int(20 * grid[0] / SIZE[0]) * grid[1] + int(40 * grid[1] / SIZE[1])
    assert np.abs(pixel.array - probs[0, :, cell].mean(dim=0).unflatten(0, grid).numpy()).max() <= 1e-5
    assert recording.features(step, "mid_block").verdict == word.verdict


@pytest.mark.parametrize("name", PIPELINES)
def test_the_pictures_of_an_ip_adapter_have_maps_of_their_own(name):
    pipe = tiny_pipeline(name)
    recording, _ = recorded(pipe, **change(pipe, "ip_adapter"))
    _, probs = brute_force(recording, 1, CROSS)
    expected = probs[1].mean(dim=0)
    maps = [recording.image_attention(1, token=token, site=CROSS) for token in range(4)]
    for token, exhibit in enumerate(maps):
        assert exhibit.verdict == "exact"
        assert exhibit.provenance["query"] == "image_attention"
        assert np.abs(exhibit.array.flatten() - expected[:, token].numpy()).max() <= 1e-5
    assert sum(exhibit.array for exhibit in maps) == pytest.approx(1, abs=1e-5)
    looks = recording.image_attention(1, pixel=(0, 0), site=CROSS, baseline=True)
    assert looks.provenance["token_names"] == [f"image token {token}" for token in range(4)]
    assert np.abs(looks.array - expected[0].numpy()).max() <= 1e-5
    assert looks.baseline.sum() == pytest.approx(1, abs=1e-5)


def test_pictures_that_are_not_looked_at_are_a_named_error():
    pipe = tiny_pipeline("StableDiffusion")
    recording, _ = recorded(pipe)
    with pytest.raises(StateError, match="reads no images through the IP-Adapter number 0"):
        recording.image_attention(0, token=0)
    more = change(pipe, "ip_adapter")
    recording, _ = recorded(pipe, **more)
    with pytest.raises(RangeError, match="reads tokens 0 to 3"):
        recording.image_attention(0, token=4)
    with pytest.raises(StateError, match="number 1"):
        recording.image_attention(0, token=0, adapter=1)
    with pytest.raises(RangeError, match="one of token and pixel"):
        recording.image_attention(0)
    both = recording.image_attention(0, token=[0, 3], site=CROSS, baseline=True)
    alone = [recording.image_attention(0, token=token, site=CROSS).array for token in range(4)]
    assert np.allclose(both.array, alone[0] + alone[3], atol=1e-6)
    assert np.allclose(both.baseline, alone[1] + alone[2], atol=1e-6)
    for layer in pipe.unet.attn_processors.values():
        if hasattr(layer, "scale"):
            layer.scale = [0.0]
    recording, _ = recorded(pipe, **more)
    with pytest.raises(StateError, match="a scale above 0"):
        recording.image_attention(0, token=0)
    assert recording.attention(0, word="car").verdict == "exact"


def test_masked_pictures_are_read_one_after_the_other():
    pipe = tiny_pipeline("StableDiffusion")
    change(pipe, "ip_adapter")
    generator = torch.Generator().manual_seed(0)
    masks = [torch.ones(1, 2, *SIZE)]
    recording, _ = recorded(
        pipe,
        ip_adapter_image_embeds=[torch.randn(2, 2, 24, generator=generator)],
        cross_attention_kwargs={"ip_adapter_masks": masks},
    )
    maps = [recording.image_attention(0, token=token, site=CROSS) for token in range(8)]
    assert {exhibit.verdict for exhibit in maps} == {"exact"}
    assert sum(exhibit.array for exhibit in maps) == pytest.approx(1, abs=1e-5)


def test_an_adapter_by_peft():
    peft = pytest.importorskip("peft", reason="LoRA through diffusers needs peft")
    pipe = tiny_pipeline("StableDiffusion")
    plain = call(pipe)
    config = peft.LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v"], init_lora_weights=False)
    pipe.unet.add_adapter(config)
    recording, pictures = recorded(pipe, cross_attention_kwargs={"scale": 0.5})
    assert not torch.equal(pictures, plain)
    assert recording.attention(1, word="car").verdict == "exact"


def test_a_unet_compiled_in_place_is_heard_as_well():
    pipe = tiny_pipeline("StableDiffusion", num_levels=1)
    pipe.unet.compile(backend="eager", dynamic=False)
    alone, before = call(pipe), hooks_of(pipe)
    recording, pictures = recorded(pipe)
    assert torch.equal(pictures, alone)
    assert hooks_of(pipe) == before
    found = recording.attention(2, word="car")
    assert (found.verdict, found.provenance["difference"]) == ("close", 0)
    assert found.array.std() > 0


# Watching changes nothing.


def test_signatures_stay_and_so_does_noise_of_the_scheduler():
    pipe = tiny_pipeline("StableDiffusion")
    alone = call(pipe, eta=1.0)
    assert not torch.equal(alone, call(pipe))
    signature = inspect.signature(pipe.scheduler.step)
    with colorlab.record(pipe) as recording:
        assert inspect.signature(pipe.scheduler.step) == signature
        pictures = call(pipe, eta=1.0)
    assert torch.equal(pictures, alone)
    assert {recording.attention(step, word="red").verdict for step in range(4)} == {"exact"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_hooks_are_gone_after_an_exception_between_steps(error):
    pipe = tiny_pipeline("StableDiffusionControlNet")
    call(pipe)
    before, during = hooks_of(pipe), []

    def fail(pipe, step, timestep, kept):
        during.append(hooks_of(pipe))
        if step == 1:
            raise error
        return kept

    with pytest.raises(error), colorlab.record(pipe) as recording:
        call(pipe, callback_on_step_end=fail)
    assert during[0] != before
    assert hooks_of(pipe) == before
    assert (recording.num_steps, len(recording.states)) == (2, 2)
    assert recording.attention(1, word="car").verdict == "exact"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_hooks_are_gone_after_an_exception_within_the_network(error):
    pipe = tiny_pipeline("StableDiffusionControlNet")
    call(pipe)
    before = hooks_of(pipe)

    def fail(*_):
        raise error

    handle = pipe.unet.mid_block.register_forward_hook(fail)
    with pytest.raises(error), colorlab.record(pipe) as recording:
        call(pipe)
    handle.remove()
    assert hooks_of(pipe) == before
    with pytest.raises(StateError, match="holds no step"):
        recording.attention(0, word="car")


def test_asking_changes_nothing():
    pipe = tiny_pipeline("StableDiffusion")
    recording, pictures = recorded(pipe)
    state, kept, before = torch.get_rng_state(), recording.num_bytes, hooks_of(pipe)
    first = recording.attention(1, word="car", baseline=True)
    recording.attention(1, measure="entropy")
    recording.preview(1)
    assert recording.attention(1, word="car", baseline=True) == first
    assert torch.equal(torch.get_rng_state(), state)
    assert (recording.num_bytes, hooks_of(pipe)) == (kept, before)
    assert torch.equal(call(pipe), pictures)


# What is kept.


def test_every_tensor_is_kept_once():
    steps, passes, text = 4, 2, 2 * 12 * 16 * 4
    # Latents, predictions and the clean latents of each step, its timestep; the text once, the last latents.
    expected = steps * ((1 + passes + 1) * LATENT_BYTES + 8) + text + LATENT_BYTES
    assert recorded(tiny_pipeline("StableDiffusion"))[0].num_bytes == expected
    # The control picture of both passes, and no residual.
    control = 2 * 3 * SIZE[0] * SIZE[1] * 4
    assert recorded(tiny_pipeline("StableDiffusionControlNet"))[0].num_bytes == expected + control
    # The mask and the masked picture stand beside the latents in every call.
    beside = steps * 5 * H * W * 4
    assert recorded(tiny_pipeline("StableDiffusionInpaint"))[0].num_bytes == expected + beside


@pytest.mark.parametrize("name", ["StableDiffusion", "StableDiffusionControlNet"])
def test_what_does_not_fit_is_left_out_and_told(name):
    pipe = tiny_pipeline(name)
    whole = recorded(pipe)[0].num_bytes
    alone = call(pipe)
    numbers = []
    for max_bytes in (0, whole - 2 * LATENT_BYTES, whole - 1, whole):
        with (
            pytest.warns(RuntimeWarning, match="max_bytes") if max_bytes < whole else nullcontext(),
            colorlab.record(pipe, max_bytes=max_bytes) as recording,
        ):
            assert torch.equal(call(pipe), alone)
        assert recording.num_bytes <= max_bytes
        numbers.append(recording.num_steps)
        for step in range(recording.num_steps):
            assert recording.attention(step, word="car").verdict == "exact"
        if recording.num_steps < 4:
            with pytest.raises(StateError, match="raise max_bytes"):
                recording.attention(3, word="car")
    assert numbers == [0, 3, 4, 4]
    with pytest.raises(RangeError, match="max_bytes is -1"):
        colorlab.record(pipe, max_bytes=-1)


# Makes of batches.


def test_several_pictures_of_several_prompts():
    pipe = tiny_pipeline("StableDiffusionXL")
    recording, _ = recorded(
        pipe, prompt=["a red car", "car"], negative_prompt=["blue", "a blue"], num_images_per_prompt=2
    )
    probs, _ = brute_force(recording, 1, CROSS)
    for picture, positions in ((0, [5, 6, 7]), (3, [1, 2, 3])):
        one = recording.of_picture(picture)
        found = one.attention(1, word="car", site=CROSS)
        expected = probs[4 + picture][:, :, positions].sum(dim=-1).mean(dim=0)
        assert found.verdict == "exact"
        assert np.abs(found.array.flatten() - expected.numpy()).max() <= 1e-5
        blue = one.attention(1, word="blue", site=CROSS, guidance_pass="uncond")
        assert blue.provenance["tokens"] == ([1, 2, 3, 4] if picture == 0 else [2, 3, 4, 5])
        assert not np.array_equal(one.guidance(1).array, recording.of_picture(1).guidance(1).array)
    with pytest.raises(RangeError, match="pictures 0 to 3"):
        recording.of_picture(4)


def test_without_guidance_there_is_one_pass():
    recording, _ = recorded(tiny_pipeline("StableDiffusion"), guidance_scale=1.0)
    assert tuple(recording.records[0].predictions) == ("cond",)
    assert recording.attention(0, word="car").verdict == "exact"
    with pytest.raises(RangeError, match="no guidance pass 'uncond'; this call has cond"):
        recording.attention(0, word="car", guidance_pass="uncond")
    with pytest.raises(StateError, match="'cond' only"):
        recording.guidance(0)


def test_guidance_may_end_in_the_middle():
    def end(pipe, step, timestep, kept):
        if step == 1:
            pipe._guidance_scale = 1.0
            kept["prompt_embeds"] = kept["prompt_embeds"].chunk(2)[1]
        return kept

    more = {"callback_on_step_end": end, "callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"]}
    recording, _ = recorded(tiny_pipeline("StableDiffusion"), **more)
    assert [len(step.predictions) for step in recording.records] == [2, 2, 1, 1]
    assert {recording.attention(step, word="car").verdict for step in range(4)} == {"exact"}


def test_guess_mode_and_several_control_networks():
    pipe = tiny_pipeline("StableDiffusionControlNet")
    assert recorded(pipe, guess_mode=True)[0].attention(1, word="car").verdict == "exact"
    picture = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(3))
    pipe.controlnet = diffusers.models.MultiControlNetModel([pipe.controlnet, pipe.controlnet])
    recording, _ = recorded(pipe, image=[picture, 1 - picture], controlnet_conditioning_scale=[0.5, 0.9])
    assert recording.attention(1, word="car").verdict == "exact"


def test_inference_mode_and_positional_words():
    pipe = tiny_pipeline("StableDiffusion")
    alone = call(pipe)
    with torch.inference_mode(), colorlab.record(pipe) as recording:
        pictures = call(pipe)
    assert torch.equal(pictures, alone)
    assert recording.attention(3, word="car").verdict == "exact"


def test_pipelines_that_are_not_known():
    with pytest.raises(RangeError, match="has no UNet"):
        colorlab.record(SimpleNamespace())
    pipe = tiny_pipeline("StableDiffusion")
    with pytest.raises(RangeError, match=r"How SimpleNamespace makes up its batch.*guidance_passes"):
        colorlab.record(SimpleNamespace(unet=pipe.unet, scheduler=pipe.scheduler))
    with pytest.raises(RangeError, match="different names"):
        colorlab.record(pipe, guidance_passes=("cond", "cond"))
    with colorlab.record(pipe, guidance_passes=("uncond", "warm")) as recording:
        call(pipe)
    assert recording.guidance(0).provenance["passes"] == ["uncond", "warm"]
    assert recording.attention(0, word="car", guidance_pass="warm").verdict == "exact"
    with (
        pytest.raises(StateError, match=r"2 rows, which are not a \+ b \+ c"),
        colorlab.record(pipe, guidance_passes=("a", "b", "c")),
    ):
        call(pipe)


def test_a_second_call_takes_the_place_of_the_first():
    pipe = tiny_pipeline("StableDiffusion")
    with colorlab.record(pipe) as recording:
        call(pipe, num_inference_steps=6)
        call(pipe, prompt="a blue car", num_inference_steps=3)
    assert (recording.num_steps, len(recording.states)) == (3, 4)
    assert recording.attention(0, word="blue").provenance["text"] == "a blue car"


# Words.


@pytest.mark.parametrize("variant", ["plain", "fused_qkv", "lora"])
@pytest.mark.parametrize("name", ["StableDiffusion", "StableDiffusionXL"])
def test_words_that_are_not_in_the_prompt(name, variant):
    pipe = tiny_pipeline(name)
    change(pipe, variant)
    recording, _ = recorded(pipe)
    found = recording.attention(2, word="teal", site=CROSS)
    assert found.provenance["is_in_prompt"] is False
    # softmax over the old keys and 4 new ones: p_new = e^s_new / (1 + sum e^s_new) with s relative to log sum e^s_old
    layer, moment = uncompiled(pipe.unet).get_submodule(CROSS), recording.moment(2)
    with torch.no_grad():
        tokens = template_tokens(moment.reader, PROMPT, "teal")
        new = layer.to_k(tokens).double().unflatten(-1, (layer.heads, -1)).transpose(0, 1)
    replayed = replay_step(moment, [site for site in moment.sites if site.path == CROSS])
    reading = replayed.readings[CROSS, "cond"]
    q, k = reading.q[0].double(), torch.cat([reading.k[0].double(), new], dim=1)
    expected = (q @ k.transpose(-1, -2) * reading.scale).softmax(dim=-1)[..., -4:].sum(dim=-1).mean(dim=0)
    assert np.abs(found.array.flatten() - expected.numpy()).max() <= 1e-5


@pytest.mark.parametrize("name", ["StableDiffusion", "StableDiffusionXL"])
def test_the_baseline_of_a_word_is_another_prompt_at_the_same_places(name):
    pipe = tiny_pipeline(name)
    arguments = {"num_inference_steps": 2, "guidance_scale": 1.0}
    found = recorded(pipe, prompt="red car", **arguments)[0].attention(0, word="red", site=CROSS, baseline=True)
    other, _ = recorded(pipe, prompt="car red", **arguments)
    probs, _ = brute_force(other, 0, CROSS)
    expected = probs[0][:, :, found.provenance["tokens"]].sum(dim=-1).mean(dim=0)
    assert np.abs(found.baseline.flatten() - expected.numpy()).max() <= 1e-5
    assert np.abs(found.baseline - found.array).max() > 1e-4


def test_calls_without_one_text_have_no_words():
    pipe = tiny_pipeline("StableDiffusion")
    with torch.no_grad():
        embeds = pipe.encode_prompt(PROMPT, "cpu", 1, True, NEGATIVE)
    given = {"prompt_embeds": embeds[0], "negative_prompt_embeds": embeds[1]}
    recording, pictures = recorded(pipe, prompt=None, negative_prompt=None, **given)
    assert torch.equal(pictures, call(pipe))
    with pytest.raises(StateError, match="no words: the pipeline was given embeddings"):
        recording.attention(0, word="car")
    assert recording.attention(0, pixel=(3, 3), site=CROSS).provenance["token_names"][:2] == ["token 0", "token 1"]
    recording, _ = recorded(tiny_pipeline("StableDiffusionXL"), prompt_2="a blue house")
    with pytest.raises(StateError, match="two text encoders read different texts, because of prompt_2"):
        recording.attention(0, word="car")


# The other questions.


def test_guidance_and_trajectory_are_those_of_the_call():
    seen = []

    def look(pipe, step, timestep, kept):
        seen.append(kept["latents"].clone())
        return kept

    recording, _ = recorded(tiny_pipeline("StableDiffusion"), callback_on_step_end=look)
    assert all(torch.equal(a, state.latents) for a, state in zip(seen, recording.states[1:], strict=True))
    assert [state.timestep for state in recording.states] == [751, 501, 251, 1, None]
    path = recording.trajectory()
    assert path.array.shape == (2, 5)
    assert path.provenance["run"] == "call of StableDiffusionPipeline"
    # DDIM leads the difference of the passes, times scale and coefficients, into the latents: its direction is theirs.
    predictions = recording.records[2].predictions
    expected = (predictions["cond"] - predictions["uncond"])[0].norm(dim=0)
    found = recording.guidance(2)
    assert np.array_equal(found.array, expected.numpy())
    assert (found.unit, found.array.shape) == ("noise standard deviations", (H, W))


SCHEDULERS = {
    "DDIMScheduler": {"clip_sample": False},
    "EulerDiscreteScheduler": {},
    "DPMSolverMultistepScheduler": {},
    "UniPCMultistepScheduler": {"solver_order": 1},
    "LCMScheduler": {"clip_sample": False},
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_last_preview_is_the_picture(name):
    scheduler = getattr(diffusers, name)(beta_schedule="scaled_linear", steps_offset=1, **SCHEDULERS[name])
    pipe = tiny_pipeline("StableDiffusion", scheduler=scheduler)
    alone = call(pipe)
    recording, pictures = recorded(pipe)
    assert torch.equal(pictures, alone)
    assert recording.attention(2, word="car").verdict == "exact"
    last, first = recording.preview(), recording.preview(0)
    assert np.abs(last.astype(int) - to_uint8(pictures)).max() <= 1
    assert last.shape == (*SIZE, 3)
    assert not np.array_equal(last, first)


def test_previews_from_the_prediction_and_none():
    arguments = {"beta_schedule": "scaled_linear", "steps_offset": 1, "prediction_type": "v_prediction"}
    told, _ = recorded(
        tiny_pipeline("StableDiffusion", scheduler=diffusers.DDIMScheduler(clip_sample=False, **arguments))
    )
    pndm = diffusers.PNDMScheduler(skip_prk_steps=True, **arguments)
    solved, _ = recorded(tiny_pipeline("StableDiffusion", scheduler=pndm))
    assert solved.num_steps == 5
    assert (told.records[0].clean_source, solved.records[0].clean_source) == (
        "as DDIMScheduler tells them",
        "from the v_prediction that PNDMScheduler was given",
    )
    # Equal latents at the first step, and so an equal clean picture, by whatever formula.
    assert told.records[0].timestep == solved.records[0].timestep
    assert torch.allclose(told.records[0].clean, solved.records[0].clean, atol=1e-5)
    assert told.guidance(0).unit == "units of v_prediction"
    silent, _ = recorded(tiny_pipeline("StableDiffusion", scheduler=diffusers.IPNDMScheduler()))
    with pytest.raises(StateError, match="IPNDMScheduler does not tell"):
        silent.preview(0)
    assert silent.attention(0, word="car").verdict == "exact"


def test_a_pipeline_that_was_changed_since_is_refused():
    pipe = tiny_pipeline("StableDiffusion")
    recording, _ = recorded(pipe)
    torch.manual_seed(0)
    add_lora(pipe.unet)
    found = recording.attention(1, word="car")
    assert (found.verdict, np.isnan(found.array).all()) == ("refused", True)


def test_every_query_of_a_run_has_an_answer():
    recording, _ = recorded(tiny_pipeline("StableDiffusion"))
    asked = {
        "attention": lambda: recording.attention(0, word="car"),
        "features": lambda: recording.features(0, "mid_block", baseline=True),
        "guidance": lambda: recording.guidance(0, baseline=True),
        "prediction": lambda: recording.prediction(0),
        "settled": lambda: recording.settled(baseline=True),
        "trajectory": lambda: recording.trajectory(),
    }
    assert {*asked, "sites"} == {name for name in vars(Queries) if not name.startswith("_")}
    assert recording.attention(0, word="car").provenance["sites"] == [
        site.path for site in recording.sites(kind="attn2")
    ]
    for question in asked.values():
        assert np.isfinite(question().array).all()
        assert question().provenance["model"] == "StableDiffusionPipeline"
    for step in (4, -1, True, "1"):
        with pytest.raises(StateError, match="holds steps 0 to 3"):
            recording.attention(step, word="car")
    assert repr(recording).startswith("Recording: call of StableDiffusionPipeline, 4 steps, 'a red car'")
    assert isinstance(recording, colorlab.Recording)
