"""Edits: one that changes nothing moves nothing, each does what it says and no more, and the model is restored."""

import warnings
from dataclasses import fields

import numpy as np
import pytest
import torch
from tiny import tiny_colorizer, tiny_lcad, tiny_picture

import colorlab
from colorlab.errors import RangeError, ShapeError, StateError
from colorlab.inspection.edits import EDITS, prompt_to_prompt
from colorlab.inspection.effects import effect
from colorlab.inspection.places import tokenized
from colorlab.inspection.replay import moment_of, replay_step, run_sites
from colorlab.mechanisms.channel_extension import ChannelExtension
from colorlab.networks.patching import Patch, patched
from colorlab.runs.run import Run
from colorlab.runs.segments import predict_step

edits = colorlab.edits
CROSS = "mid_block.attentions.0.transformer_blocks.0.attn2"
FIRST = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"
# The tiny tokenizer spells: <start> a r e d c a r <end> ...
RED, CAR = [2, 3, 4], [5, 6, 7]
SIZE = (40, 40)
MASK = np.zeros(SIZE, dtype=bool)
MASK[:20, :20] = True


@pytest.fixture(scope="module")
def run():
    return tiny_colorizer().start(tiny_picture(*SIZE), prompt="a red car", seed=1).finish(progress=False)


@pytest.fixture(scope="module")
def source(run):
    return run.branch(0, prompt="a tea car").finish(progress=False)


def finished(run, *edits, step=0, **shortcuts):
    return run.branch(step, edits=edits, **shortcuts).finish(progress=False)


def apart(run, other):
    return max(float((a.latents - b.latents).abs().max()) for a, b in zip(run.states, other.states, strict=True))


def probs_of(run, step, path=CROSS, guidance_pass="cond"):
    """Return the attention matrix (heads, Q, K) that the network really uses, edits applied."""
    seen = {}

    def look(probs, where):
        seen["probs"] = probs[0]

    moment = moment_of(run, step)
    watch = patched(
        run.method.unet,
        [Patch(path, "probs", look, guidance_pass)],
        guidance_passes=moment.guidance_passes,
        step_index=step,
    )
    predict_step(moment.method, moment.segment, moment.state, watch=watch)
    return seen["probs"]


class Custom:
    """An edit of the tests' own, made of patches."""

    def __init__(self, *patches):
        self._patches = patches

    def check(self, call, tree):
        pass

    def enter(self, latents, call):
        return latents

    def patches(self, call):
        return self._patches


def is_untouched(method):
    names = {type(processor).__name__ for processor in method.unet.attn_processors.values()}
    hooked = [m for m in method.unet.modules() if m._forward_hooks or m._forward_pre_hooks]
    return not hooked and names == {"AttnProcessor2_0"}


@pytest.mark.parametrize(
    "make",
    [
        lambda run: edits.Reweight("red", 1.0),
        lambda run: edits.Replace("red", "red"),
        lambda run: edits.AblateHead("*", 1, scale=1.0),
        lambda run: edits.AblateSite("*", scale=1.0),
        lambda run: edits.AblateSite("mid_block", scale=1.0),
        lambda run: edits.PatchLatents(run),
        lambda run: edits.PatchLatents(run, MASK),
        lambda run: edits.PatchFeatures(run, "*"),
        lambda run: edits.PatchFeatures(run, "up_blocks.*", MASK),
    ],
)
def test_an_identity_through_hooks_gives_the_parent_bit_for_bit(run, make):
    branch = finished(run, make(run))
    assert apart(branch, run) == 0
    assert (branch.image == run.image).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda run: edits.Restrict("red", np.ones(SIZE)),
        lambda run: edits.PromptToPrompt(run),
        lambda run: edits.PromptToPrompt(run, "refine", cross_share=1.0, self_share=1.0),
    ],
)
def test_an_identity_through_attention_matrices_is_within_rounding(run, make):
    largest = max(float(state.latents.abs().max()) for state in run.states)
    assert apart(finished(run, make(run)), run) <= 1e-5 * largest


