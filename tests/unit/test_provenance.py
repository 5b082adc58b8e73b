"""Provenance: shares keep their identities, a batch of ablated runs is each of them, and words color their objects."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import tiny_colorizediffusion, tiny_colorizer, tiny_ctrlcolor, tiny_picture, tiny_text_to_image

import colorlab
from colorlab.color import CHROMATIC_COLORS, image_to_gray, lightness_to_gray
from colorlab.conditioning import Conditioning, Manipulation
from colorlab.errors import RangeError, StateError
from colorlab.inspection.chroma import decode_chroma
from colorlab.inspection.edits import PatchLatents, PromptToPrompt, Remove, Reweight
from colorlab.inspection.places import word_tokens
from colorlab.inspection.provenance import _origin_of_words
from colorlab.inspection.replay import moment_of, replay_step, run_sites
from colorlab.inspection.shares import Ablation, Findings, coalitions_of, draw_orders, leave_one_out, shapley
from colorlab.inspection.sources import TextEditSources, find_exemplars, find_strokes, find_words
from colorlab.inspection.study import StudyWarning
from colorlab.runs.batches import take_steps
from colorlab.runs.segments import take_step
from colorlab.strokes import Stroke
from colorlab.training.scenes import TEST_SEEDS, caption, make_scene

SIZE = (40, 40)
MASK = np.zeros(SIZE, dtype=bool)
MASK[:20, :20] = True


@pytest.fixture(scope="module")
def run():
    return tiny_colorizer().start(tiny_picture(*SIZE), prompt="a red car", seed=1).finish(progress=False)


@pytest.fixture(autouse=True)
def _tiny_models_move_colors_little(monkeypatch):
    monkeypatch.setattr("colorlab.inspection.shares.LEAST_DIRECTION", 1e-3)


def values_of(game, number):
    """Return v of every set of removed sources, where `game` gives what the present ones do."""
    sets = [frozenset(i for i in range(number) if bits >> i & 1) for bits in range(2**number)]
    return {removed: np.array([float(game(set(range(number)) - removed))]) for removed in sets if removed}


def test_shares_of_independent_sources_are_what_they_do():
    weights = np.array([0.5, 0.8, -0.3])
    value = values_of(lambda present: sum(weights[i] for i in present), 3)
    orders = draw_orders(3, 6)
    assert leave_one_out(value, 3)[:, 0] == pytest.approx(weights)
    shares, errors = shapley(value, 3, orders)
    assert shares[:, 0] == pytest.approx(weights)
    assert errors[:, 0] == pytest.approx(0, abs=1e-12)


def test_what_sources_do_twice_or_only_together_is_divided():
    either = values_of(lambda present: bool({0, 1} & present), 3)
    both = values_of(lambda present: {0, 1} <= present, 3)
    orders = draw_orders(3, 4)
    assert leave_one_out(either, 3)[:, 0].tolist() == [0, 0, 0]
    assert leave_one_out(both, 3)[:, 0].tolist() == [1, 1, 0]
    for value in (either, both):
        shares, _ = shapley(value, 3, orders)
        assert shares[:, 0] == pytest.approx([0.5, 0.5, 0]), "an order and its reverse settle it"
        assert shares.sum() == pytest.approx(1)


def test_what_is_not_known_is_left_out():
    value = values_of(lambda present: len(present) / 3, 3)
    del value[frozenset([1])]
    assert np.isnan(leave_one_out(value, 3)[:, 0]).tolist() == [False, True, False]
    shares, errors = shapley(value, 3, [(0, 1, 2), (1, 0, 2)])
    assert shares[:, 0] == pytest.approx([1 / 3] * 3)
    assert np.isnan(errors).all()
    assert np.isnan(shapley(value, 3, [(1, 0, 2)])[0]).all()


def test_every_set_is_asked_for_once_and_all_of_them_first():
    assert coalitions_of(3, ()) == [frozenset(part) for part in ([0, 1, 2], [0], [1], [2])]
    orders = draw_orders(4, 6)
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
    assert [order[::-1] for order in orders[::2]] == list(orders[1::2])
    sets = coalitions_of(4, orders)
    assert sets[0] == frozenset(range(4))
    assert len(set(sets)) == len(sets) <= 2**4 - 1
    assert {frozenset(order[:2]) for order in orders} <= set(sets)


def test_shares_are_projections_and_undefined_where_nothing_happens():
    final, prior = torch.tensor([[10.0, 5.0], [0.0, 5.0]]), torch.tensor([[0.0, 5.0], [0.0, 5.0]])
    without = torch.tensor([[4.0, 5.0], [7.0, 5.0]])
    parts = [Ablation(frozenset([0, 1]), prior), Ablation(frozenset([0]), without), Ablation(frozenset([1]), final)]
    found = Findings(final, parts, 2, ())
    assert found.shares[:, 0].tolist() == [0.6, 0.0], "what is across the direction does not count"
    assert found.residual[0] == pytest.approx(0.4)
    assert found.prior_share[0] == 0
    assert np.isnan(found.shares[:, 1]).all()
    assert found.pooled(found.shares).tolist() == [0.6, 0.0]
    assert np.isnan(found.pooled(found.shares, first=1)).all()


def test_a_batch_of_ablated_runs_is_each_of_them(run):
    study = run.study.plan.provenance(region=MASK, batch_size=3)
    exhibit = study.finish(progress=False)
    assert exhibit.provenance["labels"] == ["a", "red", "car"]
    assert [part.removed for part in study.parts] == coalitions_of(3, ())
    means = {}
    for removed, words in {(0, 1, 2): ("a", "red", "car"), (1,): "red", (2,): "car", (): None}.items():
        branch = run.branch(0, edits=[Remove(words)] if words else ()).finish(progress=False)
        chroma = decode_chroma(run.method, branch.segment_at(4), branch.state.latents)
        means[removed] = chroma[:, :20, :20].mean(dim=(1, 2))
    for part in study.parts:
        if tuple(part.removed) in means:
            assert part.ab[:, 0] == pytest.approx(means[tuple(part.removed)], abs=1e-2)
    direction = means[()] - means[0, 1, 2]
    shares = [float((means[()] - means[index,]) @ direction / (direction @ direction)) for index in (1, 2)]
    assert exhibit.array[1:] == pytest.approx(shares, abs=1e-2)
    assert exhibit.provenance["residual"] == pytest.approx(1 - float(exhibit.array.sum()), abs=1e-5)
    assert f"residual {exhibit.provenance['residual']:.2f}" in exhibit.caption
    alone = run.study.provenance(region=MASK, batch_size=1, progress=False)
    assert alone.array == pytest.approx(exhibit.array, abs=1e-3)


def test_rows_of_a_batch_have_their_own_conditionings_and_edits(run):
    other = run.branch(0, prompt="a blue boat").finish(progress=False)
    branches = [
        run,
        run.branch(0, edits=[Remove("red"), Reweight("car", 3.0)]),
        run.branch(0, edits=[PromptToPrompt(run)]),
        run.branch(0, prompt="a tea car", negative_prompt="tea"),
        run.branch(0, edits=[PatchLatents(other, MASK), Reweight("red", 0.0, guidance_pass="cond")]),
    ]
    segments, states = [branch.segment_at(1) for branch in branches], [run.states[1], *(other.states[1],) * 4]
    edges = take_steps(run.method, segments, states, timesteps=run.timesteps)
    for segment, state, (record, following) in zip(segments, states, edges, strict=True):
        _, expected = take_step(run.method, segment, state, timesteps=run.timesteps)
        assert (following.latents - expected.latents).abs().max() < 1e-4
        assert record.noise_pred.shape == state.latents.shape
    settings = segments[0].settings.replace(guidance_scale=2.0)
    with pytest.raises(RangeError, match="2 segments came for 2 states, but one for each, all of equal settings"):
        take_steps(
            run.method,
            [segments[0], replace(segments[1], settings=settings)],
            states[:2],
            timesteps=run.timesteps,
        )


def test_edits_are_kept_within_a_batch_of_one_segment(run):
    other = run.branch(0, prompt="a blue boat").finish(progress=False)
    segment = run.branch(0, edits=[PatchLatents(other, MASK), Remove("red")]).segment_at(1)
    edges = take_steps(run.method, segment, [run.states[1], other.states[1]], timesteps=run.timesteps)
    for state, (_, following) in zip((run.states[1], other.states[1]), edges, strict=True):
        _, expected = take_step(run.method, segment, state, timesteps=run.timesteps)
        assert (following.latents - expected.latents).abs().max() < 1e-4


def test_a_word_removed_everywhere_is_not_heard_by_later_tokens(run):
    site = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"
    keys = {}
    for name, edit in {"plain": None, "keys": Remove("red", everywhere=False), "all": Remove("red")}.items():
        branch = run.branch(0, edits=[edit] if edit else ())
        branch.step()
        exhibit = branch.attention(0, word="car", site=site)
        keys[name] = exhibit.array
    assert not np.array_equal(keys["plain"], keys["all"])
    assert np.array_equal(keys["plain"], keys["keys"]), "queries and keys of other words are not touched"
    text, other = "a red car", "a tea car"
    removed = [run.branch(0, prompt=prompt, edits=[Remove(word)]) for prompt, word in ((text, "red"), (other, "tea"))]
    for branch in removed:
        branch.finish(progress=False)
    assert (removed[0].state.latents - removed[1].state.latents).abs().max() < 1e-4, "nothing of the word is left"
    partly = [
        run.branch(0, prompt=prompt, edits=[Remove(word, everywhere=False)]).finish(progress=False)
        for prompt, word in ((text, "red"), (other, "tea"))
    ]
    assert (partly[0].state.latents - partly[1].state.latents).abs().max() > 1e-2
    assert len(word_tokens(run.method, text, "red")) == len(word_tokens(run.method, other, "tea"))


def test_attributions_places_and_shortcuts(run):
    by_order = run.study.provenance(pixel=(10, 30), attribution="shapley", num_orders=4, progress=False)
    assert by_order.array.sum() == pytest.approx(1, abs=1e-4)
    assert len(by_order.provenance["standard_errors"]) == 3
    two = run.study.provenance(region=MASK, words=["Red"], baseline=True, progress=False)
    assert two.provenance["labels"] == ["red", "(other words)"]
    assert two.baseline.shape == (2,)
    maps = run.study.provenance(words=["red"], progress=False)
    assert (maps.array.shape, maps.kind) == ((2, *SIZE), "difference")
    inside = maps.array[0][MASK]
    assert np.isfinite(inside).any()
    for exhibit in (by_order, two, maps):
        assert exhibit.plot().to_png()[:4] == b"\x89PNG"
    calls = run.method.network_calls["unet"]
    plan = run.study.plan.provenance(region=MASK, fast=True, batch_size=2)
    fast = plan.finish(progress=False)
    assert run.method.network_calls["unet"] - calls == plan.cost.calls == 2 * (fast.provenance["compared_at_step"] + 1)
    assert "approximate" in fast.caption
    full = run.study.provenance(region=MASK, progress=False)
    late = run.study.provenance(region=MASK, steps=range(3, 4), progress=False)
    assert late.provenance["steps"] == [3, 3]
    assert np.linalg.norm(np.subtract(late.provenance["all_removed_ab"], late.provenance["final_ab"])) < np.linalg.norm(
        np.subtract(full.provenance["all_removed_ab"], full.provenance["final_ab"])
    )


def test_the_study_only_reads_the_run_and_keeps_what_is_done(run):
    states, num_runs = run.states, len(run.tree)
    study = run.study.plan.provenance(region=MASK, batch_size=1)
    assert (study.cost.calls, study.num_parts) == (4 * 4, 4)
    for _ in study:
        if study.num_done == 2:
            break
    study.cancel()
    with pytest.warns(StudyWarning, match="after 2 of 4 parts"):
        exhibit = study.finish(progress=False)
    assert np.isnan(exhibit.array).tolist() == [False, True, True]
    assert all(a.equals(b) for a, b in zip(run.states, states, strict=True))
    assert len(run.tree) == num_runs
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in run.method.unet.modules())


def painted(run, first_step):
    strokes = [
        Stroke(points=[(5, 5), (15, 5)], color=(220, 40, 40), radius_px=5),
        Stroke(points=[(5, 30), (30, 30)], color=(40, 40, 220), radius_px=5, first_step=first_step),
    ]
    return run.branch(0, strokes=strokes).finish(progress=False)


@pytest.mark.parametrize("first_step", [None, 1])
def test_strokes_are_sources_beside_words(first_step):
    start = tiny_colorizer(tiny_ctrlcolor()).start(
        tiny_picture(*SIZE), prompt="a car", mechanisms={"self_attention_guidance": {"is_on": True}}
    )
    run = painted(start, first_step)
    study = run.study.plan.provenance(region=MASK, words=["car"], batch_size=2)
    exhibit = study.finish(progress=False)
    assert exhibit.provenance["labels"][:2] == ["car", "a"]
    assert [label[:8] for label in exhibit.provenance["labels"][2:]] == ["stroke 0", "stroke 1"]
    without = run.branch(0, strokes=list(run.conditioning.strokes)[:1]).finish(progress=False)
    chroma = decode_chroma(run.method, without.segment_at(4), without.state.latents)[:, :20, :20].mean(dim=(1, 2))
    found = next(part for part in study.parts if part.removed == {3})
    assert found.ab[:, 0] == pytest.approx(chroma, abs=1e-2)
    assert not np.isnan(exhibit.array).any()


def test_groups_of_exemplar_patches_are_sources():
    exemplar = np.random.default_rng(0).integers(0, 255, (20, 28, 3)).astype(np.uint8)
    run = tiny_colorizer(tiny_ctrlcolor()).start(
        tiny_picture(*SIZE), prompt="a car", exemplar=exemplar, num_inference_steps=2
    )
    study = run.finish(progress=False).study.plan.provenance(region=MASK, words=["car"], exemplar_grid=(1, 2))
    exhibit = study.finish(progress=False)
    assert exhibit.provenance["labels"] == ["car", "a", "exemplar 1, 1", "exemplar 1, 2"]
    assert not np.isnan(exhibit.array).any()

    def chroma(changed):
        branch = run.branch(0, exemplar=changed).finish(progress=False)
        return decode_chroma(run.method, branch.segment_at(2), branch.state.latents)[:, :20, :20].mean(dim=(1, 2))

    # Its colors are taken away, its lightness stays.
    gray = np.asarray(image_to_gray(torch.tensor(exemplar).permute(2, 0, 1)[None] / 255)[0, 0])[..., None]
    half = np.where(np.arange(28)[None, :, None] < 14, gray, exemplar / np.float32(255)).astype(np.float32)
    found = {part.removed: part.ab[:, 0] for part in study.parts}
    assert found[frozenset({2})] == pytest.approx(chroma(half), abs=1e-2)
    assert found[frozenset({2})] != pytest.approx(found[frozenset({3})], abs=1e-4)
    kind = find_exemplars(run, grid=(1, 2))[0]
    assert kind.without(run.conditioning, [0, 1])[0].exemplar is None
    other = run.conditioning.replace(exemplar=exemplar[::-1])
    assert kind.without(other, [0]) == (other, ())


@pytest.mark.parametrize("grid", [(0, 2), (5, 1), 2, (1.5, 1), "ab"])
def test_groups_that_are_finer_than_patches_are_told(grid):
    run = tiny_colorizer(tiny_ctrlcolor()).start(
        tiny_picture(), exemplar=np.eye(3)[np.arange(8)[:, None] % 3 + [0] * 8]
    )
    with pytest.raises(RangeError, match=r"exemplar_grid is .* of 1 to 4 patches each"):
        find_exemplars(run, grid=grid)
    assert find_exemplars(tiny_colorizer().start(tiny_picture())) == ()


def test_equal_strokes_are_as_many_sources():
    stroke = Stroke(points=[(5, 5), (15, 5)], color=(220, 40, 40), radius_px=5)
    run = tiny_colorizer(tiny_ctrlcolor()).start(tiny_picture(), strokes=[stroke, stroke])
    kind = find_strokes(run)
    assert len(kind.without(run.conditioning, [0])[0].strokes) == 1
    assert len(kind.without(run.conditioning, [0, 1])[0].strokes) == 0


def test_of_equal_text_edits_that_one_is_taken_away_which_is_meant():
    first, other = Manipulation("a blue car", 4.0), Manipulation("a red car", 4.0)
    kind = TextEditSources((first, other, first))
    given = Conditioning(gray=tiny_picture(), manipulations=[first, other, first])
    assert kind.without(given, (2,))[0].manipulations == (first, other)
    assert kind.without(given, (0,))[0].manipulations == (other, first)
    assert kind.without(given, (0, 2))[0].manipulations == (other,)
    assert kind.without(given.replace(manipulations=[other, first]), (2,))[0].manipulations == (other, first)


def test_edits_act_in_every_pass_of_a_method_that_asks_twice():
    run = tiny_colorizer(tiny_ctrlcolor()).start(tiny_picture(*SIZE), prompt="a red car", seed=1)
    passes = run.method.guidance_passes(run.settings, run.timesteps[0].item())
    assert passes == ("uncond", "cond", "degraded_uncond", "degraded_cond")
    branch = run.branch(0, edits=[Remove("red"), Reweight("car", 2.0, guidance_pass="degraded_cond")])
    branch.finish(progress=False)
    for step in range(4):
        assert replay_step(moment_of(branch, step), run_sites(branch)).verdict.name == "exact"
    with pytest.raises(RangeError, match="no guidance pass 'full'"):
        run.branch(0, edits=[Remove("red", guidance_pass="full")])


def test_a_branch_is_asked_about_its_own_words_strokes_and_exemplar():
    first, second = (Stroke(points=[(5, y), (15, y)], color=(220, 40, 40), radius_px=3) for y in (5, 15))
    exemplars = [np.eye(3)[(np.arange(8)[:, None] + [0] * 8 + shift) % 3] for shift in range(2)]
    run = tiny_colorizer(tiny_ctrlcolor()).start(
        tiny_picture(*SIZE), prompt="a brown cat", strokes=[first], exemplar=exemplars[0], seed=1
    )
    run.finish(progress=False)
    branch = run.branch(2, prompt="a blue cat", strokes=[first, second], exemplar=exemplars[1]).finish(progress=False)
    study = branch.study.plan.provenance(region=MASK)
    exhibit = study.finish(progress=False)
    labels = exhibit.provenance["labels"]
    assert labels[:4] == ["a", "brown", "cat", "blue"]
    assert labels[4:6] == ["stroke 0 (220, 40, 40)", "stroke 1 (220, 40, 40)"]
    assert labels[6] == "exemplar 1, 1"
    assert labels[10] == "exemplar of step 2 1, 1"
    assert "'a brown cat' from step 0, 'a blue cat' from step 2" in exhibit.caption

    without = {next(iter(part.removed)): part.ab[:, 0] for part in study.parts if len(part.removed) == 1}
    alone = run.branch(2, prompt="a blue cat", strokes=[first, second], exemplar=exemplars[1], edits=[Remove("blue")])
    alone.finish(progress=False)
    chroma = decode_chroma(run.method, alone.segment_at(4), alone.state.latents)[:, :20, :20].mean(dim=(1, 2))
    assert without[labels.index("blue")] == pytest.approx(chroma, abs=1e-2)


def test_a_prompt_is_told_only_where_it_changes():
    strokes = [Stroke(points=[(5, y), (15, y)], color=(220, 40, 40), radius_px=3) for y in (5, 15)]
    run = tiny_colorizer(tiny_ctrlcolor()).start(tiny_picture(*SIZE), prompt="a brown cat", seed=1)
    drawn = run.finish(progress=False).branch(1, strokes=strokes[:1]).finish(progress=False)
    assert _origin_of_words(drawn) == ""
    blue = drawn.branch(2, prompt="a blue cat").finish(progress=False).branch(3, strokes=strokes)
    told = _origin_of_words(blue)
    assert told == " Words are those of all steps: 'a brown cat' from step 0, 'a blue cat' from step 2."
    brown = blue.finish(progress=False).branch(3, prompt="a brown cat")
    assert _origin_of_words(brown).endswith("'a blue cat' from step 2, 'a brown cat' from step 3.")


def test_a_word_is_taken_away_where_the_model_reads_it():
    run = tiny_colorizer().start(tiny_picture(*SIZE), prompt="a red car", seed=1).finish(progress=False)
    branch = run.branch(2, prompt=f"{'a ' * 80}red car").finish(progress=False)
    exhibit = branch.study.provenance(region=MASK, words=["red"], batch_size=2, progress=False)
    assert exhibit.provenance["labels"] == ["red", "(other words)"]


def test_words_that_come_twice_or_not_at_all():
    run = tiny_colorizer().start(tiny_picture(*SIZE), prompt="a red a", seed=1)
    found = find_words(run)
    assert found.labels == ("a", "red", "a (2)")
    conditioning, edits = found.without(run.conditioning, [0, 2])
    assert conditioning is run.conditioning
    assert edits[0].named == (("a", 0), ("a", 1))
    assert found.without(run.conditioning.replace(prompt="no"), [1]) == (run.conditioning.replace(prompt="no"), ())
    assert find_words(tiny_colorizer(tiny_text_to_image()).start(prompt="")) is None


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"pixel": (1, 1), "region": MASK}, RangeError, "pixel and region came"),
        ({"pixel": (50, 1)}, RangeError, r"pixel is \(50, 1\), but \(x, y\) within 40x40"),
        ({"attribution": "guess"}, RangeError, "attribution is 'guess'"),
        ({"attribution": "shapley", "num_orders": 3}, RangeError, "num_orders is 3"),
        ({"words": ["boat"]}, RangeError, "different single words of the prompt are expected: a, red, car"),
        ({"steps": range(2, 9)}, RangeError, r"steps is range\(2, 9\), but a range within 0 to 3"),
        ({"baseline": True}, RangeError, "baseline is of a pixel or a region"),
    ],
)
def test_what_cannot_be_asked_says_so(run, arguments, error, message):
    with pytest.raises(error, match=message):
        run.study.provenance(**arguments)


def test_a_run_that_is_not_finished_or_has_no_words_says_so(run):
    with pytest.raises(StateError, match="stands at step 2 of 4; finish"):
        run.branch(2).study.provenance(pixel=(1, 1))
    silent = run.branch(0, prompt="").finish(progress=False)
    with pytest.raises(RangeError, match="no words and nothing else that could be taken away"):
        silent.study.provenance(pixel=(1, 1))


def test_a_color_word_counts_in_its_object_more_than_elsewhere():
    colorizer, shares, seed = colorlab.load("mini/lcad"), [], TEST_SEEDS.start + 3 * 10**8
    while len(shares) < 4:
        scene = make_scene(seed, num_instances=1)
        seed += 1
        instance = scene.instances[0]
        if instance.color not in CHROMATIC_COLORS:
            continue
        lightness = torch.from_numpy(scene.lightness.copy())[None, None]
        gray = (lightness_to_gray(lightness)[0, 0] * 255).round().to(torch.uint8).numpy()
        run = colorizer.start(gray, prompt=caption(scene, "complete", seed=0), num_inference_steps=8, seed=0)
        # One study for both places: every pixel is read, and averaged here.
        study = run.finish(progress=False).study.plan.provenance(words=[instance.color])
        study.finish(progress=False)
        places = torch.from_numpy(np.stack([instance.mask, ~instance.mask]).reshape(2, -1)).float()
        places = (places / places.sum(dim=1, keepdim=True)).T
        own = decode_chroma(run.method, run.segment_at(8), run.state.latents).flatten(1)
        parts = [Ablation(part.removed, part.ab @ places) for part in study.parts]
        shares.append(Findings(own @ places, parts, 2, ()).shares[0])
    inside, elsewhere = np.array(shares).T
    assert (inside > elsewhere).sum() >= 3, shares
    assert inside.mean() > elsewhere.mean() + 0.2, shares


def test_words_are_no_source_where_the_model_reads_none():
    sketched = np.ones((32, 32), np.float32)
    sketched[8:24, 12] = 0
    colorizer = tiny_colorizer(tiny_colorizediffusion())
    given = {"sketch": sketched, "exemplar": tiny_picture(), "num_inference_steps": 2}
    with pytest.warns(colorlab.ConditioningWarning, match="does not read prompt"):
        run = colorizer.start(**given, prompt="a red car")
    assert find_words(run) is None
