"""Exemplar guidance: each step's clean picture is pulled toward the colors of a reference picture."""

from collections.abc import Callable, Mapping
from typing import ClassVar, cast

import torch

from colorlab.exhibits import Exhibit
from colorlab.mechanisms.base import NO_PROBE, Call, Mechanism, Parameter, Phase
from colorlab.mechanisms.exemplar_losses import exemplar_loss, grayscale_loss
from colorlab.settings import Settings

__all__ = ["ExemplarGuidance", "Features"]

Features = Callable[[torch.Tensor], Mapping[str, torch.Tensor]]
"""Picture (B, 3, H, W) in [0, 1] to features (B, C, h, w) by layer, differentiable."""


class ExemplarGuidance(Mechanism):
    """Move the predicted clean latents down the gradient of the exemplar's losses, through the decoder alone.

    | symbol | variable |
    | --- | --- |
    | x0, of the guided prediction | `clean` |
    | g = grad of L_cx + w L_gray at the decoded x0 | `gradient` |
    | x0 - s rms(x0) g / rms(g) | what the step goes on with; s is the scale |
    | + s rms(x0) (alpha / sigma) g / rms(g) | `steering`, the same said of the predicted noise |

    One backward pass through the decoder and the features; the denoising network needs no gradient. What is added is
    kept in the record of the step, so that a replay needs none either.

    With `through_unet` the gradient is taken at the noisy latents instead, through the denoising network too: one more
    call of it, forward and back, without self-attention guidance and edits. It may then move what the network would
    say, not only what it said.

    Source: CtrlColor, arXiv 2402.10855, trains with these losses; using them as guidance is ours, and so is the scale.
        The gradient at the noisy latents is that of arXiv 2302.07121 (forward universal guidance).
    """

    name = "exemplar_guidance"
    phase: ClassVar[Phase] = "guide"
    parameters = (
        Parameter("exemplar_scale", 0.0, high=1.0, doc="Length of a pull as a share of the clean latents; 0 is off."),
        Parameter("gray_weight", 1.0, high=100.0, doc="Weight of the input's gray against the exemplar's colors."),
        Parameter("bandwidth", 0.1, low=0.01, high=2.0, doc="Small: only the best match of a color counts."),
        Parameter("min_timestep", 0.0, high=1000.0, unit="timesteps", doc="It acts above this timestep."),
        Parameter("through_unet", False, doc="Take the gradient at the noisy latents, through the denoising network."),
    )

    def acts(self, settings: Settings, timestep: float) -> bool:
        """Return whether it acts at a timestep."""
        values = self.in_force(settings)
        is_wanted = cast(float, values["exemplar_scale"]) > 0 and self.is_on(settings)
        return is_wanted and timestep > cast(float, values["min_timestep"])

    def is_through_unet(self, settings: Settings) -> bool:
        """Return whether the gradient goes through the denoising network too."""
        return bool(self.in_force(settings)["through_unet"])

    def loss(
        self,
        image: torch.Tensor,
        gray: torch.Tensor,
        reference: Mapping[str, torch.Tensor],
        features: Features,
        settings: Settings,
        *,
        weights: Mapping[str, float] | None = None,
    ) -> torch.Tensor:
        """Return how far a picture is from the exemplar's colors and the input's gray.

        Args:
            image: (B, 3, H, W), [0, 1].
            gray: (1, 1, H, W), [0, 1].
            reference: features of the exemplar by layer.
            features: what gave them.
            settings: what is in force.
            weights: how much each layer counts; None lets all count alike, 1 together.

        Returns:
            (B,).
        """
        values = self.in_force(settings)
        seen = features(image)
        expanded = {name: part.expand(len(image), -1, -1, -1) for name, part in reference.items()}
        weights = weights or {name: 1.0 / len(reference) for name in reference}
        color = exemplar_loss(seen, expanded, weights, bandwidth=cast(float, values["bandwidth"]))
        return color + cast(float, values["gray_weight"]) * grayscale_loss(image, gray)

    def steering(
        self,
        clean: torch.Tensor,
        loss: Callable[[torch.Tensor], torch.Tensor],
        settings: Settings,
        *,
        alpha: float,
        sigma: float,
        at: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return what is added to the predicted noise.

        Args:
            clean: (B, C, h, w), the predicted clean latents.
            loss: latents to (B,), differentiable.
            settings: what is in force.
            alpha: sqrt(abar) of the timestep.
            sigma: sqrt(1 - abar).
            at: (B, C, h, w), the latents at which the gradient of `loss` is taken; None for `clean`.

        Returns:
            As `clean`; 0 for a picture whose loss has no gradient.
        """
        with torch.enable_grad():
            leaf = (clean if at is None else at).detach().clone().requires_grad_()
            (gradient,) = torch.autograd.grad(loss(leaf).sum(), leaf)
        lengths = [part.square().mean(dim=(1, 2, 3), keepdim=True).sqrt() for part in (clean, gradient)]
        scale = cast(float, self.in_force(settings)["exemplar_scale"])
        unit = torch.where(lengths[1] > 0, gradient / lengths[1].clamp(min=1e-30), 0.0)
        return scale * lengths[0] * (alpha / sigma) * unit

    def explain(self, call: Call, probe: Mapping[str, torch.Tensor] = NO_PROBE) -> dict[str, Exhibit]:
        """Show where the exemplar pulled. No network call."""
        if call.record is None or "steering" not in call.record.network_inputs:
            return {}
        return {
            "pull": Exhibit(
                array=torch.linalg.vector_norm(call.record.network_inputs["steering"].float(), dim=1)[0].numpy(),
                axes=("h", "w"),
                unit="noise standard deviations",
                caption=f"How far the exemplar moved the predicted noise at step {call.record.step_index}.",
                provenance=dict(call.provenance),
            )
        }