ALL = {
    "Reweight": lambda source: edits.Reweight("red", 3.0),
    "Replace": lambda source: edits.Replace("red", "tea"),
    "Restrict": lambda source: edits.Restrict("red", MASK),
    "Remove": lambda source: edits.Remove("red"),
    "AblateHead": lambda source: edits.AblateHead(CROSS, 1),
    "AblateSite": lambda source: edits.AblateSite("up_blocks.*attn1"),
    "PatchLatents": lambda source: edits.PatchLatents(source, MASK, steps=range(1, 4)),
    "PatchFeatures": lambda source: edits.PatchFeatures(source, "mid_block", MASK),
    "PromptToPrompt": lambda source: edits.PromptToPrompt(source),
}


@pytest.mark.parametrize("name", EDITS)
def test_every_edit_changes_the_run_and_replays_exactly(run, source, name):
    edit = ALL[name](source)
    branch = finished(run, edit, step=1)
    assert branch.states[1].equals(run.states[1])
    assert not branch.states[2].equals(run.states[2])
    for step in range(4):
        assert replay_step(moment_of(branch, step), run_sites(run)).verdict.name == "exact"
    assert is_untouched(run.method)


@pytest.mark.parametrize("name", EDITS)
def test_fields_are_plain_values_arrays_or_runs(run, source, name):
    def is_plain(value):
        kinds = (str, int, float, bool, type(None), range, np.ndarray, torch.Tensor, Run)
        return isinstance(value, kinds) or (isinstance(value, tuple) and all(map(is_plain, value)))

    edit = ALL[name](source)
    assert type(edit) is EDITS[name]
    values = {field.name: getattr(edit, field.name) for field in fields(edit)}
    assert all(map(is_plain, values.values()))
    assert {"steps"} <= set(values)
    assert repr(type(edit)(**values)) == repr(edit)
    assert repr(edit).startswith(f"{name}(")


@pytest.mark.parametrize("name", set(EDITS) - {"PatchLatents", "PromptToPrompt"})
def test_an_edit_acts_at_its_steps_alone(run, source, name):
    edit = ALL[name](source)
    values = {field.name: getattr(edit, field.name) for field in fields(edit)} | {"steps": range(2, 3)}
    branch = finished(run, type(edit)(**values))
    moved = [not a.equals(b) for a, b in zip(branch.states, run.states, strict=True)]
    assert moved == [False, False, False, True, True]


def test_reweighting_multiplies_the_attention_after_the_softmax(run):
    def triple(probs, where):
        changed = probs.clone()
        changed[..., RED] *= 3
        return changed

    sites = [site for site in run_sites(run) if site.kind == "attn2"]
    by_hand = finished(run, Custom(*(Patch(site.path, "probs", triple, "cond") for site in sites)))
    assert apart(finished(run, edits.Reweight("red", 3.0)), by_hand) < 1e-4
    assert apart(by_hand, run) > 0.1


def test_a_removed_word_draws_no_attention_and_the_others_share_it(run):
    branch = finished(run, edits.Remove("red", site=CROSS, everywhere=False))
    plain, found = probs_of(run, 0), probs_of(branch, 0)
    assert not found[..., RED].any()
    kept = [index for index in range(plain.shape[-1]) if index not in RED]
    expected = plain[..., kept] / plain[..., kept].sum(dim=-1, keepdim=True)
    assert torch.allclose(found[..., kept], expected, atol=1e-6)
    assert torch.equal(probs_of(run, 0, guidance_pass="uncond"), probs_of(branch, 0, guidance_pass="uncond"))


def test_a_restricted_word_is_seen_within_the_mask_alone(run):
    plain, found = (probs_of(one, 0, FIRST) for one in (run, finished(run, edits.Restrict("car", MASK, site=FIRST))))
    inside = torch.zeros(4, 4, dtype=torch.bool)
    inside[:2, :2] = True
    inside = inside.flatten()
    assert torch.allclose(found[:, inside], plain[:, inside], atol=1e-6)
    assert not found[:, ~inside][..., CAR].any()
    assert torch.allclose(found.sum(dim=-1), torch.ones(()), atol=1e-6)


