"""Instance guidance in runs: off is plain, one pass and two, any number of masks, batches, replays, exhibits."""

import numpy as np
import pytest
import torch
from tiny import tiny_colorizer, tiny_lcad, tiny_picture

from colorlab.errors import RangeError, StateError
from colorlab.evaluation.batches import colorize_all
from colorlab.exhibits import Exhibit
from colorlab.inspection.phrases import overlap
from colorlab.inspection.replay import moment_of, replay_step
from colorlab.runs.run import Run

GRAY = tiny_picture()
LEFT, RIGHT, MIDDLE = (np.zeros(GRAY.shape, bool) for _ in range(3))
LEFT[:, :20], RIGHT[:, 36:], MIDDLE[:, 15:40] = True, True, True
PROMPT = "a b c"
VARIANTS = ("strength", "hard", "release", "softmax", "latent")


@pytest.fixture(scope="module")
def colorizer():
    return tiny_colorizer()


def start(colorizer, masks, **parameters) -> Run:
    settings = colorizer.settings.with_mechanism("instance_guidance", **parameters)
    return colorizer.start(settings=settings, gray=GRAY, prompt=PROMPT, masks=masks)


def finished(colorizer, masks, **parameters) -> Run:
    return start(colorizer, masks, **parameters).finish(progress=False)


def apart(first: Run, second: Run) -> float:
    return float((first.state.latents - second.state.latents).abs().max())


@pytest.fixture(scope="module")
def plain(colorizer) -> Run:
    return finished(colorizer, {})


def test_without_masks_or_switched_off_the_run_is_the_plain_one(colorizer, plain):
    assert apart(finished(colorizer, {"a": LEFT}, is_on=False), plain) == 0
    assert apart(finished(colorizer, {}, variant="hard"), plain) == 0
    never = finished(colorizer, {"a": LEFT}, min_timestep=1000.0)
    assert apart(never, plain) == 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_moves_the_picture_and_replays_exactly(variant, colorizer, plain):
    run = finished(colorizer, {"a": LEFT, "c": RIGHT}, variant=variant)
    assert apart(run, plain) > 0
    site = next(site for site in moment_of(run, 1).sites if site.kind == "attn2")
    assert replay_step(moment_of(run, 1), [site]).verdict.name == "exact"


def test_the_release_is_almost_a_no_op_and_strength_is_not(colorizer, plain):
    masks = {"a": LEFT, "c": RIGHT}
    release, strength = (apart(finished(colorizer, masks, variant=name), plain) for name in ("release", "strength"))
    assert 0 < release < strength / 20


@pytest.mark.parametrize("variant", ["strength", "release", "softmax"])
def test_two_passes_without_an_effect_are_one_without(variant, colorizer, plain):
    nothing = {"strength": {"strength": 0.0}}.get(variant, {"step_size": 0.0})
    run = finished(colorizer, {"a": LEFT}, variant=variant, passes="two", **nothing)
    assert tuple(run.records[0].predictions) == ("uncond", "cond", "guided_cond")
    # Scores are computed by hand: equal to rounding, not to the bit.
    assert apart(run, plain) < 1e-4
    guided, cond = (run.records[0].predictions[name] for name in ("guided_cond", "cond"))
    torch.testing.assert_close(guided, cond, rtol=1e-4, atol=1e-4)


def test_the_unconditional_pass_is_never_touched(colorizer, plain):
    run = finished(colorizer, {"a": LEFT, "c": RIGHT}, strength=50.0)
    assert torch.equal(run.records[0].predictions["uncond"], plain.records[0].predictions["uncond"])
    assert not torch.equal(run.records[0].predictions["cond"], plain.records[0].predictions["cond"])


def test_gates_of_resolution_and_timestep(colorizer, plain):
    masks = {"a": LEFT, "c": RIGHT}
    everywhere = finished(colorizer, masks)
    sides = {max(site.grid) for site in moment_of(everywhere, 0).sites if site.kind == "attn2"}
    assert len(sides) == 2
    assert apart(finished(colorizer, masks, resolutions=tuple(map(float, sides))), everywhere) == 0
    assert apart(finished(colorizer, masks, resolutions=(float(max(sides)),)), everywhere) > 0
    assert apart(finished(colorizer, masks, resolutions=(999.0,)), plain) == 0
    late = finished(colorizer, masks, max_timestep=300.0)
    assert torch.equal(late.states[2].latents, plain.states[2].latents)
    assert apart(late, plain) > 0
    half = finished(colorizer, masks, passes="two", max_timestep=300.0)
    assert [len(record.predictions) for record in half.records] == [2, 2, 3, 3]


def test_any_number_of_masks_that_may_overlap(colorizer):
    runs = [finished(colorizer, dict(list({"a": LEFT, "b": MIDDLE, "c": RIGHT}.items())[:n])) for n in (1, 2, 3)]
    assert all(np.isfinite(run.state.latents).all() for run in runs)
    assert apart(runs[0], runs[1]) > 0
    assert apart(runs[1], runs[2]) > 0


