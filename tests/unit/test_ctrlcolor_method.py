"""CtrlColor on tiny random networks: modes, guidance, strokes, local edits, replay, and bad input."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import tiny_colorizer, tiny_ctrlcolor, tiny_picture

from colorlab.color import delta_e, rgb_to_lab
from colorlab.conditioning import Conditioning
from colorlab.errors import ImageError, RangeError, ShapeError
from colorlab.inspection.replay import moment_of, replay_step, run_sites
from colorlab.methods.base import ConditioningWarning
from colorlab.settings import Settings
from colorlab.strokes import Stroke, Strokes

SAG = "self_attention_guidance"
RED = Stroke([(10, 10), (30, 20)], (200, 40, 40), 3)


@pytest.fixture
def colorizer():
    return tiny_colorizer(tiny_ctrlcolor())


@pytest.fixture
def base_image():
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return np.kron(picture, np.ones((8, 8, 1), dtype=np.uint8))


def run_of(colorizer, picture=None, **shortcuts):
    picture = tiny_picture() if picture is None else picture
    return colorizer.start(picture, prompt="a red car", **shortcuts).finish(progress=False)


def mechanism(name, **parameters):
    return Settings(num_inference_steps=4, guidance_scale=7.0, mechanisms={name: parameters})


# --- runs -------------------------------------------------------------------------------------------------------------


def test_every_mixture_of_modes_gives_a_picture_of_its_own(colorizer, base_image):
    mixtures = [{}, {"strokes": [RED]}, {"exemplar": base_image}, {"strokes": [RED], "exemplar": base_image}]
    latents = [run_of(colorizer, **mixture).state.latents for mixture in mixtures]
    for index, one in enumerate(latents):
        assert torch.isfinite(one).all()
        assert not any(torch.equal(one, other) for other in latents[:index])
    image = run_of(colorizer).image
    assert image.shape == (40, 56, 3)
    lab = [rgb_to_lab(torch.from_numpy(np.array(part) / 255.0).float().permute(2, 0, 1)[None]) for part in (
        image, np.repeat(tiny_picture()[..., None], 3, axis=2))]  # fmt: skip
    assert float((lab[0][:, 0] - lab[1][:, 0]).abs().max()) < 0.6


def test_what_is_switched_off_leaves_no_trace(colorizer):
    plain = mechanism(SAG, is_on=False)
    cond = Conditioning(gray=tiny_picture(), prompt="a red car")
    without = colorizer.start(cond, plain).finish(progress=False)
    for name, parameters in {
        SAG: {"is_on": True, "sag_scale": 0.0},
        "exemplar_guidance": {"exemplar_scale": 0.0},
    }.items():
        other = colorizer.start(
            Conditioning(gray=tiny_picture(), prompt="a red car"), plain.with_mechanism(name, **parameters)
        ).finish(progress=False)
        assert other.state.equals(without.state)
    strokes_off = plain.with_mechanism("stroke_encoding", is_on=False)
    cond = Conditioning(gray=tiny_picture(), prompt="a red car", strokes=[RED])
    assert colorizer.start(cond, strokes_off).finish(progress=False).state.equals(without.state)
    assert not colorizer.start(cond, plain).finish(progress=False).state.equals(without.state)


def test_guidance_moves_the_steps_it_acts_on_and_asks_the_networks_twice_there(colorizer):
    cond = Conditioning(gray=tiny_picture(), prompt="a red car")
    states = {}
    for name, parameters in {
        "off": {"is_on": False},
        "streamlined": {"sag_scale": 0.5},
        "original": {"sag_scale": 0.5, "variant": "original"},
        "up": {"sag_scale": 0.5, "site": "up", "threshold": 0.9},
    }.items():
        run = colorizer.start(cond, mechanism(SAG, **parameters))
        calls = colorizer.method.network_calls.copy()
        run.step()
        asked = {part: colorizer.method.network_calls[part] - calls[part] for part in ("unet", "control_network")}
        assert asked == dict.fromkeys(asked, 1 if name == "off" else 2)
        assert colorizer.method.network_calls["vae"] == 0
        num_passes = {"off": 2, "original": 3}.get(name, 4)
        assert len(run.records[0].predictions) == num_passes
        run.finish(progress=False)
        # Timesteps 751, 501, 251, 1: above 600 only the first.
        assert [len(record.predictions) for record in run.records[1:]] == [2, 2, 2]
        states[name] = run.states[1]
    assert not states["off"].equals(states["streamlined"])
    assert not states["streamlined"].equals(states["original"])


def test_without_classifier_free_guidance_one_pass_is_degraded(colorizer):
    run = run_of(colorizer, guidance_scale=1.0)
    assert list(run.records[0].predictions) == ["cond", "degraded_cond"]
    assert list(run.records[1].predictions) == ["cond"]


@pytest.mark.parametrize("variant", ["streamlined", "original"])
def test_every_step_replays_exactly_watched_or_not(colorizer, variant):
    settings = mechanism(SAG, sag_scale=0.5, variant=variant, min_timestep=300)
    settings = settings.with_mechanism("exemplar_guidance", exemplar_scale=0.1)
    exemplar = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    cond = Conditioning(gray=tiny_picture(30, 70), prompt="a red car", strokes=[RED], exemplar=exemplar)
    run = colorizer.start(cond, settings).finish(progress=False)
    sites = [site for site in run_sites(run) if site.is_attention]
    for step in range(run.num_steps):
        replay = replay_step(moment_of(run, step), sites)
        assert str(replay.verdict) == "exact"
        assert {name for _, name in replay.readings} == set(run.records[step].predictions)
    assert "steering" in run.records[0].network_inputs
    again = colorizer.start(cond, settings).finish(progress=False)
    assert again.state.equals(run.state)


def test_a_batch_is_guided_picture_by_picture():
    method = tiny_ctrlcolor()
    settings = mechanism(SAG, sag_scale=0.5)
    with torch.no_grad():
        prepared = method.prepare(Conditioning(gray=tiny_picture(), prompt="a red car"), settings)
        latents = torch.randn(2, *prepared.latent_shape, generator=torch.Generator().manual_seed(0))
        both = method.predict(prepared, latents, 751, settings)
        for index in range(2):
            alone = method.predict(prepared, latents[index : index + 1], 751, settings)
            for name, prediction in alone.items():
                assert torch.allclose(prediction[0], both[name][index], atol=1e-4), name


def test_exemplar_guidance_lowers_the_loss(colorizer):
    method, settings = colorizer.method, mechanism("exemplar_guidance", exemplar_scale=0.05)
    exemplar = np.full((20, 30, 3), (250, 20, 20), dtype=np.uint8)
    run = colorizer.start(Conditioning(gray=tiny_picture(), exemplar=exemplar), settings)
    run.step()
    record, prepared = run.records[0], run.segments[0].prepared
    clean = method.schedule.to_original_sample(
        record.noise_pred - record.network_inputs["steering"], run.states[0].latents, record.timestep
    )

    def loss(latents):
        image = method.decode(latents, prepared, settings)
        return float(method.exemplar.loss(image, prepared.gray, prepared.exemplar, method.exemplar_features, settings))

    with torch.no_grad():
        assert loss(record.pred_original_sample) < loss(clean)


def test_exemplar_guidance_through_the_network_lowers_the_loss_of_the_next_prediction(colorizer):
    method = colorizer.method
    settings = mechanism("exemplar_guidance", exemplar_scale=0.05, through_unet=True)
    settings = settings.with_mechanism(SAG, is_on=False)
    exemplar = np.full((20, 30, 3), (250, 20, 20), dtype=np.uint8)
    cond = Conditioning(gray=tiny_picture(), exemplar=exemplar)
    run = colorizer.start(cond, settings)
    calls = method.network_calls.copy()
    run.step()
    # One call for the prediction, one for the gradient, and no more for a replay.
    assert method.network_calls["unet"] - calls["unet"] == 2
    record, prepared, latents = run.records[0], run.segments[0].prepared, run.states[0].latents
    direct = settings.with_mechanism("exemplar_guidance", through_unet=False)
    with torch.no_grad():
        steer = method.steering_of(prepared, latents, record.timestep, direct)
        plain = steer(record.noise_pred - record.network_inputs["steering"])
    assert not torch.allclose(plain, record.network_inputs["steering"])
    calls = method.network_calls.copy()
    assert str(replay_step(moment_of(run, 0), []).verdict) == "exact"
    assert method.network_calls["unet"] - calls["unet"] == 1

    def loss(noisy):
        predictions = method.predict_noise(prepared, noisy, record.timestep, settings, ("uncond", "cond"))
        noise_pred = method.guide(predictions, settings)
        image = method.decode(
            method.schedule.to_original_sample(noise_pred, noisy, record.timestep), prepared, settings
        )
        return float(method.exemplar.loss(image, prepared.gray, prepared.exemplar, method.exemplar_features, settings))

    # The gradient's own promise: a small step of the noisy latents against it lowers the loss of what the network says.
    with torch.no_grad():
        assert loss(latents - 0.01 * record.network_inputs["steering"]) < loss(latents)
    assert all(parameter.grad is None for parameter in method.unet.parameters())


def test_what_the_control_network_sees_is_embedded_once_and_changes_nothing(colorizer):
    method, settings = colorizer.method, mechanism(SAG, sag_scale=0.5)
    network = method.components["control_network"]
    seen = []
    network.controlnet_cond_embedding.register_forward_hook(lambda module, inputs, output: seen.append(output))
    run = run_of(colorizer, strokes=[RED])
    assert len(seen) == 1
    run_of(colorizer)
    assert len(seen) == 1, "another stroke does not change the picture"
    prepared, latents = run.segments[0].prepared, run.states[0].latents
    with torch.no_grad():
        known = method.predict(prepared, latents, 751, settings)
        left = method.predict(replace(prepared, control_features=None), latents, 751, settings)
    assert len(seen) == 3, "two calls of the network, each of which embeds the picture itself"
    for name, prediction in left.items():
        assert torch.allclose(known[name], prediction, atol=1e-5), name


def test_a_control_network_that_reads_bgr_embeds_its_picture_itself(colorizer):
    rgb = run_of(colorizer)
    network = colorizer.method.components["control_network"]
    network.register_to_config(controlnet_conditioning_channel_order="bgr")
    colorizer.method.cache.clear()
    bgr = run_of(colorizer)
    assert bgr.segments[0].prepared.control_features is None
    assert torch.allclose(bgr.state.latents, rgb.state.latents, atol=1e-4), "gray is gray in any order"


# --- strokes and edits ------------------------------------------------------------------------------------------------


def prepare(conditioning, settings=None, method=None):
    method = method or tiny_ctrlcolor()
    with torch.no_grad():
        return method.prepare(conditioning, settings or Settings(num_inference_steps=4))


def test_thin_strokes_are_lost_as_published_only():
    line = Stroke([(3, 15), (53, 15)], (200, 40, 40), 0.3)
    cond = Conditioning(gray=tiny_picture(), strokes=[line])
    prepared = prepare(cond)
    assert not prepared.masks[0].all()
    nearest = prepare(cond, mechanism("stroke_encoding", mask_pool="nearest"))
    assert nearest.masks[0].all()
    method = tiny_ctrlcolor()
    run = tiny_colorizer(method).start(cond).finish(progress=False)
    shown = run.explain()
    assert not shown["stroke_encoding.lost"].array.any()
    lossy = tiny_colorizer(method).start(cond, mechanism("stroke_encoding", mask_pool="nearest"))
    lost = lossy.finish(progress=False).explain()["stroke_encoding.lost"]
    assert lost.array.sum() == shown["stroke_encoding.known"].array.sum()
    assert "100.0%" in lost.caption


def test_a_stroke_with_the_reds_of_the_picture_is_lost_as_published_only():
    gray = np.full((64, 64), 120, dtype=np.uint8)
    cond = Conditioning(gray=gray, strokes=[Stroke([(32, 32)], (120, 10, 200), 14)])
    assert prepare(cond).known[0].any()
    settings = Settings(num_inference_steps=4, as_published=True)
    published = prepare(cond, settings)
    assert published.painted[0].any()
    assert not published.known[0].any()
    other = prepare(cond.replace(strokes=[Stroke([(32, 32)], (121, 10, 200), 14)]), settings)
    assert other.known[0].any()


def test_strokes_with_steps_are_encoded_once_for_each_stretch(colorizer):
    early = Stroke(RED.points, RED.color, RED.radius_px, last_step=1)
    run = run_of(colorizer, strokes=[early])
    prepared = run.segments[0].prepared
    assert prepared.hint_of_step == (0, 0, 1, 1)
    assert [prepared.hint_at(timestep) for timestep in run.timesteps.tolist()] == [0, 0, 1, 1]
    assert not prepared.known[1].any()
    always, never = run_of(colorizer, strokes=[RED]), run_of(colorizer)
    assert run.states[2].equals(always.states[2])
    assert not run.states[3].equals(always.states[3])
    assert not run.states[1].equals(never.states[1])
    assert {"stroke_encoding.hint_0", "stroke_encoding.hint_1"} <= set(run.explain())


def test_a_changed_stroke_encodes_strokes_only():
    method = tiny_ctrlcolor()
    cond = Conditioning(gray=tiny_picture(), prompt="a red car")
    prepare(cond, method=method)
    calls = method.network_calls.copy()
    prepare(cond.replace(strokes=[RED]), method=method)
    changed = {name for name in method.network_calls if method.network_calls[name] != calls[name]}
    assert changed == {"vae_encoder"}


def test_keep_rest_keeps_the_rest(colorizer, base_image):
    gray = Conditioning(gray=base_image).gray
    for shortcuts in ({}, {"masks": {"car": np.pad(np.ones((9, 9), bool), ((5, 26), (5, 42)))}}):
        run = run_of(colorizer, gray, base_image=base_image, strokes=[RED], **shortcuts)
        region = run.segments[0].prepared.region[0, 0].bool().numpy()
        assert region.any()
        assert not region.all()
        labs = [
            rgb_to_lab(torch.from_numpy(np.array(part) / 255.0).float().permute(2, 0, 1)[None])
            for part in (run.image, base_image)
        ]
        apart = delta_e(*labs)[0, 0].numpy()
        assert apart[~region].mean() < 0.5
        assert apart[region].mean() > 5
        assert run.explain()["local_edit.region"].array.sum() == region.sum()


def test_keep_rest_frees_whole_cells_of_the_region_and_nothing_beyond(base_image):
    mask = np.zeros(base_image.shape[:2], bool)
    mask[9:14, 10:30] = True
    prepared = prepare(Conditioning(gray=base_image, base_image=base_image, strokes=[RED], masks={"car": mask}))
    cell_px = prepared.known[0].shape[-1] // prepared.latent_shape[-1]
    painted = prepared.painted[0].bool()
    free = ~prepared.known[0].bool() | painted
    cells = free[0, 0].unflatten(0, (-1, cell_px)).unflatten(2, (-1, cell_px))
    assert (cells.all(dim=3).all(dim=1) | ~cells.any(dim=3).any(dim=1) | painted_cells(painted, cell_px)).all()
    assert free[0, 0][mask_at(mask, free.shape[-2:])].all()
    assert not free.all()


def painted_cells(painted, cell_px):
    return torch.nn.functional.max_pool2d(painted.float(), cell_px)[0, 0] > 0


def mask_at(mask, size):
    return torch.nn.functional.interpolate(torch.from_numpy(mask)[None, None].float(), size=size)[0, 0] > 0


@pytest.mark.parametrize("is_published", [False, True])
def test_the_published_modes_give_what_they_say(base_image, is_published):
    big = np.kron(base_image, np.ones((2, 2, 1), dtype=np.uint8))
    cond = Conditioning(gray=big, base_image=big, strokes=[Stroke([(50, 40)], (200, 40, 40), 36)])
    free = {}
    for mode in ("rim", "area", "off"):
        settings = mechanism("local_edit", mode=mode).replace(as_published=is_published)
        prepared = prepare(cond, settings)
        free[mode] = 1 - prepared.known[0]
    painted = prepared.painted[0]
    center = tuple(torch.nonzero(painted[0, 0]).float().mean(dim=0).round().long().tolist())
    assert free["area"][0, 0][center] == 1
    assert free["rim"][0, 0][center] == 0
    assert free["off"][0, 0][center] == 0
    assert free["off"].mean() > free["area"].mean()
    assert free["rim"].any()


def test_as_published_says_that_it_cannot_keep_the_rest(base_image):
    cond = Conditioning(gray=base_image, base_image=base_image, strokes=[RED])
    prepared = prepare(cond, Settings(num_inference_steps=4, as_published=True))
    assert any("cannot keep the rest" in note for note in prepared.notes)
    assert prepared.region is None


def test_as_published_goes_through_to_the_end(colorizer, base_image):
    settings = Settings(num_inference_steps=4, as_published=True)
    # The added words are more than the tiny text encoder reads.
    with pytest.warns(ConditioningWarning, match="shorten it"):
        run = colorizer.start(Conditioning(gray=tiny_picture(64, 64), strokes=[RED]), settings).finish(progress=False)
    assert run.image.shape == (64, 64, 3)
    other = prepare(run.conditioning, settings.replace(seed=1), colorizer.method)
    assert not torch.equal(other.masked_latents[0], run.segments[0].prepared.masked_latents[0])


# --- mechanisms explain themselves ------------------------------------------------------------------------------------


def test_exhibits(colorizer):
    run = run_of(colorizer, strokes=[RED])
    shown = run.explain(step=0)
    assert {f"{SAG}.{name}" for name in ("received", "mask", "blurred", "correction")} <= set(shown)
    assert np.isclose(shown[f"{SAG}.received"].array.mean(), 1.0, atol=1e-4)
    assert set(np.unique(shown[f"{SAG}.mask"].array)) <= {0.0, 1.0}
    assert "lightness_control.control_image" in shown
    assert not any(name.startswith(SAG) for name in run.explain(step=2))
    whole = run.explain()
    assert whole["deformable_decoding.unit_0_offsets"].array.shape == (9, *run.state.latents.shape[-2:], 2)
    assert whole["deformable_decoding.effect"].array.any()
    edges = whole["deformable_decoding.edge_error"]
    assert edges.array.shape == edges.baseline.shape == whole["deformable_decoding.effect"].array.shape
    assert not np.array_equal(edges.array, edges.baseline)
    for exhibit in (*shown.values(), *whole.values()):
        assert exhibit.plot() is not None
    equal = run.branch(run.num_steps, settings=run.settings.with_mechanism("deformable_decoding", gain=0.0))
    off = run.branch(run.num_steps, settings=run.settings.with_mechanism("deformable_decoding", is_on=False))
    assert np.abs(equal.image.astype(int) - off.image).max() <= 1
    assert not np.array_equal(run.image, off.image)


def test_without_its_optional_networks():
    colorizer = tiny_colorizer(tiny_ctrlcolor(optional=False))
    exemplar = np.zeros((8, 8, 3), dtype=np.uint8)
    with pytest.warns(ConditioningWarning, match="does not read exemplar"):
        run = colorizer.start(tiny_picture(), exemplar=exemplar)
    assert run.segments[0].prepared.text["cond"].shape[1] == 12
    assert run.finish(progress=False).image.shape == (40, 56, 3)
    assert not any(name.startswith("deformable") for name in run.explain())


def test_saved_and_loaded_bit_for_bit(colorizer, tmp_path):
    from colorlab.colorizer import Colorizer

    run = run_of(colorizer, strokes=[RED])
    loaded = Colorizer.from_pretrained(colorizer.save_pretrained(tmp_path / "model"))
    assert {"deformable_units", "image_encoder"} <= set(loaded.method.components)
    assert np.array_equal(run_of(loaded, strokes=[RED]).image, run.image)


# --- bad input --------------------------------------------------------------------------------------------------------


def test_strokes_outside_are_told_and_do_nothing(colorizer):
    outside = Stroke([(200, 10), (300, 20)], (200, 40, 40), 3)
    with pytest.warns(ConditioningWarning, match="1 of 1 strokes lie outside of the picture of 40 x 56"):
        run = run_of(colorizer, strokes=[outside])
    assert run.state.equals(run_of(colorizer).state)


def test_points_are_strokes_and_nothing_else_is(colorizer):
    assert prepare(Conditioning(gray=tiny_picture(), strokes=[Stroke([(5, 5), (5, 5)], (1, 2, 3), 1)])).known[0].any()
    for values in ({"points": []}, {"radius_px": 0}, {"color": (200, 40, 40, 0)}):
        with pytest.raises(RangeError):
            Stroke(**{"points": [(1, 1)], "color": (1, 2, 3), "radius_px": 1, **values})


def test_thousands_of_strokes():
    draw = np.random.default_rng(0)
    strokes = Strokes(
        Stroke(draw.uniform(0, 57, (2, 2)).tolist(), tuple(draw.integers(0, 256, 3)), 1) for _ in range(3000)
    )
    assert prepare(Conditioning(gray=tiny_picture(), strokes=strokes)).known[0].all()


def test_exemplars_without_color_are_told(colorizer):
    gray = np.repeat(tiny_picture()[..., None], 3, axis=2)
    with pytest.warns(ConditioningWarning, match="The exemplar has no colors"):
        run = colorizer.start(
            tiny_picture(), exemplar=gray, settings=mechanism("exemplar_guidance", exemplar_scale=0.1)
        )
    run.step()
    assert torch.isfinite(run.state.latents).all()
    with pytest.raises(ImageError):
        Conditioning(gray=tiny_picture(), exemplar=np.zeros((0, 3, 3), dtype=np.uint8))
    huge = np.zeros((3000, 2000, 3), dtype=np.uint8)
    huge[..., 0] = 200
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert prepare(Conditioning(gray=tiny_picture(), exemplar=huge)).exemplar


def test_pictures_that_do_not_belong_together(base_image):
    with pytest.raises(ShapeError, match="bring them to one size"):
        Conditioning(gray=tiny_picture(), base_image=base_image[:-1])
    with pytest.raises(RangeError, match="ctrlcolor needs gray"):
        tiny_colorizer(tiny_ctrlcolor()).start(prompt="a red car")


def test_an_edit_without_strokes_or_masks_is_told(base_image):
    prepared = prepare(Conditioning(gray=base_image, base_image=base_image))
    assert any("neither a stroke nor a mask" in note for note in prepared.notes)
    assert prepared.known[0].all()
