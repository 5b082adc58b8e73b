"""ColorizeDiffusion on tiny random networks: what each input does, guidance, windows, text edits, and bad input."""

import warnings

import numpy as np
import pytest
import torch
from tiny import tiny_colorizediffusion, tiny_colorizer, tiny_picture

from colorlab.color import rgb_to_lab
from colorlab.colorizer import Colorizer
from colorlab.conditioning import Conditioning, Manipulation
from colorlab.errors import RangeError, ShapeError
from colorlab.inspection.replay import moment_of, replay_step, run_sites
from colorlab.mechanisms.dual_guidance import dual_guidance
from colorlab.mechanisms.exemplar_attention import ExemplarAttention, layer_scales
from colorlab.methods.base import ConditioningWarning
from colorlab.methods.folder import load_method, read_index
from colorlab.networks.sites import Site
from colorlab.settings import Settings
from colorlab.sketches import extract_sketch, invert_sketch

DUAL = {"dual_guidance": {"sketch_guidance_scale": 2.0}}


@pytest.fixture
def colorizer():
    return tiny_colorizer(tiny_colorizediffusion())


@pytest.fixture(scope="module")
def drawing():
    sketch = np.ones((40, 56), np.float32)
    sketch[10:30, 20] = sketch[10:30, 40] = sketch[10, 20:40] = sketch[29, 20:40] = 0
    return sketch


@pytest.fixture(scope="module")
def exemplar():
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return np.kron(picture, np.ones((8, 8, 1), dtype=np.uint8))


def run_of(colorizer, **given):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConditioningWarning)
        return colorizer.start(**given).finish(progress=False)


def notes_of(colorizer, **given):
    return colorizer.method.prepare(Conditioning(**given), colorizer.settings).notes


# --- what each input does ---------------------------------------------------------------------------------------------


def test_sketch_exemplar_and_edits_each_change_the_picture_and_the_size_is_the_inputs(colorizer, drawing, exemplar):
    edit = Manipulation("blue car", 8.0, control_text="red car")
    other = drawing[:, ::-1].copy()
    mixtures = [
        {"sketch": drawing},
        {"sketch": other},
        {"sketch": drawing, "exemplar": exemplar},
        {"sketch": drawing, "exemplar": exemplar, "manipulations": [edit]},
    ]
    runs = [run_of(colorizer, **mixture) for mixture in mixtures]
    for index, one in enumerate(runs):
        assert torch.isfinite(one.state.latents).all()
        assert one.image.shape == (40, 56, 3)
        assert not any(torch.equal(one.state.latents, other.state.latents) for other in runs[:index])


def test_a_gray_picture_gives_its_lines_and_keeps_its_lightness(colorizer, exemplar):
    gray = tiny_picture()
    run = run_of(colorizer, gray=gray, exemplar=exemplar)
    drawn = run_of(colorizer, sketch=extract_sketch(gray), exemplar=exemplar)
    assert torch.equal(run.state.latents, drawn.state.latents)
    image = torch.from_numpy(run.image.copy()).permute(2, 0, 1)[None].float() / 255
    wanted = torch.from_numpy(np.repeat(gray[None], 3, axis=0))[None].float() / 255
    assert float((rgb_to_lab(image)[:, 0] - rgb_to_lab(wanted)[:, 0]).abs().max()) < 0.6


def test_lines_enter_the_decoder_of_a_model_that_reads_them_and_of_no_other(drawing, exemplar):
    given = {"sketch": drawing, "exemplar": exemplar}
    reads, plain = (tiny_colorizer(tiny_colorizediffusion(has_lines=one)) for one in (True, False))
    lined, bare = run_of(reads, **given), run_of(plain, **given)
    assert torch.equal(lined.state.latents, bare.state.latents)
    assert not np.array_equal(lined.image, bare.image)
    off = run_of(reads, **given, mechanisms={"line_guidance": {"is_on": False}})
    assert np.array_equal(off.image, bare.image)
    assert reads.method.network_calls["line_encoder"] == 1
    effect = lined.explain()["line_guidance.effect"]
    assert effect.array.max() > 0
    # Of a sketch nobody knows the lightness.
    assert "lightness" not in effect.caption
    assert not any(name.startswith("line_guidance") for name in bare.explain())


def test_as_published_no_line_enters_the_decoder(drawing, exemplar):
    given = {"sketch": drawing, "exemplar": exemplar, "as_published": True}
    pictures = [run_of(tiny_colorizer(tiny_colorizediffusion(has_lines=one)), **given).image for one in (True, False)]
    assert np.array_equal(*pictures)


