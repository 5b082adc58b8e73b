"""What can be seen of a tuning and of what it made: each function returns an `Exhibit`."""

import itertools
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
import torch

from colorlab.color import lab_to_rgb, rgb_to_lab
from colorlab.conditioning import Conditioning
from colorlab.errors import RangeError, ShapeError, StateError
from colorlab.exhibits import Exhibit
from colorlab.images import load_image, resize_image
from colorlab.inspection.views import principal_components
from colorlab.mechanisms.contrastive_tuning import contrastive_loss
from colorlab.methods.adaptation import CONTRASTIVE, RECONSTRUCTION
from colorlab.methods.diffcolor import DiffColor
from colorlab.runs.run import Run
from colorlab.settings import Settings
from colorlab.tuning.judge import Judge
from colorlab.tuning.perceptual import load_lpips, lpips_between, why_no_lpips

__all__ = [
    "ETAS",
    "contrastive_bench",
    "eta_sheet",
    "gradient_split",
    "overlaid_trajectories",
    "walk_eta_sheet",
    "weight_drift",
]

ETAS = (0.0, 0.3, 0.6, 0.9, 1.2, 1.5)
"""Places on the embedding path that are shown by default: from the tuned picture to beyond the target text."""


def contrastive_bench(method: DiffColor, picture: Any, context: str, settings: Settings | None = None) -> Exhibit:
    """Show which of the texts CLIP finds in a picture: softmax over the context and the anti-color prompts.

    Args:
        method: with CLIP's two towers.
        picture: any picture, one's own painting as well.
        context: what it shows, without colors.
        settings: with parameters of `contrastive_tuning`; edit `anti_color` there to try other prompts.

    Returns:
        (texts,), shares that sum to 1; the null baseline is the picture without its color.

    Raises:
        StateError: the model has no CLIP.
        ImageError: the picture cannot be used.
    """
    settings = settings or method.default_settings
    temperature: Any = method.tuning.in_force(settings)["temperature"]
    judge = Judge(method, method.tuning.texts(context, settings))
    image = load_image(picture)
    with method.lock, torch.no_grad():
        similarities = judge.similarities(torch.cat([image, _without_color(image)]))
    shares = torch.softmax(similarities / temperature, dim=1)
    return Exhibit(
        shares[0].cpu().numpy(),
        ("text",),
        "share",
        f"What CLIP finds in the picture at temperature {temperature:g}; margin of the context "
        f"{float(similarities[0, 0] - similarities[0, 1:].max()):+.3f}.",
        provenance={
            "query": "contrastive_bench",
            "labels": list(judge.texts),
            "similarities": similarities[0].tolist(),
            "temperature": temperature,
        },
        baseline=shares[1].cpu().numpy(),
        kind="ranking",
    )


def gradient_split(method: DiffColor, picture: Any, context: str, settings: Settings | None = None) -> Exhibit:
    """Show where the contrastive loss wants a picture changed, lightness and chroma apart.

    Args:
        method: with CLIP's two towers.
        picture: any picture; brought to the size of the networks.
        context: what it shows, without colors.
        settings: with parameters of `contrastive_tuning`.

    Returns:
        (2, H, W): size of the gradient by lightness, and by chroma, for each unit of CIELAB.
    """
    settings = settings or method.default_settings
    temperature: Any = method.tuning.in_force(settings)["temperature"]
    judge = Judge(method, method.tuning.texts(context, settings))
    image = load_image(picture)
    lab = rgb_to_lab(resize_image(image, method.working_size((image.shape[-2], image.shape[-1]))))
    with method.lock, torch.enable_grad():
        leaf = lab.detach().clone().requires_grad_(True)
        loss = contrastive_loss(judge.similarities(lab_to_rgb(leaf)), temperature)
        (gradient,) = torch.autograd.grad(loss, leaf)
    lightness, chroma = gradient[0, 0].abs(), torch.linalg.vector_norm(gradient[0, 1:], dim=0)
    share = float(chroma.sum() / (chroma.sum() + lightness.sum()).clamp_min(1e-30))
    return Exhibit(
        torch.stack([lightness, chroma]).cpu().numpy(),
        ("part", "H", "W"),
        "loss / CIELAB",
        f"Where the contrastive loss ({float(loss.detach()):.3f}) wants changes; {share:.0%} of it in chroma.",
        provenance={"query": "gradient_split", "labels": ["lightness", "chroma"], "chroma_share": share},
        kind="maps",
    )


def eta_sheet(
    method: DiffColor, conditioning: Conditioning, settings: Settings, *, etas: Sequence[float] = ETAS
) -> Exhibit:
    """Show a picture at several places of the embedding path (study: one run for each).

    Args:
        method: with an adaptation of both stages.
        conditioning: the gray picture, and the target text as prompt.
        settings: how to sample.
        etas: places on the path.

    Returns:
        (eta,), the CLIP margin of each picture: similarity to the target less that to the nearest anti-color prompt.
        Where LPIPS lies on this disk `curves` of the provenance hold its distance from the picture of the tuning (from
        the first of the sheet where another picture is colored), and `diversity` its mean over all pairs; where it
        does not, the caption says so.

    Raises:
        StateError: the model has no second stage.
        RangeError: there is no eta, or the target does not fit.
    """
    walk = walk_eta_sheet(method, conditioning, settings, etas=etas)
    while True:
        try:
            next(walk)
        except StopIteration as end:
            sheet: Exhibit = end.value
            return sheet


