"""DiffColor as a method: starts, the embedding path, adaptations, and run files that hold them."""

import warnings

import numpy as np
import pytest
import torch
from tiny import tiny_colorizer, tiny_diffcolor, tiny_lcad

import colorlab
from colorlab.conditioning import Conditioning
from colorlab.errors import RangeError, RunFileError, ShapeError, StateError, WeightsError
from colorlab.mechanisms.embedding_path import interpolate_embeddings
from colorlab.methods.adaptation import Adaptation
from colorlab.methods.base import ConditioningWarning
from colorlab.methods.identifiers import rewrite
from colorlab.sampling.inversion import ddim_invert
from colorlab.sampling.loop import first_state, sample_step
from colorlab.sampling.schedules import NoiseSchedule
from colorlab.sampling.solvers import find_solver
from colorlab.settings import Settings

CONTEXT = "a photo of a cat"


@pytest.fixture
def method():
    return tiny_diffcolor()


@pytest.fixture
def colorizer(method):
    return tiny_colorizer(method)


@pytest.fixture
def adaptation(method, picture):
    generator = torch.Generator().manual_seed(0)
    site = "mid_block.attentions.0.transformer_blocks.0.attn2.to_q"
    width = dict(method.unet.named_parameters())[f"{site}.weight"].shape
    identified = method.encode_prompt(rewrite(CONTEXT, method.components).text).tokens
    conditioning = Conditioning(gray=picture, prompt=CONTEXT)
    return Adaptation(
        {
            f"reconstruction/{site}.down": torch.randn(2, width[1], generator=generator),
            f"reconstruction/{site}.up": torch.randn(width[0], 2, generator=generator),
            "embedding/optimized": identified + 0.1,
            "embedding/identified": identified,
            "picture/aligned": torch.full((*picture.shape, 3), 90, dtype=torch.uint8),
        },
        {
            "base": "",
            "context": CONTEXT,
            "gray": conditioning.content_hash("gray"),
            "rewriting": rewrite(CONTEXT, method.components).to_dict(),
        },
    )


# The embedding path.


def test_the_ends_of_the_path_are_exact():
    ends = torch.randn(2, 1, 5, 3)
    assert torch.equal(interpolate_embeddings(ends[0], ends[1], 0.0), ends[0])
    assert torch.equal(interpolate_embeddings(ends[0], ends[1], 1.0), ends[1])
    middle = interpolate_embeddings(ends[0], ends[1], (0.0, 1.0, 0.0, 0.5, 1.5))
    assert torch.equal(middle[0, 1], ends[1][0, 1])
    assert torch.allclose(middle[0, 4], ends[0][0, 4] + 1.5 * (ends[1] - ends[0])[0, 4])
    with pytest.raises(RangeError, match="2 etas, but one for each of 5 tokens"):
        interpolate_embeddings(ends[0], ends[1], (0.0, 1.0))
    with pytest.raises(ShapeError):
        interpolate_embeddings(ends[0], ends[1][:, :2], 0.5)


def test_prompts_move_the_embedding_of_an_adapted_model(method, adaptation, picture):
    adapted = method.adapted(adaptation)

    def tokens(prompt, **values):
        settings = Settings(num_inference_steps=4).with_mechanism("embedding_path", **values)
        return adapted.prepare(Conditioning(gray=picture, prompt=prompt), settings).text["cond"]

    assert torch.equal(tokens(""), adaptation.optimized)
    assert torch.equal(tokens("a photo of a brown cat", eta=0.0), adaptation.optimized)
    target = method.encode_prompt("a photo of a brown cat").tokens
    assert torch.equal(tokens("a photo of a brown cat", eta=1.0), target)
    assert torch.equal(tokens("a photo of a brown cat", is_on=False), target)
    etas = adapted.align_target("a photo of a brown cat").etas({"cat": 1.0})
    moved = tokens("a photo of a brown cat", token_etas=etas)
    assert torch.equal(moved[:, 5], target[:, 5])
    assert torch.equal(moved[:, 1], adaptation.optimized[:, 1])
    with pytest.raises(RangeError, match="has no place in it"):
        tokens("a photo of a brown sofa")


def test_attention_finds_words_behind_an_identifier_and_has_its_null_baseline(colorizer, adaptation, picture):
    tuned = colorizer.with_adaptation(adaptation)
    for prompt in ("", CONTEXT):
        run = tuned.start(picture, prompt=prompt, num_inference_steps=4).finish(progress=False)
        found = run.attention(0, word="cat", baseline=True)
        assert (found.provenance["text"], found.provenance["tokens"]) == ("a photo of a sks cat", [6])
        assert np.array_equal(found.array, run.attention(0, token=6).array)
        assert not np.allclose(found.array, found.baseline, atol=1e-7)
        assert run.attention(0, word="sks").provenance["tokens"] == [5]
    # Without the path prompts are read as they stand.
    plain = tuned.start(picture, prompt=CONTEXT, num_inference_steps=4, mechanisms={"embedding_path": {"is_on": False}})
    assert plain.finish(progress=False).attention(0, word="cat").provenance["tokens"] == [5]