def test_without_an_exemplar_the_exemplars_guidance_changes_nothing(colorizer, drawing):
    states = [run_of(colorizer, sketch=drawing, guidance_scale=scale).state.latents for scale in (1.0, 6.0)]
    torch.testing.assert_close(*states, rtol=1e-5, atol=1e-5)


def test_zero_tokens_give_cross_attention_its_bias_alone(colorizer):
    unet = colorizer.method.unet
    attention = unet.mid_block.attentions[0].transformer_blocks[0].attn2
    with torch.no_grad():
        hidden = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(0))
        for num_tokens in (1, 16):
            out = attention(hidden, encoder_hidden_states=torch.zeros(2, num_tokens, 16))
            assert torch.equal(out, attention.to_out[0].bias.expand_as(out))


def test_the_class_token_model_is_edited_globally(drawing, exemplar):
    colorizer = tiny_colorizer(tiny_colorizediffusion(reads="global"))
    edit = Manipulation("blue", 5.0)
    prepared = colorizer.prepare(Conditioning(sketch=drawing, exemplar=exemplar, manipulations=[edit]))
    assert prepared.context.shape == (1, 16, 16)
    assert float(prepared.projections[0, 0, 1]) == pytest.approx(5.0, abs=1e-4)
    assert torch.equal(prepared.edited_tokens[:, 1:], prepared.exemplar_tokens[:, 1:])
    exhibits = run_of(colorizer, sketch=drawing, exemplar=exemplar, manipulations=[edit]).explain()
    assert exhibits["global_manipulation.projections_0"].array[1] == pytest.approx(5.0, abs=1e-4)


def test_runs_are_replayed_exactly_and_explain_themselves(colorizer, drawing, exemplar):
    edit = Manipulation("blue car", 8.0, control_text="red car")
    settings = colorizer.settings.replace(mechanisms=DUAL)
    run = run_of(colorizer, sketch=drawing, exemplar=exemplar, manipulations=[edit], settings=settings)
    assert list(run._edges[0][0].predictions) == ["full", "no_exemplar", "no_sketch"]
    site = next(site for site in run_sites(run) if site.kind == "attn2")
    assert replay_step(moment_of(run, 1), [site]).verdict.name == "exact"
    names = {
        "dual_guidance.exemplar_field",
        "dual_guidance.sketch_field",
        "dual_guidance.angle",
        "dual_guidance.formulas",
    }
    assert names <= set(run.explain(1))
    assert {"position_weights.similarities_0", "position_weights.weights_0", "position_weights.moved"} <= set(
        run.explain()
    )
    assert run.explain()["position_weights.weights_0"].array.shape == (4, 4)


def test_a_model_folder_keeps_bits_and_polarity(colorizer, drawing, exemplar, tmp_path):
    colorizer.save_pretrained(tmp_path)
    loaded = Colorizer(
        load_method(tmp_path, read_index(tmp_path), device=torch.device("cpu"), dtype=torch.float32),
        settings=colorizer.settings,
    )
    given = {"sketch": drawing, "exemplar": exemplar, "manipulations": [Manipulation("blue", 4.0)]}
    # The weights are the same bits; sums in CLIP's towers may be added in another order.
    latents = [run_of(one, **given).state.latents for one in (loaded, colorizer)]
    torch.testing.assert_close(*latents, rtol=1e-4, atol=1e-4)
    assert loaded.method.components["exemplar_projection"].config.polarity == "high"


# --- guidance, windows, strengths -------------------------------------------------------------------------------------


def test_the_corrected_formula_is_continuous_at_scale_1_and_the_published_one_halves(colorizer, drawing, exemplar):
    def latents(scale, formula):
        parameters = {"sketch_guidance_scale": scale, "formula": formula}
        settings = colorizer.settings.replace(mechanisms={"dual_guidance": parameters})
        return run_of(colorizer, sketch=drawing, exemplar=exemplar, settings=settings).state.latents

    off = latents(1.0, "corrected")
    assert torch.equal(off, latents(1.0, "published"))
    torch.testing.assert_close(latents(1.0 + 1e-6, "corrected"), off, rtol=1e-3, atol=1e-3)
    assert float((latents(1.0 + 1e-6, "published") - off).abs().max()) > 0.01


