"""VGG19's features: layers and pixels by hand, the published file, and what an exemplar does through them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_colorizer, tiny_ctrlcolor, tiny_picture
from torch import nn

from colorlab.checkpoints.vgg19 import read_vgg19
from colorlab.colorizer import Colorizer
from colorlab.conditioning import Conditioning
from colorlab.errors import WeightsError
from colorlab.inspection.replay import moment_of, replay_step
from colorlab.inspection.sources import find_exemplars
from colorlab.methods.ctrlcolor import CtrlColor
from colorlab.networks.vgg19 import LAYER_WEIGHTS, NUM_CONVS, Vgg19Features
from colorlab.settings import Settings

GUIDED = Settings(num_inference_steps=3, guidance_scale=4.0).with_mechanism("exemplar_guidance", exemplar_scale=0.1)
EXEMPLAR = np.full((20, 30, 3), (250, 20, 20), dtype=np.uint8)


@pytest.fixture(scope="module")
def network() -> Vgg19Features:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Vgg19Features((4, 6, 8, 8, 10)).eval().requires_grad_(False)


def with_vgg19(network: Vgg19Features, *dropped: str) -> Colorizer:
    """A tiny CtrlColor that compares exemplars by VGG19, without some other networks."""
    tiny = tiny_ctrlcolor()
    kept = {name: part for name, part in tiny.components.items() if name not in dropped}
    return tiny_colorizer(CtrlColor({**kept, "exemplar_network": network}, tiny.working_px))


def test_layers_are_those_of_the_chain(network: Vgg19Features) -> None:
    image = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    chain: list[nn.Module] = []
    places = {}
    for level, num_convs in enumerate(NUM_CONVS, start=1):
        for number in range(1, num_convs + 1):
            chain += [getattr(network, f"conv{level}_{number}"), nn.ReLU()]
            places[f"relu{level}_{number}"] = len(chain)
        chain.append(nn.MaxPool2d(2))
    red, green, blue = (255.0 * image[:, index : index + 1] for index in range(3))
    pixels = torch.cat([blue - 103.939, green - 116.779, red - 123.68], dim=1)
    features = network(image)
    assert list(features) == list(LAYER_WEIGHTS) == ["relu3_2", "relu4_2", "relu5_2"]
    for name, found in features.items():
        wanted = nn.Sequential(*chain[: places[name]])(pixels)
        wanted = wanted[..., ::2, ::2] if name == "relu3_2" else wanted
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-3)
    assert [tuple(part.shape[-2:]) for part in features.values()] == [(4, 6), (4, 6), (2, 3)]


def test_the_published_file_is_read_and_others_are_told(network: Vgg19Features, tmp_path: Path) -> None:
    torch.save(network.state_dict(), tmp_path / "vgg19_conv.pth")
    read = read_vgg19(tmp_path / "vgg19_conv.pth")
    assert tuple(read.config.widths) == (4, 6, 8, 8, 10)
    for name, value in network.state_dict().items():
        assert torch.equal(read.state_dict()[name], value)
    for weights in (
        {"features.0.weight": torch.zeros(4, 3, 3, 3)},
        {**network.state_dict(), "fc6.bias": torch.zeros(9)},
    ):
        torch.save(weights, tmp_path / "other.pth")
        with pytest.raises(WeightsError, match=r"does not hold VGG19's convolutions as conv1_1\.weight"):
            read_vgg19(tmp_path / "other.pth")


def test_an_exemplar_guides_by_it_without_an_image_encoder(network: Vgg19Features, tmp_path: Path) -> None:
    colorizer = with_vgg19(network, "image_encoder")
    wanted = Conditioning(gray=tiny_picture(), prompt="a car", exemplar=EXEMPLAR)
    run = colorizer.start(wanted, GUIDED).finish(progress=False)
    # No token behind the words: there is no network that makes one.
    assert run.segments[0].prepared.text["cond"].shape[1] == 12
    assert list(run.segments[0].prepared.exemplar) == list(LAYER_WEIGHTS)
    unguided = colorizer.start(wanted, GUIDED.with_mechanism("exemplar_guidance", is_on=False)).finish(progress=False)
    assert not run.state.equals(unguided.state)
    assert "steering" in run.records[0].network_inputs
    assert find_exemplars(run, grid=(1, 2))[0].labels == ("exemplar 1, 1", "exemplar 1, 2")
    assert str(replay_step(moment_of(run, 0), []).verdict) == "exact"
    loaded = Colorizer.from_pretrained(colorizer.save_pretrained(tmp_path / "model"))
    assert loaded.start(wanted, GUIDED).finish(progress=False).state.equals(run.state)


def test_it_lowers_its_own_loss_and_takes_the_place_of_clip(network: Vgg19Features) -> None:
    colorizer = with_vgg19(network)
    method = colorizer.method
    run = colorizer.start(Conditioning(gray=tiny_picture(), exemplar=EXEMPLAR), GUIDED)
    run.step()
    record, prepared = run.records[0], run.segments[0].prepared
    assert method.network_calls["exemplar_network"] == 1
    # The token is still CLIP's.
    assert prepared.text["cond"].shape[1] == 13

    def loss(noise_pred: torch.Tensor) -> float:
        clean = method.schedule.to_original_sample(noise_pred, run.states[0].latents, record.timestep)
        image = method.decode(clean, prepared, GUIDED)
        features, weights = method.exemplar_features, method.exemplar_weights
        return float(method.exemplar.loss(image, prepared.gray, prepared.exemplar, features, GUIDED, weights=weights))

    with torch.no_grad():
        assert loss(record.noise_pred) < loss(record.noise_pred - record.network_inputs["steering"])


def test_a_huge_exemplar_is_made_small_first(network: Vgg19Features) -> None:
    colorizer = with_vgg19(network)
    with torch.no_grad():
        features = colorizer.method.exemplar_features(torch.rand(1, 3, 600, 900))
    assert max(features["relu4_2"].shape[-2:]) <= 2 * colorizer.method.working_px // 8
