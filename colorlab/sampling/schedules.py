"""The noise schedule: how noisy each training timestep is, and which timesteps a run visits."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, Literal, cast, get_args

import numpy as np
import torch

from colorlab.errors import RangeError, ShapeError
from colorlab.shapes import check_range

__all__ = ["BetaSchedule", "NoiseSchedule", "PredictionType", "TimestepSpacing", "working_precision"]

PredictionType = Literal["epsilon", "v_prediction", "sample"]
BetaSchedule = Literal["scaled_linear", "linear"]
FinalSigmasType = Literal["zero", "sigma_min"]
TimestepSpacing = Literal["leading", "linspace", "trailing"]
SolverName = Literal["ddim", "euler", "dpmpp_2m"]

# Options of diffusers' schedulers that would change the numbers and that this class does not have.
_UNSUPPORTED_OPTIONS = (
    "trained_betas",
    "rescale_betas_zero_snr",
    "clip_sample",
    "thresholding",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "use_lu_lambdas",
    "use_flow_sigmas",
)


@dataclass(frozen=True)
class NoiseSchedule:
    """How much noise a picture holds at each training timestep.

    Latents are variance preserving: x_t = alpha x0 + sigma noise with alpha = sqrt(abar_t), sigma = sqrt(1 - abar_t).
    The defaults are those of Stable Diffusion 1.x.

    Args:
        num_train_timesteps: number of timesteps of the training, T.
        beta_start: first beta, in (0, 1).
        beta_end: last beta, in (0, 1), at least `beta_start`.
        beta_schedule: `scaled_linear` (square roots of beta are equally spaced) or `linear`.
        steps_offset: added to the timesteps of `leading` spacing.
        prediction_type: what the network predicts.
        set_alpha_to_one: whether DDIM's last step ends at abar = 1 instead of abar_0.
        final_sigmas_type: where Euler and DPM-Solver++ end: at no noise, or at the noise of timestep 0.

    Raises:
        RangeError: an argument is none of the values listed here.
    """

    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: BetaSchedule = "scaled_linear"
    steps_offset: int = 1
    prediction_type: PredictionType = "epsilon"
    set_alpha_to_one: bool = False
    final_sigmas_type: FinalSigmasType = "zero"

    def __post_init__(self) -> None:
        if not isinstance(self.num_train_timesteps, int) or self.num_train_timesteps < 1:
            raise RangeError(
                f"num_train_timesteps is {self.num_train_timesteps!r}, but an integer above 0 is expected."
            )
        if not 0.0 < self.beta_start <= self.beta_end < 1.0:
            raise RangeError(
                f"beta_start is {self.beta_start} and beta_end {self.beta_end}, but 0 < beta_start <= beta_end < 1 is "
                "expected."
            )
        if not isinstance(self.steps_offset, int) or self.steps_offset < 0:
            raise RangeError(f"steps_offset is {self.steps_offset!r}, but an integer of at least 0 is expected.")
        _check_choice(self.beta_schedule, get_args(BetaSchedule), "beta_schedule")
        _check_choice(self.prediction_type, get_args(PredictionType), "prediction_type")
        _check_choice(self.final_sigmas_type, get_args(FinalSigmasType), "final_sigmas_type")

    @cached_property
    def alphas_cumprod(self) -> torch.Tensor:
        """(T,) float32 on the CPU: abar, falling from nearly 1 (clean) to nearly 0 (noise)."""
        if self.beta_schedule == "linear":
            betas = torch.linspace(self.beta_start, self.beta_end, self.num_train_timesteps, dtype=torch.float32)
        else:
            roots = (self.beta_start**0.5, self.beta_end**0.5)
            betas = torch.linspace(*roots, self.num_train_timesteps, dtype=torch.float32) ** 2
        return torch.cumprod(1.0 - betas, dim=0)

    @cached_property
    def sigmas(self) -> torch.Tensor:
        """(T,) float32 on the CPU: noise over signal, sigma^2 = (1 - abar) / abar, rising."""
        return ((1 - self.alphas_cumprod) / self.alphas_cumprod) ** 0.5

    def sigma_at(self, timestep: float) -> float:
        """Return noise over signal at a timestep; between two integers it is interpolated linearly, as Euler's is."""
        check_range(timestep, 0, self.num_train_timesteps - 1, "timestep")
        if float(timestep).is_integer():
            return self.sigmas[int(timestep)].item()
        return float(np.interp(timestep, np.arange(self.num_train_timesteps), self.sigmas.numpy()))

    def alpha_sigma_at(self, timestep: float) -> tuple[float, float]:
        """Return (sqrt(abar), sqrt(1 - abar)) at a timestep, the factors of the clean picture and of the noise."""
        check_range(timestep, 0, self.num_train_timesteps - 1, "timestep")
        if float(timestep).is_integer():
            alpha_cumprod = self.alphas_cumprod[int(timestep)].item()
        else:
            alpha_cumprod = 1.0 / (1.0 + self.sigma_at(timestep) ** 2)
        return math.sqrt(alpha_cumprod), math.sqrt(1.0 - alpha_cumprod)

    def timesteps(
        self,
        num_inference_steps: int,
        spacing: TimestepSpacing = "leading",
        *,
        solver: SolverName = "ddim",
        as_published: bool = False,
    ) -> torch.Tensor:
        """List the timesteps of a run, noisiest first.

        Args:
            num_inference_steps: number of steps wanted.
            spacing: `leading` (multiples of T // steps, plus `steps_offset`), `linspace` (both ends included) or
                `trailing` (counted down from T).
            solver: whose list; DPM-Solver++ spaces one point more and leaves the last one out.
            as_published: the list of the latent-diffusion code, 1 + k floor(T / steps) for all k below T. It has more
                entries than asked for when `num_inference_steps` does not divide T. That code has no DPM-Solver++;
                whoever publishes with it takes diffusers' list.

        Returns:
            (number of steps,) int64, strictly descending; float32 where Euler with `linspace` falls between integers.

        Raises:
            RangeError: the count, the spacing or the solver does not exist, or the list would leave the T timesteps
                or visit one twice.

        Source: huggingface/diffusers:src/diffusers/schedulers (0.42.1), `set_timesteps` of DDIM, Euler and
            DPM-Solver multistep; changzheng123/L-CAD@3e1d8d6 for `as_published`.
        Deviation: for some counts (61, 103 ...) diffusers' `trailing` list has a surplus timestep -1, from rounding;
            it is left out. Counts at which diffusers visits a timestep twice or above T - 1 are refused.
        """
        _check_choice(spacing, get_args(TimestepSpacing), "spacing")
        _check_choice(solver, get_args(SolverName), "solver")
        num_train, num_steps = self.num_train_timesteps, num_inference_steps
        is_count = isinstance(num_steps, int) and not isinstance(num_steps, bool)
        if not is_count or not 1 <= num_steps <= num_train:
            raise RangeError(f"num_inference_steps is {num_steps!r}, but an integer from 1 to {num_train} is expected.")

        # Ascending positions; DPM-Solver++ divides the range once more, so that its last step has room to end in.
        num_points = num_steps + 1 if solver == "dpmpp_2m" else num_steps
        if as_published and solver != "dpmpp_2m":
            if spacing != "leading":
                raise RangeError(f"spacing is {spacing!r}, but the published list is 'leading'; use that spacing.")
            positions = np.arange(0, num_train, num_train // num_steps)[::-1] + 1.0
        elif spacing == "leading":
            positions = np.arange(num_points)[::-1][:num_steps] * float(num_train // num_points) + self.steps_offset
        elif spacing == "linspace":
            positions = np.linspace(0, num_train - 1, num_points)[::-1][:num_steps]
        else:
            positions = np.round(np.arange(num_train, 0, -num_train / num_steps))[:num_steps] - 1.0
        if solver != "euler":
            positions = positions.round()

        if positions[0] > num_train - 1 or positions[-1] < 0 or (np.diff(positions) >= 0).any():
            kind = "published" if as_published else spacing
            raise RangeError(
                f"num_inference_steps is {num_steps}, but the {kind} list of {solver} for this count leaves 0 to "
                f"{num_train - 1} or visits a timestep twice; take another count."
            )
        is_integer = bool((positions == positions.round()).all())
        return torch.from_numpy(positions.astype(np.int64 if is_integer else np.float32))

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor | float) -> torch.Tensor:
        """Make clean latents as noisy as they are at a timestep: sqrt(abar) x0 + sqrt(1 - abar) noise.

        Args:
            latents: (B, C, h, w) float, clean, already scaled.
            noise: as `latents`, standard normal.
            timesteps: (B,) integers, one for each picture, or one number for all.

        Returns:
            As `latents`.

        Raises:
            ShapeError: `noise` has another shape, or `timesteps` is neither one number nor B numbers.
            RangeError: a timestep is outside [0, T - 1].
        """
        alpha, sigma = self._factors(latents, timesteps)
        x0, noise = working_precision(latents), _like(noise, latents, "noise")
        return (alpha * x0 + sigma * noise).to(latents.dtype)

    def training_target(
        self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor | float
    ) -> torch.Tensor:
        """Return what the network should predict for `add_noise(latents, noise, timesteps)`; arguments as there."""
        alpha, sigma = self._factors(latents, timesteps)
        x0, noise = working_precision(latents), _like(noise, latents, "noise")
        if self.prediction_type == "epsilon":
            target = noise
        elif self.prediction_type == "v_prediction":
            target = alpha * noise - sigma * x0
        else:
            target = x0
        return target.to(latents.dtype)

    def to_noise_pred(
        self, model_output: torch.Tensor, latents: torch.Tensor, timestep: torch.Tensor | float
    ) -> torch.Tensor:
        """Turn a network output of any prediction type into predicted noise.

        epsilon is the output itself; v gives sqrt(abar) v + sqrt(1 - abar) x_t; sample gives (x_t - sqrt(abar) x0) /
        sqrt(1 - abar).

        Args:
            model_output: as `latents`; its kind is `prediction_type`.
            latents: (B, C, h, w) float, noisy, what the network saw.
            timestep: where the latents are, one number or (B,).

        Returns:
            Predicted noise as `latents`.

        Raises:
            ShapeError: `model_output` has another shape than `latents`.
            RangeError: the timestep is outside [0, T - 1].
        """
        output = _like(model_output, latents, "model_output")
        if self.prediction_type == "epsilon":
            return output.to(latents.dtype)
        alpha, sigma = self._factors(latents, timestep)
        x = working_precision(latents)
        noise_pred = (
            alpha * output + sigma * x if self.prediction_type == "v_prediction" else (x - alpha * output) / sigma
        )
        return noise_pred.to(latents.dtype)

    def to_original_sample(
        self, noise_pred: torch.Tensor, latents: torch.Tensor, timestep: torch.Tensor | float
    ) -> torch.Tensor:
        """Return the clean latents that predicted noise implies, x0 = (x_t - sqrt(1 - abar) noise) / sqrt(abar).

        Args, Returns and Raises as `to_noise_pred`, with predicted noise in place of the network's output.
        """
        alpha, sigma = self._factors(latents, timestep)
        noise_pred = _like(noise_pred, latents, "noise_pred")
        return ((working_precision(latents) - sigma * noise_pred) / alpha).to(latents.dtype)

    def to_config(self) -> dict[str, Any]:
        """Return the fields in the form of diffusers' `scheduler_config.json` of a DDIM scheduler."""
        return {"_class_name": "DDIMScheduler", **asdict(self), "clip_sample": False, "timestep_spacing": "leading"}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "NoiseSchedule":
        """Read diffusers' `scheduler_config.json` of any scheduler with betas.

        The sampling options of one solver (order, final step, spacing) are not part of a noise schedule and are
        ignored; missing fields take diffusers' defaults, not Stable Diffusion's.

        Raises:
            RangeError: the file asks for something that changes the numbers and that colorlab does not have.
        """
        for option in _UNSUPPORTED_OPTIONS:
            # Not `if config.get(option)`: betas may be an array.
            if config.get(option) is not None and config[option] is not False:
                raise RangeError(f"The scheduler configuration sets {option}, which colorlab does not have; remove it.")
        diffusers_defaults = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear", "steps_offset": 0}
        known = {field.name for field in fields(cls)}
        values = {**diffusers_defaults, "set_alpha_to_one": True, **config}
        return cls(**{name: value for name, value in values.items() if name in known})

    def _factors(self, latents: torch.Tensor, timesteps: torch.Tensor | float) -> tuple[Any, Any]:
        """Return (sqrt(abar), sqrt(1 - abar)) as floats, or as (B, 1, 1, 1) tensors when there are B timesteps."""
        if not isinstance(timesteps, torch.Tensor) or timesteps.numel() == 1:
            return self.alpha_sigma_at(float(timesteps))
        if timesteps.shape != latents.shape[:1] or timesteps.is_floating_point():
            raise ShapeError(
                f"timesteps has shape {tuple(timesteps.shape)} and dtype {timesteps.dtype}, but one number or "
                f"({latents.shape[0]},) integers are expected for latents of shape {tuple(latents.shape)}."
            )
        check_range(timesteps, 0, self.num_train_timesteps - 1, "timesteps")
        alphas_cumprod = self.alphas_cumprod[timesteps.cpu()].to(working_precision(latents))
        alphas_cumprod = alphas_cumprod.reshape(-1, *[1] * (latents.ndim - 1))
        return alphas_cumprod**0.5, (1 - alphas_cumprod) ** 0.5


def working_precision(tensor: torch.Tensor) -> torch.Tensor:
    """Return a float tensor in float32, or in float64 if it is that already: solvers do no arithmetic in half."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _like(tensor: torch.Tensor, latents: torch.Tensor, name: str) -> torch.Tensor:
    """Check that a tensor has the shape of the latents; return it in their working precision and on their device."""
    if tensor.shape != latents.shape:
        raise ShapeError(
            f"{name} has shape {tuple(tensor.shape)}, but that of the latents, {tuple(latents.shape)}, is expected."
        )
    return tensor.to(working_precision(latents))


def _check_choice(value: Any, choices: tuple[Any, ...], name: str) -> None:
    """Raise RangeError when a value is none of the choices."""
    if value not in choices:
        raise RangeError(
            f"{name} is {value!r}, but one of {', '.join(map(repr, cast(tuple[str, ...], choices)))} is expected."
        )
