"""Several processes train one member: other batches, the same weights."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from colorlab.training.loop import Plan, train

NUM_PROCESSES = 2


class Mean:
    """Learns the mean of what it sees; a batch of an odd source leaves one parameter out."""

    name = "mean"

    def trainable(self) -> nn.Module:
        torch.manual_seed(0)
        return nn.ParameterDict({"mean": nn.Parameter(torch.zeros(3)), "extra": nn.Parameter(torch.zeros(3))})

    def loss(
        self, module: nn.Module, generator: torch.Generator, batch_size: int
    ) -> tuple[torch.Tensor, dict[str, float]]:
        batch = torch.randn(batch_size, 3, generator=generator)
        used = module["mean"] + module["extra"] if batch[0, 0] > 0 else module["mean"]
        return (batch - used).square().mean(), {}

    def sample_grid(self, module: nn.Module, folder: Path) -> Image.Image:
        return Image.new("RGB", (1, 1))

    def export(self, folder: Path, module: nn.Module, card: Mapping[str, object]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(module.state_dict(), folder / "weights.pt")


def _work(rank: int, folder: Path, port: int) -> None:
    """One of the processes, as `accelerate launch` starts them."""
    import os

    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(NUM_PROCESSES),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
    }
    torch.set_num_threads(1)
    train(Mean(), Plan(steps=6, batch_size=1, learning_rate=0.1), folder / str(rank), folder / "member", device="cpu")


def test_two_processes_agree_on_the_mean_of_their_gradients(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_work, (tmp_path, _free_port()), nprocs=NUM_PROCESSES)
    together = torch.load(tmp_path / "member" / "weights.pt", weights_only=True)
    assert pytest.approx(_alone(), abs=1e-6) == torch.cat([together["mean"], together["extra"]]).tolist()


def _alone() -> list[float]:
    """The same six steps in this process: the mean of both processes' losses, by hand."""
    from colorlab.training.loop import batch_generator

    plan, recipe = Plan(steps=6, batch_size=1, learning_rate=0.1), Mean()
    module = recipe.trainable()
    optimizer = torch.optim.AdamW(module.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay)
    for step in range(plan.steps):
        optimizer.param_groups[0]["lr"] = plan.rate(step)
        losses = [recipe.loss(module, batch_generator(plan.seed, step, rank), 1)[0] for rank in range(NUM_PROCESSES)]
        optimizer.zero_grad(set_to_none=False)
        torch.stack(losses).mean().backward()
        for parameter in module.parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        nn.utils.clip_grad_norm_(module.parameters(), plan.max_grad_norm)
        optimizer.step()
    return torch.cat([module["mean"], module["extra"]]).tolist()


def _free_port() -> int:
    """A port that nobody listens on."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
