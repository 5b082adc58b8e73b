"""Recipes `colorizediffusion-sketch`, `colorizediffusion` and `colorizediffusion-cls`: a sketch and an exemplar.

| strategy against the distribution problem | `Strategies` |
| --- | --- |
| deformation of the exemplar | `exemplar`: rearranged scenes by default, thin plates, or none |
| latent shuffle | `shuffles_tokens` |
| reference drop rate | `drop_rate` |
| noisy tokens by timestep | `token_noise` |
| dual-conditioned training | `dual_weight` |
| cells told which patches show their object (ours) | `grounding_weight` |

Source: ColorizeDiffusion, arXiv 2401.01456; tellurion-kanata/colorizeDiffusion@d876b7e and @c9bd9fb. Dual-conditioned
    training is in no released code; its loss is our reading of the paper's summary.
Deviation (ours, for few samples): begins from L-CAD (`sketched_unet`) and from a sketch encoder that was taught what
    L-CAD's UNet sees of a gray picture and what kind of thing a sketch shows (`sketched_kinds`), the CLS model from the
    trained Attention model; reads exemplars with a vision tower that was told kinds (`token_kinds`), and in the
    Attention model the texts of edits with a text tower that was (`phrases`); predicts v; some sketches are dropped, so
    that guidance by the sketch has a model of "no sketch"; some exemplars of the Attention model are edited by text
    (`edited_exemplars`).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import inf
from pathlib import Path
from typing import Any, get_args

import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from colorlab.colorizer import Colorizer
from colorlab.errors import RangeError
from colorlab.images import load_image
from colorlab.networks.exemplar_projection import ExemplarProjection
from colorlab.networks.libraries import UNet2DConditionModel
from colorlab.networks.sketch_encoder import NO_SKETCH, SketchEncoder, sketch_pixels
from colorlab.sampling.schedules import NoiseSchedule
from colorlab.shapes import check_range
from colorlab.training.corpus import NO_THING
from colorlab.training.denoising import draw_timesteps, export_model, object_weighted_mean
from colorlab.training.edited_exemplars import EditedExemplars
from colorlab.training.exemplars import ExemplarKind, SketchedPictures
from colorlab.training.grids import picture_grid, run_pictures
from colorlab.training.grounding import NUM_THINGS, AttentionReader, grounding_loss
from colorlab.training.latents import EncodedPictures
from colorlab.training.members import PHRASE_ENCODER
from colorlab.training.scenes import TEST_SEEDS, exemplar_scene, make_scene, sketch
from colorlab.training.sketched_kinds import UNKNOWN, KindReader, cell_kinds
from colorlab.training.sketched_unet import (
    SketchedUnet,
    TaughtSketchEncoder,
    mini_sketch_encoder,
    read_tokens_as_words,
    without_taps,
)
from colorlab.training.token_strategies import TokenNoise, drop_tokens, noisy_tokens, shuffle_tokens

__all__ = ["SHARED", "ColorizeDiffusionRecipe", "SketchRecipe", "Strategies"]

SHARED = {
    "vae": "../vae",
    PHRASE_ENCODER: "../clip",
    "tokenizer": "../clip",
}
LINE_ENCODER = "line_encoder"
"""Component and folder of what `LineRecipe` trains."""
KIND_READER = "kind_reader"
"""Folder of the reader of kinds beside the sketch encoder that `SketchRecipe` trains."""
PHOTOGRAPH_SHARE = 0.15
"""Share of photographs in a batch. Ours."""
SKETCH_DROP_RATE = 0.05
"""How often there is no sketch. Ours."""
NOISIEST_SHARE = 0.5
"""Share of samples from the noisiest fifth of the timesteps, where only the sketch tells what is where. Ours."""
KIND_WEIGHT = 0.3
"""Weight of `KindReader`'s loss. Ours."""
GUIDANCE_SCALES = {"local": 2.5, "global": 3.0}
"""Guidance by the exemplar that the Attention and the CLS model are exported with. Ours: above it colors get no truer,
and saturated ones have edges where the sketch has none."""
MIN_VARIANCE = 1e-6
"""Least variance of what the first hint is compared with. Ours; that of a trained UNet is above it by far."""


