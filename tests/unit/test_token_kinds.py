"""What vision tokens are told of kinds: the targets, and that a tower learns them."""

import torch

from colorlab.color import COLORS
from colorlab.training.scene_kinds import KINDS
from colorlab.training.token_kinds import TokenKindReader, kind_colors

CAR, FISH = list(KINDS).index("car"), list(KINDS).index("fish")
RED, BLUE = list(COLORS).index("red"), list(COLORS).index("blue")


def test_kinds_have_the_color_of_their_only_thing():
    labels = ["red car", "", "red car", "blue fish", "", "blue car", "red car", ""]
    found = kind_colors(labels, 2)
    assert found.shape == (2, len(KINDS))
    assert found[0, CAR] == 1 + RED
    assert found[0, FISH] == 1 + BLUE
    assert (found[0] == 0).sum() == len(KINDS) - 2
    assert found[1, CAR] == -100, "two cars of different colors have no common one"
    assert found[1, FISH] == 0


def test_a_scene_without_labels_counts_for_nothing():
    assert (kind_colors(["", ""], 1) == -100).all()
    reader = TokenKindReader(8)
    losses = reader(torch.randn(1, 3, 8, requires_grad=True), ["", ""])
    assert [float(loss.detach()) for loss in losses] == [0, 0]


def test_gradients_reach_patches_of_objects_and_the_class_token_alone():
    reader = TokenKindReader(8)
    tokens = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    patches, picture = reader(tokens, ["red car", "", "blue fish", "", "", "blue car"])
    (patches + picture).backward()
    reached = tokens.grad.abs().sum(-1) > 0
    assert reached.tolist() == [[True, True, False, True], [True, False, False, True]]


def test_right_tokens_cost_nothing_and_wrong_ones_do():
    reader = TokenKindReader(len(KINDS))
    torch.nn.init.eye_(reader.of_patch.weight)
    labels = ["red car", "blue fish"]
    tokens = torch.zeros(1, 3, len(KINDS))
    tokens[0, 1, CAR] = tokens[0, 2, FISH] = 50.0
    assert float(reader(tokens, labels)[0].detach()) < 0.1
    assert float(reader(tokens, labels[::-1])[0].detach()) > 10


def test_the_kinds_that_are_there_count_as_much_as_the_many_that_are_not():
    reader = TokenKindReader(4)
    for layer in (reader.of_patch, reader.of_picture):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    with torch.no_grad():
        # Sure that no kind is there at all: right of fifteen kinds, and as wrong as can be of the one car.
        reader.of_picture.bias.view(len(KINDS), -1)[:, 0] = 10.0
    _, error = reader(torch.zeros(1, 2, 4), ["red car"])
    assert 4.9 < float(error.detach()) < 5.1