def test_a_replaced_word_has_the_keys_of_the_other(run, source):
    branch = finished(run, edits.Replace("red", "tea"))
    site = next(site for site in run_sites(run) if site.path == FIRST)
    plain, other, found = (replay_step(moment_of(one, 0), [site]).readings for one in (run, source, branch))
    keys = [readings[FIRST, "cond"].k for readings in (plain, other, found)]
    assert torch.allclose(keys[2][:, :, RED], keys[1][:, :, RED], atol=1e-6)
    assert torch.equal(keys[2][:, :, CAR], keys[0][:, :, CAR])
    assert not torch.equal(keys[1][:, :, CAR], keys[0][:, :, CAR]), "the encoder told the later words"
    shorter = finished(run, edits.Replace("red", "to"))
    tokens = replay_step(moment_of(shorter, 0), [site]).readings[FIRST, "cond"].k[:, :, RED]
    assert torch.equal(tokens[:, :, 1], tokens[:, :, 2])
    assert not torch.equal(tokens[:, :, 0], tokens[:, :, 1])


def test_an_ablated_head_adds_nothing(run):
    def zero(probs, where):
        changed = probs.clone()
        changed[:, 1] = 0
        return changed

    by_hand = finished(run, Custom(Patch(CROSS, "probs", zero)))
    assert apart(finished(run, edits.AblateHead(CROSS, 1)), by_hand) < 1e-5
    both = finished(run, edits.AblateHead(CROSS, 0), edits.AblateHead(CROSS, 1))
    assert apart(both, finished(run, edits.AblateSite(CROSS))) == 0


def test_patched_latents_enter_prediction_and_solver(run, source):
    found = finished(run, edits.PatchLatents(source, steps=range(2, 3)))
    expected = source.branch(2, prompt="a red car", edits=()).finish(progress=False)
    assert found.states[2].equals(run.states[2]), "the recorded state is what the step before gave"
    assert torch.equal(found.states[3].latents, expected.states[3].latents)
    assert torch.equal(found.states[4].latents, expected.states[4].latents)
    part = finished(run, edits.PatchLatents(source, MASK, steps=range(2, 3)))
    assert apart(part, found) > 0


def test_patched_features_of_the_last_block_give_the_sources_prediction(run, source):
    branch = finished(run, edits.PatchFeatures(source, "up_blocks.1", guidance_pass="cond"))
    found, plain, other = (one.records[0].predictions for one in (branch, run, source))
    assert torch.equal(found["cond"], other["cond"])
    assert torch.equal(found["uncond"], plain["uncond"])
    assert not torch.equal(other["cond"], plain["cond"])


def test_prompt_to_prompt_uses_the_sources_attention_for_its_shares(run, source):
    edit = edits.PromptToPrompt(run, cross_share=0.5, self_share=0.25)
    branch = run.branch(0, prompt="a tea car", edits=[edit]).finish(progress=False)
    own = CROSS.replace("attn2", "attn1")
    for step in range(4):
        equal = [
            torch.allclose(probs_of(branch, step, path), probs_of(run, step, path), atol=1e-6) for path in (CROSS, own)
        ]
        assert equal == [step < 2, step < 1]
    nothing = edits.PromptToPrompt(run, cross_share=0.0, self_share=0.0)
    assert apart(finished(run, nothing, prompt="a tea car"), source) == 0
    coarse = edits.PromptToPrompt(run, cross_share=0.0, self_share=1.0, max_self_positions=4)
    found = finished(run, coarse, prompt="a tea car")
    assert torch.allclose(probs_of(found, 0, own), probs_of(run, 0, own), atol=1e-6)
    finer = FIRST.replace("attn2", "attn1")
    assert not torch.allclose(probs_of(found, 1, finer), probs_of(run, 1, finer), atol=1e-6)


