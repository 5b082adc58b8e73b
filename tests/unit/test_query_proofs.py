"""Queries: tokens that are no words, chance beside every map, constant maps only where they must be, and the budget."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from meters import allocated_peak_bytes
from tiny import MAX_TOKENS, WIDTHS, tiny_colorizer, tiny_components, tiny_lcad, tiny_picture

import colorlab
from colorlab.errors import RangeError, StateError
from colorlab.exhibits import Exhibit
from colorlab.inspection.attention import cell_centers
from colorlab.inspection.baselines import random_walk
from colorlab.inspection.places import template_tokens
from colorlab.inspection.queries import _combine
from colorlab.inspection.questions import ask_word
from colorlab.inspection.replay import moment_of, replay_step, run_sites
from colorlab.methods.lcad import Lcad
from colorlab.methods.text_to_image import TextToImage
from colorlab.training.scene_captions import caption
from colorlab.training.scenes import make_scene

CROSS = "mid_block.attentions.0.transformer_blocks.0.attn2"
SELF = "up_blocks.1.attentions.0.transformer_blocks.0.attn1"
SIZE = (30, 110)
LEFT = np.arange(64) < np.full((64, 1), 20)
NUM_PATCHES = 9


class ImageTokens(TextToImage):
    """A model whose cross-attention reads an exemplar: CLS and nine patches."""

    def prepare(self, conditioning, settings):
        prepared = super().prepare(conditioning, settings)
        generator = torch.Generator().manual_seed(7)
        tokens = torch.randn(1, 1 + NUM_PATCHES, 16, generator=generator)
        object.__setattr__(prepared, "text", {"uncond": torch.zeros_like(tokens), "cond": tokens})
        return prepared


@pytest.fixture(scope="module")
def run():
    return tiny_colorizer().start(tiny_picture(*SIZE), prompt="a red car").finish(progress=False)


@pytest.fixture(scope="module")
def exemplar_run():
    run = tiny_colorizer(ImageTokens(tiny_components(0), working_px=32)).start(prompt="a red car")
    run.step()
    return run


def full_probs(run, step, path, guidance_pass="cond"):
    """Return (heads, Q, K) float64 and the site."""
    site = next(site for site in run_sites(run) if site.path == path)
    reading = replay_step(moment_of(run, step), [site]).readings[path, guidance_pass]
    scores = reading.q[0].double() @ reading.k[0].double().transpose(-1, -2) * reading.scale
    return scores.softmax(dim=-1), site


def apart(array, expected):
    return np.abs(array - np.asarray(expected)).max()


@pytest.mark.parametrize("token", [0, 4, [1, 2, 9]], ids=["CLS", "patch", "patches"])
@pytest.mark.parametrize("head", [None, 1])
def test_an_image_token_map_is_the_column_of_its_tokens(exemplar_run, token, head):
    found = exemplar_run.attention(0, token=token, site=CROSS, head=head, baseline=True)
    probs, site = full_probs(exemplar_run, 0, CROSS)
    probs = probs.mean(dim=0) if head is None else probs[head]
    tokens = [token] if isinstance(token, int) else token
    others = [index for index in range(1 + NUM_PATCHES) if index not in tokens]
    assert apart(found.array, probs[:, tokens].sum(-1).unflatten(0, site.grid)) <= 1e-5
    expected = probs[:, others].mean(-1) * len(tokens)
    assert apart(found.baseline, expected.unflatten(0, site.grid)) <= 1e-5
    assert (found.verdict, found.provenance["tokens"]) == ("exact", tokens)


def test_image_tokens_sum_to_one_and_are_named_by_position(exemplar_run):
    total = sum(exemplar_run.attention(0, token=index).array for index in range(1 + NUM_PATCHES))
    assert apart(total, 1) <= 1e-5
    row = exemplar_run.attention(0, pixel=(5, 9), site=CROSS, baseline=True)
    assert row.provenance["token_names"] == [f"token {index}" for index in range(1 + NUM_PATCHES)]
    assert row.array.sum() == pytest.approx(1, abs=1e-5)
    with pytest.raises(StateError, match="reads 10 tokens, but the text has 12"):
        exemplar_run.attention(0, word="red")


@pytest.mark.parametrize("token", [10, -1, [], [1, 1], True, [0.5]])
def test_tokens_that_are_not_there_are_told(exemplar_run, token):
    with pytest.raises(RangeError, match="token is"):
        exemplar_run.attention(0, token=token)
    with pytest.raises(RangeError, match="All 10 tokens"):
        exemplar_run.attention(0, token=list(range(10)), baseline=True)


def test_a_map_is_constant_where_the_context_is_zero_and_only_there(exemplar_run, run):
    """Keys of a context of zeros are all alike, so every token gets its even share everywhere."""
    empty = exemplar_run.attention(0, token=3, guidance_pass="uncond")
    assert apart(empty.array, 1 / (1 + NUM_PATCHES)) <= 1e-6
    assert (
        apart(exemplar_run.attention(0, measure="entropy", site=CROSS, guidance_pass="uncond").array, np.log(10)) < 1e-5
    )
    for found in (
        exemplar_run.attention(0, token=3),
        run.attention(1, word="red"),
        run.attention(1, word="teal"),
        run.attention(1, pixel=(3, 3)),
        run.attention(1, pixel=(3, 3), direction="to"),
        run.attention(1, measure="entropy"),
        run.attention(1, measure="spread"),
        run.guidance(1),
    ):
        assert found.array.std() > 1e-4 * np.abs(found.array).mean(), found.caption


def test_a_map_is_constant_where_there_is_one_token():
    class OneToken(ImageTokens):
        def prepare(self, conditioning, settings):
            prepared = super().prepare(conditioning, settings)
            first = {name: tokens[:, :1] for name, tokens in prepared.text.items()}
            object.__setattr__(prepared, "text", first)
            return prepared

    run = tiny_colorizer(OneToken(tiny_components(0), working_px=32)).start(prompt="a red car")
    run.step()
    assert (run.attention(0, token=0).array == 1).all()
    assert (run.attention(0, measure="entropy", site=CROSS).array == 0).all()


@pytest.mark.parametrize("measure", ["entropy", "spread", "mean_x", "mean_y"])
def test_chance_of_a_measure_is_even_attention(run, measure):
    found = run.attention(1, measure=measure, site=SELF, baseline=True)
    _, site = full_probs(run, 1, SELF)
    y, x = (cell_centers(size).double() for size in site.grid)
    variance = (x**2).mean() + (y**2).mean()
    expected = {"entropy": np.log(site.num_positions), "spread": variance.sqrt(), "mean_x": 0, "mean_y": 0}[measure]
    assert apart(found.baseline, expected) <= 1e-5
    assert found.baseline.shape == found.array.shape


def test_chance_of_the_guidance_field_and_of_features_is_another_order_of_the_words():
    run = tiny_colorizer().start(tiny_picture(*SIZE), prompt="red car")
    run.step()
    other = tiny_colorizer().start(tiny_picture(*SIZE), prompt="car red")
    other.step()
    found, null = run.guidance(0, baseline=True), other.guidance(0)
    assert apart(found.baseline, null.array) <= 1e-6
    assert apart(found.array, null.array) > 1e-4
    path = "up_blocks.1.attentions.0"
    colors = run.features(0, path, baseline=True)
    assert np.array_equal(colors.array, run.features(0, path).array)
    assert colors.baseline.shape == colors.array.shape
    assert 0 <= colors.baseline.min() <= colors.baseline.max() <= 1
    assert apart(colors.baseline, colors.array) > 1e-4
    lonely = tiny_colorizer().start(tiny_picture(*SIZE), prompt="red")
    lonely.step()
    with pytest.raises(RangeError, match="'red' have no other order, so there is no baseline"):
        lonely.guidance(0, baseline=True)


def test_chance_of_a_trajectory_takes_steps_of_the_same_lengths(run):
    found = run.trajectory(baseline=True)
    assert found.baseline.shape == found.array.shape
    assert np.array_equal(found.array, run.trajectory().array)
    points = torch.stack([state.latents[0].flatten() for state in run.states])
    walk = random_walk(points)
    assert torch.equal(walk[0], points[0])
    assert torch.allclose(walk.diff(dim=0).norm(dim=1), points.diff(dim=0).norm(dim=1), rtol=1e-4)


@pytest.fixture(scope="module")
def large_run():
    """A run with 64x64 latents: 4096 positions in its finest self-attention."""
    run = tiny_colorizer(Lcad(tiny_components(WIDTHS[-1]), working_px=512)).start(
        tiny_picture(64, 64), prompt="a red car"
    )
    run.step()
    return run


@pytest.mark.parametrize(
    "asked",
    [
        {"word": "red"},
        {"word": "teal"},
        {"pixel": (9, 9)},
        {"pixel": (9, 9), "direction": "to"},
        {"region": LEFT},
        {"region": LEFT, "direction": "to", "baseline": True},
        {"measure": "entropy"},
        {"measure": "spread"},
    ],
    ids=lambda asked: "-".join(asked),
)
def test_the_memory_of_a_query_stays_below_its_budget_at_4096_positions(large_run, asked):
    site = max((s for s in run_sites(large_run) if s.is_attention), key=lambda s: s.num_positions)
    assert site.num_positions == 4096
    where = site.path.replace("attn1", "attn2") if "word" in asked else site.path.replace("attn2", "attn1")
    budget = 4 * 2**20
    # The first question repeats the network call, which has its own budget; further ones only reduce.
    large_run.attention(0, site=where, **asked)
    peak = allocated_peak_bytes(lambda: large_run.attention(0, site=where, max_bytes=budget, **asked))
    assert 0 < peak <= budget
    assert 10 * budget < 4096 * 4096 * 4


def test_a_prediction_is_its_preview(run):
    found = run.prediction(2)
    assert np.array_equal(found.array, run.preview(2))
    assert found.provenance | {"step": 2, "query": "prediction", "decoder": "model"} == found.provenance
    with pytest.raises(StateError, match="has taken steps 0 to 3"):
        run.prediction(4)


def test_every_exhibit_is_drawn_and_written_with_its_origin(run, tmp_path):
    exhibits = {
        "word": run.attention(1, word="red", baseline=True),
        "token": run.attention(1, token=2),
        "tokens of a pixel": run.attention(1, pixel=(3, 3), site=CROSS),
        "measure": run.attention(1, measure="spread"),
        "features": run.features(1, "mid_block"),
        "guidance": run.guidance(1),
        "prediction": run.prediction(1),
        "trajectory": run.trajectory(baseline=True),
        "settled": run.settled(baseline=True),
        "seeds": run.study.seeds(2, progress=False),
        "head_ranking": run.study.head_ranking(1, site=CROSS, progress=False),
    }
    for name, exhibit in exhibits.items():
        assert exhibit._repr_png_().startswith(b"\x89PNG"), name
        assert {"query", "model", "weights", "run"} <= set(exhibit.provenance), name
        assert Exhibit.load(exhibit.save(tmp_path / "x.npz")) == exhibit, name
        lines = exhibit.save(tmp_path / "x.csv").read_text().splitlines()
        rows = [line for line in lines if not line.startswith("#")]
        assert len(rows) == 1 + exhibit.array.size, name
        assert any(line.startswith("# provenance: ") and '"model": "tiny/lcad"' in line for line in lines), name
        assert np.array_equal(exhibit.to_numpy(), exhibit.array, equal_nan=True)


def test_a_word_is_encoded_at_the_places_of_the_words_of_the_prompt():
    method = tiny_lcad()
    with torch.no_grad():
        assert torch.equal(template_tokens(method, "", "red"), method.encode_prompt("red").tokens[0, 1:4])
        alone = template_tokens(method, "blue", "red")
        assert torch.equal(alone, method.encode_prompt("red").tokens[0, 1:4])
        cut = template_tokens(method, "a b c d e f g h i red", "red")
        assert cut.shape == (3, 16)
        with pytest.raises(RangeError, match="lies beyond the tokens"):
            template_tokens(method, "! " * MAX_TOKENS + "a", "red")


def test_an_off_prompt_word_of_the_shipped_model_resembles_its_map_in_the_prompt():
    """Words of a prompt, asked for as if they were not there; measured bounds with slack, see `queries`."""
    scene = make_scene(900_001)
    text = caption(scene, "complete", seed=0)
    run = colorlab.load("mini/lcad").start(scene.image, prompt=text, num_inference_steps=20, seed=0)
    for _ in range(5):
        run.step()
    moment, method = moment_of(run, 4), run.method
    sites = [site for site in run_sites(run) if site.kind == "attn2"]
    readings = list(replay_step(moment, sites, wanted_passes=["cond"]).readings.values())

    def correlation(question, tokens):
        asked = replace(question, weights=lambda site, number: torch.zeros(number), extra_tokens=tokens)
        maps = [_combine(moment, readings, each, None, 2**26).flatten() for each in (question, asked)]
        return np.corrcoef(*maps)[0, 1]

    at_its_place, in_the_template, of_others, own_maps = [], [], [], []
    for word in dict.fromkeys(word for thing in scene.instances for word in (thing.color, thing.kind)):
        question = ask_word(moment, "cond", word, 0)
        with torch.no_grad():
            own = method.encode_prompt(text).tokens[0, question.details["tokens"]]
            at_its_place.append(correlation(question, own))
            in_the_template.append(correlation(question, template_tokens(method, text, word)))
        own_maps.append(_combine(moment, readings, question, None, 2**26).flatten())
        of_others += [np.corrcoef(own_maps[-1], other)[0, 1] for other in own_maps[:-1]]
    assert len(at_its_place) == 8
    assert min(at_its_place) >= 0.97
    assert np.median(in_the_template) >= 0.5
    # The map is about the word, not about its place alone.
    assert np.median(in_the_template) > np.median(of_others) + 0.4
