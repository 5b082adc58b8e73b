import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from colorlab import images
from colorlab.color import gray_to_lightness, rgb_to_lab
from colorlab.errors import ImageError, RangeError, ShapeError
from colorlab.images import (
    finish_keep_lightness,
    load_gray,
    load_image,
    resize_image,
    to_uint8,
    upsample_chroma,
    working_size,
)

RNG = np.random.default_rng(0)
COLOR = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
GRAY = RNG.integers(0, 256, (6, 9), dtype=np.uint8)


def lightness_error(finished: torch.Tensor, gray: torch.Tensor) -> float:
    written = torch.from_numpy(to_uint8(finished)).permute(2, 0, 1)[None].float() / 255
    return float((rgb_to_lab(written)[:, :1] - gray_to_lightness(gray)).abs().max())


# Reading


def test_eight_bits_survive_the_round_trip() -> None:
    assert np.array_equal(to_uint8(load_image(COLOR)), COLOR)
    assert np.array_equal(to_uint8(load_image(GRAY))[:, :, 1], GRAY)


def test_array_pil_and_file_are_the_same_picture(tmp_path: Path) -> None:
    Image.fromarray(COLOR).save(tmp_path / "color.png")
    for source in (Image.fromarray(COLOR), tmp_path / "color.png", str(tmp_path / "color.png"), COLOR / 255.0):
        assert torch.allclose(load_image(source), load_image(COLOR), atol=1e-7)
        assert load_image(source).shape == (1, 3, 6, 9)
        assert load_gray(source).shape == (1, 1, 6, 9)


def test_gray_keeps_gray_values_and_the_lightness_of_colors() -> None:
    assert torch.equal(load_gray(GRAY)[0, 0], torch.from_numpy(GRAY.astype(np.float32) / np.float32(255)))
    assert (gray_to_lightness(load_gray(COLOR)) - rgb_to_lab(load_image(COLOR))[:, :1]).abs().max() < 1e-3


def test_sixteen_bits(tmp_path: Path) -> None:
    deep = GRAY.astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.fromarray(deep).save(tmp_path / "deep.tif")
    for source in (deep, tmp_path / "deep.png", tmp_path / "deep.tif", Image.fromarray(deep.astype(np.int32))):
        assert torch.allclose(load_gray(source), load_gray(GRAY), atol=1e-6)


def test_sixteen_bits_with_a_transparent_value(tmp_path: Path) -> None:
    deep = np.array([[0, 1000, 30000, 65535]], dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png", transparency=1000)
    expected = torch.tensor([[0.0, 1.0, 30000 / 65535, 1.0]])
    assert torch.allclose(load_gray(tmp_path / "deep.png")[0, 0], expected)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV", "RGBA", "RGBX"])
def test_color_modes_are_converted(mode: str) -> None:
    flat = Image.new("RGB", (5, 4), (200, 40, 40))
    assert np.abs(to_uint8(load_image(flat.convert(mode))).astype(int) - [200, 40, 40]).max() <= 6


@pytest.mark.parametrize("mode", ["1", "L", "LA", "F"])
def test_gray_modes_are_converted(mode: str) -> None:
    white = Image.new("F", (5, 4), 1.0) if mode == "F" else Image.new("L", (5, 4), 255).convert(mode)
    assert torch.allclose(load_gray(white), torch.ones(1, 1, 4, 5), atol=1e-6)
    assert load_gray(white).shape == (1, 1, 4, 5)


def test_cmyk_jpeg_and_palette_png_files(tmp_path: Path) -> None:
    flat = Image.new("RGB", (16, 16), (40, 120, 200))
    flat.convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    flat.quantize(4).save(tmp_path / "b.png")
    for name in ("a.jpg", "b.png"):
        assert np.abs(to_uint8(load_image(tmp_path / name)).astype(int) - [40, 120, 200]).max() <= 12


def test_alpha_is_composited_on_white() -> None:
    picture = np.zeros((1, 3, 4), dtype=np.uint8)
    picture[0, :, 0], picture[0, :, 3] = 255, [0, 51, 255]
    seen = load_image(picture)[0, :, 0].T
    assert torch.allclose(seen, torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.8, 0.8], [1.0, 0.0, 0.0]]), atol=1e-6)
    assert torch.allclose(load_image(Image.fromarray(picture, "RGBA"))[0, :, 0].T, seen, atol=1 / 255)