def walk_eta_sheet(
    method: DiffColor, conditioning: Conditioning, settings: Settings, *, etas: Sequence[float] = ETAS
) -> Generator[None, None, Exhibit]:
    """Do what `eta_sheet` does in slices of one step of sampling; it may be left after each."""
    if not etas:
        raise RangeError("etas is empty, but at least one place on the path is expected.")
    aligned = method.align_target(conditioning.prompt)
    judge = Judge(method, (conditioning.prompt, *method.tuning.texts(str(aligned.text), settings)[1:]))
    pictures, margins = {}, []
    for eta in etas:
        run = Run.start(method, conditioning, settings.with_mechanism("embedding_path", eta=float(eta), token_etas=()))
        for _ in run:
            yield
        pictures[f"eta {eta:g}"] = run.image
        margins.append(judge.margin(load_image(run.image)))
    told, measured = _perceptual_distances(method, conditioning, list(pictures.values()))
    return Exhibit(
        np.array(margins),
        ("eta",),
        "CLIP margin",
        f"From the tuned picture (0) to {conditioning.prompt!r} (1) and beyond. {told}",
        provenance={
            "query": "eta_sheet",
            "places": list(etas),
            "prompt": conditioning.prompt,
            "seed": settings.seed,
            **measured,
        },
        kind="contact_sheet",
        pictures=pictures,
    )


def _perceptual_distances(
    method: DiffColor, conditioning: Conditioning, pictures: Sequence[np.ndarray]
) -> tuple[str, dict[str, Any]]:
    """Measure LPIPS of pictures (H, W, 3) of a sheet; return a sentence, and what belongs into the provenance."""
    images = [load_image(picture) for picture in pictures]
    size = (images[0].shape[-2], images[0].shape[-1])
    network = load_lpips(size)
    if network is None:
        return why_no_lpips(size), {}
    adaptation, first, name = method.adaptation, images[0], "the first picture"
    if adaptation is not None and adaptation.info.get("gray") == conditioning.content_hash("gray"):
        tuned = adaptation.tensors.get("picture/aligned")
        if tuned is not None:
            first, name = load_image(tuned.numpy()), "the tuned picture"
    distances = [lpips_between(network, image, first) for image in images]
    pairs = [lpips_between(network, *pair) for pair in itertools.combinations(images, 2)]
    diversity = float(np.mean(pairs)) if pairs else 0.0
    sentence = f"LPIPS is the distance from {name}; {diversity:.3f} between two of the pictures on average."
    return sentence, {"curves": {f"LPIPS from {name}": distances}, "diversity": diversity}


def overlaid_trajectories(run: Run, other: Run) -> Exhibit:
    """Show the paths of two runs in one plane, the one that holds most of both (record: no network call).

    Raises:
        StateError: a run has taken fewer than two steps.
        ShapeError: their latents differ in shape.
    """
    for each in (run, other):
        if len(each.states) < 3:
            raise StateError(f"A plane needs 3 states of each run, but {each.name!r} has {len(each.states)}.")
    if run.state.latents.shape != other.state.latents.shape or len(run.states) != len(other.states):
        raise ShapeError("The two runs differ in the shape of their latents or in their steps; compare like with like.")
    points = [torch.stack([state.latents[0].flatten() for state in each.states]) for each in (run, other)]
    coordinates, shares = principal_components(torch.cat(points), 2)
    paths = coordinates.reshape(2, len(run.states), 2).transpose(1, 2)
    return Exhibit(
        paths.float().numpy(),
        ("run", "component", "state"),
        "latent units",
        f"Two paths of the latents in the plane that holds {float(shares.sum()):.0%} of the variance of both.",
        provenance={
            "query": "overlaid_trajectories",
            "labels": [f"{each.name}: {each.subject}" for each in (run, other)],
            "shares": shares.tolist(),
        },
        kind="paths",
    )


def weight_drift(method: DiffColor, stage: str = RECONSTRUCTION) -> Exhibit:
    """Show how far a stage moved each block of the denoising network: length of the change over that of the weights.

    Args:
        method: with an adaptation.
        stage: "contrastive" or "reconstruction".

    Raises:
        StateError: there is no adaptation, or nothing of this stage in it.
    """
    if stage not in (CONTRASTIVE, RECONSTRUCTION):
        raise RangeError(f"stage is {stage!r}, but {CONTRASTIVE!r} or {RECONSTRUCTION!r} is expected.")
    changes = {} if method.adaptation is None else method.adaptation.weights(stage)
    if not changes:
        raise StateError(f"The model carries no changes of the stage {stage!r}; tune it, or use with_adaptation.")
    parameters = dict(method.base_unet.named_parameters())
    moved: dict[str, float] = {}
    whole: dict[str, float] = {}
    for name, parameter in parameters.items():
        block = ".".join(name.split(".")[:2]) if name.startswith(("down_blocks", "up_blocks")) else name.split(".")[0]
        whole[block] = whole.get(block, 0.0) + float(parameter.double().square().sum())
        site = name.removesuffix(".weight")
        change = changes.get(f"{name}.delta")
        if f"{site}.down" in changes:
            change = changes[f"{site}.up"] @ changes[f"{site}.down"]
        if change is not None:
            moved[block] = moved.get(block, 0.0) + float(change.double().square().sum())
    ratios = {block: (moved[block] / whole[block]) ** 0.5 for block in moved if whole[block]}
    order = sorted(ratios, key=lambda block: -ratios[block])
    return Exhibit(
        np.array([ratios[block] for block in order]),
        ("block",),
        "relative change",
        f"How far the stage {stage!r} moved each block of the denoising network.",
        provenance={"query": "weight_drift", "stage": stage, "labels": order},
        kind="ranking",
    )


def _without_color(image: torch.Tensor) -> torch.Tensor:
    """Return (1, 3, H, W) of the same lightness without chroma."""
    lab = rgb_to_lab(image)
    return lab_to_rgb(torch.cat([lab[:, :1], torch.zeros_like(lab[:, 1:])], dim=1))
