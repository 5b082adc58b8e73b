"""The grounding loss: what names what, what is read, and that attention on the right words costs nothing."""

import math

import pytest
import torch

from colorlab.training.denoising import mini_unet
from colorlab.training.grounding import AttentionReader, grounding_loss, naming_tokens, stroke_grounding_loss

RED, CAR, HOUSE, BLUE = 7, 8, 9, 6
# a red car and a house: car is thing 0, house is thing 1
IDS = torch.tensor([[0, 1, RED, CAR, 2, 1, HOUSE, 99, 99]])


def halves():
    """A picture whose upper half shows thing 0 and whose lower half thing 1."""
    patches = torch.zeros(1, 16, 16, dtype=torch.long)
    patches[:, 8:] = 1
    return patches


def attention_on(upper, lower, grid=(16, 16)):
    """Attention that looks at one token from the upper half and at another from the lower one."""
    probs = torch.zeros(1, *grid, IDS.shape[1])
    probs[:, : grid[0] // 2, :, upper] = 1
    probs[:, grid[0] // 2 :, :, lower] = 1
    return [(grid, probs.flatten(1, 2))]


def test_an_object_is_named_by_its_noun_and_the_color_before_it():
    named = naming_tokens(IDS, [[CAR, HOUSE]], [RED, BLUE])
    assert named[0, 0].nonzero().flatten().tolist() == [2, 3]
    assert named[0, 1].nonzero().flatten().tolist() == [6]
    assert not named[0, 2:].any()


@pytest.mark.parametrize("grid", [(16, 16), (8, 8)])
def test_right_words_cost_nothing_wrong_words_much_and_other_words_something(grid):
    named = naming_tokens(IDS, [[CAR, HOUSE]], [RED])
    right, wrong, other = (
        float(grounding_loss(attention_on(*tokens, grid), named, halves())) for tokens in ((3, 6), (6, 3), (0, 0))
    )
    assert right == pytest.approx(0.0, abs=1e-5)
    assert wrong > other > 5
    half = torch.stack([attention_on(3, 6, grid)[0][1], attention_on(0, 0, grid)[0][1]]).mean(0)
    assert float(grounding_loss([(grid, half)], named, halves())) == pytest.approx(math.log(0.55 / 0.5), abs=1e-3)


def test_objects_that_are_not_named_and_pictures_without_objects_cost_nothing():
    named = naming_tokens(IDS, [[]], [RED])
    assert float(grounding_loss(attention_on(0, 0), named, halves())) == 0
    named = naming_tokens(IDS, [[CAR, HOUSE]], [RED])
    assert float(grounding_loss(attention_on(0, 0), named, torch.full((1, 16, 16), -1))) == 0


def test_the_reader_sees_what_the_network_computes_with_gradients_and_leaves_nothing_behind():
    unet = mini_unet(in_channels=4, cross_attention_dim=16)
    latents, words = torch.randn(1, 4, 16, 16), torch.randn(1, IDS.shape[1], 16)
    plain = unet(latents, 5, encoder_hidden_states=words).sample
    with AttentionReader(unet, latents.shape) as reader:
        watched = unet(latents, 5, encoder_hidden_states=words).sample
    assert torch.equal(plain, watched)
    attention = reader.probabilities()
    assert {grid for grid, _ in attention} == {(16, 16), (8, 8)}
    for (height, width), probs in attention:
        assert probs.shape == (1, height * width, IDS.shape[1])
        assert torch.allclose(probs.sum(-1), torch.ones(()), atol=1e-5)
    grounding_loss(attention, naming_tokens(IDS, [[CAR, HOUSE]], [RED]), halves()).backward()
    assert unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2.to_k.weight.grad.abs().sum() > 0
    assert not any(module._forward_hooks for module in unet.modules())


def test_cells_are_led_to_the_strokes_on_their_own_object():
    owners = torch.full((1, 16, 16), -1)
    owners[0, 2, 3], owners[0, 12, 3] = 0, 1
    on_first, on_second, elsewhere = (torch.zeros(1, 256, 256) for _ in range(3))
    on_first[..., 2 * 16 + 3], on_second[..., 12 * 16 + 3], elsewhere[..., 0] = 1, 1, 1
    right = torch.cat([on_first[:, :128], on_second[:, 128:]], dim=1)
    wrong = torch.cat([on_second[:, :128], on_first[:, 128:]], dim=1)
    losses = [
        float(stroke_grounding_loss([((16, 16), probs)], owners, halves())) for probs in (right, elsewhere, wrong)
    ]
    assert losses[0] == pytest.approx(0.0, abs=1e-5)
    assert losses[0] < losses[1] < losses[2]
    nothing = torch.full_like(owners, -1)
    assert float(stroke_grounding_loss([((16, 16), wrong)], nothing, halves())) == 0


def test_strokes_are_found_on_coarser_grids():
    owners = torch.full((1, 16, 16), -1)
    owners[0, 3, 5], owners[0, 15, 15] = 0, 1
    probs = torch.zeros(1, 64, 64)
    probs[:, :32, 1 * 8 + 2], probs[:, 32:, 63] = 1, 1
    assert float(stroke_grounding_loss([((8, 8), probs)], owners, halves())) == pytest.approx(0.0, abs=1e-5)