def test_a_refined_prompt_keeps_the_attention_of_common_words(run):
    branch = run.branch(0, prompt="a tea red car", edits=[edits.PromptToPrompt(run, "refine")]).finish(progress=False)
    plain, found = probs_of(run, 0, FIRST), probs_of(branch, 0, FIRST)
    assert torch.allclose(found[..., [0, 1]], plain[..., [0, 1]], atol=1e-6)
    assert torch.allclose(found[..., 5:11], plain[..., 2:8], atol=1e-6), "r e d c a r, three tokens later"
    alone = probs_of(run.branch(0, prompt="a tea red car").finish(progress=False), 0, FIRST)
    assert torch.allclose(found[..., 2:5], alone[..., 2:5], atol=1e-6), "t e a, which only the new prompt has"


def test_alignments():
    mapping, new = prompt_to_prompt.align_replaced([None, 0, 1, 1, None, None], [None, 0, 0, 1, None, None])
    assert mapping[1].tolist() == [0, 0.5, 0.5, 0, 0, 0]
    assert mapping[:, 3].tolist() == [0, 0, 1, 1, 0, 0]
    assert mapping[[0, 4, 5], [0, 4, 5]].tolist() == [1, 1, 1]
    assert torch.equal(mapping.sum(dim=1), torch.ones(6))
    assert not new.any()
    texts = [tokenized(tiny_lcad(), text) for text in ("a red car", "a tea red boat")]
    mapping, new = prompt_to_prompt.align_refined(*texts)
    assert [int(index) for index in mapping.argmax(dim=1)[:5]] == [0, 1, 5, 6, 7]
    assert new.tolist() == [0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1, 0]
    assert torch.equal(mapping.sum(dim=0), 1 - new)


def test_edits_compose_in_their_order(run):
    twice = finished(run, edits.Reweight("red", 2.0), edits.Reweight("red", 2.0))
    assert apart(twice, finished(run, edits.Reweight("red", 4.0))) < 1e-5
    removed = finished(run, edits.Replace("red", "tea"), edits.Remove("red", everywhere=False))
    assert apart(removed, finished(run, edits.Remove("red", everywhere=False))) < 1e-4
    scale, shift = (Custom(Patch("mid_block", "output", f)) for f in (lambda x, at: 2 * x, lambda x, at: x + 1))
    both = finished(run, Custom(Patch("mid_block", "output", lambda x, at: 2 * x + 1)))
    assert apart(finished(run, scale, shift), both) == 0
    assert apart(finished(run, shift, scale), both) > 0
    later = twice.branch(2).finish(progress=False)
    assert apart(later, twice) == 0, "a branch keeps the edits"
    assert apart(twice.branch(0, edits=()).finish(progress=False), run) == 0


class Louder(ChannelExtension):
    """A mechanism that also patches the network."""

    factor = 2.0

    def patches(self, call):
        assert [site.path for site in call.sites("mid_block")] == ["mid_block"]
        assert call.guidance_passes == ("uncond", "cond")
        return [Patch("mid_block", "output", lambda features, where: features * self.factor)]


