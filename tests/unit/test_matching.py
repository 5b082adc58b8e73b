"""Finding the points of a frame in the one before: exact shifts, what is hidden, what is filled."""

import pytest
import torch
from tiny import tiny_ctrlcolor
from torch.nn import functional

from colorlab.errors import RangeError, ShapeError
from colorlab.networks.encoder_levels import encoder_levels
from colorlab.video.matching import FrameLook, Origin, carry_chroma, find_origin, join_levels, sample_at

SIZE = 64


def texture(seed: int = 0) -> torch.Tensor:
    """(1, 1, 64, 64) smooth random lightness, 20 to 80."""
    noise = torch.rand(1, 1, SIZE // 4, SIZE // 4, generator=torch.Generator().manual_seed(seed))
    return 20 + 60 * functional.interpolate(noise, size=(SIZE, SIZE), mode="bicubic").clamp(0, 1)


def look(lightness: torch.Tensor) -> FrameLook:
    """A look whose features are the lightness around each pixel, near and farther away."""
    levels = []
    for radius in (2, 3, 4):
        padded = functional.pad(lightness, (radius,) * 4, mode="reflect")
        levels.append(functional.unfold(padded, 2 * radius + 1).unflatten(2, (SIZE, SIZE)))
    return FrameLook(lightness, join_levels(tuple(levels), (SIZE, SIZE)))


def centers() -> torch.Tensor:
    """(1, 2, 64, 64), (x, y) of every pixel."""
    y, x = torch.meshgrid(torch.arange(SIZE).float(), torch.arange(SIZE).float(), indexing="ij")
    return torch.stack([x, y])[None]


def test_a_frame_is_found_in_itself_exactly() -> None:
    one = look(texture())
    origin = find_origin(one, one)
    torch.testing.assert_close(origin.places, centers(), rtol=0, atol=0)
    assert origin.share == 1.0


def test_a_constant_picture_stands_still() -> None:
    one = look(torch.full((1, 1, SIZE, SIZE), 50.0))
    origin = find_origin(one, one)
    torch.testing.assert_close(origin.places, centers(), rtol=0, atol=0)
    assert origin.share == 1.0


@pytest.mark.parametrize("shift", [(0, 1), (2, -1), (3, 4), (12, 0), (-9, 10)])
def test_shifts_are_found_small_and_large(shift: tuple[int, int]) -> None:
    old = texture()
    origin = find_origin(look(old.roll(shift, dims=(2, 3))), look(old))
    wanted = centers() - torch.tensor([shift[1], shift[0]]).view(1, 2, 1, 1)
    inside = (wanted >= 8).all(dim=1) & (wanted < SIZE - 8).all(dim=1)
    inside &= (centers() >= 8).all(dim=1) & (centers() < SIZE - 8).all(dim=1)
    error = (origin.places - wanted).abs().amax(dim=1)[inside]
    trusted = origin.trusted[:, 0][inside]
    assert trusted.float().mean() > 0.9
    assert (error[trusted] <= 1.0).float().mean() > 0.97


def test_what_was_hidden_is_not_trusted() -> None:
    old, new = texture(0), texture(0)
    new[:, :, 20:44, 20:44] = 100 - texture(5)[:, :, 20:44, 20:44]
    origin = find_origin(look(new), look(old))
    assert origin.trusted[0, 0, 24:40, 24:40].float().mean() < 0.35
    assert origin.trusted[0, 0, :12].float().mean() > 0.95


def test_another_picture_is_not_found() -> None:
    assert find_origin(look(texture(0)), look(texture(9))).share < 0.4


def test_frames_of_two_sizes_are_refused() -> None:
    one = look(texture())
    with pytest.raises(ShapeError, match=r"old\.lightness"):
        find_origin(one, FrameLook(one.lightness[:, :, :32], one.features))


def test_carrying_to_the_same_place_changes_nothing() -> None:
    ab = torch.randn(1, 2, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 30
    carried, known = carry_chroma(ab, Origin(centers(), torch.ones(1, 1, SIZE, SIZE, dtype=torch.bool)), texture())
    torch.testing.assert_close(carried, ab, rtol=0, atol=0)
    assert known.all()


def test_thin_gaps_take_the_color_of_what_is_as_light_and_wide_ones_stay_open() -> None:
    lightness = torch.full((1, 1, SIZE, SIZE), 30.0)
    lightness[..., 32:] = 80.0
    ab = torch.zeros(1, 2, SIZE, SIZE)
    ab[:, 0, :, :32], ab[:, 1, :, 32:] = 40.0, -50.0
    trusted = torch.ones(1, 1, SIZE, SIZE, dtype=torch.bool)
    trusted[:, :, 4:24, 30:34] = False
    trusted[:, :, 30:60, 4:60] = False
    carried, known = carry_chroma(ab, Origin(centers(), trusted), lightness)
    assert known[:, :, 4:24, 30:34].all()
    torch.testing.assert_close(carried[:, :, 8:20], ab[:, :, 8:20], rtol=0, atol=1e-3)
    assert not known[0, 0, 40:50, 12:52].any()
    assert (carried[0, :, 40:50, 12:52] == 0).all()


def test_reading_at_the_centers_is_the_identity() -> None:
    picture = torch.rand(1, 3, 9, 14, generator=torch.Generator().manual_seed(0))
    y, x = torch.meshgrid(torch.arange(9).float(), torch.arange(14).float(), indexing="ij")
    torch.testing.assert_close(sample_at(picture, torch.stack([x, y])[None]), picture, rtol=0, atol=1e-5)


def test_encoder_levels_are_what_the_encoder_computes() -> None:
    vae = tiny_ctrlcolor().vae
    image = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    seen: list[torch.Tensor] = []
    hooks = [
        block.resnets[-1].register_forward_hook(lambda _, __, output: seen.append(output))
        for block in vae.encoder.down_blocks
    ]
    with torch.no_grad():
        vae.encode(image * 2 - 1)
        for hook in hooks:
            hook.remove()
        levels = encoder_levels(vae, image, 3)
    assert [tuple(level.shape[-2:]) for level in levels] == [(32, 48), (16, 24), (8, 12)]
    for level, wanted in zip(levels, seen, strict=False):
        torch.testing.assert_close(level, wanted, rtol=0, atol=0)
    with pytest.raises(RangeError, match="num_levels is 5"):
        encoder_levels(vae, image, 5)
