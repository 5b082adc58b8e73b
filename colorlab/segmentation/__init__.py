"""Where objects are: masks for phrases from words, clicks, or the model's own attention.

| module | what is in it |
| --- | --- |
| `base` | the protocol, and `propose_masks` |
| `attention` | offline: the colorizing model's own attention and the picture's edges |
| `foreign` | CLIPSeg and SAM of transformers, with weights that the user brings |
"""

from colorlab.segmentation.attention import AttentionSegmenter
from colorlab.segmentation.base import Segmenter, Target, propose_masks
from colorlab.segmentation.foreign import ClipSegSegmenter, SamSegmenter

__all__ = ["AttentionSegmenter", "ClipSegSegmenter", "SamSegmenter", "Segmenter", "Target", "propose_masks"]
