"""Parity of instance guidance with numbers recorded by running the released L-CAD code (case 4)."""

import re
from dataclasses import dataclass

import torch
from lcad_networks import (
    KINDS,
    Note,
    ask,
    autoencoder,
    check_all,
    luminance_encoder,
    noise_network,
    params,
    sampling_plan,
    three_channels,
)
from recorded import RecordedCase, find_cases

from colorlab.mechanisms.instance_guidance import GUIDED, InstanceGuidance
from colorlab.mechanisms.instance_updates import (
    masks_on_grid,
    release_update,
    resize_masks,
    softmax_update,
)
from colorlab.methods.phrases import comma_spans
from colorlab.networks.kept_scores import KeptScores, keep_scores
from colorlab.networks.luminance import decode_with_taps
from colorlab.networks.patching import patched
from colorlab.networks.sites import Site, find_sites
from colorlab.sampling import SOLVERS, State, classifier_free, first_state
from colorlab.settings import Settings

PASSES = ("uncond", "cond")
GUIDANCE = InstanceGuidance()


@dataclass(frozen=True)
class Instances:
    """What instance guidance reads of an encoded conditioning."""

    phrase_tokens: torch.Tensor
    instance_masks: torch.Tensor


def settings_of(variant: str) -> Settings:
    return Settings(as_published=True, mechanisms={"instance_guidance": {"variant": variant, "passes": "two"}})


@params("case4_spans")
def test_spans(case: RecordedCase, compared: Note) -> None:
    for row in case.meta["rows"]:
        spans = comma_spans(row["pieces"])
        assert [list(span) for span in spans] == row["spans_in_77"], row["prompt"]
        assert [row["pieces"][first - 1 : end - 1] for first, end in spans] == row["phrases"], row["prompt"]
    compared(case.name, len(case.meta["rows"]))


@params("case4_masks")
def test_masks(case: RecordedCase, compared: Note) -> None:
    # The released loader sorts files as text.
    names = sorted(case.meta["file_names_given"])
    assert [f"{name}.npy" for name in names] == case.meta["order_used"]
    masks = torch.stack([case.input(f"mask.{name}").float() for name in names])[None]
    side = case.meta["img_size"]
    resized = resize_masks(masks, (side, side), as_published=True)
    wanted = case.outputs()
    results = {"masks_resized": resized}
    for name in wanted:
        if match := re.fullmatch(r"mask_(\d+)", name):
            grid = (int(match[1]), int(match[1]))
            results[name] = masks_on_grid(resized, grid, as_published=True).unflatten(2, grid)
    check_all(case, results, wanted)
    compared(case.name, len(wanted))


@params("case4_saturation")
def test_saturation(case: RecordedCase, compared: Note) -> None:
    scores = case.input("logits")[None, None, None]
    everywhere = torch.ones(1, 1, scores.shape[-1])
    results = {
        f"update_target{target}": release_update(
            scores, everywhere, torch.full((1, 1, 1), float(target)), as_published=True
        ).flatten()
        for target in (0, 1)
    }
    check_all(case, results, case.outputs())
    compared(case.name, len(results))


@params("case4_logits")
def test_release_scores(case: RecordedCase, compared: Note) -> None:
    compared(case.name, check_scores(case, "release", stored_atol=1e-8))


@params("case4_logits_v0")
def test_first_version_scores(case: RecordedCase, compared: Note) -> None:
    compared(case.name, check_scores(case, "v0", stored_atol=1e-7))


@params("case4_release")
def test_release(case: RecordedCase, compared: Note) -> None:
    number = check_steps(case, "release")
    schedule, timesteps = sampling_plan(case)
    unet, g9 = noise_network(case), deepest_tap(case)
    wanted = case.outputs()["unguided_x_prev"]
    with torch.no_grad():
        state = first_state(case.input("x_T"), schedule=schedule, timesteps=timesteps)
        for step, timestep in enumerate(timesteps.tolist()):
            eps = classifier_free(*both_passes(case, unet, state.latents, g9, timestep), case.meta["w"])
            state = SOLVERS["ddim"].step(state, eps, schedule=schedule, timesteps=timesteps)
            case.check("unguided_x_prev", state.latents, wanted[step])
    compared(case.name, number + len(timesteps))


