"""From a model, a picture and a plan to the stages of a tuning, and from their tensors to what an adaptation holds."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch

from colorlab.conditioning import Conditioning
from colorlab.errors import RangeError
from colorlab.images import load_image, resize_image
from colorlab.methods.adaptation import CONTRASTIVE, EMBEDDING
from colorlab.methods.diffcolor import DiffColor, PreparedDiffColor
from colorlab.methods.identifiers import Rewriting
from colorlab.settings import Settings
from colorlab.tuning.judge import Judge
from colorlab.tuning.plan import TuningPlan
from colorlab.tuning.stages import ContrastiveStage, EmbeddingStage, ReconstructionStage, Stage
from colorlab.tuning.state import Row
from colorlab.tuning.weights import TunedNetwork, Weights

__all__ = ["Wiring"]


class Wiring:
    """Everything a tuning needs that does not change while it goes.

    Args:
        method: the model before tuning.
        conditioning: the gray picture, and the context as prompt.
        settings: with the parameters of `contrastive_tuning` in force.
        plan: how the tuning goes.
        rewriting: the context with identifiers; None without stage 2.

    Raises:
        RangeError: there is no gray picture.
        StateError: the model has no CLIP to compare with.
    """

    def __init__(
        self,
        method: DiffColor,
        conditioning: Conditioning,
        settings: Settings,
        plan: TuningPlan,
        rewriting: Rewriting | None,
    ) -> None:
        if method.adaptation is not None:
            raise RangeError("This model carries an adaptation already; tune the plain model, or resume its tuning.")
        self.method, self.conditioning, self.settings, self.plan = method, conditioning, settings, plan
        self.rewriting = rewriting
        self.values: dict[str, Any] = method.tuning.in_force(settings)
        with method.lock, torch.no_grad():
            self.prepared: PreparedDiffColor = method.prepare(conditioning, self.sampling)
        self.judge = Judge(method, method.tuning.texts(conditioning.prompt, settings))

    @property
    def sampling(self) -> Settings:
        """The settings of pictures, which no tuning parameter belongs to."""
        others = {name: values for name, values in self.settings.mechanisms.items() if name != self.method.tuning.name}
        return self.settings.replace(mechanisms=others)

    @cached_property
    def network(self) -> TunedNetwork:
        """The network that is trained, a copy; made when it is first needed."""
        return TunedNetwork(
            self.method.unet, trained=self.values["trained"], rank=int(self.values["rank"]), seed=self.settings.seed
        )

    def stage(self, name: str, results: Mapping[str, torch.Tensor], kept: Weights) -> Stage:
        """Return one stage.

        Args:
            name: in `STAGES`.
            results: of the stages before it.
            kept: the tensors that stage 1 trained; empty where it was left out.
        """
        seed, method = self.settings.seed, self.method
        if name == CONTRASTIVE:
            return ContrastiveStage(
                method, self.network, self.judge, self.values, self.prepared.gray.to(method.device),
                self.prepared.gray_latents.float(), self.prepared.text["cond"], seed,
            )  # fmt: skip
        start = kept if kept and self.plan.stage_2_from == CONTRASTIVE else self.network.initial()
        latents = self._colored_latents(results.get("picture/aligned"))
        if name == EMBEDDING:
            return EmbeddingStage(
                method, self.network, start, latents, self.identified, self.plan.embedding_learning_rate, seed
            )
        tokens = results.get(f"{EMBEDDING}/optimized", self.identified).to(method.device)
        rate = self.plan.reconstruction_learning_rate
        return ReconstructionStage(method, self.network, start, latents, tokens, rate, seed)

    @cached_property
    def identified(self) -> torch.Tensor:
        """(1, N, D), the tokens of the context with identifiers; of the context itself without stage 2."""
        text = self.conditioning.prompt if self.rewriting is None else self.rewriting.text
        with self.method.lock, torch.no_grad():
            return self.method.encode_prompt(text).tokens

    def named_results(self, stage: str, weights: Weights) -> dict[str, torch.Tensor]:
        """Return what a stage trained, as an adaptation names it."""
        if stage == EMBEDDING:
            tokens = weights["tokens"].detach().cpu().float()
            return {f"{EMBEDDING}/optimized": tokens, f"{EMBEDDING}/identified": self.identified.cpu().float()}
        return {f"{stage}/{name}": tensor for name, tensor in self.network.changes(weights).items()}

    def info(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Return what an adaptation says about itself."""
        curves: dict[str, dict[str, list[float]]] = {}
        for row in rows:
            of_stage = curves.setdefault(row["stage"], {})
            for name, value in row.items():
                if name not in ("stage", "iteration"):
                    of_stage.setdefault(name, []).append(float(f"{value:.6g}"))
        return {
            "base": self.method.base_hash,
            "model": self.method.model_name,
            "gray": self.conditioning.content_hash("gray"),
            "context": self.conditioning.prompt,
            "texts": list(self.judge.texts),
            "rewriting": None if self.rewriting is None else self.rewriting.to_dict(),
            "plan": self.plan.to_dict(),
            "settings": self.settings.to_dict(),
            "curves": curves,
            "note": "DiffColor, re-implemented from a summary of arXiv 2308.01655",
        }

    def _colored_latents(self, picture: torch.Tensor | None) -> torch.Tensor:
        """Return the latents of stage 1's picture; of the gray one where there is none."""
        if picture is None:
            return self.prepared.gray_latents.float()
        image = resize_image(load_image(picture.numpy()), (self.prepared.gray.shape[-2], self.prepared.gray.shape[-1]))
        with self.method.lock, torch.no_grad():
            return self.method.encode_picture(image * 2 - 1).float()