def test_the_published_formula_is_the_mean_of_two_guidances_and_the_corrected_one_adds_both_fields():
    drawn = torch.randn(3, 1, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    predictions = dict(zip(("full", "no_exemplar", "no_sketch"), drawn, strict=True))
    full = predictions["full"]
    assert dual_guidance(predictions, 1.0, 1.0, is_published=True) is full
    single = [dual_guidance(predictions, *scales, is_published=True) for scales in ((4.0, 1.0), (1.0, 3.0))]
    torch.testing.assert_close(single[0], full + 3 * (full - predictions["no_exemplar"]))
    torch.testing.assert_close(single[1], full + 2 * (full - predictions["no_sketch"]))
    published, corrected = (dual_guidance(predictions, 4.0, 3.0, is_published=one) for one in (True, False))
    torch.testing.assert_close(published, (single[0] + single[1]) / 2)
    torch.testing.assert_close(corrected - full, (single[0] - full) + (single[1] - full))


def test_groups_of_layers_overwrite_each_other_in_the_published_order():
    # The published UNet at 512 px: two layers for each of three levels down, three up, the middle at an eighth.
    places = [("down_blocks", 0, 64), ("down_blocks", 1, 32), ("down_blocks", 2, 16), ("mid_block", 0, 8)]
    places += [("up_blocks", 1, 16), ("up_blocks", 2, 32), ("up_blocks", 3, 64)]
    counts = {"down_blocks": 2, "mid_block": 1, "up_blocks": 3}
    sites = [
        Site(f"{part}.{block}.attentions.{index}", "attn2", (side, side), 1, 1)
        for part, block, side in places
        for index in range(counts[part])
    ]
    scales = {"encoder_scale": 0.6, "color_scale": 0.8, "semantics_scale": 0.3, "strength": 0.5}
    settings = Settings(mechanisms={"exemplar_attention": scales})
    # Recorded by running tellurion-kanata/colorizeDiffusion@c9bd9fb.
    wanted = [0.3] * 2 + [0.4] * 2 + [0.15] * 2 + [1.0] + [0.15] * 3 + [0.4] * 3 + [1.0] * 3
    assert layer_scales(sites, (64, 64), ExemplarAttention(), settings) == pytest.approx(wanted)


def test_a_window_is_asked_at_every_step_but_as_published_it_never_opens_again(colorizer, drawing, exemplar):
    # The steps lie at 0.25, 0.5, 0.75 and 1 of the run.
    window = {"exemplar_attention": {"skip_start": 0.4, "skip_end": 0.8}}
    for is_published, wanted in ((False, [True, False, False, True]), (True, [True, False, False, False])):
        settings = Settings(num_inference_steps=4, solver="ddim", mechanisms=window, as_published=is_published)
        prepared = colorizer.prepare(Conditioning(sketch=drawing, exemplar=exemplar), settings)
        seen = [colorizer.method.is_exemplar_seen(prepared, t, settings) for t in prepared.timesteps.tolist()]
        assert seen == wanted


def test_layers_scaled_to_zero_are_as_good_as_no_exemplar(colorizer, drawing, exemplar):
    num_layers = len(colorizer.method.unet.attn_processors) // 2
    mechanisms = {"exemplar_attention": {"layer_scales": (0.0,) * num_layers}}
    settings = colorizer.settings.replace(mechanisms=mechanisms, guidance_scale=1.0)
    off = run_of(colorizer, sketch=drawing, exemplar=exemplar, settings=settings).state.latents
    none = run_of(colorizer, sketch=drawing, guidance_scale=1.0).state.latents
    torch.testing.assert_close(off, none, rtol=1e-5, atol=1e-5)
    with pytest.raises(RangeError, match=r"has 2 scales, but this model has \d+ cross-attention layers"):
        run_of(
            colorizer,
            sketch=drawing,
            settings=settings.with_mechanism("exemplar_attention", layer_scales=(0.5, 0.5)),
        )


def test_a_sketch_without_strength_is_no_sketch_and_levels_are_counted(colorizer, drawing):
    settings = colorizer.settings.with_mechanism("sketch_injection", strength=0.0)
    other = drawing[:, ::-1].copy()
    assert torch.equal(
        run_of(colorizer, sketch=drawing, settings=settings).state.latents,
        run_of(colorizer, sketch=other, settings=settings).state.latents,
    )
    settings = colorizer.settings.with_mechanism("sketch_injection", level_strengths=(1.0, 1.0))
    with pytest.raises(RangeError, match="has 2 factors, but this model has 3 hints"):
        run_of(colorizer, sketch=drawing, settings=settings)


def test_reference_noise_starts_from_the_exemplar_and_token_noise_changes_early_steps(colorizer, drawing, exemplar):
    plain = run_of(colorizer, sketch=drawing, exemplar=exemplar)
    for name, parameters in (("exemplar_start", {"is_used": True}), ("exemplar_attention", {"noise_level": 0.5})):
        settings = colorizer.settings.with_mechanism(name, **parameters)
        again = [run_of(colorizer, sketch=drawing, exemplar=exemplar, settings=settings) for _ in range(2)]
        assert torch.equal(again[0].state.latents, again[1].state.latents)
        assert not torch.equal(again[0].state.latents, plain.state.latents)
        assert ("exemplar_start.latents" in again[0].explain()) == (name == "exemplar_start")


def test_attention_injection_lends_the_exemplars_features(colorizer, drawing, exemplar):
    def run(**parameters):
        settings = colorizer.settings.with_mechanism("attention_injection", **parameters)
        return run_of(colorizer, sketch=drawing, exemplar=exemplar, settings=settings)

    plain, injected = run(), run(is_used=True)
    assert not any(name.startswith("exemplar_start") for name in injected.explain())
    assert list(injected._edges[0][0].predictions) == ["lending_full", "lending_no_exemplar", "full", "no_exemplar"]
    assert not torch.equal(plain.state.latents, injected.state.latents)
    assert not torch.equal(run(is_used=True, sketch_fidelity=1.0).state.latents, injected.state.latents)
    num_encoded = colorizer.method.network_calls["sketch_encoder"]
    run(is_used=True, sketch_fidelity=0.5)
    assert colorizer.method.network_calls["sketch_encoder"] == num_encoded
    late = run(is_used=True, start=1.0)
    torch.testing.assert_close(late.states[1].latents, plain.states[1].latents, rtol=1e-4, atol=1e-4)
    # Own features alone are what there was without the injection.
    first = [
        edge[0].predictions["no_exemplar"] for edge in (plain._edges[0], run(is_used=True, fidelity=1.0)._edges[0])
    ]
    torch.testing.assert_close(*first, rtol=1e-4, atol=1e-4)
    site = next(site for site in run_sites(injected) if site.kind == "attn2")
    assert replay_step(moment_of(injected, 1), [site]).verdict.name == "exact"
    for name in ("attention_injection", "exemplar_start"):
        settings = colorizer.settings.with_mechanism(name, is_used=True)
        with pytest.raises(RangeError, match=f"{name} needs an exemplar"):
            run_of(colorizer, sketch=drawing, settings=settings)


def test_as_published_runs_on_paper_of_its_own_and_comes_back_to_the_sketchs_shape(colorizer, drawing, exemplar):
    settings = Settings(num_inference_steps=4, as_published=True)
    run = run_of(colorizer, sketch=drawing, exemplar=exemplar, settings=settings)
    assert run.state.latents.shape[-2:] == (4, 4)
    # 40 x 56 in a square of 32: int(40 * 32 / 56) rows are left.
    assert run.image.shape == (22, 32, 3)


# --- bad input --------------------------------------------------------------------------------------------------------


def test_neither_sketch_nor_gray_and_blank_paper_are_refused(colorizer, exemplar):
    with pytest.raises(RangeError, match="needs a sketch, or a gray picture to draw one from"):
        run_of(colorizer, exemplar=exemplar)
    with pytest.raises(RangeError, match="The sketch is blank"):
        run_of(colorizer, sketch=np.ones((32, 32), np.float32), exemplar=exemplar)


def test_a_gray_picture_without_edges_is_said_to_give_a_blank_sketch(colorizer, exemplar):
    flat = np.full((40, 56), 90, np.uint8)
    assert any("has no edges to draw" in note for note in notes_of(colorizer, gray=flat, exemplar=exemplar))
    assert not notes_of(colorizer, gray=tiny_picture(), exemplar=exemplar)


def test_an_inverted_sketch_is_said_and_the_way_back_is_offered(colorizer, drawing):
    inverted = 1 - drawing
    assert any("looks inverted" in note and "invert_sketch" in note for note in notes_of(colorizer, sketch=inverted))
    assert not notes_of(colorizer, sketch=invert_sketch(inverted))


def test_a_photograph_given_as_a_sketch_is_said_to_be_one(colorizer):
    shades = np.linspace(0, 1, 40 * 56, dtype=np.float32).reshape(40, 56) ** 2
    for photograph in (shades, 1 - shades):
        notes = notes_of(colorizer, sketch=photograph)
        assert len(notes) == 1
        assert "looks like a photograph" in notes[0]
        assert "gray=" in notes[0]


def test_other_sizes_and_aspects_are_taken(colorizer, drawing, exemplar):
    assert run_of(colorizer, sketch=drawing, exemplar=exemplar[:9, :50]).image.shape == (40, 56, 3)
    strip = np.ones((2, 300), np.float32)
    strip[:, 100:200] = 0
    for given in ({"sketch": strip}, {"gray": strip}):
        assert run_of(colorizer, exemplar=exemplar, **given).image.shape == (2, 300, 3)
    with pytest.raises(RangeError, match="sketch is 2 x 300 pixels, of which less than one is left across on paper"):
        run_of(colorizer, sketch=strip, exemplar=exemplar, as_published=True)
    with pytest.raises(ShapeError, match=r"sketch is 40 x 56 pixels, but gray is 32 x 32"):
        Conditioning(gray=np.zeros((32, 32), np.uint8), sketch=drawing)


def test_what_cannot_act_is_said_in_one_sentence(colorizer, drawing, exemplar):
    gray = np.full((8, 8, 3), 90, np.uint8)
    edit = Manipulation("blue", 5.0)
    erasing = Manipulation("blue", 5.0, control_text="car", enhance=True)
    long = Manipulation("blue", 5.0, control_text=" ".join(["car"] * 80))
    for given, words in (
        ({"exemplar": gray}, "The exemplar has no colors"),
        ({"manipulations": [edit]}, "There is no exemplar, so that its text edits have nothing to edit"),
        ({"exemplar": exemplar, "manipulations": [erasing]}, "is to erase its anchor (enhance), but has none"),
        ({"exemplar": exemplar, "manipulations": [long]}, "is ignored; shorten it"),
        ({"exemplar": exemplar, "prompt": "a car"}, "does not read prompt; it is ignored"),
    ):
        found = [note for note in notes_of(colorizer, sketch=drawing, **given) if words in note]
        assert len(found) == 1, given


def test_a_control_text_that_the_exemplar_does_not_show_is_said(drawing, exemplar):
    colorizer = tiny_colorizer(tiny_colorizediffusion())
    projection = colorizer.method.components["exemplar_projection"]
    edit = Manipulation("blue", 5.0, control_text="zebra")
    for present_similarity, num_notes in ((2.0, 1), (-1.0, 0), (0.0, 0)):
        projection.register_to_config(present_similarity=present_similarity)
        found = notes_of(colorizer, sketch=drawing, exemplar=exemplar, manipulations=[edit])
        assert sum("Nothing in the exemplar resembles 'zebra'" in note for note in found) == num_notes


def test_what_an_edit_before_has_made_is_not_said_to_be_absent(drawing, exemplar):
    colorizer = tiny_colorizer(tiny_colorizediffusion())
    colorizer.method.components["exemplar_projection"].register_to_config(present_similarity=0.99)
    made, met = Manipulation("zebra", 500.0), Manipulation("blue", 5.0, control_text="zebra")
    for edits, num_notes in (([made, met], 0), ([met, made], 1)):
        found = notes_of(colorizer, sketch=drawing, exemplar=exemplar, manipulations=edits)
        assert sum("Nothing in the exemplar resembles 'zebra'" in note for note in found) == num_notes


def test_a_model_that_reads_the_class_token_says_once_that_no_region_counts(drawing, exemplar):
    colorizer = tiny_colorizer(tiny_colorizediffusion(reads="global"))
    named = [Manipulation("blue", 5.0, control_text=text) for text in ("car", "tree")]
    for edits, num_notes in ((named, 1), ([Manipulation("blue", 5.0, control_text="everything")], 0)):
        found = notes_of(colorizer, sketch=drawing, exemplar=exemplar, manipulations=edits)
        assert sum("does not limit where edits act" in note for note in found) == num_notes


def test_thresholds_out_of_order_are_refused():
    with pytest.raises(RangeError, match="four numbers that rise within"):
        Manipulation("blue", 5.0, thresholds=(0.5, 0.4, 0.6, 0.9))


def test_an_empty_anchor_is_none_but_as_published_an_empty_sentence(colorizer, drawing, exemplar):
    edit = Manipulation("blue", 5.0, anchor_text=" ", control_text="everything")
    cond = Conditioning(sketch=drawing, exemplar=exemplar, manipulations=[edit])
    for is_published in (False, True):
        settings = colorizer.settings.replace(as_published=is_published)
        with torch.no_grad():
            edits, _ = colorizer.method.encode_edits(cond, torch.zeros(1, 17, 16), settings)
        assert (edits[0].anchor is None) == (not is_published)
        assert (edits[0].control is None) == (not is_published)
