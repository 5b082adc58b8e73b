"""The three optimisations of DiffColor: each says what it trains and what one iteration costs.

| stage | trains | loss |
| --- | --- | --- |
| `contrastive` | the network | L_1 = L_con + L_dif, on the gray picture (stage 1) |
| `embedding` | e, from T(c') | E over t, noise of (noise - noise_pred(z_t, t, e))^2, z of the colored picture |
| `reconstruction` | the network | the same, e fixed |

Everything random in iteration k is drawn by a generator of (seed, stage, k): a resumed tuning draws the same.

Source: DiffColor, arXiv 2308.01655; the loss of stage 2 is Imagic's, arXiv 2210.09276.
"""

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch.utils.checkpoint import checkpoint

from colorlab.color import gray_to_lightness, lab_to_rgb, rgb_to_lab
from colorlab.mechanisms.contrastive_tuning import contrastive_loss, directional_loss, luma_loss
from colorlab.methods.adaptation import CONTRASTIVE, EMBEDDING, RECONSTRUCTION
from colorlab.methods.diffcolor import DiffColor
from colorlab.networks.luminance import decode_with_taps
from colorlab.tuning.judge import Judge, random_crops
from colorlab.tuning.weights import TunedNetwork, Weights

__all__ = ["ContrastiveStage", "EmbeddingStage", "Outcome", "ReconstructionStage", "Stage", "iteration_generator"]

# Of the diffusion time; DiffusionCLIP inverts with 40 steps and comes back with 6.
_ONE_STEP_TIMES = (0.2, 0.5)
_CHAIN_TIME, _NUM_INVERSION_STEPS, _NUM_CHAIN_STEPS = 0.4, 40, 6
# Of the diffusion time, for pictures of stage 2: much is noise there, so that the network has to know the colors. Ours.
_PICTURE_TIME = 0.6
_TOKENS = "tokens"


@dataclass(frozen=True)
class Outcome:
    """What one iteration computes.

    Args:
        loss: scalar, differentiable.
        numbers: for the curves.
        image: (1, 3, H, W) in [0, 1], detached, where the stage makes one.
    """

    loss: torch.Tensor
    numbers: Mapping[str, float]
    image: torch.Tensor | None = None


class Stage(Protocol):
    """One optimisation."""

    @property
    def name(self) -> str:
        """In `STAGES`."""

    @property
    def learning_rate(self) -> float:
        """Of Adam."""

    def initial(self) -> dict[str, torch.Tensor]:
        """Return the tensors to begin with."""

    def evaluate(self, weights: Weights, iteration: int) -> Outcome:
        """Return loss and numbers of an iteration; a pure function of its arguments."""

    def picture(self, weights: Weights, outcome: Outcome) -> torch.Tensor:
        """Return what the tensors make of the picture now, (1, 3, H, W) in [0, 1], not differentiable."""