def test_transparent_palette_is_white_where_nothing_is(tmp_path: Path) -> None:
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "p.png", transparency=0)
    seen = to_uint8(load_image(tmp_path / "p.png"))
    assert seen[0, 0].tolist() == [255, 255, 255]
    assert seen[0, 1].tolist() == [255, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    from PIL import ImageOps

    picture = Image.fromarray(COLOR)
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "turned.png", exif=exif)
    expected = ImageOps.exif_transpose(Image.open(tmp_path / "turned.png"))
    seen = to_uint8(load_image(tmp_path / "turned.png"))
    assert np.array_equal(seen, np.asarray(expected))
    assert seen.shape[:2] == ((6, 9) if orientation <= 4 else (9, 6))


def test_one_pixel_works_to_the_end() -> None:
    gray = load_gray(np.full((1, 1), 100, dtype=np.uint8))
    finished = finish_keep_lightness(torch.rand(1, 3, 128, 128), gray)
    assert finished.shape == (1, 3, 1, 1)
    assert lightness_error(finished, gray) < 0.5


def test_a_very_wide_picture_works() -> None:
    gray = load_gray(np.tile(GRAY, (2, 2300))[:12, :20000])
    assert working_size(12, 20000, 128, 8) == (64, 256)
    finished = finish_keep_lightness(torch.rand(1, 3, 64, 256), gray)
    assert finished.shape == (1, 3, 12, 20000)
    assert lightness_error(finished, gray) < 0.5


def _truncated(folder: Path) -> Path:
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / "whole.png")
    (folder / "half.png").write_bytes((folder / "whole.png").read_bytes()[:2000])
    return folder / "half.png"


def _text(folder: Path) -> Path:
    (folder / "notes.png").write_text("no picture")
    return folder / "notes.png"


def _bad_header(folder: Path) -> Path:
    (folder / "bad.ppm").write_bytes(b"P6 2,5 2 255 ")
    return folder / "bad.ppm"


def _empty_file(folder: Path) -> Path:
    (folder / "empty.jpg").touch()
    return folder / "empty.jpg"


def _huge(folder: Path) -> Path:
    Image.new("1", (20_000, 3_000)).save(folder / "huge.png")
    return folder / "huge.png"


def _absurd(folder: Path) -> Path:
    Image.new("1", (20_000, 20_000)).save(folder / "absurd.png")
    return folder / "absurd.png"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder / "nothing.png", "There is no file"),
        (lambda folder: folder, "is a folder"),
        (_truncated, "truncated"),
        (_text, "not a picture"),
        (_empty_file, "not a picture"),
        (_bad_header, "cannot be read"),
        (lambda folder: "x" * 5000, "There is no file"),
        (lambda folder: "x\0y", "There is no file"),
        (_huge, "at most 50,000,000"),
        (_absurd, "50,000,000 pixels"),
        (lambda folder: np.full((4, 4), np.nan), "16 values that are NaN"),
        (lambda folder: np.array([[0.5, np.inf]]), "1 values that are NaN or infinite"),
        (lambda folder: np.full((4, 4), 200.0), r"\[0, 1\] is expected"),
        (lambda folder: np.full((4, 4), -0.1), r"\[0, 1\] is expected"),
        (lambda folder: np.zeros((4, 4), dtype=np.int64), "int64"),
        (lambda folder: np.zeros((4, 4), dtype=complex), "complex128"),
        (lambda folder: np.zeros((4,)), r"shape \(4,\)"),
        (lambda folder: np.zeros((4, 4, 2)), r"\(H, W, 3\)"),
        (lambda folder: np.zeros((3, 40, 40)), "channels-first"),
        (lambda folder: np.zeros((0, 4)), "empty"),
        (lambda folder: np.zeros((4, 0, 3), dtype=np.uint8), "empty"),
        (lambda folder: Image.fromarray(np.full((2, 2), 70000, dtype=np.int32)), "70000"),
        (lambda folder: Image.fromarray(np.full((2, 2), 9.5, dtype=np.float32)), r"\[0, 1\] is expected"),
        (lambda folder: None, "NoneType"),
        (lambda folder: [[0.0, 1.0]], "list"),
    ],
)
def test_bad_pictures_give_one_clear_sentence(make: Callable[[Path], object], words: str, tmp_path: Path) -> None:
    for load in (load_image, load_gray):
        with pytest.raises(ImageError, match=words) as caught:
            load(make(tmp_path), "the photo")
        message = str(caught.value)
        assert "the photo" in message
        assert message.endswith(".")
        assert "\n" not in message