@params("case4_v0")
def test_first_version(case: RecordedCase, compared: Note) -> None:
    compared(case.name, check_steps(case, "v0"))


@params("case4_v0_latent")
def test_latent_step(case: RecordedCase, compared: Note) -> None:
    number = check_steps(case, "latent")
    number += check_steps(case, "latent", group="fresh_second_pass.")
    compared(case.name, number)


# --- one guided step, as the method takes it --------------------------------------------------------------------------


def check_scores(case: RecordedCase, prefix: str, *, stored_atol: float) -> int:
    """Compare scores and updates of the first step, on our own scores and, more strictly, on the recorded ones.

    Returns:
        How many recorded tensors were compared.
    """
    release, stored = sibling(case, "case4_release"), sibling(case, "case4_logits").outputs("before.")
    unet, noise, instances = noise_network(case), release.input("x_T"), instances_of(release)
    timestep = release.meta["timesteps"][0]
    with torch.no_grad(), keep_scores(unet, noise.shape, PASSES, wanted_passes=("cond",)) as kept:
        both_passes(release, unet, noise, deepest_tap(release), timestep)
    # The reference names its layers in the order of computation, as sites are.
    names = [row["layer"].partition(".transformer_blocks")[0] for row in release.meta["layers_at_step0"]]
    sites = dict(zip(names, find_sites(unet, noise.shape, kind="attn2"), strict=True))
    for recorded, want in case.outputs().items():
        name, _, layer = recorded.partition(".")
        before = kept[sites[layer].path, "cond"]
        got = results_of(prefix, before, sites[layer], noise.shape, instances)[name]
        case.check(name, got[0, : len(want)], want)
        if name.endswith("_update"):
            # Heads that were not stored only count in the mean.
            padded = torch.zeros_like(before)
            padded[0, : len(want)] = stored[layer]
            got = results_of(prefix, padded, sites[layer], noise.shape, instances)[name]
            torch.testing.assert_close(got[0, : len(want)], want, rtol=1e-4, atol=stored_atol)
    return len(case.outputs())


def results_of(
    prefix: str, before: torch.Tensor, site: Site, latent_shape: torch.Size, instances: Instances
) -> dict[str, torch.Tensor]:
    masks = masks_on_grid(instances.instance_masks, site.grid, as_published=True)
    if prefix == "release":
        update = release_update(before, instances.phrase_tokens, masks, as_published=True)
    else:
        share = latent_shape[-2] * latent_shape[-1] / site.num_positions
        update = softmax_update(before, instances.phrase_tokens, masks, cell_share=share)
    return {"before": before, f"{prefix}_update": update, f"{prefix}_after": before + update}


def check_steps(case: RecordedCase, variant: str, *, group: str = "sampling.") -> int:
    """Take every guided step from the recorded latents; return how many tensors were compared."""
    schedule, timesteps = sampling_plan(case)
    unet, g9, instances = noise_network(case), deepest_tap(case), instances_of(case)
    settings = settings_of({"v0": "softmax"}.get(variant, variant))
    wanted = case.outputs(group)
    decoded = wanted.pop("decoded", None)
    if variant == "latent" and not group.startswith("fresh"):
        wanted |= {name: value for name, value in case.outputs().items() if name.startswith("latent_")}
    state = first_state(case.input("x_T"), schedule=schedule, timesteps=timesteps)
    for step, timestep in enumerate(timesteps.tolist()):
        is_fresh = group == "fresh_second_pass."
        results, state = guided_step(case, unet, state, g9, instances, settings, timestep, is_fresh=is_fresh)
        recorded = {name: value[step] for name, value in wanted.items()}
        check_all(case, results, recorded)
        state = State(state.step_index, state.timestep, recorded["x_prev"])
    if decoded is not None:
        taps = luminance_encoder(case)(three_channels(case.input("hint")))
        with torch.no_grad():
            case.check("decoded", decode_with_taps(autoencoder(case), state.latents, taps), decoded)
    return len(wanted) * len(timesteps) + (decoded is not None)


