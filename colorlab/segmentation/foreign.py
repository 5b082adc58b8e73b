"""Segmenters of transformers, with weights that the user brings: CLIPSeg reads words, SAM reads clicks.

Pictures are prepared here and not by the libraries' processors, which need torchvision's compiled operators.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from colorlab.conditioning import Conditioning
from colorlab.errors import RangeError, WeightsError
from colorlab.methods.base import gray_image
from colorlab.networks.libraries import CLIPSegForImageSegmentation, CLIPTokenizer, SamModel
from colorlab.segmentation.base import Target

__all__ = ["ClipSegSegmenter", "SamSegmenter"]

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ClipSegSegmenter:
    """Find objects by words with CLIPSeg.

    Args:
        model: `CLIPSegForImageSegmentation`.
        tokenizer: its CLIP tokenizer.
        threshold: probability from which a pixel belongs to an object; where several reach it, the likeliest has it.

    Source: CLIPSeg, arXiv 2112.10003; weights such as `CIDAS/clipseg-rd64-refined`.
    """

    def __init__(self, model: Any, tokenizer: Any, *, threshold: float = 0.5) -> None:
        self.model, self.tokenizer, self.threshold = model.eval(), tokenizer, threshold

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, device: str = "cpu", threshold: float = 0.5) -> "ClipSegSegmenter":
        """Read model and tokenizer from a folder in the format of transformers.

        Raises:
            WeightsError: there is no such folder; nothing is downloaded.
        """
        place = _folder(folder)
        model = CLIPSegForImageSegmentation.from_pretrained(place).to(device)
        return cls(model, CLIPTokenizer.from_pretrained(place), threshold=threshold)

    @torch.no_grad()
    def segment(self, conditioning: Conditioning, targets: Sequence[Target]) -> list[np.ndarray]:
        """Find objects by the words of their phrases; see `Segmenter`."""
        gray, device = gray_image(conditioning), next(self.model.parameters()).device
        side = self.model.config.vision_config.image_size
        square = functional.interpolate(gray, size=(side, side), mode="bilinear", antialias=True)
        phrases = [target.phrase for target in targets]
        text = self.tokenizer(phrases, padding=True, truncation=True, return_tensors="pt").to(device)
        pixels = _normalized(square).to(device).expand(len(phrases), -1, -1, -1)
        output = self.model(input_ids=text.input_ids, attention_mask=text.attention_mask, pixel_values=pixels)
        logits = output.logits.reshape(1, len(phrases), side, side).float().cpu()
        probability = functional.interpolate(logits, size=gray.shape[-2:], mode="bilinear")[0].sigmoid()
        is_largest = probability == probability.amax(dim=0)
        return [((part >= self.threshold) & most).numpy() for part, most in zip(probability, is_largest, strict=True)]


class SamSegmenter:
    """Find objects by clicks with SAM: of the three masks that it proposes for a click, the one it rates best.

    Args:
        model: `SamModel`.

    Source: Segment Anything, arXiv 2304.02643; weights such as `facebook/sam-vit-base`.
    """

    def __init__(self, model: Any) -> None:
        self.model = model.eval()

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, device: str = "cpu") -> "SamSegmenter":
        """Read the model from a folder in the format of transformers.

        Raises:
            WeightsError: there is no such folder; nothing is downloaded.
        """
        return cls(SamModel.from_pretrained(_folder(folder)).to(device))

    @torch.no_grad()
    def segment(self, conditioning: Conditioning, targets: Sequence[Target]) -> list[np.ndarray]:
        """Find objects by the pixels where they were clicked; see `Segmenter`.

        Raises:
            RangeError: an object was not clicked.
        """
        for target in targets:
            if target.pixel is None:
                raise RangeError(f"SAM finds objects by clicks, but {target.name!r} has none; pass pixels={{...}}.")
        gray, device = gray_image(conditioning), next(self.model.parameters()).device
        side, (height, width) = self.model.config.vision_config.image_size, gray.shape[-2:]
        scale = side / max(height, width)
        inside = (round(height * scale), round(width * scale))
        resized = functional.interpolate(gray, size=inside, mode="bilinear", antialias=True)
        padded = functional.pad(_normalized(resized), (0, side - inside[1], 0, side - inside[0]))
        points = torch.tensor([[[[x * scale, y * scale]] for x, y in (target.pixel for target in targets)]])  # type: ignore[misc]
        labels = torch.ones(points.shape[:3], dtype=torch.long)
        output = self.model(
            pixel_values=padded.to(device), input_points=points.float().to(device), input_labels=labels.to(device)
        )
        best = output.iou_scores[0].argmax(dim=-1)
        chosen = output.pred_masks[0][torch.arange(len(targets)), best][None].float().cpu()
        whole = functional.interpolate(chosen, size=(side, side), mode="bilinear")[..., : inside[0], : inside[1]]
        masks = functional.interpolate(whole, size=(height, width), mode="bilinear")[0] > 0
        return [mask.numpy() for mask in masks]


def _normalized(gray: torch.Tensor) -> torch.Tensor:
    """Make gray (1, 1, H, W) in [0, 1] the three channels that networks of ImageNet expect."""
    mean, std = (torch.tensor(numbers).view(1, 3, 1, 1) for numbers in (_MEAN, _STD))
    return (gray.expand(-1, 3, -1, -1) - mean) / std


def _folder(folder: str | Path) -> Path:
    """Return a folder of weights; WeightsError if it is none."""
    path = Path(folder).expanduser()
    if not (path / "config.json").is_file():
        raise WeightsError(f"{path} holds no config.json; give the folder of a model that you fetched.")
    return path