@dataclass(frozen=True)
class Strategies:
    """What is done against the distribution problem: exemplars that fit the sketch pixel by pixel are never met again.

    Args:
        exemplar: which pictures serve as exemplars, see `exemplars`.
        drop_rate: how often there is no exemplar, [0, 1]; the published runs range from 0.1 to 0.8.
        shuffles_tokens: reorder the tokens of each batch.
        token_noise: noise on the tokens by timestep, of the first or the later published version.
        dual_weight: weight of the prediction without the exemplar beside that with it; costs a second call.
        grounding_weight: weight of `grounding_loss`, which tells cells of an object the patches that show it, at least
            0; for what reads patches. Ours.
        edit_share: share of exemplars in a batch that are edited by text, [0, 1]. Ours, and no strategy against the
            distribution problem: these exemplars are rearranged, too, so that a comparison leaves them out.

    Raises:
        RangeError: a rate or weight is out of range, or there is no such exemplar or noise.
    """

    exemplar: ExemplarKind = "arranged"
    drop_rate: float = 0.2
    shuffles_tokens: bool = False
    token_noise: TokenNoise = "none"
    dual_weight: float = 0.0
    grounding_weight: float = 1.0
    edit_share: float = 0.25

    def __post_init__(self) -> None:
        for name, kinds in (("exemplar", ExemplarKind), ("token_noise", TokenNoise)):
            if getattr(self, name) not in get_args(kinds):
                raise RangeError(
                    f"{name} is {getattr(self, name)!r}, but one of {', '.join(get_args(kinds))} is expected."
                )
        for name, most in (("drop_rate", 1), ("dual_weight", inf), ("grounding_weight", inf), ("edit_share", 1)):
            check_range(getattr(self, name), 0, most, name)


