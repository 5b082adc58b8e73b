"""Queries: each equals brute force on the full probabilities, says its verdict, and has its null baseline."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import tiny_colorizer, tiny_picture, tiny_text_to_image

from colorlab.errors import RangeError, ShapeError, StateError
from colorlab.exhibits import Exhibit
from colorlab.inspection import queries
from colorlab.inspection.attention import cell_centers
from colorlab.inspection.places import coverage, pixel_cell, resize_map, word_tokens
from colorlab.inspection.questions import ask_word
from colorlab.inspection.replay import moment_of, replay_step, run_sites
from colorlab.inspection.shelf import shelf_of
from colorlab.inspection.views import principal_components
from colorlab.strokes import Stroke

CROSS = "mid_block.attentions.0.transformer_blocks.0.attn2"
SELF = "up_blocks.1.attentions.0.transformer_blocks.0.attn1"
# The tiny tokenizer spells: <start> a r e d c a r <end> ...
RED, CAR = [2, 3, 4], [5, 6, 7]
SIZE = (30, 110)


@pytest.fixture(scope="module")
def run():
    return tiny_colorizer().start(tiny_picture(*SIZE), prompt="a red car").finish(progress=False)


def full_probs(run, step, path, guidance_pass="cond"):
    """Return (heads, Q, K) float64 and the site."""
    site = next(site for site in run_sites(run) if site.path == path)
    reading = replay_step(moment_of(run, step), [site]).readings[path, guidance_pass]
    scores = reading.q[0].double() @ reading.k[0].double().transpose(-1, -2) * reading.scale
    return scores.softmax(dim=-1), site


def close(exhibit, expected):
    return np.abs(exhibit.array - np.asarray(expected)).max() <= 1e-5


@pytest.mark.parametrize("head", [None, 1])
@pytest.mark.parametrize("guidance_pass", ["cond", "uncond"])
def test_a_token_map_is_the_column_of_its_tokens(head, guidance_pass):
    run = tiny_colorizer().start(tiny_picture(*SIZE), prompt="a red car", negative_prompt="a red car red")
    run.step()
    found = run.attention(0, word="Red", site=CROSS, head=head, guidance_pass=guidance_pass)
    probs, site = full_probs(run, 0, CROSS, guidance_pass)
    expected = probs[..., RED].sum(dim=-1)
    expected = expected.mean(dim=0) if head is None else expected[head]
    assert close(found, expected.unflatten(0, site.grid))
    assert (found.verdict, found.axes, found.provenance["tokens"]) == ("exact", ("h", "w"), RED)
    assert found.provenance["sites"] == [CROSS]
    if guidance_pass == "uncond":
        again = run.attention(0, word="red", occurrence=1, site=CROSS, guidance_pass=guidance_pass)
        assert again.provenance["tokens"] == [8, 9, 10]


def test_the_maps_of_all_words_and_the_rest_sum_to_one(run):
    probs, site = full_probs(run, 2, CROSS)
    words = sum(run.attention(2, word=word, site=CROSS).array for word in ("a", "red", "car"))
    rest = probs.mean(dim=0)[:, [0, *range(8, 12)]].sum(dim=-1).unflatten(0, site.grid).numpy()
    assert np.abs(words + rest - 1).max() <= 1e-5
    assert close(run.attention(2, word="red car", site=CROSS), probs.mean(dim=0)[:, RED + CAR].sum(-1).view(site.grid))


@pytest.mark.parametrize("path", [CROSS, SELF])
def test_a_pixel_looks_from_and_is_looked_at(run, path):
    probs, site = full_probs(run, 1, path)
    cell = pixel_cell((80, 20), SIZE, site.grid)
    row = run.attention(1, pixel=(80, 20), site=path)
    assert row.array.sum() == pytest.approx(1, abs=1e-6)
    expected = probs.mean(dim=0)[cell]
    if path == CROSS:
        assert (row.axes, row.kind) == (("token",), "curves")
        assert row.provenance["token_names"][:3] == ["<|startoftext|>", "a</w>", "r"]
        assert close(row, expected)
        with pytest.raises(RangeError, match="is of kind attn1; there are: attn2"):
            run.attention(1, pixel=(80, 20), site=path, direction="to")
    else:
        assert close(row, expected.unflatten(0, site.grid))
        column = run.attention(1, pixel=(80, 20), site=path, direction="to")
        assert close(column, probs.mean(dim=0)[:, cell].unflatten(0, site.grid))


def test_a_region_looks_and_is_looked_at(run):
    mask = np.zeros(SIZE, dtype=bool)
    mask[:, 40:75] = True
    probs, site = full_probs(run, 1, SELF)
    weights = coverage(mask, SIZE, site.grid).double()
    mass = run.attention(1, region=mask, site=SELF, direction="to")
    assert close(mass, (probs.mean(dim=0) @ weights).unflatten(0, site.grid))
    looks = run.attention(1, region=mask, site=SELF)
    assert close(looks, (weights / weights.sum() @ probs.mean(dim=0)).unflatten(0, site.grid))
    assert run.attention(1, region=np.ones(SIZE), direction="to").array == pytest.approx(1, abs=1e-6)
    stroke = Stroke(points=[(20, 10), (60, 10)], color=(255, 0, 0), radius_px=6)
    assert 0 < run.attention(1, region=stroke, direction="to").array.max() < 1


@pytest.mark.parametrize("measure", ["entropy", "spread", "mean_x", "mean_y"])
def test_measures_equal_brute_force(run, measure):
    probs, site = full_probs(run, 1, SELF)
    y, x = (axis.double().flatten() for axis in torch.meshgrid(*map(cell_centers, site.grid), indexing="ij"))
    mean_x, mean_y = probs @ x, probs @ y
    variance = probs @ (x**2 + y**2) - mean_x**2 - mean_y**2
    entropy = -(probs * probs.log()).sum(dim=-1)
    expected = {"entropy": entropy, "spread": variance.sqrt(), "mean_x": mean_x, "mean_y": mean_y}[measure]
    assert close(run.attention(1, measure=measure, site=SELF), expected.mean(dim=0).unflatten(0, site.grid))


def test_several_sites_are_averaged_on_the_finest_grid(run):
    alone = [run.attention(1, word="red", site=site.path).array for site in run_sites(run) if site.kind == "attn2"]
    assert len({part.shape for part in alone}) == 2
    finest = max(part.shape for part in alone)
    expected = sum(resize_map(torch.from_numpy(part.copy()), finest, keep_sum=False) for part in alone) / len(alone)
    together = run.attention(1, word="red")
    assert close(together, expected)
    assert together.provenance["sites"] == [site.path for site in run_sites(run) if site.kind == "attn2"]


def test_the_keys_of_an_off_prompt_word_stand_beside_the_real_ones(run):
    found = run.attention(2, word="teal", site=CROSS)
    assert found.provenance["is_in_prompt"] is False
    assert "which the prompt does not have, at step " in found.caption
    site = next(site for site in run_sites(run) if site.path == CROSS)
    reading = replay_step(moment_of(run, 2), [site]).readings[CROSS, "cond"]
    with torch.no_grad():
        # In the place of each word of the prompt in turn: "teal red car", "a teal car", "a red teal".
        places = {"teal red car": 1, "a teal car": 2, "a red teal": 5}
        encoded = [run.method.encode_prompt(text).tokens[0, start : start + 4] for text, start in places.items()]
        tokens = torch.stack(encoded).mean(dim=0)
        keys = run.method.unet.get_submodule(CROSS).to_k(tokens).unflatten(-1, (2, -1)).transpose(0, 1)
    k = torch.cat([reading.k[0], keys], dim=1).double()
    widened = (reading.q[0].double() @ k.transpose(-1, -2) * reading.scale).softmax(-1)
    assert close(found, widened[..., -4:].sum(dim=-1).mean(dim=0).unflatten(0, site.grid))


def test_asked_as_if_it_were_not_in_the_prompt_a_word_gives_its_map():
    """A prompt of one word is encoded as an off-prompt word is: p of the other keys becomes p / (1 + p)."""
    run = tiny_colorizer().start(tiny_picture(*SIZE), prompt="red")
    run.step()
    inside = run.attention(0, word="red", site=CROSS, head=0).array
    with torch.no_grad():
        tokens = run.method.encode_prompt("red").tokens[0, 1:4]
    question = ask_word(moment_of(run, 0), "cond", "red", 0)
    question = replace(question, weights=lambda site, number: torch.zeros(12), extra_tokens=tokens)
    site = next(site for site in run_sites(run) if site.path == CROSS)
    reading = replay_step(moment_of(run, 0), [site]).readings[CROSS, "cond"]
    outside = queries._combine(moment_of(run, 0), [reading], question, 0, 2**24)
    assert np.abs(outside - inside / (1 + inside)).max() <= 1e-5
    assert np.corrcoef(outside.flatten(), inside.flatten())[0, 1] > 0.99


def test_null_baselines(run):
    mask = np.zeros(SIZE, dtype=bool)
    mask[:, :20] = True
    word = run.attention(1, word="red", site=CROSS, baseline=True)
    pixel = run.attention(1, pixel=(10, 10), site=SELF, baseline=True)
    region = run.attention(1, region=mask, site=SELF, direction="to", baseline=True)
    for exhibit in (word, pixel, region):
        assert exhibit.baseline.shape == exhibit.array.shape
        assert not np.array_equal(exhibit.baseline, exhibit.array)
        assert np.isfinite(exhibit.baseline).all()
    assert pixel.baseline.sum() == pytest.approx(1, abs=1e-6)
    # All 16 moves of a part of the picture cover as much of it, up to the cells they cut.
    assert region.baseline.mean() == pytest.approx(20 / 110, abs=0.05)
    again = run.attention(1, word="red", site=CROSS, baseline=True)
    assert again == word


def test_the_baseline_of_a_word_is_another_prompt_at_the_same_places():
    colorizer, picture = tiny_colorizer(), tiny_picture(*SIZE)
    run = colorizer.start(picture, prompt="red car", guidance_scale=1.0)
    run.step()
    found = run.attention(0, word="red", site=CROSS, baseline=True)
    other = colorizer.start(picture, prompt="car red", guidance_scale=1.0)
    other.step()
    probs, site = full_probs(other, 0, CROSS)
    expected = probs[..., found.provenance["tokens"]].sum(dim=-1).mean(dim=0).unflatten(0, site.grid)
    assert np.abs(found.baseline - expected.numpy()).max() <= 1e-5
    lonely = colorizer.start(picture, prompt="red")
    lonely.step()
    with pytest.raises(RangeError, match="'red' have no other order"):
        lonely.attention(0, word="red", baseline=True)


def test_questions_about_one_step_share_one_call_and_change_nothing():
    asked, silent = (tiny_colorizer().start(tiny_picture(*SIZE), prompt="a red car") for _ in range(2))
    for state in asked:
        step = state.step_index - 1
        asked.attention(step, word="red")
        asked.attention(step, pixel=(3, 3))
        asked.attention(step, measure="spread", guidance_pass="uncond")
        asked.attention(step, word="car", baseline=True)
    assert shelf_of(asked.method).num_replays == 4
    silent.finish(progress=False)
    assert all(a.equals(b) for a, b in zip(asked.states, silent.states, strict=True))
    assert np.array_equal(asked.image, silent.image)


def test_a_refused_replay_shows_nothing_and_says_why():
    run = tiny_colorizer().start(tiny_picture(*SIZE), prompt="a red car")
    run.step()
    with torch.no_grad():
        run.method.unet.conv_out.weight.mul_(1.5)
    for exhibit in (run.attention(0, word="red"), run.attention(0, pixel=(3, 3), site=CROSS, baseline=True)):
        assert exhibit.verdict == "refused"
        assert np.isnan(exhibit.array).all()
        assert exhibit.baseline is None
        assert "refused, off by 0." in exhibit.caption
    assert run.features(0, "mid_block").verdict == "refused"


def test_a_close_replay_shows_its_figure(run):
    shelf_of(run.method).clear()
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        exhibit = run.attention(3, word="red")
    finally:
        torch.set_num_threads(threads)
        shelf_of(run.method).clear()
    assert exhibit.verdict == "close"
    assert "num_threads 1 became 2" in exhibit.caption
    assert exhibit.provenance["difference"] <= 1e-4


def test_exhibits_keep_their_origin_in_files(run, tmp_path):
    exhibit = run.attention(1, word="red", baseline=True)
    assert exhibit.provenance | {"step": 1, "run": "run-0", "model": "tiny/lcad", "word": "red"} == exhibit.provenance
    assert Exhibit.load(exhibit.save(tmp_path / "map.npz")) == exhibit


def test_the_guidance_field_is_read_from_the_record(run):
    calls = run.method.network_calls["unet"]
    record, exhibit = run.records[2], run.guidance(2)
    expected = (record.predictions["cond"] - record.predictions["uncond"])[0].norm(dim=0)
    assert np.allclose(exhibit.array, expected)
    assert np.array_equal(run.guidance(2, passes=("cond", "uncond")).array, exhibit.array)
    assert exhibit.verdict is None
    assert run.method.network_calls["unet"] == calls
    with pytest.raises(RangeError, match="no guidance pass 'full'"):
        run.guidance(2, passes=("full", "cond"))
    lonely = tiny_colorizer().start(tiny_picture(), prompt="red", guidance_scale=1.0)
    lonely.step()
    with pytest.raises(StateError, match="has the pass 'cond' only"):
        lonely.guidance(0)


def test_the_trajectory_keeps_the_distances_that_its_plane_holds(run):
    exhibit = run.trajectory()
    assert exhibit.array.shape == (2, 5)
    assert exhibit.array.sum(axis=1) == pytest.approx([0, 0], abs=1e-4)
    assert 0 < sum(exhibit.provenance["shares"]) <= 1 + 1e-9
    short = tiny_colorizer().start(tiny_picture(), prompt="red")
    with pytest.raises(StateError, match="needs 3 states"):
        short.trajectory()


def test_principal_components_of_a_line_and_of_a_point():
    line = torch.outer(torch.tensor([0.0, 1.0, 5.0]), torch.tensor([3.0, 4.0]))
    coordinates, shares = principal_components(line, 3)
    assert shares.tolist() == pytest.approx([1, 0, 0], abs=1e-12)
    assert coordinates[:, 0].tolist() == pytest.approx([-10, -5, 15])
    _, none = principal_components(torch.ones(4, 2), 2)
    assert none.tolist() == [0, 0]


def test_features_of_a_block_are_colors(run):
    exhibit = run.features(2, "mid_block")
    assert exhibit.axes == ("h", "w", "component")
    assert exhibit.array.min() == 0
    assert exhibit.array.max() == 1
    assert exhibit.verdict == "exact"
    assert exhibit.plot() is not None
    with pytest.raises(RangeError, match=r"fits [0-9]+ sites"):
        run.features(2, "mid_block*")


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({}, RangeError, "Nothing came"),
        ({"word": "red", "pixel": (1, 1)}, RangeError, "word and pixel came"),
        ({"word": " "}, RangeError, "at least one word"),
        ({"word": "red", "occurrence": 1}, RangeError, r"comes 1 time\(s\)"),
        ({"word": "red", "site": SELF}, RangeError, "there are: attn1"),
        ({"word": "red", "site": "mid_blok*"}, RangeError, "near it are"),
        ({"word": "red", "head": 2}, RangeError, "has heads 0 to 1"),
        ({"word": "red", "guidance_pass": "full"}, RangeError, "this call has uncond, cond"),
        ({"pixel": (110, 0)}, RangeError, r"within 110x30"),
        ({"pixel": (1, 1), "direction": "at"}, RangeError, "'from' or 'to'"),
        ({"region": np.ones((3, 3))}, ShapeError, "region has shape"),
        ({"region": np.zeros(SIZE)}, RangeError, "covers no pixel"),
        ({"measure": "mean"}, RangeError, "one of entropy, spread"),
        ({"word": "red", "step": 9}, StateError, "has taken steps 0 to 3 of 4"),
    ],
)
def test_what_cannot_be_answered_says_so(run, asked, error, message):
    asked = {"step": 1, **asked}
    with pytest.raises(error, match=message):
        run.attention(asked.pop("step"), **asked)


def test_arguments_that_do_not_exist_are_told_with_those_that_do(run):
    with pytest.raises(RangeError, match="settled has no argument 'threshold'; it has: tolerance, decoder, baseline"):
        run.settled(threshold=5)
    with pytest.raises(RangeError, match="seeds has no argument 'seeds'; it has: n, batch_size"):
        run.study.seeds(seeds=[1, 2])
    assert repr(run.study) == "Studies of 'run-0': seeds, head_ranking, provenance, levels, phrase_iou"
    cost = run.study.plan.seeds(n=2).cost
    assert repr(cost) == f"StudyCost: {cost}"
    assert "Where pixel (3.2, 4) looks" in run.attention(0, pixel=(3.2345, 4)).caption


def test_words_beyond_the_reach_of_the_model(run):
    method = run.method
    assert word_tokens(method, "a red car", "blue") == ()
    assert word_tokens(method, "a redcar", "red") == ()
    with pytest.raises(RangeError, match="lies beyond the 12 tokens"):
        word_tokens(method, "abcdefghij red", "red")


def test_a_method_without_a_picture_is_asked_in_pixels_of_its_own():
    run = tiny_colorizer(tiny_text_to_image()).start(prompt="a red car")
    run.step()
    assert run.attention(0, pixel=(31, 31)).array.shape == run.attention(0, word="red").array.shape
    with pytest.raises(RangeError, match="within 32x32"):
        run.attention(0, pixel=(32, 0))