def iteration_generator(seed: int, stage: str, iteration: int) -> torch.Generator:
    """Return the source of everything random in an iteration."""
    digest = hashlib.blake2b(f"tuning {stage} {seed} {iteration}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


@dataclass(frozen=True, eq=False)
class ContrastiveStage:
    """Stage 1: give the network colors for the gray picture.

    Args:
        method: the model before tuning.
        network: what is trained.
        judge: compares with the context and the anti-color prompts.
        values: parameters of `contrastive_tuning` in force.
        gray: (1, 1, H, W) at working size.
        gray_latents: (1, C, h, w), scaled.
        tokens: (1, N, D) of the context.
        seed: of what is drawn.
    """

    method: DiffColor
    network: TunedNetwork
    judge: Judge
    values: Mapping[str, Any]
    gray: torch.Tensor
    gray_latents: torch.Tensor
    tokens: torch.Tensor
    seed: int
    name: str = CONTRASTIVE
    _kept: dict[str, Any] = field(default_factory=dict)

    @property
    def learning_rate(self) -> float:
        """Of Adam."""
        return float(self.values["learning_rate"])

    def initial(self) -> dict[str, torch.Tensor]:
        """Return the network as it is."""
        return self.network.initial()

    def evaluate(self, weights: Weights, iteration: int) -> Outcome:
        """Return L_1 = lambda_con L_con + L_dif for one noise and timestep."""
        generator = iteration_generator(self.seed, self.name, iteration)
        # 1. A picture that depends on the weights.
        noise = torch.randn(self.gray_latents.shape, generator=generator).to(self.gray_latents)
        low, high = (int(share * self.method.schedule.num_train_timesteps) for share in _ONE_STEP_TIMES)
        timestep = int(torch.randint(low, high, (1,), generator=generator))
        noisy = self.method.schedule.add_noise(self.gray_latents, noise, timestep)
        output = self.network.predict(weights, noisy, timestep, self.tokens)
        if self.values["through"] == "chain":
            clean = self._chain(weights)
        else:
            noise_pred = self.method.schedule.to_noise_pred(output, noisy, timestep)
            clean = self.method.schedule.to_original_sample(noise_pred, noisy, timestep)
        image = _decoded(self.method, clean)
        # 2. L_con, on the picture and crops of it.
        judged = self._aligned(image) if self.values["judged"] == "aligned" else image
        crops = random_crops(judged, int(self.values["num_crops"]), generator)
        vectors = self.judge.image_vectors(crops)
        similarities = vectors @ self.judge.text_vectors.T.to(vectors)
        contrast = self._contrast(vectors, similarities)
        # 3. L_dif: structure, the network's own prediction, the gray picture's noise.
        luma = luma_loss(image, self.gray.to(image))
        with torch.no_grad():
            before = self.network.predict(self._untuned(), noisy, timestep, self.tokens)
        prior = (output - before).square().mean()
        denoise = (output - self.method.schedule.training_target(self.gray_latents, noise, timestep)).square().mean()
        v = self.values
        guidance = v["luma_weight"] * luma + v["prior_weight"] * prior + v["denoise_weight"] * denoise
        loss = v["contrastive_weight"] * contrast + guidance
        chroma = _chroma(image.detach())
        seen = similarities.detach()[0]
        numbers = {
            "contrastive": contrast,
            "guidance": guidance,
            "context": seen[0],
            "margin": seen[0] - seen[1:].max(),
        }
        numbers |= {f"anti {index}": value for index, value in enumerate(seen[1:])} | {"chroma": chroma}
        plain = {name: float(torch.as_tensor(value).detach()) for name, value in numbers.items()}
        return Outcome(loss, plain, image.detach().clamp(0, 1))

    def picture(self, weights: Weights, outcome: Outcome) -> torch.Tensor:
        """Return the picture of the iteration."""
        assert outcome.image is not None
        return outcome.image

    def _contrast(self, vectors: torch.Tensor, similarities: torch.Tensor) -> torch.Tensor:
        """Return L_con of pictures, the whole one first."""
        if self.values["loss"] == "contrastive":
            return contrastive_loss(similarities, self.values["temperature"])
        if "gray" not in self._kept:
            with torch.no_grad():
                self._kept["gray"] = self.judge.image_vectors(self.gray.repeat(1, 3, 1, 1).to(vectors))
        texts = self.judge.text_vectors.to(vectors)
        return directional_loss(vectors - self._kept["gray"], texts[:1] - texts[1:].mean(0, keepdim=True))

    def _untuned(self) -> Weights:
        """Return the tensors before tuning, kept."""
        if "untuned" not in self._kept:
            self._kept["untuned"] = self.initial()
        untuned: Weights = self._kept["untuned"]
        return untuned

    def _chain(self, weights: Weights) -> torch.Tensor:
        """Go back to a clean picture in a few differentiable DDIM steps, each computed again on the way back.

        Source: DiffusionCLIP, arXiv 2110.02711: inversion in 40 steps, return in 6.
        """
        schedule = self.method.schedule
        last = int(_CHAIN_TIME * schedule.num_train_timesteps)
        if "inverted" not in self._kept:
            places = torch.linspace(0, last, _NUM_INVERSION_STEPS + 1).round().int().tolist()
            latents, untuned = self.gray_latents, self._untuned()
            with torch.no_grad():
                for timestep, following in itertools.pairwise(places):
                    latents = self._ddim(untuned, latents, timestep, following)
            self._kept["inverted"] = latents
        latents = self._kept["inverted"]
        back = torch.linspace(last, 0, _NUM_CHAIN_STEPS + 1).round().int().tolist()
        for timestep, following in itertools.pairwise(back):
            # The network is asked inside, so that the second computation has the same tensors in place.
            latents = checkpoint(self._ddim, weights, latents, timestep, following, use_reentrant=False)
        return latents

    def _ddim(self, weights: Weights, latents: torch.Tensor, timestep: int, following: int) -> torch.Tensor:
        """Go from one timestep to another along DDIM's path."""
        schedule = self.method.schedule
        output = self.network.predict(weights, latents, timestep, self.tokens)
        noise_pred = schedule.to_noise_pred(output, latents, timestep)
        clean = schedule.to_original_sample(noise_pred, latents, timestep)
        return schedule.add_noise(clean, noise_pred, following)

    def _aligned(self, image: torch.Tensor) -> torch.Tensor:
        """Give a picture the lightness of the gray one; differentiable in its chroma."""
        lightness = gray_to_lightness(self.gray.to(image))
        return lab_to_rgb(torch.cat([lightness, rgb_to_lab(image.clamp(0, 1))[:, 1:]], dim=1))


@dataclass(frozen=True, eq=False)
class ReconstructionStage:
    """Stage 2, second half: train the network to reproduce the colored picture under e_opt.

    Args:
        method: the model before tuning.
        network: what is trained.
        start: tensors to begin with.
        latents: (1, C, h, w), scaled, of the colored picture.
        tokens: (1, N, D), e_opt.
        learning_rate: of Adam.
        seed: of what is drawn.
    """

    method: DiffColor
    network: TunedNetwork
    start: Weights
    latents: torch.Tensor
    tokens: torch.Tensor
    learning_rate: float
    seed: int
    name: str = RECONSTRUCTION

    def initial(self) -> dict[str, torch.Tensor]:
        """Return the network of stage 1, or the one before it."""
        return dict(self.start)

    def evaluate(self, weights: Weights, iteration: int) -> Outcome:
        """Return the loss of one noise and timestep."""
        return _denoising(self, weights, self.tokens, iteration)

    def picture(self, weights: Weights, outcome: Outcome) -> torch.Tensor:
        """Return what the network makes of the noised colored picture."""
        return _reproduced(self, weights, self.tokens)


@dataclass(frozen=True, eq=False)
class EmbeddingStage:
    """Stage 2, first half: seek the embedding that reproduces the colored picture; the network stays.

    Args:
        method: the model before tuning.
        network: the denoising network.
        fixed: its tensors, those of stage 1 or those before it.
        latents: (1, C, h, w), scaled, of the colored picture.
        tokens: (1, N, D) of the context with identifiers, e to begin with.
        learning_rate: of Adam.
        seed: of what is drawn.
    """

    method: DiffColor
    network: TunedNetwork
    fixed: Weights
    latents: torch.Tensor
    tokens: torch.Tensor
    learning_rate: float
    seed: int
    name: str = EMBEDDING

    def initial(self) -> dict[str, torch.Tensor]:
        """Return T(c')."""
        return {_TOKENS: self.tokens.detach().float().clone()}

    def evaluate(self, weights: Weights, iteration: int) -> Outcome:
        """Return the loss of one noise and timestep."""
        outcome = _denoising(self, self.fixed, weights[_TOKENS], iteration)
        moved = float(torch.linalg.vector_norm(weights[_TOKENS].detach() - self.tokens.float(), dim=-1).mean())
        return Outcome(outcome.loss, {**outcome.numbers, "moved": moved})

    def picture(self, weights: Weights, outcome: Outcome) -> torch.Tensor:
        """Return what the network makes of the noised colored picture under the embedding."""
        return _reproduced(self, self.fixed, weights[_TOKENS])


def _denoising(
    stage: EmbeddingStage | ReconstructionStage, weights: Weights, tokens: torch.Tensor, iteration: int
) -> Outcome:
    """Return E (noise - noise_pred)^2 at one timestep of all; in the network's own kind of prediction."""
    schedule = stage.method.schedule
    generator = iteration_generator(stage.seed, stage.name, iteration)
    noise = torch.randn(stage.latents.shape, generator=generator).to(stage.latents)
    timestep = int(torch.randint(schedule.num_train_timesteps, (1,), generator=generator))
    noisy = schedule.add_noise(stage.latents, noise, timestep)
    output = stage.network.predict(weights, noisy, timestep, tokens)
    loss = (output - schedule.training_target(stage.latents, noise, timestep)).square().mean()
    return Outcome(loss, {"denoising": float(loss.detach()), "timestep": float(timestep)})


def _reproduced(stage: EmbeddingStage | ReconstructionStage, weights: Weights, tokens: torch.Tensor) -> torch.Tensor:
    """Return the clean picture that is predicted from the noised colored one, by the same noise every time."""
    schedule = stage.method.schedule
    timestep = int(_PICTURE_TIME * schedule.num_train_timesteps)
    noise = torch.randn(stage.latents.shape, generator=iteration_generator(stage.seed, "picture", 0))
    with torch.no_grad():
        noisy = schedule.add_noise(stage.latents, noise.to(stage.latents), timestep)
        noise_pred = schedule.to_noise_pred(stage.network.predict(weights, noisy, timestep, tokens), noisy, timestep)
        clean = schedule.to_original_sample(noise_pred, noisy, timestep)
        return _decoded(stage.method, clean).clamp(0, 1)


def _decoded(method: DiffColor, latents: torch.Tensor) -> torch.Tensor:
    """Decode to (1, 3, H, W), nominally [0, 1]; differentiable."""
    return (decode_with_taps(method.vae, latents.to(method.dtype)).float() + 1) / 2


def _chroma(image: torch.Tensor) -> float:
    """Return the mean chroma of (1, 3, H, W)."""
    return float(torch.linalg.vector_norm(rgb_to_lab(image.clamp(0, 1))[:, 1:], dim=1).mean())