@dataclass
class SketchRecipe:
    """Stage 1: the first hint learns to say of a sketch what L-CAD's UNet sees of the gray picture's deepest tap.

    The finer hints learn to say as well what kind of thing a cell shows (`sketched_kinds`).

    Args:
        encoded: must hold taps.
        sketched: sketches of a part of them.
        unet: of L-CAD.
        start: a sketch encoder to go on from; None begins with an untrained one.
        seed: of the initial weights.
    """

    encoded: EncodedPictures
    sketched: SketchedPictures
    unet: UNet2DConditionModel
    start: SketchEncoder | None = None
    seed: int = 0
    name: str = field(default="colorizediffusion-sketch", init=False)

    def trainable(self) -> nn.Module:
        """Return the sketch encoder to begin with, and an untrained reader of kinds."""
        return TaughtSketchEncoder(self.start or mini_sketch_encoder(self.unet, seed=self.seed))

    def loss(self, module: Any, generator: torch.Generator, batch_size: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Compare the first hints with the taps' part of L-CAD's first convolution, relative to its variance; kinds."""
        device = next(module.parameters()).device
        rows = draw_rows(self.sketched, batch_size, generator)
        target = self._seen(rows).to(device)
        hints = module(pixels_of(self.sketched, rows).to(device))
        # A UNet that reads nothing of its taps has nothing to teach: the variance is 0 then, and so is a fresh hint.
        error = (hints[0] - target).square().mean() / target.var().clamp(min=MIN_VARIANCE)
        kinds = module.kind_reader(hints, cell_kinds(self.encoded, self.sketched.indices[rows.numpy()].tolist()))
        return error + kinds, {"unexplained": float(error.detach()), "kinds": float(kinds.detach())}

    def sample_grid(self, module: nn.Module, folder: Path) -> Image.Image:
        """Show sketches, the first hints and what they should be, as lengths over the channels."""
        rows = draw_rows(self.sketched, 8, torch.Generator().manual_seed(1))
        pixels = pixels_of(self.sketched, rows)
        with torch.no_grad():
            maps = [
                torch.linalg.vector_norm(part, dim=1, keepdim=True) for part in (module(pixels)[0], self._seen(rows))
            ]
        shown = [functional.interpolate(part / maps[1].max(), size=pixels.shape[-2:]) for part in maps]
        return picture_grid([(1 - pixels[:, :1]) / 2, *shown])

    def export(self, folder: Path, module: Any, card: Mapping[str, object]) -> None:
        """Save the sketch encoder, and in a folder of its own the reader, which the next stage trains on."""
        module.sketch_encoder.save_pretrained(folder)
        module.kind_reader.save_pretrained(folder / KIND_READER)

    @torch.no_grad()
    def _seen(self, rows: torch.Tensor) -> torch.Tensor:
        """Return what the taps add to the features behind L-CAD's first convolution."""
        taps = self.encoded.taps
        if taps is None:
            raise RangeError("colorizediffusion-sketch trains on pictures that were encoded with a luminance encoder.")
        values = torch.from_numpy(taps[self.sketched.indices[rows.numpy()]]).float()
        conv = self.unet.conv_in
        return functional.conv2d(values, conv.weight[:, 4:].cpu(), padding=conv.padding)


class ColorizeDiffusionRecipe:
    """Stage 2: denoise, given a sketch and an exemplar.

    Args:
        encoded: latents of all pictures.
        sketched: sketches and exemplars of a part of them.
        schedule: noise schedule.
        unet: of L-CAD, to begin with.
        sketch_encoder: of stage 1, to begin with.
        projection: of the exemplar's tokens, which says what the model reads.
        readers: the towers that read exemplars and the texts of edits, by name of the component; stored with the model.
        edited: makes exemplars that are edited by text, read by the Attention model.
        token_map: (D, D) from patches to words, see `fit_token_map`.
        strategies: against the distribution problem.
        kind_reader: of stage 1; None begins with an untrained one.
        start: networks to begin with instead of `unet` and `sketch_encoder`; holds `projection`.
    """

    def __init__(
        self,
        encoded: EncodedPictures,
        sketched: SketchedPictures,
        schedule: NoiseSchedule,
        *,
        unet: UNet2DConditionModel,
        sketch_encoder: SketchEncoder,
        projection: ExemplarProjection,
        readers: Mapping[str, nn.Module],
        edited: EditedExemplars,
        token_map: torch.Tensor,
        strategies: Strategies,
        kind_reader: KindReader | None = None,
        start: SketchedUnet | None = None,
    ) -> None:
        self.encoded, self.sketched, self.schedule = encoded, sketched, schedule
        self.unet, self.sketch_encoder, self.projection = unet, sketch_encoder, projection
        self.readers, self.edited, self.token_map, self.strategies = readers, edited, token_map, strategies
        self.kind_reader, self.start = kind_reader, start

    @property
    def name(self) -> str:
        """`colorizediffusion`, or `colorizediffusion-cls` for what reads the class token."""
        return "colorizediffusion" if self._reads_patches else "colorizediffusion-cls"

    def trainable(self) -> nn.Module:
        """Return `start`, or L-CAD's UNet for latents alone, its words replaced by tokens, with the other networks."""
        if self.start is not None:
            return self.start
        unet = without_taps(self.unet)
        read_tokens_as_words(unet, self.token_map)
        sketched: Any = SketchedUnet(unet, self.sketch_encoder, self.projection, self.kind_reader)
        module: nn.Module = sketched.to(memory_format=torch.channels_last)
        return module

    def loss(self, module: Any, generator: torch.Generator, batch_size: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Denoise one batch."""
        device = next(module.parameters()).device
        rows = draw_rows(self.sketched, batch_size, generator)
        indices = self.sketched.indices[rows.numpy()].tolist()
        latents = torch.from_numpy(self.encoded.latents[indices]).float().to(device)
        noise = torch.randn(latents.shape, generator=generator).to(device)
        timesteps = draw_noisiest(batch_size, self.schedule.num_train_timesteps, generator).to(device)
        noisy = self.schedule.add_noise(latents, noise, timesteps)
        target = self.schedule.training_target(latents, noise, timesteps)
        cells = self.encoded.object_cells(indices).to(device)
        pixels, kinds = self._drop_sketches(
            pixels_of(self.sketched, rows), cell_kinds(self.encoded, indices), generator
        )
        given, owners = self._exemplars(rows, generator)
        tokens, owners = self._prepare_tokens(module.projection(given.to(device)), owners, timesteps, generator)

        hints = module.sketch_encoder(pixels.to(device))
        with AttentionReader(module.unet, noisy.shape) as reader:
            predicted, seen = module(noisy, timesteps, hints, tokens)
        squared = (predicted - target).square()
        # Read where the UNet sees them: what a hint says has to be louder than the noise of the latents beside it.
        kind_loss = module.kind_reader(seen, kinds)
        loss = object_weighted_mean(squared, cells) + KIND_WEIGHT * kind_loss
        early = timesteps > self.schedule.num_train_timesteps // 2
        numbers = {"mse": float(squared.detach().mean()), "mse_early": float(squared.detach()[early].mean())}
        numbers["kinds"] = float(kind_loss.detach())
        if self._reads_patches and self.strategies.grounding_weight:
            named = owners[:, None] == torch.arange(NUM_THINGS)[:, None]
            grounding = grounding_loss(reader.probabilities(), named, self.encoded.patches(indices))
            loss = loss + self.strategies.grounding_weight * grounding
            numbers["grounding"] = float(grounding.detach())
        if self.strategies.dual_weight:
            alone, _ = module(noisy, timesteps, hints, torch.zeros_like(tokens))
            loss = loss + self.strategies.dual_weight * object_weighted_mean((alone - target).square(), cells)
        return loss, numbers

    def export(self, folder: Path, module: Any, card: Mapping[str, object]) -> None:
        """Write the model folder; the shared components lie beside it. A line encoder that is there stays."""
        own = {
            "unet": module.unet,
            "sketch_encoder": module.sketch_encoder,
            "exemplar_projection": module.projection,
            "scheduler": self.schedule,
            **self.readers,
        }
        told = {**card, "strategies": asdict(self.strategies)}
        shared = {name: place for name, place in SHARED.items() if name not in own}
        # What both models read lines with lies in the Attention model.
        beside = "" if self._reads_patches else "../colorizediffusion/"
        if (folder / beside / LINE_ENCODER).is_dir():
            shared[LINE_ENCODER] = f"{beside}{LINE_ENCODER}"
        settings = {"guidance_scale": GUIDANCE_SCALES[self.projection.config.reads]}
        export_model(folder, method="colorizediffusion", own=own, shared=shared, settings=settings, card=told)

    def sample_grid(self, module: nn.Module, folder: Path) -> Image.Image:
        """Color the sketches of a few held-out scenes like rearranged ones; exemplar and truth stand last."""
        colorizer = Colorizer.from_pretrained(folder)
        rows = []
        for seed in TEST_SEEDS[:3]:
            scene = make_scene(seed)
            exemplar = exemplar_scene(scene, seed=0).image
            run = colorizer.start(sketch=sketch(scene), exemplar=exemplar)
            known = [load_image(image) for image in (exemplar, scene.image)]
            rows.append(torch.cat([run_pictures(run, (2, 6, 12)), *known]))
        return picture_grid(rows)

    @property
    def _reads_patches(self) -> bool:
        """Whether the model reads the exemplar's patches."""
        return bool(self.projection.config.reads == "local")

    def _exemplars(self, rows: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Return tokens (B, 1 + N, D) of the exemplars and the owners (B, N) of their patches; the last are edited."""
        tokens = torch.from_numpy(self.sketched.tokens[rows.numpy()]).float()
        owners = torch.from_numpy(self.sketched.owners[rows.numpy()]).long()
        num_photographs = len(self.encoded.pictures.photographs)
        for row in range(len(rows) - round(len(rows) * self.strategies.edit_share), len(rows)):
            number = int(self.sketched.indices[rows[row]]) - num_photographs
            tokens[row], owners[row] = self.edited.draw(number, generator)
        return tokens, owners

    def _prepare_tokens(
        self, tokens: torch.Tensor, owners: torch.Tensor, timesteps: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Shuffle, make noisy and drop, as far as the strategies ask for it; return tokens and owners (B, N)."""
        wanted = self.strategies
        if wanted.shuffles_tokens:
            order = torch.randperm(tokens.shape[1], generator=generator)
            tokens, owners = shuffle_tokens(tokens, order.to(tokens.device)), owners[:, order]
        if wanted.token_noise != "none":
            noise = torch.randn(tokens.shape, generator=generator).to(tokens)
            shared = torch.randn(len(tokens), generator=generator).to(tokens)
            tokens = noisy_tokens(tokens, noise, timesteps, self.schedule, version=wanted.token_noise, shared=shared)
        kept = torch.rand(len(tokens), generator=generator) >= wanted.drop_rate
        return drop_tokens(tokens, kept.to(tokens)), owners.where(kept[:, None], NO_THING)

    def _drop_sketches(
        self, pixels: torch.Tensor, kinds: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Replace a few sketches by blank paper, of which no kinds (B, h, w) are known."""
        dropped = (torch.rand(len(pixels), generator=generator) < SKETCH_DROP_RATE)[:, None, None]
        return torch.where(dropped[:, None], NO_SKETCH, pixels), kinds.masked_fill(dropped, UNKNOWN)


def draw_noisiest(count: int, num_train_timesteps: int, generator: torch.Generator) -> torch.Tensor:
    """Draw (B,) timesteps as `draw_timesteps`, but `NOISIEST_SHARE` of them from the noisiest fifth alone."""
    timesteps = draw_timesteps(count, num_train_timesteps, generator)
    fifth = num_train_timesteps // 5
    noisiest = num_train_timesteps - 1 - torch.randint(0, fifth, (count,), generator=generator)
    chosen = torch.rand(count, generator=generator) < NOISIEST_SHARE
    return torch.where(chosen, noisiest, timesteps)


def draw_rows(sketched: SketchedPictures, count: int, generator: torch.Generator) -> torch.Tensor:
    """Draw rows (B,) of the arrays: a fixed share of photographs, the rest scenes."""
    number = round(count * PHOTOGRAPH_SHARE) if sketched.num_photographs else 0
    first = torch.randint(0, max(1, sketched.num_photographs), (number,), generator=generator)
    scenes = len(sketched.indices) - sketched.num_photographs
    second = torch.randint(0, scenes, (count - number,), generator=generator) + sketched.num_photographs
    return torch.cat([first, second])


def pixels_of(sketched: SketchedPictures, rows: torch.Tensor) -> torch.Tensor:
    """Return sketches (B, 3, H, W) as the sketch encoder sees them."""
    return sketch_pixels(torch.from_numpy(sketched.sketches[rows.numpy()])[:, None].float() / 255)
