"""The one training loop: resumable, deterministic by seed, with curves, checkpoints and sample grids.

A recipe says what is trained and what one batch costs; the loop owns everything that all recipes share: optimiser,
learning-rate schedule, gradient clipping, weight averaging, the log, checkpoints and the exported weights.
"""

import csv
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from PIL import Image
from torch import nn

from colorlab.errors import StateError
from colorlab.networks.libraries import EMAModel


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train.

    Args:
        steps: optimiser steps in all, counted from the first run.
        batch_size: samples of one step.
        learning_rate: peak value; warm-up over `warmup` steps, then constant, then linear to zero over the last
            `cooldown` share of `steps` (so that a run may be prolonged before its cool-down has begun).
        warmup: steps of linear warm-up.
        cooldown: share of `steps`, [0, 1].
        weight_decay: AdamW's decoupled weight decay.
        max_grad_norm: gradients are clipped to this norm.
        ema_decay: decay of the averaged weights that are exported; 0 exports the raw weights.
        checkpoint_s: seconds between checkpoints.
        seed: of weights, batches and noise.
    """

    steps: int
    batch_size: int
    learning_rate: float
    warmup: int = 100
    cooldown: float = 0.3
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    ema_decay: float = 0.0
    checkpoint_s: float = 180.0
    seed: int = 0

    def rate(self, step: int) -> float:
        """Learning rate of a step.

        Args:
            step: 0 first.

        Returns:
            The rate; at least 0.
        """
        warm = min(1.0, (step + 1) / max(1, self.warmup))
        cool = min(1.0, (self.steps - step) / max(1.0, self.cooldown * self.steps))
        return self.learning_rate * warm * max(cool, 0.0)


class Recipe(Protocol):
    """What the loop needs to know about one member of the family."""

    @property
    def name(self) -> str:
        """What the recipe is called; a checkpoint belongs to one."""

    def trainable(self) -> nn.Module:
        """Return the module whose parameters are trained."""

    def loss(
        self, module: nn.Module, generator: torch.Generator, batch_size: int
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the scalar loss of one freshly drawn batch, and numbers for the log."""

    def sample_grid(self, module: nn.Module, folder: Path) -> Image.Image:
        """Return a picture that shows how far the training is; `folder` holds the exported member."""

    def export(self, folder: Path, module: nn.Module, card: Mapping[str, object]) -> None:
        """Write the finished member to a model folder."""


@runtime_checkable
class Paced(Protocol):
    """A recipe that changes as it goes: the loop tells it the share of the training that is done before each step."""

    progress: float


def batch_generator(seed: int, step: int, rank: int = 0) -> torch.Generator:
    """Make the random source of one step: a function of its arguments, so a resumed run draws the same batches.

    Args:
        seed: of the whole training.
        step: 0 first.
        rank: process index; processes draw different batches.

    Returns:
        A CPU generator.
    """
    return torch.Generator().manual_seed((seed * 1_000_003 + step) * 4_099 + rank)


def train(
    recipe: Recipe,
    plan: Plan,
    folder: Path,
    member: Path,
    *,
    device: str | None = None,
    resume: bool = False,
    max_seconds: float | None = None,
) -> None:
    """Train a recipe and export its member.

    Args:
        recipe: what to train.
        plan: how long.
        folder: gets `checkpoint.pt`, `log.csv` and `samples/`.
        member: model folder of the exported member.
        device: "cpu" stays off an accelerator; "cuda:1" is one of several; None takes what there is.
        resume: go on from `checkpoint.pt`; without it an existing checkpoint is an error, so that no work is lost.
        max_seconds: stop after this time, with a checkpoint and the export of what is there.

    Raises:
        StateError: a checkpoint exists and `resume` is false, or it is of another recipe.
    """
    if device is not None and device.startswith("cuda:"):
        torch.cuda.set_device(device)
    accelerator = Accelerator(cpu=device == "cpu")
    folder.mkdir(parents=True, exist_ok=True)
    state = _TrainingState(recipe, plan, folder, recipe.trainable().to(accelerator.device))
    if state.checkpoint.exists() and not resume:
        raise StateError(
            f"{folder} already holds a training checkpoint; pass resume=True (--resume) or another folder."
        )
    optimizer = state.optimizer = torch.optim.AdamW(
        state.module.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay
    )
    if resume and state.checkpoint.exists():
        state.load()
    if state.steps > plan.steps:
        raise StateError(f"{state.checkpoint} has {state.steps} steps already; ask for more than {plan.steps}.")
    started = saved = time.monotonic()
    for step in range(state.steps, plan.steps):
        for group in optimizer.param_groups:
            group["lr"] = plan.rate(step)
        numbers = _take_step(state, accelerator, batch_generator(plan.seed, step, accelerator.process_index))
        now = time.monotonic()
        stop = _agreed(max_seconds is not None and now - started > max_seconds)
        if accelerator.is_main_process:
            if step % 20 == 0 or stop:
                _log(folder / "log.csv", {"step": step, "seconds": round(now - started, 1), **numbers})
            if now - saved > plan.checkpoint_s:
                state.save()
                saved = now
        if stop:
            break
    if accelerator.is_main_process:
        state.save()
        state.finish(member)