def test_a_plain_model_has_no_context(method):
    with pytest.raises(StateError, match="tune it first"):
        method.align_target("a photo of a brown cat")


# Where runs start.


def test_inversion_leads_back_along_ddim_when_the_noise_does_not_depend_on_the_latents():
    schedule = NoiseSchedule()
    timesteps = schedule.timesteps(10)[4:]
    clean = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    directions = {int(t): torch.randn(1, 4, 4, 4) for t in timesteps}
    inverted = ddim_invert(clean, lambda x, t: directions[t], schedule=schedule, timesteps=timesteps)
    state = first_state(inverted, schedule=schedule, timesteps=timesteps)
    for _ in timesteps:
        state, _ = sample_step(
            state,
            predict=lambda x, t: {"cond": directions[t]},
            guide=lambda found: found["cond"],
            solver=find_solver("ddim"),
            schedule=schedule,
            timesteps=timesteps,
        )
    assert state.is_finished
    assert torch.allclose(state.latents, clean, atol=1e-5)


def test_strength_leaves_out_the_first_steps(colorizer, picture):
    run = colorizer.start(picture, prompt=CONTEXT, num_inference_steps=10, strength=0.29)
    assert run.num_steps == 2
    assert torch.equal(run.timesteps, colorizer.method.schedule.timesteps(10)[-2:])
    whole = colorizer.start(
        picture, num_inference_steps=10, strength=1.0, mechanisms={"gray_start": {"start": "noise"}}
    )
    assert whole.num_steps == 10
    with pytest.raises(RangeError, match="leaves none of 4 steps"):
        colorizer.start(picture, num_inference_steps=4, strength=0.2)
    with pytest.raises(RangeError, match=r"starts from pure noise, but strength is 0\.6"):
        colorizer.start(picture, strength=0.6, mechanisms={"gray_start": {"start": "noise"}})
    with pytest.raises(RangeError, match="spacing 'leading' alone"):
        colorizer.start(picture, strength=0.6, timestep_spacing="trailing")


def test_methods_that_keep_nothing_still_refuse_a_strength(picture):
    with pytest.raises(RangeError, match="starts from noise alone"):
        tiny_colorizer(tiny_lcad()).start(picture, strength=0.5)


@pytest.mark.parametrize("start", ["invert", "noise_gray"])
def test_runs_start_from_the_picture_and_replay_from_a_file(colorizer, picture, start, tmp_path):
    run = colorizer.start(
        picture, prompt=CONTEXT, strength=0.5, num_inference_steps=4, mechanisms={"gray_start": {"start": start}}
    )
    other = colorizer.start(picture[::-1], prompt=CONTEXT, strength=0.5, num_inference_steps=4, settings=run.settings)
    assert not torch.equal(run.states[0].latents, other.states[0].latents)
    image = run.image
    assert image.shape == (*picture.shape, 3)
    run.save(tmp_path / "a.colorlab")
    opened = colorlab.open(tmp_path / "a.colorlab", colorizer)
    assert [state.equals(mine) for state, mine in zip(opened.states, run.states, strict=True)] == [True] * 3
    branch = run.branch(step=0, prompt="a photo of a blue cat")
    assert branch.num_steps == 2


def test_mechanisms_explain_start_and_alignment(colorizer, picture):
    run = colorizer.start(picture, prompt=CONTEXT, num_inference_steps=4).finish(progress=False)
    shown = run.explain(None)
    assert set(shown) == {
        "gray_start.latents",
        "spatial_alignment.before_after",
        "spatial_alignment.lightness_residual",
    }
    exhibit = shown["spatial_alignment.before_after"]
    assert list(exhibit.pictures) == ["before", "after"]
    assert -1 <= exhibit.provenance["ssim"] <= 1
    assert exhibit.plot() is not None


# Adaptations.


