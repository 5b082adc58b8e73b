"""Components by name: how a UNet, an autoencoder, a text encoder, a tokenizer or a noise schedule is read and written.

Networks are built from their configuration and filled strictly: a missing or surplus weight is an error, never a
warning, and the global random generator is left where it was.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file

from colorlab.checkpoints.reading import read_weights
from colorlab.errors import ColorlabError, WeightsError
from colorlab.networks import libraries
from colorlab.networks.deformable import DeformableUnits
from colorlab.networks.exemplar_projection import ExemplarProjection
from colorlab.networks.luminance import LuminanceEncoder
from colorlab.networks.sketch_encoder import SketchEncoder
from colorlab.networks.vgg19 import Vgg19Features
from colorlab.sampling.schedules import NoiseSchedule

__all__ = ["COMPONENTS", "load_component", "save_component", "weight_files"]

_OWN_NETWORKS: dict[str, type[torch.nn.Module]] = {
    "DeformableUnits": DeformableUnits,
    "ExemplarProjection": ExemplarProjection,
    "LuminanceEncoder": LuminanceEncoder,
    "SketchEncoder": SketchEncoder,
    "Vgg19Features": Vgg19Features,
}


class Component(Protocol):
    """A kind of component: how it is read from its folder and written to it."""

    @property
    def weight_pattern(self) -> str | None:
        """Names of its weight files; None if it has none."""

    def load(self, folder: Path, *, device: torch.device, dtype: torch.dtype) -> Any:
        """Read it."""

    def save(self, component: Any, folder: Path) -> None:
        """Write it."""


@dataclass(frozen=True)
class DiffusersNetwork:
    """A network in diffusers' format: `config.json` and one or several safetensors files.

    Args:
        class_name: in `networks.libraries`, or one of our own.
    """

    class_name: str
    weight_pattern: str = "diffusion_pytorch_model*.safetensors"

    def load(self, folder: Path, *, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
        """Build the network without memory, then put the weights in."""
        network_class: Any = _OWN_NETWORKS.get(self.class_name) or getattr(libraries, self.class_name)
        config = _read_json(folder / "config.json")
        with torch.device("meta"):
            network = network_class.from_config(config)
        weights = _read_all(folder, self.weight_pattern, dtype)
        network.load_state_dict(weights, assign=True)
        moved: torch.nn.Module = network.to(device)
        return moved

    def save(self, component: Any, folder: Path) -> None:
        """Write configuration and weights in the dtype they have."""
        component.save_pretrained(folder, safe_serialization=True)


@dataclass(frozen=True)
class ClipTower:
    """One tower of CLIP in transformers' format; a whole CLIP model in the folder serves as well.

    Args:
        side: "text" or "vision".
        with_projection: whether its projection into the space that both towers share is read, too.
    """

    side: str
    with_projection: bool = False
    weight_pattern: str = "model*.safetensors"

    def load(self, folder: Path, *, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
        """Build the tower and put its part of the weights in."""
        config = _read_json(folder / "config.json")
        name = self.side.capitalize()
        tower_config = getattr(libraries, f"CLIP{name}Config")(**config.get(f"{self.side}_config", config))
        class_name = f"CLIP{name}ModelWithProjection" if self.with_projection else f"CLIP{name}Model"
        stored = _read_all(folder, self.weight_pattern, dtype)
        if self.with_projection and f"{self._projection}weight" in stored:
            # The towers' part of a whole CLIP's configuration need not repeat how wide the projection is.
            tower_config.projection_dim = stored[f"{self._projection}weight"].shape[0]
        # Some of its buffers are not in the file, so it cannot be built without memory.
        with torch.random.fork_rng(devices=[]):
            encoder: Any = getattr(libraries, class_name)(tower_config)
        # Files say "text_model.", and so does the class before transformers 5.
        expected = encoder.state_dict()
        prefix = self._prefix if any(key.startswith(self._prefix) for key in expected) else ""
        kept = (self._prefix, self._projection) if self.with_projection else (self._prefix,)
        weights = {
            key if key.startswith(self._projection) else prefix + key.removeprefix(self._prefix): value
            for key, value in stored.items()
            if key.startswith(kept) and not key.endswith("position_ids")
        }
        encoder.load_state_dict(weights, strict=True, assign=True)
        moved: torch.nn.Module = encoder.to(device)
        return moved

    def save(self, component: Any, folder: Path) -> None:
        """Write configuration and weights in the dtype they have, under the names that files have."""
        folder.mkdir(parents=True, exist_ok=True)
        component.config.save_pretrained(folder)
        weights = {self._name_in_file(key): value.contiguous() for key, value in component.state_dict().items()}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    def _name_in_file(self, key: str) -> str:
        """Return the name that one of its weights has in files."""
        return key if key.startswith(self._projection) else self._prefix + key.removeprefix(self._prefix)

    @property
    def _prefix(self) -> str:
        """What the names of its weights begin with in a file."""
        return f"{self.side}_model."

    @property
    def _projection(self) -> str:
        """What the names of the projection's weights begin with."""
        return {"text": "text", "vision": "visual"}[self.side] + "_projection."


