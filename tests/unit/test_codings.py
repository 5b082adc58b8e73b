"""Encoding, decoding and the control network: repeated exactly, read where they go on, judged by what was kept."""

import numpy as np
import pytest
import torch
from tiny import tiny_colorizediffusion, tiny_colorizer, tiny_ctrlcolor, tiny_picture

import colorlab
from colorlab.errors import RangeError, StateError
from colorlab.inspection.codings import call_of
from colorlab.inspection.replay import replay_step
from colorlab.inspection.shelf import shelf_of
from colorlab.inspection.verdicts import compare_pictures
from colorlab.networks.environment import environment_of
from colorlab.networks.image_tokens import patch_features
from colorlab.strokes import Stroke

EXEMPLAR = np.random.default_rng(0).integers(0, 255, (20, 20, 3)).astype(np.uint8)
STROKE = Stroke([(5, 5), (20, 9)], (200, 30, 30), 3)


@pytest.fixture(scope="module")
def lcad():
    return tiny_colorizer().start(tiny_picture(), prompt="a red car").finish(progress=False)


@pytest.fixture(scope="module")
def ctrlcolor():
    run = tiny_colorizer(tiny_ctrlcolor()).start(
        tiny_picture(), prompt="a red car", strokes=[STROKE], exemplar=EXEMPLAR, num_inference_steps=2
    )
    return run.finish(progress=False)


def read(run, step, path, name="call 0"):
    """Return the reading of one site."""
    call = call_of(run, step, path)
    site = next(site for site in call.sites if site.path == path)
    replay = replay_step(call, [site])
    assert str(replay.verdict) == "exact"
    return replay.reading(site, name)


def networks_of(run):
    return list(dict.fromkeys(site.network for site in run.sites()))


def test_every_network_of_a_model_can_be_read_and_replays_exactly(lcad, ctrlcolor):
    assert networks_of(lcad) == ["", "luminance_encoder", "vae.encoder", "vae.decoder", "text_encoder"]
    halves = ["vae.encoder", "vae.decoder", "deformable_vae.encoder", "deformable_vae.decoder"]
    assert set(networks_of(ctrlcolor)) == {"", "control_network", *halves, "text_encoder", "image_encoder"}
    for run in (lcad, ctrlcolor):
        for network in networks_of(run):
            if (run is lcad and network == "vae.encoder") or (run is ctrlcolor and network == "vae.decoder"):
                continue  # its method does not call it, see below
            site = run.sites(f"{network}.*" if network else "mid_block", kind="block")[-1]
            exhibit = run.features(1, site.path, baseline=True)
            assert exhibit.verdict == "exact"
            assert exhibit.array.shape == exhibit.baseline.shape == (*site.grid, 3)
            assert not np.array_equal(exhibit.array, exhibit.baseline)


