"""Colorizer: a loaded model of one method; the facade from a name and a picture to a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

import torch

from colorlab.conditioning import Conditioning
from colorlab.errors import RangeError
from colorlab.methods.base import Method, Prepared
from colorlab.methods.folder import load_method, read_index, save_method
from colorlab.registry import find_model
from colorlab.runs.run import Run
from colorlab.runs.shortcuts import Shortcuts, apply_shortcuts
from colorlab.runs.tree import Tree
from colorlab.settings import Settings

__all__ = ["Colorizer", "load"]


class Colorizer:
    """A loaded model of one method.

    Args:
        method: networks, guidance and mechanisms of the model.
        settings: what runs use where nothing else is said; the method's own by default.
        card: what the model card says.

    Example:
        >>> colorizer = colorlab.load("mini/lcad")  # doctest: +SKIP
        >>> colorizer.start("photo.jpg", prompt="a red car").finish().image.shape  # doctest: +SKIP
        (480, 640, 3)
    """

    def __init__(
        self,
        method: Method,
        *,
        settings: Settings | None = None,
        card: Mapping[str, Any] | None = None,
    ) -> None:
        self.method = method
        self.settings = method.default_settings if settings is None else settings
        self.card = dict(card or {})

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        name: str = "",
    ) -> "Colorizer":
        """Load a model folder; the SHA-256 of every weight file is checked first.

        Args:
            folder: with a `model_index.json`, as `save_pretrained` writes it.
            device: where the networks go.
            dtype: their number format, whatever the files have.
            name: what the model is called; the folder's name by default.

        Raises:
            WeightsError: files are missing, damaged, of another hash, or do not fit together.
            RangeError: the device does not exist here, or `dtype` is no floating format.
        """
        folder = Path(folder).expanduser()
        device = _check_device(device)
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise RangeError(
                f"dtype is {dtype!r}, but a floating format such as torch.float32 or torch.float16 is expected."
            )
        index = read_index(folder)
        method = load_method(folder, index, device=device, dtype=dtype, name=name)
        settings = method.default_settings.replace(**index.settings)
        return cls(method, settings=settings, card=index.card)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the model in diffusers' folder format, weights as safetensors in the dtype they have now.

        Returns:
            The folder; `from_pretrained` reads it back bit for bit.

        Raises:
            ColorlabError: the folder can not be written.
        """
        folder = Path(folder).expanduser()
        with self.method.lock:
            save_method(self.method, folder, settings=self.settings, card=self.card)
        return folder

    @property
    def name(self) -> str:
        """What the model is called in tables and captions."""
        return self.method.model_name

    @property
    def device(self) -> torch.device:
        """Where the networks lie."""
        return self.method.device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the networks."""
        return self.method.dtype

    def prepare(self, conditioning: Conditioning, settings: Settings | None = None) -> Prepared:
        """Encode a conditioning; each field is encoded only if it is new.

        Starting a run does this by itself; call it to have the slow part over.

        Raises:
            RangeError: the method lacks something it requires.
        """
        with self.method.lock, torch.no_grad():
            prepared = self.method.prepare(conditioning, settings or self.settings)
        self.method.warn(prepared.notes)
        return prepared

    def start(
        self,
        conditioning: Any = None,
        settings: Settings | None = None,
        *,
        sample_index: int = 0,
        tree: Tree | None = None,
        name: str | None = None,
        **shortcuts: Unpack[Shortcuts],
    ) -> Run:
        """Return a run at step 0; nothing is sampled yet.

        Args:
            conditioning: what to color: a `Conditioning`, or just the picture (path, PIL image or array).
            settings: how to sample; the model's own by default.
            sample_index: which sample of the seed.
            tree: where the run is to live; a new one by default.
            name: in the tree.
            shortcuts: single fields of conditioning and settings: `gray=..., prompt="a red car", seed=3`.

        Raises:
            RangeError: the method lacks something it requires, or a value is not possible.
            ImageError: the picture can not be used.

        Warns:
            ConditioningWarning: something that was given does not reach the model.
        """
        if conditioning is None:
            conditioning = Conditioning()
        elif not isinstance(conditioning, Conditioning):
            if "gray" in shortcuts:
                raise RangeError("Two pictures came, one by position and one as gray; give one of them.")
            conditioning = Conditioning(gray=conditioning)
        conditioning, settings = apply_shortcuts(conditioning, settings or self.settings, **shortcuts)
        return Run.start(self.method, conditioning, settings, sample_index=sample_index, tree=tree, name=name)

    def __repr__(self) -> str:
        return f"Colorizer {self.name!r}: {self.method.name}, {self.method.working_px} px, {self.device}, {self.dtype}"


def load(
    name: str,
    *,
    weights: str | Path | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Colorizer:
    """Load a model by name.

    Args:
        name: in `colorlab.models()`, such as "mini/lcad"; or a model folder.
        weights: folder of converted weights, for models whose weights do not come with colorlab.
        device: where the networks go.
        dtype: their number format.

    Raises:
        UnknownModelError: there is no such model; the message lists those that exist.
        WeightsError: its weights are missing or damaged.
        RangeError: the device does not exist here, or `dtype` is no floating format.
    """
    folder = find_model(name, weights)
    # A folder given as the name is known by its last part, as everywhere else.
    known_as = "" if folder == Path(name).expanduser() else name
    return Colorizer.from_pretrained(folder, device=device, dtype=dtype, name=known_as)


def _check_device(device: str | torch.device) -> torch.device:
    """Return the device, or raise when it is none or nothing can be put on it here."""
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise RangeError(f"device is {device!r}, which can not be used here ({reason}); use 'cpu'.") from error
    return found
