"""Lists of pictures: each is what a single run gives, and none is made twice."""

from collections.abc import Callable

import numpy as np
import pytest
from tiny import tiny_colorizer, tiny_ctrlcolor, tiny_lcad, tiny_picture

from colorlab.colorizer import Colorizer
from colorlab.conditioning import Conditioning
from colorlab.errors import RangeError
from colorlab.evaluation.batches import PictureMaker
from colorlab.methods.base import Method
from colorlab.settings import Settings
from colorlab.strokes import Stroke

SAG, DEFORMABLE = "self_attention_guidance", "deformable_decoding"
SETTINGS = Settings(num_inference_steps=3, guidance_scale=4.0, seed=5).with_mechanism(SAG, sag_scale=0.5)
EXEMPLAR = np.random.default_rng(3).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def stroked(column: int, **others: object) -> Conditioning:
    """A gray picture with one stroke."""
    return Conditioning(gray=tiny_picture(), strokes=[Stroke([(column, 10)], (200, 40, 40), 5)], **others)


@pytest.fixture
def colorizer() -> Colorizer:
    return tiny_colorizer(tiny_ctrlcolor())


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Callable[[Method], list[int]]:
    """Watch how many rows each call of a denoising network has."""

    def watch(method: Method) -> list[int]:
        seen: list[int] = []
        method.unet.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
        return seen

    return watch


def assert_single_runs(colorizer: Colorizer, wanted: list[Conditioning], images: list[np.ndarray]) -> None:
    """Compare with one run for each picture, in eight bits."""
    for index, (conditioning, image) in enumerate(zip(wanted, images, strict=True)):
        alone = colorizer.start(conditioning, SETTINGS.replace(seed=5 + index)).finish(progress=False).image
        assert np.abs(image.astype(int) - alone.astype(int)).max() <= 1


def test_every_mixture_is_that_of_single_runs(colorizer: Colorizer) -> None:
    base = np.repeat(tiny_picture()[..., None], 3, axis=2) // 2 + 40
    wanted = [
        stroked(10),
        stroked(20, prompt="a red car"),
        stroked(30, exemplar=EXEMPLAR),
        stroked(40, prompt="a car", negative_prompt="a car"),
        Conditioning(gray=base, base_image=base, strokes=[Stroke([(30, 10)], (40, 40, 200), 5)]),
        stroked(50),
        Conditioning(gray=tiny_picture(), strokes=[Stroke([(25, 10)], (200, 40, 40), 5, last_step=1)]),
    ]
    images = PictureMaker(colorizer.method, batch_size=4)(wanted, SETTINGS)
    assert_single_runs(colorizer, wanted, images)
    assert not any(np.array_equal(images[0], image) for image in images[1:])


def test_equal_passes_are_asked_once(colorizer: Colorizer, rows: Callable[[Method], list[int]]) -> None:
    seen = rows(colorizer.method)
    make = PictureMaker(colorizer.method)
    make([stroked(10), stroked(20)], SETTINGS)
    # Of timesteps 667, 334 and 1 guidance acts at the first alone, where it asks again.
    assert seen == [2, 2, 2, 2]
    seen.clear()
    make([stroked(10, prompt="a red car"), stroked(20)], SETTINGS)
    assert seen == [2, 2, 2, 2]
    seen.clear()
    make([stroked(10, exemplar=EXEMPLAR)], SETTINGS)
    assert seen == [2, 2, 2, 2]


def test_masks_that_guide_one_pass_keep_both(rows: Callable[[Method], list[int]]) -> None:
    colorizer = tiny_colorizer(tiny_lcad())
    settings = Settings(num_inference_steps=2, guidance_scale=4.0)
    seen = rows(colorizer.method)
    words = {"prompt": "a red car", "negative_prompt": "a red car"}
    mask = np.zeros((40, 56), dtype=bool)
    mask[:20] = True
    wanted = Conditioning(gray=tiny_picture(), **words, masks={"red car": mask})
    (image,) = PictureMaker(colorizer.method)([wanted], settings)
    alone = colorizer.start(wanted, settings).finish(progress=False).image
    assert np.abs(image.astype(int) - alone.astype(int)).max() <= 1
    assert set(seen) == {2}
    seen.clear()
    PictureMaker(colorizer.method)([wanted.replace(masks={})], settings)
    assert seen == [1, 1]


def test_no_picture_is_made_twice(colorizer: Colorizer, rows: Callable[[Method], list[int]]) -> None:
    seen, make = rows(colorizer.method), PictureMaker(colorizer.method)
    wanted = [stroked(10), stroked(20), stroked(30)]
    off = SETTINGS.with_mechanism(SAG, is_on=False)
    images, plain = make(wanted, SETTINGS), make(wanted, off)
    assert not any(np.array_equal(*pair) for pair in zip(images, plain, strict=True))
    seen.clear()
    # Part of a list, a default that is named, and parameters of what is off come to the same.
    again = make(wanted[:2], SETTINGS.with_mechanism(SAG, site="mid").with_mechanism(DEFORMABLE, is_on=True))
    assert all(np.array_equal(*pair) for pair in zip(again, images, strict=False))
    make(wanted, off.with_mechanism(SAG, sag_scale=1.5))
    assert not seen
    # Another place in the list is another seed.
    make(wanted[1:], SETTINGS)
    assert seen
    seen.clear()
    moved = make(wanted[1:], SETTINGS, seeds=[6, 7])
    assert all(np.array_equal(*pair) for pair in zip(moved, images[1:], strict=True))
    assert not seen


def test_what_differs_in_decoding_alone_is_decoded_alone(
    colorizer: Colorizer, rows: Callable[[Method], list[int]]
) -> None:
    seen, make = rows(colorizer.method), PictureMaker(colorizer.method)
    plain = SETTINGS.with_mechanism(DEFORMABLE, is_on=False)
    wanted = [stroked(10), stroked(20)]
    bent = make(wanted, SETTINGS)
    seen.clear()
    images = make(wanted, plain)
    assert not seen
    assert not any(np.array_equal(*pair) for pair in zip(bent, images, strict=True))
    for index, image in enumerate(images):
        alone = colorizer.start(wanted[index], plain.replace(seed=5 + index)).finish(progress=False).image
        assert np.abs(image.astype(int) - alone.astype(int)).max() <= 1
    # An exemplar's guidance looks through the decoder, so that its latents are others.
    guided = [one.with_mechanism("exemplar_guidance", exemplar_scale=0.1) for one in (SETTINGS, plain)]
    shown = [stroked(10, exemplar=EXEMPLAR)]
    make(shown, guided[0])
    seen.clear()
    (image,) = make(shown, guided[1])
    assert seen
    alone = colorizer.start(shown[0], guided[1]).finish(progress=False).image
    assert np.abs(image.astype(int) - alone.astype(int)).max() <= 1


def test_seeds_are_one_for_each_picture(colorizer: Colorizer) -> None:
    with pytest.raises(RangeError, match="2 seeds came for 1 conditionings"):
        PictureMaker(colorizer.method)([stroked(10)], SETTINGS, seeds=[1, 2])
