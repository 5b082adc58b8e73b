"""The model of a run file: described in a few words, and what stands for it where it is not at hand."""

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NoReturn

import torch

from colorlab.conditioning import Conditioning
from colorlab.errors import RangeError, StateError
from colorlab.methods.base import Finish, Method, Prepared
from colorlab.methods.cache import FieldCache
from colorlab.methods.folder import METHODS, find_method
from colorlab.sampling.schedules import NoiseSchedule
from colorlab.settings import Settings

__all__ = ["AbsentMethod", "AbsentPrepared", "ModelDescription", "weightless"]

_OF_THE_MODEL = ("unet", "vae", "components")


@dataclass(frozen=True)
class ModelDescription:
    """What a run file says about a model; the weights are not in it.

    Args:
        name: what `colorlab.load` takes.
        method: name of the method.
        weights: hash of the weights; "" where they came from no folder.
        working_px: side of a square picture at working size.
        schedule: the noise schedule.
        device: where the networks lay.
        dtype: their number format, such as "float32".
        adaptation: content hash of what was tuned on top of the weights, which a run file holds; "" for nothing.
    """

    name: str
    method: str
    weights: str
    working_px: int
    schedule: NoiseSchedule
    device: str
    dtype: str
    adaptation: str = ""

    @classmethod
    def of(cls, method: Method) -> "ModelDescription":
        """Describe a model."""
        if isinstance(method, AbsentMethod):
            return method.description
        return cls(
            name=method.model_name,
            method=method.name,
            weights=method.weights_hash,
            working_px=method.working_px,
            schedule=method.schedule,
            device=str(method.device),
            dtype=str(method.dtype).removeprefix("torch."),
            adaptation="" if method.adaptation is None else method.adaptation.content_hash,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, as `json` writes them."""
        values = asdict(self)
        # Left out where there is none: files of other methods are as they always were.
        return values if self.adaptation else {name: value for name, value in values.items() if name != "adaptation"}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ModelDescription":
        """Make a description from plain values; the inverse of `to_dict`.

        Raises:
            TypeError: a field is missing or unknown.
            RangeError: the schedule is none, or a value is of another type.
        """
        fields = {**values, "schedule": NoiseSchedule(**values["schedule"])}
        texts = [fields.get(name, "") for name in ("name", "method", "weights", "device", "dtype", "adaptation")]
        if not all(isinstance(text, str) for text in texts) or not isinstance(fields["working_px"], int):
            raise RangeError(f"A model is described by {texts}, but six texts are expected.")
        return cls(**fields)

    def misfit(self, method: Method) -> str:
        """Say why a model cannot stand for this one; "" when it can, whatever its weights, device and dtype."""
        if method.name != self.method:
            return f"{method.model_name} is a model of {method.name}, but the file is of {self.method}"
        if method.schedule != self.schedule:
            return f"{method.model_name} has another noise schedule than the file"
        if method.working_px != self.working_px:
            return f"{method.model_name} works at {method.working_px} px, the file at {self.working_px} px"
        return ""


class AbsentMethod(Method):
    """Stands for a model that is not at hand: what was recorded can be read, the networks cannot be asked.

    Args:
        description: of the model.
        reason: one sentence about why it is not here; part of every error.
    """

    finish: ClassVar[Finish] = "as_decoded"

    def __init__(self, description: ModelDescription, reason: str) -> None:
        self.description, self.reason = description, reason
        self.working_px = description.working_px
        self.model_name, self.weights_hash = description.name, description.weights
        self.schedule = description.schedule
        self.lock = threading.RLock()
        self.cache = FieldCache()
        self.network_calls: Counter[str] = Counter()
        # Attributes of the class elsewhere; here they are those of the class that this one stands for.
        known = METHODS.get(description.method) and find_method(description.method)
        self.__dict__ |= {"name": description.method, "mechanisms": known.mechanisms if known else ()}

    def __getattr__(self, name: str) -> Any:
        if name in _OF_THE_MODEL:
            self.refuse()
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def prepare(self, conditioning: Conditioning, settings: Settings) -> Prepared:
        """Raise StateError."""
        self.refuse()

    def guidance_passes(self, settings: Settings, timestep: float | None = None) -> tuple[str, ...]:
        """Return what the method itself would; it needs no weights for that."""
        return weightless(self.name).guidance_passes(settings, timestep)

    def predict(
        self, prepared: Any, latents: torch.Tensor, timestep: int | float, settings: Settings
    ) -> dict[str, torch.Tensor]:
        """Raise StateError."""
        self.refuse()

    def guide(self, predictions: Mapping[str, torch.Tensor], settings: Settings) -> torch.Tensor:
        """Raise StateError."""
        self.refuse()

    def decode(self, latents: torch.Tensor, prepared: Any, settings: Settings) -> torch.Tensor:
        """Raise StateError."""
        self.refuse()

    def prepared(self, latent_shape: tuple[int, int, int]) -> "AbsentPrepared":
        """Return what stands for an encoded conditioning."""
        return AbsentPrepared(latent_shape, (), self)

    def refuse(self) -> NoReturn:
        """Say what is missing."""
        raise StateError(
            f"This needs the model {self.model_name!r} ({self.description.method}, weights "
            f"{self.weights_hash[:12] or 'unknown'}), which is not here: {self.reason} "
            "States, records and settings can be read; for the rest open the file with colorizer=..."
        )


@dataclass(frozen=True, eq=False)
class AbsentPrepared(Prepared):
    """Stands for a conditioning that nobody can encode here.

    Args:
        method: stands for the model.
    """

    method: AbsentMethod

    def tensors(self) -> dict[str, torch.Tensor]:
        """Raise StateError."""
        self.method.refuse()


def weightless(method: str) -> Method:
    """Return a method of this name without its networks, for what it does without them: name passes, guide.

    Raises:
        RangeError: there is no such method.
    """
    registered = find_method(method)
    return registered.__new__(registered)