def test_an_adaptation_changes_the_network_and_leaves_the_model_alone(method, adaptation):
    before = {name: value.clone() for name, value in method.unet.state_dict().items()}
    adapted = method.adapted(adaptation)
    changed = [name for name, value in adapted.unet.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["mid_block.attentions.0.transformer_blocks.0.attn2.to_q.weight"]
    site = changed[0].removesuffix(".weight")
    wanted = (
        before[changed[0]]
        + adaptation.tensors[f"reconstruction/{site}.up"] @ (adaptation.tensors[f"reconstruction/{site}.down"])
    )
    assert torch.allclose(adapted.unet.state_dict()[changed[0]], wanted)
    assert all(torch.equal(value, before[name]) for name, value in method.unet.state_dict().items())
    assert adapted.weights_hash != method.weights_hash
    assert adapted.adapted(adaptation).weights_hash == adapted.weights_hash


def test_a_model_that_was_not_tuned_says_so(colorizer, picture, adaptation):
    with pytest.warns(ConditioningWarning, match="tuned on no picture yet"):
        colorizer.start(picture, prompt=CONTEXT)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConditioningWarning)
        colorizer.with_adaptation(adaptation).start(picture, prompt="a photo of a blue cat")


def test_adaptations_are_known_by_content_and_survive_a_file(adaptation, tmp_path):
    path = adaptation.save(tmp_path / "cat.safetensors")
    loaded = Adaptation.load(path)
    assert loaded.content_hash == adaptation.content_hash
    assert loaded.rewriting == adaptation.rewriting
    other = Adaptation({**adaptation.tensors, "embedding/optimized": adaptation.optimized + 1e-3}, adaptation.info)
    assert other.content_hash != adaptation.content_hash
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="damaged"):
        Adaptation.load(path)
    with pytest.raises(WeightsError, match="There is no adaptation"):
        Adaptation.load(tmp_path / "dog.safetensors")
    with pytest.raises(RangeError, match=r"ends in \.safetensors"):
        adaptation.save(tmp_path / "cat.pt")


def test_an_adaptation_of_other_weights_is_refused(method, adaptation):
    foreign = Adaptation(adaptation.tensors, {**adaptation.info, "base": "ab" * 32})
    with pytest.raises(RangeError, match="tuned on other weights"):
        method.adapted(foreign)
    misfit = Adaptation({"reconstruction/nowhere.delta": torch.zeros(2)}, adaptation.info)
    with pytest.raises(WeightsError, match="does not have"):
        method.adapted(misfit)


def test_a_run_file_holds_the_adaptation(colorizer, adaptation, picture, tmp_path):
    run = colorizer.with_adaptation(adaptation).start(picture, prompt="a photo of a brown cat", num_inference_steps=4)
    run.finish(progress=False)
    run.save(tmp_path / "cat.colorlab")
    opened = colorlab.open(tmp_path / "cat.colorlab", colorizer)
    assert opened.method.adaptation.content_hash == adaptation.content_hash
    assert np.array_equal(opened.image, run.image)
    other = colorizer.with_adaptation(opened.method.adaptation).start(picture, prompt="a photo of a red cat")
    assert other.finish(progress=False).image.shape == (*picture.shape, 3)
    content = bytearray((tmp_path / "cat.colorlab").read_bytes())
    content[-20] ^= 1
    (tmp_path / "cat.colorlab").write_bytes(content)
    with pytest.raises(RunFileError, match="damaged"):
        colorlab.open(tmp_path / "cat.colorlab", colorizer)


def test_an_adaptation_is_taken_from_its_file(colorizer, adaptation, tmp_path):
    assert colorlab.Adaptation is Adaptation
    path = adaptation.save(tmp_path / "cat.safetensors")
    for given in (path, str(path)):
        assert colorizer.with_adaptation(given).method.adaptation.content_hash == adaptation.content_hash
    with pytest.raises(WeightsError, match="There is no adaptation"):
        colorizer.with_adaptation("dog.safetensors")
    with pytest.raises(RangeError, match=r"adaptation is 3, but tuning\.adaptation or a path is expected"):
        colorizer.with_adaptation(3)


def test_an_adaptation_of_another_picture_is_told_and_used(colorizer, adaptation, picture):
    tuned = colorizer.with_adaptation(adaptation)
    with warnings.catch_warnings():
        warnings.simplefilter("error", colorlab.ConditioningWarning)
        tuned.start(picture, prompt="a photo of a brown cat")
    with pytest.warns(colorlab.ConditioningWarning, match="tuned on another picture") as told:
        tuned.start(picture[::-1], prompt="a photo of a brown cat")
    assert len(told) == 1


def test_methods_that_are_not_tuned_refuse_adaptations(adaptation):
    with pytest.raises(RangeError, match="not tuned on single pictures"):
        tiny_colorizer(tiny_lcad()).with_adaptation(adaptation)


def test_the_shipped_model_is_the_prior_wired_anew():
    names = {entry.name: entry for entry in colorlab.models()}
    assert names["mini/diffcolor"].method == "diffcolor"
    colorizer = colorlab.load("mini/diffcolor")
    assert colorizer.method.name == "diffcolor"
    assert "projected_image_encoder" in colorizer.method.components
    assert colorizer.method.weights_hash == colorlab.load("mini/prior").method.weights_hash
