"""The recipes by name: what each needs, how long it trains, and how to run it.

`out` holds one folder of training state for each recipe and `out/family`, where the members land side by side as in
`data/mini`. A recipe takes the frozen members it needs from `out/family`, else from the shipped family.

| recipe | needs | makes |
| --- | --- | --- |
| `vae` | photographs | `family/vae` |
| `clip` | photographs | `family/clip` with the tokenizer |
| `clip-words` | clip | `family/clip`: same vision tower, other words: all that follows has to be trained anew |
| `clip-vision` | clip | `family/clip`: same words, vision tower trained on; hashes in the models' indexes anew |
| `clip-kinds` | clip | `family/clip-kinds`: same words, a vision tower that tells kinds apart, for ColorizeDiffusion |
| `clip-phrases` | clip, clip-kinds | `family/clip-phrases`: a text tower that tells kinds apart, for the same |
| `clip-class` | clip, clip-kinds | `family/clip-class`: `clip-kinds` trained on, for `colorizediffusion-cls` |
| `prior` | vae, clip | `family/prior` |
| `lcad-luminance` | vae | `family/luminance` |
| `lcad` | vae, clip, prior, luminance | `family/lcad` |
| `prior-words` | vae, clip, lcad | `family/prior`: begins from L-CAD's UNet without taps, which knows its words |
| `ctrlcolor-lightness` | lcad, luminance | `family/ctrlcolor-lightness`: a control network to begin with |
| `ctrlcolor-inpaint` | vae, clip, lcad | `family/ctrlcolor-inpaint`: a nine-channel UNet to begin with |
| `ctrlcolor` | vae, clip, and the two before | `family/ctrlcolor` |
| `ctrlcolor-deformable` | vae, clip, ctrlcolor | the deformable decoder in `family/ctrlcolor` |
| `colorizediffusion-sketch` | vae, luminance, lcad | `family/sketch` |
| `colorizediffusion` | vae, clip, clip-kinds, clip-phrases, lcad, sketch | `family/colorizediffusion`, reads patches |
| `colorizediffusion-cls` | clip-class, all of colorizediffusion | `family/colorizediffusion-cls`, reads class tokens |
| `colorizediffusion-lines` | vae, clip, colorizediffusion | the line encoder in `family/colorizediffusion` |
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from colorlab.errors import StateError
from colorlab.methods.components import load_component
from colorlab.methods.folder import read_index, write_index
from colorlab.networks.exemplar_projection import ExemplarProjection, Reads
from colorlab.training.clip_members import (
    build_clip,
    build_clip_class,
    build_clip_kinds,
    build_clip_phrases,
    build_clip_vision,
    build_clip_words,
)
from colorlab.training.colorizediffusion import KIND_READER, ColorizeDiffusionRecipe, SketchRecipe, Strategies
from colorlab.training.ctrlcolor_members import (
    build_ctrlcolor,
    build_deformable,
    build_inpaint,
    build_lightness,
)
from colorlab.training.denoising import DenoisingRecipe, FrozenText
from colorlab.training.edited_exemplars import EditedExemplars
from colorlab.training.exemplars import ExemplarKind, SketchedPictures, sketch_pictures
from colorlab.training.latents import CaptionMix, encode_pictures, weights_key
from colorlab.training.lcad import LcadRecipe, LuminanceRecipe
from colorlab.training.lines import LineRecipe
from colorlab.training.loop import Plan, Recipe, export_checkpoint, train
from colorlab.training.members import (
    EXEMPLAR_ENCODER,
    PHRASE_ENCODER,
    family_schedule,
    find_exemplar_encoder,
    find_member,
    find_phrase_encoder,
    load_frozen,
    load_lcad_unet,
    load_vae,
)
from colorlab.training.photos import photographs_key
from colorlab.training.pixels import Pictures
from colorlab.training.prior import PriorRecipe
from colorlab.training.sketched_kinds import KindReader
from colorlab.training.sketched_unet import SketchedUnet, without_taps
from colorlab.training.token_words import measure_similarity, phrase_vectors, token_map_of
from colorlab.training.vae import VaeRecipe

NUM_SCENES = 24_000
"""Size of the scene corpus."""

NUM_SKETCHED_SCENES, NUM_SKETCHED_PHOTOGRAPHS = 5_000, 2_000
"""Pictures that ColorizeDiffusion trains on: tokens of exemplars are 66 KB each."""

DEFAULT_STRATEGIES = Strategies()
"""What the shipped ColorizeDiffusion does against the distribution problem."""

PLANS: dict[str, Plan] = {
    "vae": Plan(steps=3_000, batch_size=16, learning_rate=1.5e-3, ema_decay=0.995, weight_decay=1e-4),
    "clip": Plan(steps=1_000, batch_size=64, learning_rate=1e-3, ema_decay=0.995, weight_decay=0.05, warmup=200),
    "clip-words": Plan(steps=1_500, batch_size=64, learning_rate=1e-3, ema_decay=0.995, weight_decay=0.05, warmup=50),
    "clip-vision": Plan(steps=300, batch_size=64, learning_rate=3e-4, ema_decay=0.98, weight_decay=0.05, warmup=20),
    "clip-kinds": Plan(steps=3_000, batch_size=32, learning_rate=1e-3, ema_decay=0.99, weight_decay=0.02, warmup=30),
    "clip-class": Plan(steps=1_900, batch_size=32, learning_rate=1e-3, ema_decay=0.99, weight_decay=0.02, warmup=30),
    "clip-phrases": Plan(steps=600, batch_size=24, learning_rate=1e-3, ema_decay=0.98, weight_decay=0.02, warmup=20),
    "prior": Plan(steps=2_000, batch_size=32, learning_rate=6e-4, ema_decay=0.999),
    "lcad-luminance": Plan(steps=2_000, batch_size=16, learning_rate=1.5e-3, ema_decay=0.995, weight_decay=1e-4),
    "lcad": Plan(steps=8_000, batch_size=32, learning_rate=6e-4, ema_decay=0.999),
    "prior-words": Plan(steps=3_000, batch_size=32, learning_rate=6e-4, ema_decay=0.998),
    "ctrlcolor-lightness": Plan(steps=600, batch_size=16, learning_rate=2e-3, warmup=20, ema_decay=0.98),
    "ctrlcolor-inpaint": Plan(steps=600, batch_size=16, learning_rate=4e-4, warmup=20, ema_decay=0.98),
    "ctrlcolor": Plan(steps=4_000, batch_size=16, learning_rate=6e-4, warmup=50, ema_decay=0.998),
    "ctrlcolor-deformable": Plan(steps=600, batch_size=8, learning_rate=4e-4, warmup=20, ema_decay=0.98),
    "colorizediffusion-sketch": Plan(steps=2_000, batch_size=32, learning_rate=2e-3, ema_decay=0.99),
    "colorizediffusion": Plan(steps=8_000, batch_size=16, learning_rate=4e-4, ema_decay=0.998),
    "colorizediffusion-lines": Plan(steps=1_600, batch_size=16, learning_rate=1.5e-3, ema_decay=0.995),
    "colorizediffusion-cls": Plan(steps=8_000, batch_size=16, learning_rate=4e-4, ema_decay=0.998),
}
"""How long each recipe trains unless told otherwise; what the shipped weights got is in their model cards."""

MEMBERS = {
    "vae": "vae",
    "clip": "clip",
    "clip-words": "clip",
    "clip-vision": "clip",
    "clip-kinds": "clip-kinds",
    "clip-class": "clip-class",
    "clip-phrases": "clip-phrases",
    "prior": "prior",
    "lcad-luminance": "luminance",
    "lcad": "lcad",
    "prior-words": "prior",
    "ctrlcolor-lightness": "ctrlcolor-lightness",
    "ctrlcolor-inpaint": "ctrlcolor-inpaint",
    "ctrlcolor": "ctrlcolor",
    "ctrlcolor-deformable": "ctrlcolor",
    "colorizediffusion-sketch": "sketch",
    "colorizediffusion": "colorizediffusion",
    "colorizediffusion-cls": "colorizediffusion-cls",
    "colorizediffusion-lines": "colorizediffusion",
}
"""Folder of `family` that each recipe makes."""


def run_recipe(
    name: str,
    *,
    data: Path,
    out: Path,
    device: str = "cpu",
    resume: bool = False,
    steps: int | None = None,
    max_seconds: float | None = None,
    num_scenes: int = NUM_SCENES,
    warm_start: bool = False,
    export_only: bool = False,
    captions: CaptionMix | None = None,
) -> Path:
    """Run one recipe: train, or go on training, and export the member.

    Args:
        name: in `PLANS`.
        data: photograph folder, see `load_photographs`.
        out: where everything goes.
        device: "cpu" or "cuda".
        resume: go on from the last checkpoint.
        steps: optimiser steps in all; None takes the plan's.
        max_seconds: stop after this time, resumable.
        num_scenes: size of the scene corpus.
        warm_start: begin with the weights of the member that is there already instead of the recipe's beginning.
        export_only: export the last checkpoint without training on.
        captions: how often a UNet sees captions of each level, and none; the recipe's own mix by default.

    Returns:
        Folder of the member.

    Raises:
        StateError: a member this recipe needs has not been trained; a checkpoint exists and `resume` is false; only
            UNets and the sketch encoder can start warm.
    """
    plan = PLANS[name] if steps is None else replace(PLANS[name], steps=steps)
    cache = out / "cache" / photographs_key(data)
    pictures = Pictures.load(data, cache, num_scenes=num_scenes)
    recipe = _BUILDERS[name](pictures, out, cache, torch.device(device))
    if captions is not None:
        if not isinstance(recipe, DenoisingRecipe):
            raise StateError(f"{name} is no UNet, so it has no mix of captions; leave its options out.")
        recipe.captions = captions
    member = out / "family" / MEMBERS[name]
    if warm_start:
        _start_warm(recipe, name, out, torch.device(device))
    if export_only:
        export_checkpoint(recipe, plan, out / name, member)
    else:
        train(recipe, plan, out / name, member, device=device, resume=resume, max_seconds=max_seconds)
    if name == "clip-vision":
        refresh_indexes(member.parent)
    return member


def _start_warm(recipe: Recipe, name: str, out: Path, device: torch.device) -> None:
    """Let a recipe go on from the member that is there already."""
    if isinstance(recipe, SketchRecipe):
        encoder = find_member(out, MEMBERS[name], "colorizediffusion/sketch_encoder")
        recipe.start = load_component("sketch_encoder", encoder, device=device, dtype=torch.float32)
        return
    if not isinstance(recipe, DenoisingRecipe | ColorizeDiffusionRecipe):
        raise StateError(
            f"{name} cannot start warm: UNets and colorizediffusion-sketch can; leave warm_start (--warm-start) out."
        )
    folder = find_member(out, MEMBERS[name])
    if isinstance(recipe, DenoisingRecipe):
        recipe.go_on_from(folder, device)
    else:
        names = ("unet", "sketch_encoder", "exemplar_projection")
        unet, encoder, projection = (
            load_component(part, folder / part, device=device, dtype=torch.float32) for part in names
        )
        # What was measured of the towers that are there now stays in its configuration.
        recipe.projection.load_state_dict(projection.state_dict())
        recipe.start = SketchedUnet(unet, encoder, recipe.projection, recipe.kind_reader)


def refresh_indexes(family: Path) -> None:
    """Hash the weights of every model of a family anew, after a shared member changed in a way that keeps them valid.

    Args:
        family: folder of the members.
    """
    for path in sorted(family.glob("*/model_index.json")):
        write_index(path.parent, read_index(path.parent))


def _build_vae(pictures: Pictures, out: Path, cache: Path, device: torch.device) -> Recipe:
    return VaeRecipe(pictures)


def _build_prior(pictures: Pictures, out: Path, cache: Path, device: torch.device) -> PriorRecipe:
    key = weights_key(*find_member(out, "vae").glob("*.safetensors"))
    encoded = encode_pictures(pictures, load_vae(out, device), cache, key=key)
    return PriorRecipe(encoded, FrozenText.load(find_member(out, "clip"), device), family_schedule())


def _build_luminance(pictures: Pictures, out: Path, cache: Path, device: torch.device) -> Recipe:
    return LuminanceRecipe(pictures, load_vae(out, device))


def _build_lcad(pictures: Pictures, out: Path, cache: Path, device: torch.device) -> Recipe:
    luminance = find_member(out, "luminance", "lcad/luminance_encoder")
    encoder: Any = load_frozen("luminance_encoder", luminance, device)
    key = weights_key(*find_member(out, "vae").glob("*.safetensors"))
    named = (encoder, weights_key(*luminance.glob("*.safetensors")))
    encoded = encode_pictures(pictures, load_vae(out, device), cache, key=key, luminance=named)
    prior = load_component("unet", find_member(out, "prior") / "unet", device=device, dtype=torch.float32)
    text = FrozenText.load(find_member(out, "clip"), device)
    return LcadRecipe(encoded, text, family_schedule(), prior=prior, luminance_encoder=encoder)


def _build_prior_words(pictures: Pictures, out: Path, cache: Path, device: torch.device) -> Recipe:
    recipe = _build_prior(pictures, out, cache, device)
    recipe.name = "prior-words"
    recipe.start = without_taps(load_lcad_unet(out, device))
    return recipe


def colorizediffusion_recipe(
    data: Path, out: Path, device: torch.device, *, strategies: Strategies, num_scenes: int = NUM_SCENES
) -> ColorizeDiffusionRecipe:
    """Return the recipe `colorizediffusion` under other strategies, for comparing them.

    Args:
        data: photograph folder, see `load_photographs`.
        out: as for `run_recipe`.
        device: where it trains.
        strategies: against the distribution problem.
        num_scenes: size of the scene corpus.
    """
    cache = out / "cache" / photographs_key(data)
    pictures = Pictures.load(data, cache, num_scenes=num_scenes)
    return _build_colorizediffusion(pictures, out, cache, device, strategies=strategies)


def _sketched(
    pictures: Pictures, tower: Path, cache: Path, device: torch.device, exemplar: ExemplarKind
) -> SketchedPictures:
    """Draw sketches and encode exemplars of a part of the corpus."""
    return sketch_pictures(
        pictures,
        load_frozen(EXEMPLAR_ENCODER, tower, device),
        cache,
        key=weights_key(*tower.glob("*.safetensors")),
        exemplar=exemplar,
        num_photographs=NUM_SKETCHED_PHOTOGRAPHS,
        num_scenes=NUM_SKETCHED_SCENES,
    )


def _build_sketch(pictures: Pictures, out: Path, cache: Path, device: torch.device) -> Recipe:
    luminance = find_member(out, "luminance", "lcad/luminance_encoder")
    encoder: Any = load_frozen("luminance_encoder", luminance, device)
    named = (encoder, weights_key(*luminance.glob("*.safetensors")))
    key = weights_key(*find_member(out, "vae").glob("*.safetensors"))
    encoded = encode_pictures(pictures, load_vae(out, device), cache, key=key, luminance=named)
    sketched = _sketched(pictures, find_exemplar_encoder(out), cache, device, "arranged")
    return SketchRecipe(encoded, sketched, load_lcad_unet(out, device))


def _build_lines(pictures: Pictures, out: Path, cache: Path, device: torch.device) -> Recipe:
    sketched = _sketched(pictures, find_exemplar_encoder(out), cache, device, DEFAULT_STRATEGIES.exemplar)
    return LineRecipe(pictures, sketched, load_vae(out, device))


def _build_colorizediffusion(
    pictures: Pictures,
    out: Path,
    cache: Path,
    device: torch.device,
    *,
    reads: Reads = "local",
    strategies: Strategies = DEFAULT_STRATEGIES,
) -> ColorizeDiffusionRecipe:
    reads_patches = reads == "local"
    text = FrozenText.load(find_member(out, "clip"), device)
    # Whole pictures, which a class token stands for, are told apart by the words that the family's CLIP learned.
    word_folder = find_phrase_encoder(out) if reads_patches else find_member(out, "clip")
    tower = find_exemplar_encoder(out, reads_patches=reads_patches)
    words, encoder = (
        load_frozen(name, folder, device) for name, folder in ((PHRASE_ENCODER, word_folder), (EXEMPLAR_ENCODER, tower))
    )
    phrases = phrase_vectors(text.tokenizer, words)
    polarity, _, present = measure_similarity(encoder, phrases)
    sketched = _sketched(pictures, tower, cache, device, strategies.exemplar)
    key = weights_key(*find_member(out, "vae").glob("*.safetensors"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        projection = ExemplarProjection(
            reads=reads, width=sketched.tokens.shape[-1], polarity=polarity, present_similarity=round(present, 3)
        )
    sketch_folder = find_member(out, "sketch", "colorizediffusion/sketch_encoder")
    known_kinds = sketch_folder / KIND_READER
    kind_reader = KindReader.from_pretrained(known_kinds).to(device) if known_kinds.is_dir() else None
    start = None
    if not reads_patches:
        # The class token knows less than the patches; a network that paints by patches already is half of the way.
        known = find_member(out, "colorizediffusion")
        parts = [
            load_component(name, known / name, device=device, dtype=torch.float32)
            for name in ("unet", "sketch_encoder")
        ]
        start = SketchedUnet(parts[0], parts[1], projection, kind_reader)
    return ColorizeDiffusionRecipe(
        encode_pictures(pictures, load_vae(out, device), cache, key=key),
        sketched,
        family_schedule(),
        unet=load_lcad_unet(out, device),
        sketch_encoder=load_component("sketch_encoder", sketch_folder, device=device, dtype=torch.float32),
        projection=projection,
        readers={EXEMPLAR_ENCODER: encoder} | ({PHRASE_ENCODER: words} if reads_patches else {}),
        edited=EditedExemplars(encoder, phrases, polarity),
        token_map=token_map_of(sketched, pictures.scenes, len(pictures.photographs), text, phrases),
        strategies=strategies,
        kind_reader=kind_reader,
        start=start,
    )


_BUILDERS: dict[str, Callable[[Pictures, Path, Path, torch.device], Recipe]] = {
    "vae": _build_vae,
    "clip": build_clip,
    "clip-words": build_clip_words,
    "clip-vision": build_clip_vision,
    "clip-kinds": build_clip_kinds,
    "clip-class": build_clip_class,
    "clip-phrases": build_clip_phrases,
    "prior": _build_prior,
    "lcad-luminance": _build_luminance,
    "lcad": _build_lcad,
    "prior-words": _build_prior_words,
    "ctrlcolor-lightness": build_lightness,
    "ctrlcolor-inpaint": build_inpaint,
    "ctrlcolor": build_ctrlcolor,
    "ctrlcolor-deformable": build_deformable,
    "colorizediffusion-sketch": _build_sketch,
    "colorizediffusion": _build_colorizediffusion,
    # A class token is edited as a whole, not patch by patch.
    "colorizediffusion-cls": partial(
        _build_colorizediffusion, reads="global", strategies=replace(DEFAULT_STRATEGIES, edit_share=0.0)
    ),
    "colorizediffusion-lines": _build_lines,
}