def _take_step(state: "_TrainingState", accelerator: Accelerator, generator: torch.Generator) -> dict[str, float]:
    """Learn from one batch; return the numbers for the log, the loss first."""
    recipe, module, optimizer = state.recipe, state.module, state.optimizer
    if isinstance(recipe, Paced):
        recipe.progress = state.steps / state.plan.steps
    loss, numbers = recipe.loss(module, generator, state.plan.batch_size)
    optimizer.zero_grad(set_to_none=True)
    accelerator.backward(loss)
    _average_gradients(module, accelerator)
    norm = accelerator.clip_grad_norm_(module.parameters(), state.plan.max_grad_norm)
    optimizer.step()
    if state.average is not None:
        state.average.step(module.parameters())
    state.steps += 1
    state.samples += state.plan.batch_size * accelerator.num_processes
    return {"loss": float(loss.detach()), **numbers, "grad_norm": float(norm)}


def export_checkpoint(recipe: Recipe, plan: Plan, folder: Path, member: Path) -> None:
    """Export the member from a checkpoint without training on (while another process trains, or after a crash).

    Args:
        recipe: as trained.
        plan: as trained.
        folder: the training folder.
        member: model folder of the exported member.

    Raises:
        StateError: there is no checkpoint.
    """
    state = _TrainingState(recipe, plan, folder, recipe.trainable())
    if not state.checkpoint.exists():
        raise StateError(f"{folder} holds no checkpoint.pt; train the recipe {recipe.name!r} first.")
    state.load()
    state.finish(member)


class _TrainingState:
    """What a checkpoint holds: how far a recipe has come.

    Args:
        recipe: what is trained.
        plan: how long.
        folder: of the checkpoint and the samples.
        module: to train, on its device.

    Attributes:
        optimizer: None until it is set, for an export alone.
        average: the averaged weights, if the plan asks for them.
        steps: that were taken.
        samples: that were seen.
    """

    def __init__(self, recipe: Recipe, plan: Plan, folder: Path, module: nn.Module) -> None:
        self.recipe, self.plan, self.folder, self.module = recipe, plan, folder, module
        self.optimizer: Any = None
        decay = plan.ema_decay
        self.average = EMAModel(module.parameters(), decay=decay, use_ema_warmup=True) if decay else None
        self.steps = self.samples = 0

    @property
    def checkpoint(self) -> Path:
        """Its file."""
        return self.folder / "checkpoint.pt"

    def save(self) -> None:
        """Write the checkpoint atomically."""
        state = {
            "recipe": self.recipe.name,
            "steps": self.steps,
            "samples": self.samples,
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        if self.average is not None:
            state["average"] = self.average.state_dict()
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.checkpoint)
        known = {"recipe": self.recipe.name, "steps": self.steps}
        self.checkpoint.with_suffix(".json").write_text(json.dumps(known))

    def load(self) -> None:
        """Read the checkpoint; of the optimizer only where there is one.

        Raises:
            StateError: it is of another recipe.
        """
        state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        if state["recipe"] != self.recipe.name:
            raise StateError(
                f"{self.checkpoint} is a checkpoint of recipe {state['recipe']!r}, expected {self.recipe.name!r}."
            )
        self.module.load_state_dict(state["module"])
        if self.optimizer is not None:
            self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.steps, self.samples = int(state["steps"]), int(state["samples"])

    def finish(self, member: Path) -> None:
        """Export with the averaged weights, and draw the sample grid."""
        if self.average is not None:
            self.average.copy_to(self.module.parameters())
        self.module.eval()
        samples = self.folder / "samples"
        samples.mkdir(exist_ok=True)
        card = {
            "recipe": self.recipe.name,
            "steps": self.steps,
            "samples": self.samples,
            "plan": asdict(self.plan),
        }
        self.recipe.export(member, self.module, card)
        (member / "training.json").write_text(json.dumps(card, indent=2) + "\n")
        self.recipe.sample_grid(self.module, member).save(samples / f"step_{self.steps:06d}.png")


def _average_gradients(module: nn.Module, accelerator: Accelerator) -> None:
    """Give every process the mean gradient.

    Done here, not by a wrapper around the module, because a wrapper hides the module's own methods from the recipes.
    """
    if accelerator.num_processes == 1:
        return
    for parameter in module.parameters():
        if parameter.requires_grad:
            # A batch may leave a parameter out in one process and not in another.
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = accelerator.reduce(gradient, reduction="mean")


def _agreed(stop: bool) -> bool:
    """Let the first process decide when to stop, so that no process waits for one that has left."""
    return bool(broadcast_object_list([stop])[0])


def _log(path: Path, row: Mapping[str, float]) -> None:
    """Append one row of numbers to the training curve."""
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(row))
        if is_new:
            writer.writeheader()
        writer.writerow({key: f"{value:.5g}" if isinstance(value, float) else value for key, value in row.items()})
