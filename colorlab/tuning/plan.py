"""How long a tuning goes and what it keeps; the presets."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from colorlab.errors import RangeError
from colorlab.methods.adaptation import CONTRASTIVE, EMBEDDING, RECONSTRUCTION

__all__ = ["PRESETS", "STAGES", "TuningPlan", "find_plan"]

STAGES = (CONTRASTIVE, EMBEDDING, RECONSTRUCTION)
"""Stage 1; and of stage 2, the embedding and the reconstruction."""

STAGE_2_STARTS = (CONTRASTIVE, "pretrained")


@dataclass(frozen=True)
class TuningPlan:
    """How a tuning goes; change a copy with `replace`.

    Args:
        num_steps: iterations of each of `STAGES`; 0 leaves a stage out, and the second stage needs its two.
        embedding_learning_rate: of Adam on the embedding.
        reconstruction_learning_rate: of Adam on the network in stage 2.
        prior_strength: share of the steps in which stage 1's picture is painted, from the noised gray picture.
        stage_2_from: whether stage 2 begins with the network of stage 1, or with the pretrained one.
        max_grad_norm: gradients are clipped to this norm.
        checkpoint_every: iterations between checkpoints.
        max_checkpoint_bytes: what checkpoints may hold together; where they are more, every second older one goes.
        thumbnail_every: iterations between small pictures.
        mechanism: parameters of `contrastive_tuning` that a preset sets; those of the settings come first.

    Raises:
        RangeError: a value is not possible.
    """

    num_steps: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))
    embedding_learning_rate: float = 1e-3
    reconstruction_learning_rate: float = 1e-4
    prior_strength: float = 0.4
    stage_2_from: str = CONTRASTIVE
    max_grad_norm: float = 1.0
    checkpoint_every: int = 25
    max_checkpoint_bytes: int = 256 * 2**20
    thumbnail_every: int = 25
    mechanism: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if set(self.num_steps) != set(STAGES):
            raise RangeError(f"num_steps names {', '.join(self.num_steps)}, but {', '.join(STAGES)} are expected.")
        intervals = {"checkpoint_every": self.checkpoint_every, "thumbnail_every": self.thumbnail_every}
        for name, value in {**self.num_steps, **intervals}.items():
            low = 1 if name in intervals else 0
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise RangeError(f"{name} is {value!r}, but an integer of at least {low} is expected.")
        if self.num_steps[RECONSTRUCTION] and not self.num_steps[EMBEDDING]:
            raise RangeError("The reconstruction is tuned around the optimized embedding; give embedding steps, too.")
        if self.stage_2_from not in STAGE_2_STARTS:
            raise RangeError(f"stage_2_from is {self.stage_2_from!r}, but one of {STAGE_2_STARTS} is expected.")
        if not 0 < self.prior_strength <= 1:
            raise RangeError(f"prior_strength is {self.prior_strength!r}, but a share above 0 and up to 1 is expected.")
        for name in ("embedding_learning_rate", "reconstruction_learning_rate", "max_grad_norm"):
            if not 0 < getattr(self, name) < float("inf"):
                raise RangeError(f"{name} is {getattr(self, name)!r}, but a number above 0 is expected.")
        if self.max_checkpoint_bytes < 0:
            raise RangeError(f"max_checkpoint_bytes is {self.max_checkpoint_bytes}, but at least 0 is expected.")
        object.__setattr__(self, "num_steps", MappingProxyType({name: self.num_steps[name] for name in STAGES}))
        object.__setattr__(self, "mechanism", MappingProxyType(dict(self.mechanism)))

    def replace(self, **changes: Any) -> "TuningPlan":
        """Return a copy with some fields changed."""
        return replace(self, **changes)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TuningPlan":
        """Make a plan from plain values; the inverse of `to_dict`."""
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, as `json` writes them."""
        return {**self.__dict__, "num_steps": dict(self.num_steps), "mechanism": dict(self.mechanism)}


PRESETS: Mapping[str, TuningPlan] = MappingProxyType(
    {
        # For tests: every stage is gone through.
        "smoke": TuningPlan(
            dict.fromkeys(STAGES, 3), checkpoint_every=2, thumbnail_every=2, mechanism={"num_crops": 1.0}
        ),
        # A small model on a CPU, minutes; large steps, since it has few of them; see `docs/figures/diffcolor.md`.
        "notebook": TuningPlan(
            {CONTRASTIVE: 30, EMBEDDING: 40, RECONSTRUCTION: 80},
            embedding_learning_rate=1e-2,
            reconstruction_learning_rate=2e-3,
            prior_strength=0.5,
            checkpoint_every=20,
            thumbnail_every=10,
            mechanism={"learning_rate": 1e-3, "num_crops": 1.0, "luma_weight": 2.0, "prior_weight": 1.0},
        ),
        # Stable Diffusion on a GPU: the iterations that summaries of the paper give.
        "paper": TuningPlan({CONTRASTIVE: 1500, EMBEDDING: 500, RECONSTRUCTION: 1000}, max_checkpoint_bytes=4 * 2**30),
    }
)


def find_plan(preset: str | TuningPlan) -> TuningPlan:
    """Return a preset by name, or a plan as it is.

    Raises:
        RangeError: there is no such preset.
    """
    if isinstance(preset, TuningPlan):
        return preset
    if preset not in PRESETS:
        raise RangeError(f"preset is {preset!r}, but one of {', '.join(map(repr, PRESETS))} is expected.")
    return PRESETS[preset]
