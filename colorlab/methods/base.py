"""What a method is: networks, guidance and mechanisms wired into prepare, predict, guide and decode.

A method answers four questions about a picture, in the order of the data flow:

| call | from | to |
| --- | --- | --- |
| `prepare` | `Conditioning` | `Prepared`: everything encoded, on the model's device; slow, once |
| `predict` | latents at a timestep | the noise each *named* guidance pass predicts |
| `guide` | named predictions | the one the solver gets |
| `decode` | latents | a picture at the working size |

Latents and predictions cross this border as float32 on the CPU, whatever the networks use: solvers then compute the
same numbers everywhere, and records keep no model and no device memory alive.
"""

import inspect
import math
import threading
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, cast

import torch

from colorlab.conditioning import Conditioning
from colorlab.errors import RangeError
from colorlab.images import finish_keep_lightness, working_size
from colorlab.mechanisms.base import Mechanism
from colorlab.methods.adaptation import Adaptation
from colorlab.methods.cache import FieldCache, tensor_bytes
from colorlab.methods.text import EncodedText, encode_text
from colorlab.networks.luminance import decode_with_taps
from colorlab.sampling.schedules import NoiseSchedule, SolverName, TimestepSpacing
from colorlab.sampling.solvers import find_solver
from colorlab.settings import Settings

__all__ = ["ConditioningWarning", "Finish", "Method", "Prepared", "gray_image", "users_stacklevel"]

Finish = Literal["keep_lightness", "as_decoded"]


class ConditioningWarning(UserWarning):
    """Something the user gave does not fully reach the model: words beyond its length, a field it does not read."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """A Conditioning, encoded for one model: device-bound, never saved, made again when a file is opened.

    Methods add their own fields. Compared by identity.

    Args:
        latent_shape: (C, h, w) of the latents of one picture.
        notes: sentences for the user about what does not reach the model.
    """

    latent_shape: tuple[int, int, int]
    notes: tuple[str, ...]

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return every tensor by name on the CPU; the parts of a field `taps` or `text` are `taps.0`, `text.cond`."""
        named: dict[str, torch.Tensor] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, torch.Tensor):
                named[field.name] = value
            elif isinstance(value, Mapping):
                named |= {f"{field.name}.{name}": part for name, part in value.items()}
            elif isinstance(value, tuple):
                parts = {f"{field.name}.{index}": part for index, part in enumerate(value)}
                named |= {name: part for name, part in parts.items() if isinstance(part, torch.Tensor)}
        return {name: tensor.detach().cpu() for name, tensor in named.items()}

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        return tensor_bytes([getattr(self, field.name) for field in fields(self)])


