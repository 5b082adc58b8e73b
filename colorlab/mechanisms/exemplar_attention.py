"""How strongly, where and when cross-attention sees the exemplar.

| group | cross-attention layers | what the authors say of it |
| --- | --- | --- |
| `encoder` | all on the way down | |
| `middle` | at half the latents' size, both ways | colors |
| `low` | at a quarter, both ways | semantics |
| none | the middle block, and those of full size on the way up | never scaled by the strength |
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, cast

import torch

from colorlab.errors import RangeError
from colorlab.exhibits import Exhibit
from colorlab.mechanisms.base import NO_PROBE, Call, Mechanism, Parameter, Phase, UpcomingCall
from colorlab.networks.patching import Patch, PatchFunction
from colorlab.networks.sites import Site
from colorlab.settings import Settings

__all__ = ["ExemplarAttention", "layer_scales"]


class ExemplarAttention(Mechanism):
    """Scale what cross-attention reads from the exemplar, by groups of layers or one by one, and in a part of the run.

    A layer scaled to 0 gives exactly what it gives without an exemplar: the bias of its output.

    Where the run is, is told by 1 - t / (T - 1), from 0 at the noisiest timestep to 1; both windows include their ends.
    Outside of `start` to `end`, and inside of `skip_start` to `skip_end`, all passes see one token of zeros.

    `canvas_scale` pastes the exemplar on a white canvas so many times as wide before CLIP sees it, which is said to
    help against the exemplar's shapes in the picture. `noise_level` is the share of the run, from its beginning, in
    which the tokens are as noisy as the latents.

    Source: tellurion-kanata/colorizeDiffusion@c9bd9fb; the noise level @d876b7e.
    Deviation: the windows are asked at every step; as published the token of zeros, once there, stays until the end.
        Noise of the tokens is drawn anew at every step; the released code adds it up where nothing is guided.
    """

    name = "exemplar_attention"
    phase: ClassVar[Phase] = "predict"
    parameters = (
        Parameter("strength", 1.0, doc="Factor on the scales of the three groups."),
        Parameter("encoder_scale", 1.0, doc="Scale of the layers on the way down."),
        Parameter("color_scale", 1.0, doc="Scale of the group middle, said to decide colors."),
        Parameter("semantics_scale", 1.0, doc="Scale of the group low, said to decide semantics."),
        Parameter("layer_scales", (), doc="A scale for each cross-attention layer in order, instead of groups."),
        Parameter("start", 0.0, unit="of the run", doc="Where the exemplar begins to count."),
        Parameter("end", 1.0, unit="of the run", doc="Where it stops."),
        Parameter("skip_start", -0.05, low=-1.0, unit="of the run", doc="Begin of a stretch without it."),
        Parameter("skip_end", -0.05, low=-1.0, unit="of the run", doc="End of that stretch."),
        Parameter("canvas_scale", 1.0, low=1.0, high=2.0, doc="Width of the white canvas around the exemplar."),
        Parameter("noise_level", 0.0, unit="of the run", doc="Until where its tokens are noisy."),
    )

    def is_seen(self, timestep: float, settings: Settings, num_train_timesteps: int) -> bool:
        """Return whether the exemplar counts at a timestep."""
        values = self.in_force(settings)
        if not self.is_on(settings):
            return True
        start, end, skip_start, skip_end = (
            cast(float, values[name]) for name in ("start", "end", "skip_start", "skip_end")
        )
        place = 1 - timestep / (num_train_timesteps - 1)
        return start <= place <= end and not skip_start <= place <= skip_end

    def is_noisy(self, timestep: float, settings: Settings, num_train_timesteps: int) -> bool:
        """Return whether the exemplar's tokens are noisy at a timestep."""
        level = cast(float, self.in_force(settings)["noise_level"])
        return self.is_on(settings) and 1 - timestep / num_train_timesteps < level

    def canvas_scale(self, settings: Settings) -> float:
        """Return how many times as wide as the exemplar its canvas is."""
        values = self.in_force(settings)
        return cast(float, values["canvas_scale"]) if self.is_on(settings) else 1.0

    def patches(self, call: UpcomingCall) -> Sequence[Patch]:
        """Scale the values of every cross-attention layer whose scale is not 1."""
        sites = call.sites(kind="attn2")
        scales = layer_scales(sites, (call.latent_shape[1], call.latent_shape[2]), self, call.settings)
        return [
            Patch(site.path, "v", _scaled(scale)) for site, scale in zip(sites, scales, strict=True) if scale != 1.0
        ]

    def explain(self, call: Call, probe: Mapping[str, torch.Tensor] = NO_PROBE) -> dict[str, Exhibit]:
        """Show nothing of its own: attention to the exemplar is what `run.attention` shows."""
        return {}


def layer_scales(
    sites: Sequence[Site], latent_size: tuple[int, int], mechanism: ExemplarAttention, settings: Settings
) -> tuple[float, ...]:
    """Return the scale of each cross-attention layer.

    The groups are written in the order encoder, middle, low, so that a later one overwrites an earlier one.

    Args:
        sites: all cross-attention layers, in order.
        latent_size: (h, w) of the latents.
        mechanism: whose parameters count.
        settings: what is in force.

    Returns:
        As many scales as there are `sites`.

    Raises:
        RangeError: `layer_scales` has another number of scales than there are layers.
    """
    values = mechanism.in_force(settings)
    single = cast(tuple[float, ...], values["layer_scales"])
    if single:
        if len(single) != len(sites):
            raise RangeError(
                f"{mechanism.name}.layer_scales has {len(single)} scales, but this model has {len(sites)} "
                "cross-attention layers; give one for each."
            )
        return single
    strength, encoder, middle, low = (
        cast(float, values[name]) for name in ("strength", "encoder_scale", "color_scale", "semantics_scale")
    )
    scales = []
    for site in sites:
        factor = latent_size[0] // site.grid[0]
        scale = strength * encoder if site.path.startswith("down_blocks.") else 1.0
        if factor in (2, 4) and not site.path.startswith("mid_block."):
            scale = strength * (middle if factor == 2 else low)
        scales.append(scale)
    return tuple(scales)


def _scaled(scale: float) -> PatchFunction:
    """Return a patch function that multiplies by a scale."""
    return lambda tensor, call: tensor * scale
