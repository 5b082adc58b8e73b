"""The one door to diffusers, transformers, peft and lpips, and the repair of a torchvision without compiled operators.

Import foreign classes from here: `from colorlab.networks.libraries import UNet2DConditionModel`. Importing this module
costs nothing; a library is imported when the first of its names is asked for. Before that, a torchvision whose compiled
part cannot be loaded (its CPU wheel next to a CPU torch) is made importable, because transformers and diffusers fail
otherwise. On a healthy install the repair does nothing.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

import torch

from colorlab.errors import MissingExtraError

if TYPE_CHECKING:
    from diffusers import (
        AutoencoderKL,
        ControlNetModel,
        DDIMScheduler,
        DPMSolverMultistepScheduler,
        EulerDiscreteScheduler,
        ModelMixin,
        UNet2DConditionModel,
    )
    from diffusers.configuration_utils import ConfigMixin, register_to_config
    from diffusers.models.autoencoders.vae import Decoder, Encoder
    from diffusers.training_utils import EMAModel
    from lpips import LPIPS
    from peft import LoraConfig, inject_adapter_in_model
    from transformers import (
        CLIPConfig,
        CLIPImageProcessor,
        CLIPModel,
        CLIPSegConfig,
        CLIPSegForImageSegmentation,
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
        CLIPVisionConfig,
        CLIPVisionModel,
        CLIPVisionModelWithProjection,
        SamConfig,
        SamModel,
    )

__all__ = [
    "LPIPS",
    "AutoencoderKL",
    "CLIPConfig",
    "CLIPImageProcessor",
    "CLIPModel",
    "CLIPSegConfig",
    "CLIPSegForImageSegmentation",
    "CLIPTextConfig",
    "CLIPTextModel",
    "CLIPTextModelWithProjection",
    "CLIPTokenizer",
    "CLIPVisionConfig",
    "CLIPVisionModel",
    "CLIPVisionModelWithProjection",
    "ConfigMixin",
    "ControlNetModel",
    "DDIMScheduler",
    "DPMSolverMultistepScheduler",
    "Decoder",
    "EMAModel",
    "Encoder",
    "EulerDiscreteScheduler",
    "LoraConfig",
    "ModelMixin",
    "SamConfig",
    "SamModel",
    "UNet2DConditionModel",
    "inject_adapter_in_model",
    "register_to_config",
    "repair_torchvision",
]

# Where a name lives when it is not at the top of diffusers (no prefix) or transformers (CLIP..., Sam...).
_SPECIAL_HOMES = {
    "ConfigMixin": "diffusers.configuration_utils",
    "Decoder": "diffusers.models.autoencoders.vae",
    "EMAModel": "diffusers.training_utils",
    "Encoder": "diffusers.models.autoencoders.vae",
    "LPIPS": "lpips",
    "LoraConfig": "peft",
    "inject_adapter_in_model": "peft",
    "register_to_config": "diffusers.configuration_utils",
}
_PACKAGE_OF_LIBRARY = {
    "diffusers": "colorlab",
    "transformers": "colorlab",
    "lpips": "colorlab[eval]",
    "peft": "colorlab[tune]",
    "torchvision": "colorlab[eval]",
}

# torch drops the operators of a Library object that is garbage collected, so the repair keeps its object here.
_kept_libraries: list[torch.library.Library] = []


def repair_torchvision() -> bool:
    """Make `import torchvision` work where only its compiled operators are missing.

    torchvision then imports, its pure-Python parts work, and calling one of its compiled operators still raises.

    Returns:
        True if this call repaired something; False if torchvision is absent, was repaired before, or works as it is.
    """
    try:
        importlib.import_module("torchvision")
    except ImportError:
        return False
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept_libraries.append(library)
        importlib.import_module("torchvision")
        return True
    return False


def __getattr__(name: str) -> Any:
    """Import the library that holds `name` on first use and remember the result."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _SPECIAL_HOMES.get(name, "transformers" if name.startswith(("CLIP", "Sam")) else "diffusers")
    repair_torchvision()
    try:
        module = importlib.import_module(home)
    except ModuleNotFoundError as error:
        package = _PACKAGE_OF_LIBRARY.get(error.name or "")
        if package is None:
            raise
        message = f"{name} needs {error.name}, which is not installed; run `pip install '{package}'`."
        raise MissingExtraError(message) from error
    value = getattr(module, name)
    globals()[name] = value
    return value