@pytest.mark.parametrize("parameters", [{}, {"passes": "two"}, {"variant": "hard"}])
def test_pictures_of_a_batch_keep_their_own_masks(parameters, colorizer):
    settings = colorizer.settings.with_mechanism("instance_guidance", **parameters)
    conditionings = [start(colorizer, masks).conditioning for masks in ({"a": LEFT}, {"c": RIGHT}, {"b": MIDDLE})]
    together = colorize_all(colorizer.method, conditionings, settings, batch_size=3)
    for index, (conditioning, image) in enumerate(zip(conditionings, together, strict=True)):
        alone = colorizer.start(conditioning, settings.replace(seed=settings.seed + index)).finish(progress=False).image
        assert np.abs(alone.astype(int) - image.astype(int)).max() <= 1


def test_the_luminance_encoder_is_called_once_per_picture():
    colorizer = tiny_colorizer()
    run = start(colorizer, {"a": LEFT}, passes="two").finish(progress=False)
    _ = run.image
    run.branch(2, masks={"c": RIGHT}).finish(progress=False)
    assert colorizer.method.network_calls["luminance_encoder"] == 1


def test_masks_can_be_given_in_the_middle_of_a_run(colorizer, plain):
    branch = plain.branch(2, masks={"a": LEFT}).finish(progress=False)
    assert torch.equal(branch.states[2].latents, plain.states[2].latents)
    assert apart(branch, plain) > 0


def test_stale_scores_only_as_published():
    colorizer = tiny_colorizer(tiny_lcad())
    published = colorizer.start(gray=GRAY, prompt=PROMPT, as_published=True).finish(progress=False)
    fresh = colorizer.start(
        gray=GRAY, prompt=PROMPT, as_published=True, mechanisms={"stale_attention": {"is_on": False}}
    ).finish(progress=False)
    assert torch.equal(published.states[1].latents, fresh.states[1].latents)
    assert apart(published, fresh) > 1e-3
    assert published.states[1].history
    assert not fresh.states[1].history
    # A replay, a branch, and a run started anew make the same steps: nothing is hidden in the model.
    site = moment_of(published, 1).sites[0]
    assert replay_step(moment_of(published, 1), [site]).verdict.name == "exact"
    assert apart(published.branch(1).finish(progress=False), published) == 0
    again = colorizer.start(gray=GRAY, prompt=PROMPT, as_published=True).finish(progress=False)
    assert apart(again, published) == 0


def test_exhibits(colorizer):
    run = finished(colorizer, {"a": LEFT, "c": RIGHT})
    table = run.pairing()
    assert table.provenance["labels"] == ["a", "c"]
    assert len(table.pictures) == 2
    assert table.array.tolist() == pytest.approx([LEFT.mean(), RIGHT.mean()])
    for shown in ("attention", "scores"):
        maps = run.phrase(1, "a", shown=shown, baseline=True)
        assert maps.baseline.shape == maps.array.shape
        assert maps.baseline.mean(axis=(1, 2)) == pytest.approx(maps.array.mean(axis=(1, 2)), rel=1e-4)
        assert maps.array.shape[0] == 2
        assert maps.verdict == "exact"
        assert not np.allclose(maps.array[0], maps.array[1])
    left = np.arange(maps.array.shape[2]) < 20 / 56 * maps.array.shape[2] - 1
    attention = run.phrase(1, "a").array
    assert attention[1][:, left].mean() > attention[0][:, left].mean()
    study = run.study.phrase_iou(progress=False)
    assert study.axes == ("grid", "step")
    assert study.array.shape == study.baseline.shape == (2, 4)
    for exhibit in (table, maps, study, *run.explain(1).values()):
        assert isinstance(exhibit, Exhibit)
        assert exhibit.plot() is not None


def test_masks_are_shown_and_other_words_can_be_asked_for(colorizer):
    run = finished(colorizer, {"a": LEFT, "c": RIGHT}, max_timestep=500.0)
    first, last = (run.explain(step)["instance_guidance.mask_0"] for step in (0, 3))
    assert "not kept there at this step" in first.caption
    assert "tokens [1] belong, kept there" in last.caption
    late = run.attention(3, word="b", baseline=True)
    assert "Before instance_guidance" in late.caption
    assert "Before" not in run.attention(0, word="b").caption


def test_two_passes_show_what_the_second_one_got(colorizer):
    run = finished(colorizer, {"a": LEFT, "c": RIGHT}, passes="two", variant="hard")
    attention = run.phrase(0, "c", site="up_blocks.*").array
    outside = np.arange(attention.shape[2]) < 30 / 56 * attention.shape[2] - 1
    assert attention[1][:, outside].max() == 0
    assert attention[0][:, outside].min() > 0


def test_overlap():
    mask = torch.tensor([[1.0, 0.6, 0.2, 0.0]])
    assert overlap(torch.tensor([[9.0, 8.0, 1.0, 0.0]]), mask) == 1
    assert overlap(torch.tensor([[9.0, 0.0, 8.0, 0.0]]), mask) == pytest.approx(1 / 3)
    assert overlap(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.1, 0.2]])) == 1


def test_what_cannot_be_asked(colorizer, plain):
    with pytest.raises(StateError, match="no masks to pair"):
        plain.pairing()
    run = finished(colorizer, {"a": LEFT})
    with pytest.raises(RangeError, match="no mask 'z'; there are: 'a'"):
        run.phrase(0, "z")
    with pytest.raises(RangeError, match="shown is 'logits'"):
        run.phrase(0, "a", shown="logits")
    with pytest.raises(RangeError, match=r"instance_guidance.variant is 'soft', but one of strength, hard"):
        start(colorizer, {"a": LEFT}, variant="soft")
