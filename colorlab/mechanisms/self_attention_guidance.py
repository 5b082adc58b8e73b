"""Self-attention guidance: away from what the model predicts once the regions it attends to are blurred."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, cast

import torch
from torch import nn
from torch.nn import functional

from colorlab.errors import StateError
from colorlab.exhibits import Exhibit
from colorlab.mechanisms.base import NO_PROBE, Call, Mechanism, Parameter, Phase
from colorlab.mechanisms.classifier_free_guidance import ClassifierFreeGuidance
from colorlab.networks.probe import Reading
from colorlab.networks.sites import Site, find_sites
from colorlab.sampling.state import check_same_shape
from colorlab.settings import Settings
from colorlab.shapes import check_shape

__all__ = ["DEGRADED", "SAG_DEGRADED", "SAG_RECEIVED", "SelfAttentionGuidance", "received_attention"]

DEGRADED = "degraded_"
"""What stands in front of the name of a guidance pass that sees the blurred prediction."""
# Under which names the record of a step keeps what was attended to, and what the network was shown again.
SAG_RECEIVED, SAG_DEGRADED = "sag_received", "sag_degraded"

_SITES = {"mid": "mid_block.*", "up": "up_blocks.*"}
# One level of attention received is what even attention gives every token; strictly more is salient.
_EVEN = 1.0


class SelfAttentionGuidance(Mechanism):
    """Blur the predicted clean picture where much attention goes, ask the model again, and step away from that answer.

    | symbol | variable |
    | --- | --- |
    | A, of some heads of the first pass | `reading` |
    | r_j = sum_i mean_h A_hij | `received`; its mean over j is 1 |
    | M = 1[r > threshold] | `salient` |
    | x~ = M G(x0) + (1 - M) x0 | `degrade` |
    | e~ = e(x~, t) | the passes named `degraded_...` |
    | e + s (e - e~) | `guide` |

    | | `streamlined` (CtrlColor) | `original` |
    | --- | --- | --- |
    | clean picture of | the guided prediction | the first pass |
    | x~ enters | as it is, though the timestep says noise | with the noise of the first pass |
    | e and e~ | after classifier-free guidance, both passes asked again | of the first pass alone |
    | paper's scale, timesteps | 0.05, above 600 | 0.75, all (`min_timestep` 0) |

    The first pass is the one without the prompt, or the only one where there is no classifier-free guidance.

    Source: CtrlColor, arXiv 2402.10855 (streamlined self-attention guidance) and `ZhexinLiang/Control-Color@f21054a`;
        original: arXiv 2210.00939 v6, Algorithm 1, and `huggingface/diffusers`, `StableDiffusionSAGPipeline`.
    Deviation: of several pictures each has its own attention (as published the second gets that of the first); latents
        of at most four cells a side get a smaller blur (the released code fails there). The upper site is ours.
    """

    name = "self_attention_guidance"
    phase: ClassVar[Phase] = "guide"
    is_refinement = True
    parameters = (
        Parameter("sag_scale", 0.05, high=2.0, doc="How far to go; 0 is off."),
        Parameter("min_timestep", 600.0, high=1000.0, unit="timesteps", doc="It acts above this timestep."),
        Parameter("variant", "streamlined", choices=("streamlined", "original"), doc="CtrlColor's, or the original."),
        Parameter("site", "mid", choices=("mid", "up"), doc="Self-attention of the middle, or the first upwards."),
        Parameter("heads", "first_half", choices=("first_half", "all"), doc="Whose attention; published half."),
        Parameter("threshold", _EVEN, high=16.0, doc="Attention received above which a token is salient."),
        Parameter("blur_sigma", 1.0, unit="latent cells", low=0.05, high=8.0, doc="Standard deviation of the blur."),
        Parameter("blur_radius", 4.0, unit="latent cells", low=1.0, high=32.0, doc="Where the blur is cut off."),
    )

    def acts(self, settings: Settings, timestep: float | None = None) -> bool:
        """Return whether it acts at a timestep; None asks whether it may act at all."""
        values = self.in_force(settings)
        is_in_range = timestep is None or timestep > cast(float, values["min_timestep"])
        return self.is_on(settings) and cast(float, values["sag_scale"]) > 0 and is_in_range

    def is_original(self, settings: Settings) -> bool:
        """Return whether the original variant is in force."""
        return self.in_force(settings)["variant"] == "original"

    def passes(
        self, guidance_passes: Sequence[str], settings: Settings, timestep: float | None = None
    ) -> tuple[str, ...]:
        """Name the extra passes of a step, given those of classifier-free guidance; none where it does not act."""
        if not self.acts(settings, timestep):
            return ()
        asked = guidance_passes[:1] if self.is_original(settings) else guidance_passes
        return tuple(DEGRADED + name for name in asked)

    def find_site(self, network: nn.Module, latent_shape: Sequence[int], settings: Settings) -> Site:
        """Return the self-attention layer that is read.

        Raises:
            RangeError: the network has none there.
        """
        place = cast(str, self.in_force(settings)["site"])
        return find_sites(network, latent_shape, glob=_SITES[place], kind="attn1")[0]

    def reading_of(self, readings: Mapping[tuple[str, str], Reading]) -> Reading:
        """Return the one reading of a probe.

        Raises:
            StateError: nothing was read.
        """
        for reading in readings.values():
            return reading
        raise StateError(
            "Self-attention guidance read no attention, which a compiled network never hands out; load the model "
            "without compiling it, or set sag_scale to 0."
        )

    def received(self, reading: Reading, settings: Settings) -> torch.Tensor:
        """Return the attention that each token receives, (B, 1, h, w) float32 on the grid of the site."""
        q, k = reading.get("q").float(), reading.get("k").float()
        probs = (q @ k.transpose(-1, -2) * reading.scale).softmax(dim=-1)
        heads = cast(str, self.in_force(settings)["heads"])
        received = received_attention(probs, heads=heads, as_published=settings.as_published)
        return received.unflatten(1, (1, *reading.site.grid))

    def salient(self, received: torch.Tensor, size: tuple[int, int], settings: Settings) -> torch.Tensor:
        """Return where to blur, (B, 1, h, w) of 0 and 1 at the size of the latents."""
        mask = (received > cast(float, self.in_force(settings)["threshold"])).float()
        return functional.interpolate(mask, size=size, mode="nearest")

    def degrade(self, clean: torch.Tensor, received: torch.Tensor, settings: Settings) -> torch.Tensor:
        """Blur clean latents where much attention goes.

        Args:
            clean: (B, C, h, w) float32, the predicted clean latents.
            received: (B, 1, rows, columns), see `received`.
            settings: what is in force.

        Returns:
            As `clean`.
        """
        values = self.in_force(settings)
        mask = self.salient(received, (clean.shape[-2], clean.shape[-1]), settings)
        blurred = _blur(clean, cast(float, values["blur_sigma"]), int(cast(float, values["blur_radius"])))
        return mask * blurred + (1 - mask) * clean

    def guide(
        self, noise_pred: torch.Tensor, degraded: torch.Tensor, settings: Settings, *, base: torch.Tensor
    ) -> torch.Tensor:
        """Step away from the degraded prediction: e + s (base - degraded).

        Args:
            noise_pred: (B, C, h, w), after classifier-free guidance.
            degraded: as `noise_pred`, predicted for the blurred picture.
            settings: what is in force.
            base: what `degraded` is compared with: `noise_pred` itself, or the first pass in the original variant.
        """
        check_same_shape(degraded, noise_pred, "degraded")
        return noise_pred + cast(float, self.in_force(settings)["sag_scale"]) * (base - degraded)

    def explain(self, call: Call, probe: Mapping[str, torch.Tensor] = NO_PROBE) -> dict[str, Exhibit]:
        """Show what was attended to, what was blurred, and what came of it. No network call."""
        record = call.record
        if record is None or SAG_RECEIVED not in record.network_inputs:
            return {}
        received, degraded = (record.network_inputs[name].float() for name in (SAG_RECEIVED, SAG_DEGRADED))
        scale = cast(float, self.in_force(call.settings)["sag_scale"])
        away = record.noise_pred - ClassifierFreeGuidance().guide(record.predictions, call.settings)

        def exhibit(array: torch.Tensor, unit: str, caption: str, baseline: torch.Tensor | None = None) -> Exhibit:
            return Exhibit(
                array=array.numpy(),
                axes=("h", "w"),
                unit=unit,
                caption=caption,
                provenance=dict(call.provenance),
                baseline=None if baseline is None else baseline.numpy(),
            )

        mask = self.salient(received, (degraded.shape[-2], degraded.shape[-1]), call.settings)
        lengths = [torch.linalg.vector_norm(part, dim=1)[0] for part in (degraded, record.pred_original_sample, away)]
        return {
            "received": exhibit(
                received[0, 0],
                "of even attention",
                "Attention that each token receives from all others; its baseline is even attention.",
                torch.ones_like(received[0, 0]),
            ),
            "mask": exhibit(mask[0, 0], "", "Where the predicted picture was blurred before it was shown again."),
            "blurred": exhibit(
                lengths[0],
                "latent length",
                "The blurred prediction, its length over the latent channels; its baseline is the guided prediction.",
                lengths[1],
            ),
            "correction": exhibit(
                lengths[2],
                "noise standard deviations",
                f"How far the guidance moved the noise at step {record.step_index}, scale {scale:g} included.",
            ),
        }


def received_attention(probs: torch.Tensor, *, heads: str = "all", as_published: bool = False) -> torch.Tensor:
    """Sum the attention that each token receives over all queries, averaged over heads.

    Args:
        probs: (B, heads, N, N), after the softmax.
        heads: "all" or "first_half".
        as_published: the first half of all (B heads) matrices is dealt out to the pictures in order, so that of
            several pictures the second gets heads of the first.

    Returns:
        (B, N); its mean over N is 1.

    Raises:
        ShapeError: `probs` is not (B, heads, N, N).
    """
    sizes = check_shape(probs, "B heads N N", "probs")
    if heads == "first_half":
        half = max(1, sizes["heads"] // 2)
        if as_published:
            probs = probs.flatten(0, 1)[: sizes["B"] * half].unflatten(0, (sizes["B"], half))
        probs = probs[:, :half]
    return probs.mean(dim=1).sum(dim=1)


def _blur(latents: torch.Tensor, sigma: float, radius: int) -> torch.Tensor:
    """Blur with a Gaussian cut off at a radius, edges reflected; the radius stays below each side."""
    for dim, size in ((-2, latents.shape[-2]), (-1, latents.shape[-1])):
        reach = min(radius, size - 1)
        kernel = torch.exp(
            -0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float32, device=latents.device) / sigma) ** 2
        )
        shape = [1, 1, 1, 1]
        shape[dim] = len(kernel)
        weight = (kernel / kernel.sum()).reshape(shape).repeat(latents.shape[1], 1, 1, 1)
        padding = (0, 0, reach, reach) if dim == -2 else (reach, reach, 0, 0)
        padded = functional.pad(latents, padding, mode="reflect")
        latents = functional.conv2d(padded, weight.to(latents), groups=latents.shape[1])
    return latents