def test_no_source_is_written_to() -> None:
    source = np.full((2, 2, 4), 0.5, dtype=np.float32)
    load_image(source).fill_(0.0)
    assert (source == 0.5).all()
    plain = np.full((2, 2), 0.5, dtype=np.float32)
    load_gray(plain).fill_(0.0)
    assert (plain == 0.5).all()


# Sizes


@pytest.mark.parametrize("size", [(128, 128), (4000, 3000), (1, 1), (7, 5000), (5000, 7), (300, 301)])
@pytest.mark.parametrize(("base_px", "multiple_px"), [(128, 8), (128, 32), (512, 64)])
def test_working_size(size: tuple[int, int], base_px: int, multiple_px: int) -> None:
    height, width = working_size(*size, base_px, multiple_px)
    assert height % multiple_px == width % multiple_px == 0
    assert 0.7 <= height * width / base_px**2 <= 1.35
    assert 1 / 4 <= height / width <= 4
    assert working_size(size[1], size[0], base_px, multiple_px) == (width, height)


def test_square_pictures_work_at_the_base_size() -> None:
    assert working_size(777, 777, 128, 8) == (128, 128)
    with pytest.raises(RangeError, match="width"):
        working_size(10, 0, 128, 8)


def test_resizing_keeps_constants_means_and_equal_sizes() -> None:
    image = torch.rand(1, 3, 64, 64)
    assert resize_image(image, (64, 64)) is image
    assert torch.allclose(resize_image(torch.full((1, 1, 50, 30), 0.3), (7, 90)), torch.tensor(0.3))
    assert (resize_image(image, (8, 8)).mean() - image.mean()).abs() < 0.01
    with pytest.raises(RangeError, match="size"):
        resize_image(image, (0, 4))


# The finish


def test_equal_sizes_give_the_decoded_chroma() -> None:
    decoded = 0.3 + 0.4 * torch.rand(1, 3, 40, 56)
    lab = rgb_to_lab(decoded)
    assert (upsample_chroma(lab[:, 1:], lab[:, :1]) - lab[:, 1:]).abs().max() < 1e-3
    gray = images.image_to_gray(decoded)
    assert (finish_keep_lightness(decoded, gray) - decoded).abs().max() < 1e-3


def test_a_gray_decoded_picture_gives_the_gray_input() -> None:
    gray = torch.rand(1, 1, 37, 53)
    finished = finish_keep_lightness(torch.full((1, 3, 16, 24), 0.5), gray)
    assert (finished - gray).abs().max() < 2e-3


@pytest.mark.parametrize("scale", [2, 3, 5, 8])
def test_chroma_does_not_cross_a_strong_edge(scale: int) -> None:
    lightness = torch.full((1, 1, 16, 16), 30.0)
    lightness[..., 8:] = 80.0
    ab = torch.zeros(1, 2, 16, 16)
    ab[:, 0, :, :8], ab[:, 0, :, 8:] = 40.0, -40.0
    full = [x.repeat_interleave(scale, 2).repeat_interleave(scale, 3) for x in (lightness, ab)]
    bleeding = (upsample_chroma(ab, full[0]) - full[1]).abs().max() / 80
    bilinear = (resize_image(ab, full[0].shape[-2:]) - full[1]).abs().max() / 80
    assert bleeding < 0.05
    assert bilinear > 0.2