class Method(ABC):
    """A loaded model: the networks of one method, and the one lock that serialises their use.

    Args:
        components: networks, tokenizer and scheduler by the names in `component_names`, and maybe some of those in
            `optional_component_names`.
        working_px: side of a square picture with as many pixels as the networks work on.
        model_name: what the model is called in tables and captions; the method's name by default.
        weights_hash: identifies the weights it was loaded with; "" for weights that came from no folder.

    Attributes:
        lock: held around every use of the networks; reentrant.
        network_calls: how often each network was called since loading.
        adaptation: what was tuned on top of the weights; None for most models.
    """

    name: ClassVar[str]
    requires: ClassVar[tuple[str, ...]] = ()
    reads: ClassVar[tuple[str, ...]] = ("prompt", "negative_prompt")
    finish: ClassVar[Finish]
    component_names: ClassVar[tuple[str, ...]]
    optional_component_names: ClassVar[tuple[str, ...]] = ()
    mechanisms: ClassVar[tuple[Mechanism, ...]]
    default_settings: ClassVar[Settings] = Settings()
    starts_from_picture: ClassVar[bool] = False
    adaptation: Adaptation | None = None

    def __init__(
        self, components: Mapping[str, Any], working_px: int, *, model_name: str = "", weights_hash: str = ""
    ) -> None:
        missing = sorted(set(self.component_names) - set(components))
        if missing:
            raise RangeError(f"{self.name} needs {', '.join(self.component_names)}; {', '.join(missing)} did not come.")
        known = (*self.component_names, *self.optional_component_names)
        self.components = {name: components[name] for name in known if name in components}
        self.working_px = working_px
        self.model_name = model_name or self.name
        self.weights_hash = weights_hash
        self.unet: Any = components["unet"]
        self.vae: Any = components["vae"]
        self.schedule: NoiseSchedule = components["scheduler"]
        self.lock = threading.RLock()
        self.cache = FieldCache()
        self.network_calls: Counter[str] = Counter()
        for network in self.networks.values():
            network.eval().requires_grad_(False)

    # What each method writes itself.

    @abstractmethod
    def prepare(self, conditioning: Conditioning, settings: Settings) -> Prepared:
        """Encode everything that does not change from step to step; what was encoded before is not encoded again."""

    @abstractmethod
    def guidance_passes(self, settings: Settings, timestep: float | None = None) -> tuple[str, ...]:
        """Return the names of the network calls of a step, in batch order.

        Args:
            settings: what is in force.
            timestep: of the step; None for all that a run may have, of which those of a step are the first ones.
        """

    @abstractmethod
    def predict(
        self, prepared: Any, latents: torch.Tensor, timestep: int | float, settings: Settings
    ) -> dict[str, torch.Tensor]:
        """Predict the noise in (B, C, h, w) latents at one timestep, once for each guidance pass.

        Returns:
            By pass; as `Predictions` where something beside them is to be remembered or done.
        """

    @abstractmethod
    def guide(self, predictions: Mapping[str, torch.Tensor], settings: Settings) -> torch.Tensor:
        """Combine the named predictions into one."""

    @abstractmethod
    def decode(self, latents: torch.Tensor, prepared: Any, settings: Settings) -> torch.Tensor:
        """Decode (B, C, h, w) latents to (B, 3, 8h, 8w) float32 on the CPU, sRGB in [0, 1]."""

    def remembers_latents(self, settings: Settings) -> bool:
        """Return whether a state has to remember the latents before it; no method of a paper needs that by itself."""
        return False

    def start_noise(self, prepared: Any, noise: torch.Tensor, settings: Settings) -> torch.Tensor:
        """Return what a run starts from, given (B, C, h, w) standard normal noise: the noise itself by default."""
        return noise

    def read_decoder(self, latents: torch.Tensor, prepared: Any, settings: Settings) -> dict[str, torch.Tensor]:
        """Decode (B, C, h, w) latents and return what can be seen inside the decoder, by name, float32 on the CPU."""
        return {}

    # What all methods share.

    @property
    def networks(self) -> dict[str, torch.nn.Module]:
        """The components that are networks, by name."""
        return {name: part for name, part in self.components.items() if isinstance(part, torch.nn.Module)}

    @property
    def device(self) -> torch.device:
        """Where the denoising network lies."""
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the denoising network."""
        return next(self.unet.parameters()).dtype

    @property
    def latent_factor(self) -> int:
        """Pixels along one side of a latent cell."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def num_more_tokens(self) -> int:
        """Tokens behind those of the words in cross-attention that are no words, of an exemplar for instance."""
        return 0

    def mechanism(self, name: str) -> Mechanism:
        """Return a mechanism of this method by name.

        Raises:
            RangeError: there is none of this name.
        """
        for mechanism in self.mechanisms:
            if mechanism.name == name:
                return mechanism
        names = ", ".join(mechanism.name for mechanism in self.mechanisms)
        raise RangeError(f"{self.name} has no mechanism {name!r}; it has {names}.")

    def check(self, conditioning: Conditioning, settings: Settings) -> tuple[str, ...]:
        """Check that this method can do what is asked.

        Returns:
            Notes on given fields that this method does not read.

        Raises:
            RangeError: a required field is missing, a mechanism or parameter in `settings` does not exist, or the
                settings ask for what the method or the solver cannot do.
        """
        given = [field.name for field in fields(conditioning) if _is_given(getattr(conditioning, field.name))]
        for name in self.requires:
            if name not in given:
                raise RangeError(f"{self.name} needs {name}, but the conditioning has none; pass {name}=...")
        if settings.strength != 1.0:
            self._check_strength(settings)
        if settings.eta > 0 and not find_solver(settings.solver).takes_eta:
            raise RangeError(f"eta is {settings.eta:g}, but {settings.solver} adds no noise; use 0, or another solver.")
        for name in settings.mechanisms:
            self.mechanism(name).in_force(settings)
        return tuple(
            f"{self.name} does not read {name}; it is ignored." for name in given if name not in self.fields_read()
        )

    def _check_strength(self, settings: Settings) -> None:
        """Refuse to leave out the first steps where the method, or the solver's list, does not allow it."""
        if not self.starts_from_picture:
            raise RangeError(
                f"strength is {settings.strength:g}, but {self.name} starts from noise alone and keeps nothing; use 1."
            )
        if settings.solver == "ddim" and (settings.timestep_spacing != "leading" or self.schedule.steps_offset != 1):
            raise RangeError(
                f"strength is {settings.strength:g}, but ddim can begin in the middle of a list of spacing 'leading' "
                "alone, counted from timestep 1; use that spacing, another solver, or strength=1."
            )

    def timesteps(self, settings: Settings) -> torch.Tensor:
        """Return the timesteps of a run, noisiest first; a strength below 1 leaves out the first ones.

        Raises:
            RangeError: the schedule has no such list, or no step is left.
        """
        whole = self.schedule.timesteps(
            settings.num_inference_steps,
            cast(TimestepSpacing, settings.timestep_spacing),
            solver=cast(SolverName, settings.solver),
            as_published=settings.as_published,
        )
        # The small term undoes rounding: 100 * 0.29 is 28.999999999999996.
        num_done = math.floor(len(whole) * settings.strength + 1e-9)
        if num_done < 1:
            raise RangeError(
                f"strength is {settings.strength:g}, which leaves none of {len(whole)} steps; raise one of the two."
            )
        return whole[len(whole) - num_done :]

    def fields_read(self) -> tuple[str, ...]:
        """Return the fields of a conditioning that this model reads; optional networks may add some."""
        return (*self.reads, *self.requires)

    def warn(self, notes: tuple[str, ...]) -> None:
        """Pass notes on to the user as `ConditioningWarning`s."""
        for note in notes:
            warnings.warn(note, ConditioningWarning, stacklevel=users_stacklevel())

    def working_size(self, size: tuple[int, int] | None) -> tuple[int, int]:
        """Return the (height, width) at which the networks work on a picture; None asks for a square one."""
        multiple_px = self.latent_factor * 2 ** (len(self.unet.config.block_out_channels) - 1)
        height, width = size or (self.working_px, self.working_px)
        return working_size(height, width, self.working_px, multiple_px)

    def encode_prompt(self, text: str) -> EncodedText:
        """Encode a text, once."""

        def encode() -> EncodedText:
            self.network_calls["text_encoder"] += 1
            return encode_text(text, self.components["tokenizer"], self.components["text_encoder"])

        return self.cache.get("text", text, encode)

    def text_in_force(self, prompt: str, settings: Settings) -> str:
        """Return the text whose tokens stand for a prompt: the prompt itself but where a method rewrites it."""
        return prompt

    def prepare_other_text(self, conditioning: Conditioning, settings: Settings) -> Prepared:
        """Do what `prepare` does with a prompt that no user wrote, for null baselines: it is read as it stands."""
        return self.prepare(conditioning, settings)

    def encode_picture(self, picture: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        """Encode (1, 3, H, W) in [-1, 1] into scaled latents: the posterior's mean, or a sample of it by `noise`."""
        self.network_calls["vae_encoder"] += 1
        posterior = self.vae.encode(picture.to(self.device, self.dtype)).latent_dist
        latents = posterior.mean if noise is None else posterior.mean + posterior.std * noise.to(posterior.mean)
        shift = self.vae.config.shift_factor or 0.0
        scaled: torch.Tensor = (latents - shift) * self.vae.config.scaling_factor
        return scaled

    def decode_latents(self, latents: torch.Tensor, taps: Any = None, gains: Any = None) -> torch.Tensor:
        """Decode scaled latents to (B, 3, H, W) in [0, 1] on the CPU; taps and gains as for `decode_with_taps`."""
        self.network_calls["vae"] += 1
        decoded = decode_with_taps(self.vae, latents.to(self.device, self.dtype), taps, gains=gains)
        return (decoded.float().cpu().clamp(-1, 1) + 1) / 2

    def prepare_anew(self, conditioning: Conditioning, settings: Settings) -> Prepared:
        """Encode everything once more, as `prepare` does, whatever was encoded before; the cache stays as it was.

        The caller holds the lock.
        """
        cache, self.cache = self.cache, FieldCache()
        try:
            return self.prepare(conditioning, settings)
        finally:
            self.cache = cache

    def predict_passes(
        self,
        sample: torch.Tensor,
        timestep: int | float,
        tokens: Mapping[str, torch.Tensor],
        *,
        residuals: Sequence[torch.Tensor] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Call the denoising network once for all guidance passes.

        The batch is the passes in the order of `tokens`, each with all samples. Its make-up is a function of the
        settings, so that a replay of the same call gives the same bits.

        Args:
            sample: (B, C, h, w), what the network sees beside the tokens, the same in every pass.
            timestep: training timestep of the latents.
            tokens: encoder hidden states (1 or B, N, D) by guidance pass.
            residuals: of a control network, for the whole batch, finest level first, middle last; None for none.

        Returns:
            The raw output (B, 4, h, w) of each pass, float32 on the CPU.
        """
        batch = sample.to(self.device, self.dtype).repeat(len(tokens), 1, 1, 1)
        hidden = torch.cat([part.expand(sample.shape[0], -1, -1) for part in tokens.values()])
        self.network_calls["unet"] += 1
        control: dict[str, Any] = {}
        if residuals is not None:
            control = {
                "down_block_additional_residuals": tuple(residuals[:-1]),
                "mid_block_additional_residual": residuals[-1],
            }
        output = self.unet(
            batch, torch.tensor(timestep, device=self.device), encoder_hidden_states=hidden, **control
        ).sample
        return dict(zip(tokens, output.float().cpu().chunk(len(tokens)), strict=True))

    def finish_image(self, decoded: torch.Tensor, conditioning: Conditioning, settings: Settings) -> torch.Tensor:
        """Turn a decoded picture (1, 3, h, w) into the final one.

        With `keep_lightness` it has the size and the lightness of the input; otherwise, and `as_published`, it is left
        as it was decoded.
        """
        if self.finish == "as_decoded" or settings.as_published or conditioning.gray is None:
            return decoded
        return finish_keep_lightness(decoded, gray_image(conditioning))


def gray_image(conditioning: Conditioning) -> torch.Tensor:
    """Return the gray picture of a conditioning as (1, 1, H, W) float32, sRGB gray in [0, 1].

    Raises:
        RangeError: it has none.
    """
    if conditioning.gray is None:
        raise RangeError("The conditioning has no gray picture; pass gray=...")
    # A copy: the array is read-only, which tensors do not know.
    return torch.tensor(conditioning.gray)[None, None]


def users_stacklevel() -> int:
    """Return the stack level of a warning, seen from the caller, of the first line that is not the package's own."""
    frame, level = inspect.currentframe(), 0
    while frame is not None and str(frame.f_globals.get("__name__")).startswith("colorlab."):
        frame, level = frame.f_back, level + 1
    return level


def _is_given(value: Any) -> bool:
    """Return whether a field of a conditioning holds something: a picture, words, at least one stroke."""
    return value is not None and len(value) > 0