def test_mechanisms_come_before_edits_and_are_replayed_with_them(run):
    method = tiny_lcad()
    method.mechanisms = (Louder(), *method.mechanisms[1:])
    loud = tiny_colorizer(method).start(tiny_picture(*SIZE), prompt="a red car", seed=1).finish(progress=False)
    shift = Custom(Patch("mid_block", "output", lambda features, where: features + 1))
    assert apart(loud, finished(run, Custom(Patch("mid_block", "output", lambda x, at: 2 * x)))) == 0
    both = finished(run, Custom(Patch("mid_block", "output", lambda x, at: 2 * x + 1)))
    assert apart(finished(loud, shift), both) == 0
    assert replay_step(moment_of(loud, 1), run_sites(loud)).verdict.name == "exact"
    off = finished(loud, mechanisms={"channel_extension": {"is_on": False}})
    assert apart(off, finished(run, mechanisms={"channel_extension": {"is_on": False}})) == 0


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_the_model_is_restored_when_sampling_is_interrupted(run, error):
    def fail(tensor, where):
        raise error

    broken = Custom(Patch(CROSS, "probs", fail, steps=range(1, 2)))
    branch = run.branch(0, edits=[edits.Reweight("red", 2.0), edits.Remove("car"), broken])
    with pytest.raises(error):
        branch.finish(progress=False)
    assert branch.step_index == 1
    assert is_untouched(run.method)
    assert apart(run.branch(0, edits=[edits.Reweight("red", 1.0)]).finish(progress=False), run) == 0


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: edits.Reweight("boat", 2.0), RangeError, "'boat' is not in 'a red car'; name a word of the prompt"),
        (lambda: edits.Remove("red", occurrence=1), RangeError, "occurrence is 1, but 'red' comes 1 time"),
        (lambda: edits.Remove("red", guidance_pass="uncond"), RangeError, "'red' is not in ''"),
        (lambda: edits.Remove("red", guidance_pass="full"), RangeError, "no guidance pass 'full'"),
        (lambda: edits.Remove("red", site="mid_blok*"), RangeError, "No site fits 'mid_blok"),
        (lambda: edits.Remove("red", site="*attn1"), RangeError, "is of kind attn2; there are: attn1"),
        (lambda: edits.Replace("red", "boats"), RangeError, "'boats' has 5 tokens and 'red' 3; take a shorter word"),
        (lambda: edits.Restrict("red", np.ones((8, 8))), ShapeError, r"region has shape \(8, 8\), but .* \(40, 40\)"),
        (lambda: edits.AblateHead(CROSS, 7), RangeError, "head is 7, but 'mid_block.* has heads 0 to 1"),
        (lambda: edits.AblateHead("mid_block", 0), RangeError, "is of kind attn1 or attn2; there are: block"),
        (lambda: edits.AblateSite("nowhere"), RangeError, "No site fits 'nowhere'"),
        (lambda: edits.Remove("red", steps=range(2, 9)), RangeError, "names step 8, but the run has steps 0 to 3"),
        (lambda: "Remove red", RangeError, "edits hold 'Remove red'"),
    ],
)
def test_what_cannot_work_is_told_when_the_branch_is_made(run, make, error, message):
    num_runs, edit = len(run.tree), make()
    with pytest.raises(error, match=message):
        run.branch(0, edits=[edit])
    assert len(run.tree) == num_runs


@pytest.mark.parametrize("given", [edits.Remove("red"), "Remove", 3, {"red": 2.0}], ids=str)
def test_edits_that_are_no_list_are_told(run, given):
    with pytest.raises(RangeError, match=r"but a list is expected, such as edits=\["):
        run.branch(0, edits=given)


def test_a_source_that_does_not_fit_is_told_when_the_branch_is_made(run):
    early = run.branch(1)
    dot = np.zeros(SIZE)
    dot[0, 0] = 1
    other = tiny_colorizer(run.method).start(tiny_picture(*SIZE), prompt="a red car").finish(progress=False)
    euler = run.branch(0, solver="euler", timestep_spacing="linspace")
    unguided = run.branch(0, guidance_scale=1.0).finish(progress=False)
    wide = run.branch(0, gray=tiny_picture(30, 110)).finish(progress=False)
    longer = run.branch(0, prompt="a big red car").finish(progress=False)
    for edit, error, message in [
        (edits.PatchLatents(early), StateError, "source has taken 1 steps, but 3 are needed"),
        (edits.PatchFeatures(early, "mid_block"), StateError, "source has taken 1 steps, but 4 are needed"),
        (edits.PromptToPrompt(early, cross_share=0.5), StateError, "source has taken 1 steps, but 2 are needed"),
        (edits.PatchLatents(other), RangeError, "source is a run of another tree"),
        (edits.PatchLatents(euler), RangeError, "source visits other timesteps"),
        (edits.PatchLatents(wide), RangeError, "take a run of the same picture"),
        (edits.PatchLatents(run, dot), RangeError, "mask covers no cell of the 4x4 grid to 50%"),
        (edits.PatchFeatures(unguided, "mid_block"), RangeError, "no guidance pass 'uncond'"),
        (edits.PatchFeatures(run, "*attn1"), RangeError, "there are: attn1"),
        (edits.PromptToPrompt(longer), RangeError, "has 4 words that the model reads and 'a red car' 3"),
    ]:
        with pytest.raises(error, match=message):
            run.branch(0, edits=[edit])
    assert edits.PatchLatents(early, steps=range(1, 2)).steps == range(1, 2)
    late = run.branch(0, edits=[edits.PatchLatents(early, steps=range(1, 2))])
    early.rewind(0) if early.step_index else None
    with pytest.raises(StateError, match="source has states 0 to 0, but that before step 1 is needed; it was rewound"):
        late.finish(progress=False)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: edits.Reweight("red", float("nan")), "scale is nan"),
        (lambda: edits.Reweight("red", "2"), "scale is '2'"),
        (lambda: edits.Remove("red", steps=3), "steps is 3"),
        (lambda: edits.Remove("red", steps=range(3, 1)), r"steps is range\(3, 1\)"),
        (lambda: edits.Restrict("red", np.zeros(SIZE)), "mask covers no pixel"),
        (lambda: edits.Replace("red", " "), "by is ' '"),
        (lambda: edits.AblateHead("*", -1), "head is -1"),
        (lambda: edits.PatchLatents("run-0"), "source is str, but a run"),
    ],
)
def test_an_edit_checks_itself(make, message):
    with pytest.raises(RangeError, match=message):
        make()


