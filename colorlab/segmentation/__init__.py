"""Where objects are: masks for phrases from words, clicks, or the model's own attention.

| module | what is in it |
| --- | --- |
| `base` | the protocol, and `propose_masks` |
| `attention` | offline: the colorizing model's own attention and the picture's edges |
| `regions` | offline: the region of the picture under a click |
| `foreign` | CLIPSeg and SAM of transformers, with weights that the user brings |
"""

from colorlab.segmentation.attention import AttentionSegmenter
from colorlab.segmentation.base import Segmenter, Target, propose_masks
from colorlab.segmentation.foreign import ClipSegSegmenter, SamSegmenter
from colorlab.segmentation.regions import RegionSegmenter

__all__ = [
    "AttentionSegmenter",
    "ClipSegSegmenter",
    "RegionSegmenter",
    "SamSegmenter",
    "Segmenter",
    "Target",
    "propose_masks",
]