def test_guided_chroma_is_nearer_to_the_truth_than_bilinear() -> None:
    from skimage import data

    lab = rgb_to_lab(load_image(data.astronaut()))
    for size in (256, 128, 64):
        ab = resize_image(lab[:, 1:], (size, size))
        guided = (upsample_chroma(ab, lab[:, :1]) - lab[:, 1:]).square().mean().sqrt()
        bilinear = (resize_image(ab, (512, 512)) - lab[:, 1:]).square().mean().sqrt()
        assert guided < 0.95 * bilinear


def test_upsampled_chroma_stays_within_the_cells() -> None:
    ab = 100 * torch.rand(1, 2, 9, 7) - 50
    up = upsample_chroma(ab, 100 * torch.rand(1, 1, 90, 80))
    assert up.min() >= ab.min() - 1e-4
    assert up.max() <= ab.max() + 1e-4


def test_strips_leave_no_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    ab, lightness = 60 * torch.rand(1, 2, 13, 11) - 30, 100 * torch.rand(1, 1, 101, 67)
    whole = upsample_chroma(ab, lightness)
    monkeypatch.setattr(images, "_STRIP_PIXELS", 200)
    assert (upsample_chroma(ab, lightness) - whole).abs().max() < 1e-4


@pytest.mark.parametrize("seed", range(6))
def test_lightness_is_kept_for_any_picture(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    height, width, h, w = (int(n) for n in torch.randint(1, 150, (4,), generator=generator))
    gray = torch.rand(1, 1, height, width, generator=generator) ** (seed + 0.5)
    decoded = torch.rand(1, 3, h, w, generator=generator).round(decimals=seed % 3)
    assert lightness_error(finish_keep_lightness(decoded, gray), gray) < 0.5


def test_lightness_is_kept_for_every_gray_level_and_every_hue() -> None:
    gray = (torch.arange(256.0) / 255).view(1, 1, 256, 1).expand(1, 1, 256, 24 * 9).contiguous()
    hue = torch.linspace(0, 2 * math.pi, 24).repeat(9)
    chroma = torch.tensor([0.0, 1, 3, 8, 20, 40, 70, 100, 140]).repeat_interleave(24)
    lab = torch.stack([torch.full_like(hue, 60.0), chroma * hue.cos(), chroma * hue.sin()]).view(1, 3, 1, -1)
    ab = lab[:, 1:].expand(1, 2, 256, -1)
    lightness = gray_to_lightness(gray)
    finished = images.lab_to_rgb(torch.cat([lightness, images.fit_chroma_to_gamut(lightness, ab)], dim=1))
    assert lightness_error(finished, gray) < 0.5
    decoded = images.lab_to_rgb(lab).expand(1, 3, 256, -1).contiguous()
    assert lightness_error(finish_keep_lightness(decoded, gray), gray) < 0.5


def test_rounding_alone_cannot_break_the_lightness() -> None:
    # Lightness rises with each channel, so the worst rounding moves all three half a level the same way.
    levels = torch.linspace(0, 254.5, 60)
    image = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, 60, -1)
    lower, upper = (rgb_to_lab((image + shift) / 255)[:, 0] for shift in (0.0, 0.5))
    assert (upper - lower).min() > 0
    assert (upper - lower).max() < 0.3


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_black_and_white_stay_black_and_white(level: float) -> None:
    finished = finish_keep_lightness(torch.rand(1, 3, 16, 16), torch.full((1, 1, 40, 40), level))
    assert (to_uint8(finished) == round(255 * level)).all()


def test_finish_and_output_tell_their_contract() -> None:
    with pytest.raises(ShapeError, match="decoded"):
        finish_keep_lightness(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4))
    with pytest.raises(RangeError, match="gray"):
        finish_keep_lightness(torch.zeros(1, 3, 4, 4), torch.full((1, 1, 4, 4), 2.0))
    with pytest.raises(RangeError, match="image"):
        to_uint8(torch.full((1, 3, 4, 4), math.nan))
    with pytest.raises(ShapeError, match="image"):
        to_uint8(torch.zeros(2, 3, 4, 4))
