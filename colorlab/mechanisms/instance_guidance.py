"""L-CAD's instance-aware sampling: each phrase of the prompt is kept to the mask of the object that it describes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import nn

from colorlab.exhibits import Exhibit
from colorlab.mechanisms.base import NO_PROBE, Call, Mechanism, Parameter, Phase, UpcomingCall
from colorlab.mechanisms.instance_updates import (
    hard_scores,
    masks_on_grid,
    release_update,
    softmax_loss,
    softmax_update,
    strength_update,
)
from colorlab.networks.kept_scores import KeptScores, put_scores
from colorlab.networks.patching import Patch, PatchCall
from colorlab.networks.sites import Site, find_sites
from colorlab.settings import Settings

__all__ = ["GUIDED", "InstanceGuidance"]

GUIDED = "guided_cond"
"""Name of the second pass, which is the prediction with the prompt once the scores of the first are known."""

_FIRST = "cond"


class InstanceGuidance(Mechanism):
    """Push the attention of each masked phrase into its mask, so that two cups get the colors that are meant for them.

    Acts where the conditioning has masks, on the scores of the cross-attention in the pass with the prompt.

    | `variant` | what it does to the scores of a phrase | published |
    | --- | --- | --- |
    | `strength` | - strength (sigmoid(s) - M): up within the mask, down outside | no |
    | `hard` | minus infinity where the mask does not reach | no |
    | `release` | the same as `strength`, divided by the number of scores: next to nothing | release |
    | `softmax` | down the gradient of the attention outside of the mask | first version |
    | `latent` | none; the noisy latents take one step down that gradient, for a second call | first version |

    With `passes` "one" a layer sees what the guided layers before it made. With "two", as published, a first call gives
    the scores, and a second one (`guided_cond`) gets them changed, with the self-attention of the first; half as much
    again is computed. `latent` always takes two.

    Source: L-CAD, arXiv 2305.15217; `changzheng123/L-CAD@3e1d8d6`, the variants `softmax` and `latent` `@fab2567`.
    Deviation: any number of heads, pictures and instances, grids of any shape; masks count by the share of a cell that
        they cover (as published by one pixel). The default is `strength`, because the released step does nothing. The
        second call of `latent` has its own scores (as published those of the first).
    """

    name = "instance_guidance"
    phase: ClassVar[Phase] = "predict"
    parameters = (
        Parameter(
            "variant",
            "strength",
            choices=("strength", "hard", "release", "softmax", "latent"),
            doc="How scores are changed.",
        ),
        Parameter("strength", 8.0, high=100.0, doc="Of the variant strength: most that a score moves."),
        Parameter("step_size", 1.0, high=1e6, doc="Of the variants release and softmax; published 1."),
        Parameter("latent_rate", 0.1, high=1e3, doc="Step size of the variant latent; published 0.1."),
        Parameter("passes", "one", choices=("one", "two"), doc="Calls of the network for the guided prediction."),
        Parameter("resolutions", (), low=1.0, high=4096.0, unit="cells", doc="Longer sides of the grids; empty: all."),
        Parameter("min_timestep", 0.0, high=1000.0, unit="timesteps", doc="It acts from this timestep on."),
        Parameter("max_timestep", 1000.0, high=1000.0, unit="timesteps", doc="It acts up to this timestep."),
    )

    def acts(self, settings: Settings, timestep: float | None = None) -> bool:
        """Return whether it acts at a timestep; None asks whether it may act at all."""
        values = self.in_force(settings)
        low, high = (cast(float, values[name]) for name in ("min_timestep", "max_timestep"))
        return self.is_on(settings) and (timestep is None or low <= timestep <= high)

    def passes(self, settings: Settings, timestep: float | None = None) -> tuple[str, ...]:
        """Name the second pass, where there is one."""
        values = self.in_force(settings)
        is_second = values["passes"] == "two" or values["variant"] == "latent"
        return (GUIDED,) if is_second and self.acts(settings, timestep) else ()

    def patches(self, call: UpcomingCall) -> Sequence[Patch]:
        """Return the changes of the scores, where one pass is enough."""
        prepared, settings = call.prepared, call.settings
        if prepared.instance_masks is None or not self.acts(settings, call.timestep) or self.passes(settings):
            return ()
        sites = self.sites(call.network, call.latent_shape, settings)
        return [
            Patch(site.path, "scores", self._change(site, call.latent_shape, prepared, settings), _FIRST)
            for site in sites
        ]

    def sites(self, network: nn.Module, latent_shape: Sequence[int], settings: Settings) -> tuple[Site, ...]:
        """Return the cross-attention layers where it acts, in the order of computation."""
        sides = cast(tuple[float, ...], self.in_force(settings)["resolutions"])
        return tuple(
            site for site in find_sites(network, latent_shape, kind="attn2") if not sides or max(site.grid) in sides
        )

    def guided_scores(
        self, scores: torch.Tensor, site: Site, latent_shape: Sequence[int], prepared: Any, settings: Settings
    ) -> torch.Tensor:
        """Return the scores (B, heads, Q, N) of a layer after guidance."""
        values, is_published = self.in_force(settings), settings.as_published
        tokens = prepared.phrase_tokens
        masks = masks_on_grid(prepared.instance_masks, site.grid, as_published=is_published)
        step_size = cast(float, values["step_size"])
        match values["variant"]:
            case "strength":
                return scores + strength_update(scores, tokens, masks, cast(float, values["strength"]))
            case "hard":
                return hard_scores(scores, tokens, masks)
            case "release":
                return scores + step_size * release_update(scores, tokens, masks, as_published=is_published)
            case "softmax":
                share = _cell_share(site, latent_shape)
                return scores + step_size * softmax_update(scores, tokens, masks, cell_share=share)
            case _:
                return scores

    def second_patches(
        self, kept: KeptScores, network: nn.Module, latent_shape: Sequence[int], prepared: Any, settings: Settings
    ) -> list[Patch]:
        """Return the patches of the second call: the scores of the first, those of the cross-attention guided."""
        if self.is_latent(settings) and not settings.as_published:
            return []
        sites = {site.path: site for site in self.sites(network, latent_shape, settings)}
        return put_scores(
            {
                (path, GUIDED): self.guided_scores(scores, sites[path], latent_shape, prepared, settings)
                if path in sites
                else scores
                for (path, _), scores in kept.items()
            }
        )

    def is_latent(self, settings: Settings) -> bool:
        """Return whether the latents are moved instead of the scores, which needs gradients of the first call."""
        return self.in_force(settings)["variant"] == "latent"

    @torch.enable_grad()
    def moved_latents(
        self,
        latents: torch.Tensor,
        kept: KeptScores,
        network: nn.Module,
        prepared: Any,
        settings: Settings,
    ) -> torch.Tensor:
        """Return the latents after one step down the gradient of the attention outside of the masks.

        Args:
            latents: (B, C, h, w), which entered the first call and require a gradient.
            kept: scores of that call in the pass with the prompt, with their graph.
            network: the denoising network.
            prepared: the encoded conditioning.
            settings: what is in force.
        """
        losses = []
        for site in self.sites(network, latents.shape, settings):
            masks = masks_on_grid(prepared.instance_masks, site.grid, as_published=settings.as_published)
            share = _cell_share(site, latents.shape)
            losses.append(softmax_loss(kept[site.path, _FIRST], prepared.phrase_tokens, masks, cell_share=share))
        (gradient,) = torch.autograd.grad(torch.stack(losses).sum(), latents)
        return (latents - cast(float, self.in_force(settings)["latent_rate"]) * gradient).detach()

    def explain(self, call: Call, probe: Mapping[str, torch.Tensor] = NO_PROBE) -> dict[str, Exhibit]:
        """Show the masks, each with the places of its tokens. No network call; `run.phrase` shows what they do."""
        masks, tokens = (call.prepared.get(name) for name in ("instance_masks", "phrase_tokens"))
        if call.record is None or masks is None or tokens is None:
            return {}
        is_acting = "kept there" if self.acts(call.settings, call.record.timestep) else "not kept there at this step"
        return {
            f"mask_{index}": Exhibit(
                array=masks[0, index].float().numpy(),
                axes=("y", "x"),
                unit="share of the pixel",
                caption=f"Where the tokens {tokens[0, index].nonzero().flatten().tolist()} belong, {is_acting}.",
                provenance=dict(call.provenance),
            )
            for index in range(masks.shape[1])
        }

    def _change(
        self, site: Site, latent_shape: Sequence[int], prepared: Any, settings: Settings
    ) -> Callable[[torch.Tensor, PatchCall], torch.Tensor]:
        """Return the patch function of one layer."""

        def change(scores: torch.Tensor, where: PatchCall) -> torch.Tensor:
            return self.guided_scores(scores, site, latent_shape, prepared, settings)

        return change


def _cell_share(site: Site, latent_shape: Sequence[int]) -> float:
    """Return how many latent cells one cell of a grid stands for."""
    return (latent_shape[-2] * latent_shape[-1]) / (site.grid[0] * site.grid[1])
