"""Edits that a branch carries: `run.branch(step=4, edits=[colorlab.edits.Reweight("red", 2.0)])`.

| edit | what it does | how |
| --- | --- | --- |
| `Reweight` | a word counts more or less | values of its tokens |
| `Replace` | another word in its place | keys and values of its tokens |
| `Restrict` | a word is seen within a mask only | scores |
| `Remove` | a word is seen nowhere | scores |
| `PromptToPrompt` | another prompt with the attention of a source run | probabilities |
| `AblateHead`, `AblateSite` | a head, an attention layer or a block is taken away, or scaled | values, outputs |
| `PatchLatents` | latents of a source run in a region | what enters the step |
| `PatchFeatures` | features of a source run in a region | outputs of blocks |

Several act together, in the order of the list. What cannot work is told when the branch is made.

An edit that changes nothing goes through the same hooks as any other. Through values, keys and outputs it gives the
parent bit for bit on a CPU, and on CUDA, whose kernels may sum in another order, within the tolerance of a replay that
is `close` (1e-4; 16-bit weights 2e-2); through scores and probabilities within about 1e-6 everywhere.
"""

from colorlab.inspection.edits.ablations import AblateHead, AblateSite
from colorlab.inspection.edits.base import BaseEdit
from colorlab.inspection.edits.prompt_to_prompt import PromptToPrompt
from colorlab.inspection.edits.sources import PatchFeatures, PatchLatents
from colorlab.inspection.edits.words import Remove, Replace, Restrict, Reweight

__all__ = [
    "EDITS",
    "AblateHead",
    "AblateSite",
    "PatchFeatures",
    "PatchLatents",
    "PromptToPrompt",
    "Remove",
    "Replace",
    "Restrict",
    "Reweight",
]

EDITS: dict[str, type[BaseEdit]] = {
    edit.__name__: edit
    for edit in (
        AblateHead,
        AblateSite,
        PatchFeatures,
        PatchLatents,
        PromptToPrompt,
        Remove,
        Replace,
        Restrict,
        Reweight,
    )
}
"""Every edit by its name; all their fields are plain values, arrays, or runs of the same tree."""