def guided_step(
    case: RecordedCase,
    unet: torch.nn.Module,
    state: State,
    g9: torch.Tensor,
    instances: Instances,
    settings: Settings,
    timestep: int,
    *,
    is_fresh: bool,
) -> tuple[dict[str, torch.Tensor], State]:
    """Take one step with two passes; every number that the reference stores, and the state after it."""
    schedule, timesteps = sampling_plan(case)
    latents, is_latent = state.latents, GUIDANCE.is_latent(settings)
    entering = latents.clone().requires_grad_(is_latent)
    with torch.set_grad_enabled(is_latent), keep_scores(unet, latents.shape, PASSES, wanted_passes=("cond",)) as kept:
        uncond, cond = both_passes(case, unet, entering, g9, timestep)
    moved: dict[str, torch.Tensor] = {}
    if is_latent:
        after = GUIDANCE.moved_latents(entering, kept, unet, instances, settings)
        rate = GUIDANCE.in_force(settings)["latent_rate"]
        halves = {"latent_before": (latents, latents), "latent_after": (latents, after)}
        halves["latent_grad"] = (torch.zeros_like(latents), (latents - after) / rate)
        moved, entering = {name: torch.cat(pair) for name, pair in halves.items()}, after
    reused = {} if is_fresh else kept
    guided_cond = second_pass(case, unet, entering, g9, reused, instances, settings, timestep)
    eps = classifier_free(uncond.detach(), guided_cond, case.meta["w"])
    clean = schedule.to_original_sample(eps, latents, timestep)
    following = SOLVERS["ddim"].step(state, eps, schedule=schedule, timesteps=timesteps)
    results = {"passA_eps_uncond": uncond.detach(), "passA_eps_cond": cond.detach(), "eps_uncond": uncond.detach()}
    results |= {"eps_cond": guided_cond, "eps": eps, "x_prev": following.latents, "pred_x0": clean}
    return results | moved, following


def second_pass(
    case: RecordedCase,
    unet: torch.nn.Module,
    latents: torch.Tensor,
    g9: torch.Tensor,
    kept: KeptScores,
    instances: Instances,
    settings: Settings,
    timestep: int,
) -> torch.Tensor:
    patches = GUIDANCE.second_patches(kept, unet, latents.shape, instances, settings)
    with torch.no_grad(), patched(unet, patches, guidance_passes=(GUIDED,), step_index=0, num_samples=len(latents)):
        return ask(unet, latents, g9, timestep, case.input("context_cond"))


def both_passes(
    case: RecordedCase, unet: torch.nn.Module, latents: torch.Tensor, g9: torch.Tensor, timestep: float
) -> tuple[torch.Tensor, torch.Tensor]:
    contexts = torch.cat([case.input(f"context_{name}") for name in PASSES])
    uncond, cond = ask(unet, latents.repeat(2, 1, 1, 1), g9.repeat(2, 1, 1, 1), timestep, contexts).chunk(2)
    return uncond, cond


def instances_of(case: RecordedCase) -> Instances:
    """Return phrases and masks of a case; `split_idx` holds where each phrase ends."""
    ends = case.input("split_idx").tolist()
    tokens = torch.zeros(1, len(ends), case.input("context_cond").shape[1])
    for index, end in enumerate(ends):
        start = 1 if index == 0 else ends[index - 1] + 1
        tokens[0, index, start:end] = 1
    return Instances(tokens, case.input("masks"))


def deepest_tap(case: RecordedCase) -> torch.Tensor:
    with torch.no_grad():
        tap: torch.Tensor = luminance_encoder(case)(three_channels(case.input("hint")))[-1]
    return tap


def sibling(case: RecordedCase, kind: str) -> RecordedCase:
    """Return the case of another kind that was recorded with the same weights."""
    return next(
        other
        for other in find_cases("lcad", KINDS)
        if other.kind == kind
        and all(other.meta.get(name) == case.meta.get(name) for name in ("weights_seed", "variant"))
    )