def test_prompt_to_prompt_checks_itself(run):
    with pytest.raises(RangeError, match="mode is 'swap'"):
        edits.PromptToPrompt(run, "swap")
    with pytest.raises(RangeError, match="cross_share is 1"):
        edits.PromptToPrompt(run, cross_share=1.5)


def test_a_compiled_network_is_edited_all_the_same(run):
    compiled = tiny_colorizer()
    compiled.method.unet.compile(backend="eager")
    plain = compiled.start(tiny_picture(*SIZE), prompt="a red car", seed=1)
    branch = plain.branch(0, edits=[edits.Reweight("red", 3.0)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        branch.step()
    assert torch.equal(branch.state.latents, finished(run, edits.Reweight("red", 3.0)).states[1].latents)
    assert not branch.records[0].environment.is_compiled
    assert replay_step(moment_of(branch, 0), run_sites(branch)).verdict.name == "exact"


def test_the_effect_of_edits_is_shown(run, source):
    with pytest.raises(StateError, match="Step 1 of 'run-0' has no edits"):
        effect(run, 1)
    removed = finished(run, edits.Remove("red"))
    shown = removed.effect(0, word="red")
    assert (shown.kind, shown.verdict, shown.array.shape) == ("difference", "exact", (4, 4))
    assert np.abs(shown.array + run.attention(0, word="red").array).max() < 1e-6, "at the first step all of it is lost"
    assert removed.effect(0).array.max() > 0
    assert removed.attention(0, word="red").caption.endswith("Before Remove(word='red'): see effect(step, word=...).")
    assert run.attention(0, word="red").provenance["before_edits"] == []
    assert not finished(run, edits.Reweight("red", 1.0)).effect(2).array.any()
    assert shown.plot().to_png()[:4] == b"\x89PNG"
    for asked in ({"word": "red"}, {}):
        by_chance = removed.effect(0, **asked, baseline=True)
        assert np.array_equal(by_chance.array, removed.effect(0, **asked).array)
        assert by_chance.baseline.mean() == pytest.approx(by_chance.array.mean(), rel=1e-5)
        assert by_chance.baseline.std() < by_chance.array.std()
        assert by_chance.plot().to_png()[:4] == b"\x89PNG"
        assert {"query", "model", "weights", "run", "step"} <= set(by_chance.provenance)
    with pytest.raises(RangeError, match="'boat' is not in 'a red car'"):
        removed.effect(0, word="boat")
    moved = finished(run, edits.PatchLatents(source, MASK, steps=range(1, 2)))
    changed = moved.effect(1).array
    assert changed.max() > 0
    assert not moved.effect(2).array.any()
