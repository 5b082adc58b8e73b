"""DiffColor's tuning on one picture (re-implemented from a summary of arXiv 2308.01655).

| module | what is in it |
| --- | --- |
| `plan` | how long a tuning goes and what it keeps; the presets |
| `stages` | the three optimisations; `weights`, `optimizer`, `judge` are what they are made of |
| `tuning` | `Tuning`: step, pause, resume, roll back; `state`, `checkpoints`, `files` keep it |
| `pictures` | what a tuned model paints, with drift and reconstruction checked, by `perceptual` where it can be had |
| `budget` | steps, minutes and memory before it begins |
| `exhibits`, `embedding_exhibits` | what can be seen of it |

Colors at a glance: `tuning = colorizer.tune(picture, prompt="a photo of a cat")`, `tuning.finish()`,
`colorizer.with_adaptation(tuning.adaptation)`.
"""

from colorlab.tuning.pictures import TuningWarning
from colorlab.tuning.plan import PRESETS, STAGES, TuningPlan
from colorlab.tuning.tuning import Tuning

__all__ = ["PRESETS", "STAGES", "Tuning", "TuningPlan", "TuningWarning"]
