"""Codings: what comes before and after the steps of a run, encoding and decoding, as calls that can be made again.

| | `Encoding` | `Decoding` |
| --- | --- | --- |
| networks | `luminance_encoder`, `text_encoder`, `vae.encoder` ... | `vae.decoder`, `deformable_vae.decoder` |
| of | what the user gave, as it is in force at a step | the clean prediction of a step, or the picture |
| made again by | the method's `prepare`, without its cache | the method's `decode` and finish |
| judged by | every tensor of what was prepared | the finished picture, kept in 8 bits |

Neither has guidance passes. A network may be called several times, for a prompt and then for the negative one:
`call 0`, `call 1` ... Encodings are not kept in run files but made when one is opened, and judged by those.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from colorlab.errors import RangeError, StateError
from colorlab.images import to_uint8
from colorlab.inspection.moments import Askable, PastCall, PastStep
from colorlab.inspection.places import picture_size
from colorlab.inspection.replay import ModelCall, moment_of, step_sites
from colorlab.inspection.verdicts import Verdict, compare_pictures, compare_tensors
from colorlab.methods.base import Method
from colorlab.networks.coder_sites import coder_networks, coder_sites, is_decoder
from colorlab.networks.environment import Environment
from colorlab.networks.passes import call_name, check_passes, main_pass
from colorlab.networks.sites import Site, SiteKind, select_sites
from colorlab.runs.run import Run
from colorlab.runs.segments import Segment, decode_picture

__all__ = ["Decoding", "Encoding", "all_sites", "as_step", "call_of", "choose_pass", "where_asked"]


@dataclass(frozen=True, eq=False)
class _Coding(ModelCall):
    """What encoding and decoding have in common; a `PastCall` of one network.

    Args:
        run: any run.
        step: index of the step at which it is looked at; the number of steps for the picture.
        name: of the network that is read.
    """

    run: Run
    step: int
    name: str

    @property
    def method(self) -> Method:
        """The loaded model."""
        return self.run.method

    @property
    def segment(self) -> Segment:
        """What is in force."""
        return self.run.segment_at(self.step)

    @property
    def step_index(self) -> int:
        """Index of the step."""
        return self.step

    @property
    def guidance_passes(self) -> None:
        """Calls are numbered."""
        return None

    @property
    def num_samples(self) -> int:
        """A run is one picture."""
        return 1

    @property
    def network(self) -> nn.Module:
        """The autoencoder, which every model has; its environment is taken for that of all encoders and decoders."""
        network: nn.Module = self.method.vae
        return network

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The network that is read."""
        return {self.name: coder_networks(self.method.networks)[self.name]}

    @property
    def sites(self) -> tuple[Site, ...]:
        """Its inspectable places."""
        return _sites_of(self.run, self.name, self.networks[self.name])

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the picture that was given, else of the one that comes out."""
        return picture_size(self.method, self.segment.conditioning, self.segment.prepared.latent_shape)

    @property
    def matrix_edits(self) -> tuple[str, ...]:
        """Edits are about the denoising network."""
        return ()


class Encoding(_Coding):
    """The encoding of what the user gave."""

    @property
    def identity(self) -> tuple[object, ...]:
        """What was prepared stands for it."""
        return (self.segment.prepared,)

    def predict(self, watch: AbstractContextManager[Any]) -> dict[str, torch.Tensor]:
        """Encode once more, everything; returns every tensor by name."""
        with watch, torch.no_grad():
            return self.method.prepare_anew(self.segment.conditioning, self.segment.settings).tensors()

    def judge(self, predictions: Mapping[str, torch.Tensor], environment: Environment) -> Verdict:
        """Compare with what was prepared."""
        kept = self.segment.prepared.tensors()
        return compare_tensors(kept, predictions, self.segment.environment, environment)


class Decoding(_Coding):
    """The decoding of the clean prediction of a step, or of the last state."""

    @property
    def identity(self) -> tuple[object, ...]:
        """What is decoded, under what is in force."""
        is_end = self.step == self.run.num_steps
        return (self.run.state if is_end else self.run.records[self.step], self.segment)

    def predict(self, watch: AbstractContextManager[Any]) -> dict[str, torch.Tensor]:
        """Decode and finish once more; returns the `picture` (H, W, 3) uint8."""
        latents = self.run.clean_latents(self.step)
        with watch:
            picture = to_uint8(decode_picture(self.method, self.segment, latents))
        return {"picture": torch.from_numpy(picture)}

    def judge(self, predictions: Mapping[str, torch.Tensor], environment: Environment) -> Verdict:
        """Compare with the picture that the run shows; it is decoded now if nobody has looked at it yet."""
        kept = self.run.decoded(self.step)
        # A copy: the array is read-only, which tensors do not know.
        return compare_pictures(torch.tensor(kept.image), predictions["picture"], kept.environment, environment)


def call_of(run: Askable, step: int, site: str | None) -> PastCall:
    """Return the call that computes a site: a step, or an encoding or decoding of a run.

    Args:
        run: any run or recording.
        step: index of the step; the number of steps for the decoding of the picture.
        site: path or pattern, the name of the network in front unless it is the denoising one; None for a step.

    Raises:
        StateError: the step was not taken.
        RangeError: the name in front of the site is that of an autoencoder, and does not say which half.
    """
    if site is None or not isinstance(run, Run):
        return moment_of(run, step)
    networks = coder_networks(run.method.networks)
    first = site.partition(".")[0]
    for name, network in networks.items():
        if site == name or site.startswith(f"{name}."):
            return _coding_of(run, step, name, is_of_decoder=is_decoder(network))
    if several := [name for name in networks if name.startswith(f"{first}.")]:
        raise RangeError(f"{site!r} does not say which network of {first!r}; begin with {' or '.join(several)}.")
    return moment_of(run, step)


def as_step(call: PastCall, asked: str) -> PastStep:
    """Return a call that is a step.

    Args:
        call: any.
        asked: what only a step can answer, for the error.

    Raises:
        RangeError: it is an encoding or a decoding.
    """
    if isinstance(call, _Coding):
        raise RangeError(f"{call.name} looks at no words, so {asked} cannot be asked for; name a pixel or a region.")
    return cast(PastStep, call)


def choose_pass(call: PastCall, guidance_pass: str | None) -> str:
    """Return the pass that is asked about: `main_pass`, of numbered calls the first, unless another one is named.

    Raises:
        RangeError: there is no such pass.
    """
    if call.guidance_passes is None:
        return guidance_pass if guidance_pass and guidance_pass.startswith("call ") else call_name(0)
    if guidance_pass is None:
        return main_pass(call.guidance_passes)
    check_passes([guidance_pass], call.guidance_passes)
    return guidance_pass


def where_asked(call: PastCall, guidance_pass: str) -> str:
    """Say for a caption at which step, and in which pass or numbered call."""
    name = f"in {guidance_pass}" if call.guidance_passes is None else f"in the pass {guidance_pass!r}"
    return f"at step {call.step_index} {name}"


def all_sites(
    run: Askable,
    *,
    glob: str = "*",
    kind: SiteKind | Sequence[SiteKind] | None = None,
    resolution: tuple[int, int] | None = None,
) -> tuple[Site, ...]:
    """List the places that can be asked about: of the denoising network, then of all others of the model.

    Args:
        run: any run; of a recording those of its first step.
        glob: pattern for the path; `*` stands for any characters.
        kind: "attn1" (self-attention), "attn2" (cross-attention), "resnet", "transformer", "block", or several.
        resolution: (h, w) of the grid.

    Raises:
        RangeError: nothing fits; the message names what comes near.
    """
    if isinstance(run, Run):
        networks = coder_networks(run.method.networks)
        codings = [site for name, network in networks.items() for site in _sites_of(run, name, network)]
        sites = (*step_sites(run.method, run.state.latents.shape), *codings)
    else:
        sites = moment_of(run, 0).sites
    return select_sites(sites, glob=glob, kind=kind, resolution=resolution)


def _sites_of(run: Run, name: str, network: nn.Module) -> tuple[Site, ...]:
    """List the sites of one encoder or decoder."""
    height, width = run.state.latents.shape[-2:]
    return coder_sites(network, name, (height, width), run.method.latent_factor)


def _coding_of(run: Run, step: int, name: str, *, is_of_decoder: bool) -> PastCall:
    """Return the encoding or decoding that a network takes part in at a step."""
    if not is_of_decoder:
        if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step <= run.num_steps:
            raise StateError(f"step is {step!r}, but this run has steps 0 to {run.num_steps - 1}.")
        return Encoding(run, step, name)
    if not (step == run.num_steps and run.is_finished):
        moment_of(run, step)
    return Decoding(run, step, name)