def test_a_sketch_encoder_is_read_stage_by_stage_and_its_hints_are_what_was_prepared():
    sketch = np.ones((40, 56), np.float32)
    sketch[10:30, 20] = sketch[10, 20:40] = 0
    given = {"sketch": sketch, "exemplar": EXEMPLAR, "manipulations": [colorlab.Manipulation("blue", 4.0)]}
    run = tiny_colorizer(tiny_colorizediffusion()).start(**given, num_inference_steps=1)
    towers = {"projected_text_encoder", "projected_image_encoder"}
    assert set(networks_of(run)) == {"", "sketch_encoder", "vae.encoder", "vae.decoder", *towers}
    sites = run.sites("sketch_encoder.*")
    parts = ["stem", "zero_convs.0", "stages.0", "zero_convs.1", "stages.1", "zero_convs.2"]
    assert [site.path.removeprefix("sketch_encoder.") for site in sites] == parts
    height, width = run.state.latents.shape[-2:]
    assert [site.grid for site in sites] == [(height, width)] * 2 + [(height // 2, width // 2)] * 4
    prepared = run.segments[0].prepared
    for index, hint in enumerate(prepared.hints):
        assert torch.equal(read(run, 0, f"sketch_encoder.zero_convs.{index}").get("features"), hint)
        # Blank paper is the second call.
        blank = read(run, 0, f"sketch_encoder.zero_convs.{index}", "call 1").get("features")
        assert torch.equal(blank, prepared.blank_hints[index])
        assert not torch.equal(blank, hint)
    for name in ("sketch_encoder.stages.0", *(f"{tower}.encoder.layers.0" for tower in towers)):
        exhibit = run.features(0, name, baseline=True)
        assert exhibit.verdict == "exact"
        assert exhibit.array.std() > 0
        assert exhibit.array.shape == exhibit.baseline.shape


@pytest.mark.parametrize("model", ["lcad", "ctrlcolor"])
@pytest.mark.parametrize("step", [1, None])
def test_the_last_features_of_a_decoder_end_as_the_decoded_picture(request, model, step):
    run = request.getfixturevalue(model)
    step = run.num_steps if step is None else step
    name = "vae" if model == "lcad" else "deformable_vae"
    decoder = run.method.components[name].decoder
    features = read(run, step, f"{name}.decoder.up_blocks.3").get("features")
    with torch.no_grad():
        image = (decoder.conv_out(decoder.conv_act(decoder.conv_norm_out(features))).clamp(-1, 1) + 1) / 2
        segment = run.segment_at(step)
        decoded = run.method.decode(run.clean_latents(step), segment.prepared, segment.settings)
    assert torch.equal(image, decoded)


def test_features_of_a_decoder_hold_the_taps_that_are_added_behind_a_block(lcad):
    decoder, prepared = lcad.method.vae.decoder, lcad.segments[0].prepared
    before = read(lcad, 2, "vae.decoder.mid_block.resnets.0").get("features")
    kept = []
    handle = decoder.mid_block.resnets[0].register_forward_hook(lambda module, args, output: kept.append(output))
    lcad.method.decode(lcad.clean_latents(2), prepared, lcad.settings)
    handle.remove()
    # The last tap enters after the first middle block.
    assert torch.equal(before, kept[0] + prepared.taps[-1])


def test_what_encoders_say_is_what_was_prepared(lcad, ctrlcolor):
    features = read(lcad, 0, "luminance_encoder.encoder.mid_block").get("features")
    zero_convs = lcad.method.components["luminance_encoder"].zero_convs
    assert torch.equal(zero_convs[-1](features), lcad.segments[0].prepared.taps[-1])
    for index, name in enumerate(("cond", "uncond")):
        # The prompt is encoded first, then the negative one.
        tokens = read(lcad, 0, "text_encoder.encoder.layers.0", f"call {index}").get("features")
        norm = lcad.method.components["text_encoder"].final_layer_norm
        expected = lcad.segments[0].prepared.text[name]
        assert torch.allclose(norm(tokens[0, :, 0].T), expected[0], atol=1e-6)
    encoder = ctrlcolor.method.components["image_encoder"]
    picture = torch.tensor(EXEMPLAR).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        expected = patch_features(encoder, picture, [2])["layer_2"]
    features = read(ctrlcolor, 0, "image_encoder.encoder.layers.1").get("features")
    assert torch.allclose(features, expected, atol=1e-5)


def test_attention_inside_a_decoder_equals_brute_force(lcad):
    path, pixel = "vae.decoder.mid_block.attentions.0", (3.0, 20.0)
    reading = read(lcad, 1, path)
    q, k = (reading.get(part)[0, 0].double() for part in ("q", "k"))
    probs = (q @ k.T * reading.scale).softmax(dim=-1)
    height, width = reading.site.grid
    cell = int(pixel[1] * height / 40) * width + int(pixel[0] * width / 56)
    looks = lcad.attention(1, pixel=pixel, site=path, baseline=True)
    seen = lcad.attention(1, pixel=pixel, direction="to", site=path)
    assert np.abs(looks.array.ravel() - probs[cell].numpy()).max() < 1e-5
    assert np.abs(seen.array.ravel() - probs[:, cell].numpy()).max() < 1e-5
    assert looks.array.sum() == pytest.approx(1, abs=1e-5)
    assert looks.provenance["step"] == 1
    assert looks.verdict == "exact"


def test_the_control_network_is_read_beside_the_denoising_one(ctrlcolor):
    path = "control_network.mid_block.attentions.0.transformer_blocks.0.attn2"
    reading = read(ctrlcolor, 1, path, "cond")
    probs = (reading.get("q")[0].double() @ reading.get("k")[0].double().transpose(-1, -2) * reading.scale).softmax(-1)
    names = ctrlcolor.attention(1, pixel=(3, 3), site=path).provenance["token_names"]
    tokens = [index for index, name in enumerate(names) if name in ("r", "e", "d</w>")][:3]
    expected = probs[..., tokens].sum(dim=-1).mean(dim=0).numpy()
    asked = ctrlcolor.attention(1, word="red", site=path)
    assert np.abs(asked.array.ravel() - expected).max() < 1e-5
    assert asked.verdict == "exact"
    # Without its name in front of the pattern it is not meant.
    default = ctrlcolor.attention(1, word="red").provenance["sites"]
    assert default == [site.path for site in ctrlcolor.sites("*_block*", kind="attn2") if not site.network]
    ranked = ctrlcolor.study.head_ranking(1, kind="attn2", progress=False)
    assert not any(site.startswith("control_network") for site in ranked.provenance["sites"])


def test_tokens_behind_the_words_are_named_and_do_not_count_as_words(ctrlcolor):
    shares = ctrlcolor.attention(1, pixel=(3, 3), site="mid_block.*.attn2")
    assert shares.provenance["token_names"][-1] == f"token {len(shares.array) - 1}"
    assert shares.array.sum() == pytest.approx(1, abs=1e-5)
    exemplar = ctrlcolor.attention(1, token=len(shares.array) - 1)
    word = ctrlcolor.attention(1, word="red", baseline=True)
    assert word.array.min() > 0
    assert (word.array + exemplar.array).max() < 1


def test_what_a_method_does_not_call_is_told(lcad):
    with pytest.raises(StateError, match=r"never came to 'vae\.encoder\.mid_block'"):
        lcad.features(1, "vae.encoder.mid_block")


def test_a_second_question_about_a_decoding_repeats_nothing():
    run = tiny_colorizer().start(tiny_picture(), prompt="a red car").finish(progress=False)
    shelf, path = shelf_of(run.method), "vae.decoder.mid_block.attentions.0"
    run.attention(1, pixel=(3, 3), site=path)
    run.attention(1, pixel=(9, 9), site=path)
    run.branch(step=3).attention(1, pixel=(9, 9), site=path)
    assert shelf.num_replays == 1
    run.attention(2, pixel=(3, 3), site=path)
    run.attention(1, pixel=(3, 3))
    assert shelf.num_replays == 3


def test_verdicts_of_codings_follow_weights_and_environment():
    run = tiny_colorizer().start(tiny_picture(), prompt="a red car").finish(progress=False)
    image = run.image
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert run.features(4, "vae.decoder.mid_block").verdict == "close"
        assert run.features(0, "luminance_encoder.encoder.mid_block").verdict == "close"
    finally:
        torch.set_num_threads(threads)
    shelf_of(run.method).clear()
    with torch.no_grad():
        run.method.vae.decoder.conv_out.bias.add_(0.5)
        run.method.components["luminance_encoder"].zero_convs[0].weight.mul_(1.1)
    assert run.image is image
    for step, site in ((4, "vae.decoder.mid_block"), (0, "luminance_encoder.encoder.mid_block")):
        refused = run.features(step, site)
        assert refused.verdict == "refused"
        assert np.isnan(refused.array).all()


def test_pictures_of_8_bits_are_close_within_a_level(lcad):
    kept, now = torch.tensor(lcad.image), environment_of(lcad.method.vae)
    other = now.__class__(**{**vars(now), "dtype": "float16"})

    def verdict(levels, before=now):
        changed = kept.clone()
        changed[0, 0, 0] = changed[0, 0, 0] + levels if changed[0, 0, 0] < 100 else changed[0, 0, 0] - levels
        return compare_pictures(kept, changed, before, now).name

    assert [verdict(0), verdict(1), verdict(2)] == ["exact", "close", "refused"]
    assert [verdict(0, other), verdict(5, other), verdict(6, other)] == ["close", "close", "refused"]
    assert compare_pictures(kept, kept[1:], now, now).name == "refused"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupt_leaves_networks_and_cache_as_they_were(lcad, monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    method = lcad.method
    cache, size = method.cache, method.cache.num_bytes
    places = (
        (method.vae.decoder.up_blocks[0].resnets[0], "vae.decoder.mid_block"),
        (method.components["luminance_encoder"].encoder.mid_block, "luminance_encoder.encoder.mid_block"),
    )
    for module, path in places:
        with monkeypatch.context() as patch:
            patch.setattr(module.resnets[0] if hasattr(module, "resnets") else module, "forward", fail)
            with pytest.raises(error):
                replay_step(call_of(lcad, 3, path), call_of(lcad, 3, path).sites)
    modules = [module for network in method.networks.values() for module in network.modules()]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)
    assert method.cache is cache
    assert cache.num_bytes == size


def test_codings_of_an_opened_file_are_repeated(lcad, tmp_path):
    opened = colorlab.open(lcad.save(tmp_path / "run.colorlab"), colorizer=tiny_colorizer())
    for step, site in ((4, "vae.decoder.mid_block"), (1, "text_encoder.encoder.layers.0")):
        mine, its = (run.features(step, site) for run in (lcad, opened))
        assert its.verdict == "exact"
        assert np.array_equal(mine.array, its.array)


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"site": "vae.*", "pixel": (1, 1)}, RangeError, "begin with vae.encoder or vae.decoder"),
        ({"site": "vae.decoder.*", "word": "red"}, RangeError, "vae.decoder looks at no words"),
        ({"site": "vae.decoder.up_blocks.*", "pixel": (1, 1)}, RangeError, "is of kind attn1"),
        ({"site": "vae.decoder.*", "pixel": (1, 1), "step": 5}, StateError, "has taken steps 0 to 3 of 4"),
        ({"site": "luminance_encoder.*", "pixel": (1, 1), "step": 5}, StateError, "has steps 0 to 3"),
        (
            {"site": "vae.decoder.*", "pixel": (1, 1), "guidance_pass": "call 1"},
            RangeError,
            "was not called as 'call 1'; it was called as call 0",
        ),
        ({"pixel": (1,)}, RangeError, r"pixel is \(1,\), but \(x, y\) within 56x40"),
        ({"pixel": "ab"}, RangeError, "pixel is 'ab', but"),
        ({"pixel": 3}, RangeError, "pixel is 3, but"),
        ({"pixel": (1, float("nan"))}, RangeError, "pixel is"),
    ],
)
def test_what_cannot_be_answered_says_so(lcad, asked, error, message):
    with pytest.raises(error, match=message):
        lcad.attention(**{"step": 1, **asked})


def test_provenance_checks_its_pixel(lcad):
    with pytest.raises(RangeError, match="pixel is 'ab', but"):
        lcad.study.plan.provenance(pixel="ab")


def test_captions_name_the_network_and_the_call(ctrlcolor):
    path = "deformable_vae.decoder.mid_block.attentions.0"
    assert f"at step 1 in call 0: {path}" in ctrlcolor.attention(1, pixel=(3, 3), site=path).caption
    asked = ctrlcolor.attention(1, word="red", site="control_network.*attn2")
    assert "at step 1 in the pass 'cond': the mean of 2 attn2 sites of control_network" in asked.caption
    assert "mid_block at step 2 in call 0" in ctrlcolor.features(2, "deformable_vae.decoder.mid_block").caption