class Tokenizer:
    """A CLIP tokenizer in transformers' format."""

    weight_pattern = None

    def load(self, folder: Path, *, device: torch.device, dtype: torch.dtype) -> Any:
        """Read the vocabulary."""
        return libraries.CLIPTokenizer.from_pretrained(folder, local_files_only=True)

    def save(self, component: Any, folder: Path) -> None:
        """Write the vocabulary."""
        component.save_pretrained(folder)


class Scheduler:
    """A noise schedule as diffusers' `scheduler_config.json`."""

    weight_pattern = None

    def load(self, folder: Path, *, device: torch.device, dtype: torch.dtype) -> NoiseSchedule:
        """Read the configuration."""
        return NoiseSchedule.from_config(_read_json(folder / "scheduler_config.json"))

    def save(self, component: NoiseSchedule, folder: Path) -> None:
        """Write the configuration."""
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(component.to_config(), indent=2) + "\n"
        (folder / "scheduler_config.json").write_text(text, encoding="utf-8")


COMPONENTS: dict[str, Component] = {
    "unet": DiffusersNetwork("UNet2DConditionModel"),
    "vae": DiffusersNetwork("AutoencoderKL"),
    "luminance_encoder": DiffusersNetwork("LuminanceEncoder"),
    "line_encoder": DiffusersNetwork("LuminanceEncoder"),
    "control_network": DiffusersNetwork("ControlNetModel"),
    "deformable_vae": DiffusersNetwork("AutoencoderKL"),
    "deformable_units": DiffusersNetwork("DeformableUnits"),
    "sketch_encoder": DiffusersNetwork("SketchEncoder"),
    "exemplar_network": DiffusersNetwork("Vgg19Features"),
    "exemplar_projection": DiffusersNetwork("ExemplarProjection"),
    "text_encoder": ClipTower("text"),
    "image_encoder": ClipTower("vision"),
    "projected_text_encoder": ClipTower("text", with_projection=True),
    "projected_image_encoder": ClipTower("vision", with_projection=True),
    "tokenizer": Tokenizer(),
    "scheduler": Scheduler(),
}


def weight_files(name: str, folder: Path) -> list[Path]:
    """Return the weight files of a component in its folder; none for a tokenizer or a schedule.

    Raises:
        WeightsError: it should have some and has none.
    """
    pattern = COMPONENTS[name].weight_pattern
    if pattern is None:
        return []
    files = sorted(folder.glob(pattern))
    if not files:
        raise WeightsError(
            f"There are no weights of {name} in {str(folder)!r} ({pattern}); fetch or make the model again."
        )
    return files


def load_component(name: str, folder: Path, *, device: torch.device, dtype: torch.dtype) -> Any:
    """Read one component.

    Args:
        name: in `COMPONENTS`.
        folder: where it lies.
        device: where networks go.
        dtype: number format of networks, whatever the file has.

    Raises:
        WeightsError: files are missing, damaged, or do not fit together.
    """
    try:
        return COMPONENTS[name].load(folder, device=device, dtype=dtype)
    except ColorlabError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        # Libraries list every key over many lines; the first one says which kind of trouble it is.
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"{name} in {str(folder)!r} cannot be loaded: {reason}") from error


def save_component(name: str, component: Any, folder: Path) -> None:
    """Write one component into its folder."""
    COMPONENTS[name].save(component, folder)


def _read_all(folder: Path, pattern: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Read all weight files of a folder that match, as one."""
    weights: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob(pattern)):
        weights |= read_weights(file, dtype=dtype)
    return weights


def _read_json(path: Path) -> Any:
    """Read a configuration file."""
    if not path.is_file():
        raise WeightsError(f"There is no {path.name} in {str(path.parent)!r}; fetch or make the model again.")
    return json.loads(path.read_text(encoding="utf-8"))
