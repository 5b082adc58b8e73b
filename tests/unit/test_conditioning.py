import base64
import copy
import dataclasses
import json
import pickle
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from colorlab.conditioning import Conditioning, Manipulation
from colorlab.errors import ImageError, RangeError, ShapeError
from colorlab.picture_codec import decode_picture, encode_picture
from colorlab.strokes import Stroke, Strokes

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (12, 16), dtype=np.uint8)
COLOR = RNG.integers(0, 256, (12, 16, 3), dtype=np.uint8)
MASK = RNG.random((12, 16)) > 0.5
STROKE = Stroke([(1, 2), (9, 9)], (200, 40, 40), 3)


def full() -> Conditioning:
    return Conditioning(
        gray=GRAY,
        prompt="a red car",
        negative_prompt="gray",
        base_image=COLOR,
        strokes=[STROKE],
        exemplar=RNG.random((5, 6, 3)),
        sketch=COLOR,
        masks={"red car": MASK, "house": ~MASK},
        manipulations=[Manipulation("blue hair", 8, "blonde hair", "the hair", True, (0.1, 0.2, 0.3, 0.4))],
    )


@pytest.mark.parametrize("conditioning", [Conditioning(), Conditioning(gray=COLOR), full()])
def test_round_trips_lose_nothing(conditioning: Conditioning) -> None:
    for other in (
        Conditioning.from_json(conditioning.to_json()),
        pickle.loads(pickle.dumps(conditioning)),
        copy.deepcopy(conditioning),
        conditioning.replace(),
    ):
        assert other == conditioning
        assert hash(other) == hash(conditioning)
        for name in ("gray", "base_image", "exemplar", "sketch"):
            assert np.array_equal(getattr(other, name), getattr(conditioning, name))
        assert list(other.masks) == list(conditioning.masks)
        assert all(np.array_equal(other.masks[name], conditioning.masks[name]) for name in other.masks)
        assert other.strokes == conditioning.strokes
        assert other.manipulations == conditioning.manipulations


def test_a_picture_is_the_same_however_it_is_given(tmp_path: Path) -> None:
    Image.fromarray(GRAY).save(tmp_path / "gray.png")
    reference = Conditioning(gray=GRAY, base_image=COLOR, masks={"car": MASK})
    assert reference.gray.shape == (12, 16)
    assert reference.gray.dtype == np.float32
    for gray in (tmp_path / "gray.png", str(tmp_path / "gray.png"), Image.fromarray(GRAY), GRAY / np.float32(255)):
        assert Conditioning(gray=gray, base_image=Image.fromarray(COLOR), masks={"car": MASK}) == reference
    for mask in (Image.fromarray(MASK), np.asarray(Image.fromarray(MASK)), MASK.astype(np.uint8) * 255, MASK * 1.0):
        assert Conditioning(gray=GRAY, base_image=COLOR, masks={"car": mask}) == reference


def test_content_decides_equality() -> None:
    conditioning = full()
    changed = GRAY.copy()
    changed[3, 4] ^= 1
    for changes in (
        {"gray": changed},
        {"prompt": "a blue car"},
        {"negative_prompt": ""},
        {"strokes": ()},
        {"exemplar": None},
        {"masks": {"house": ~MASK, "red car": MASK}},
        {"masks": {"red car": MASK, "home": ~MASK}},
        {"manipulations": ()},
    ):
        assert conditioning.replace(**changes) != conditioning
        assert conditioning.replace(**changes).replace(**{n: getattr(conditioning, n) for n in changes}) == conditioning
    assert conditioning != "a red car"


def test_hashes_of_fields_tell_what_changed() -> None:
    conditioning = full()
    conditioning.content_hash()
    other = conditioning.replace(prompt="something else")
    names = [entry.name for entry in dataclasses.fields(Conditioning)]
    assert [name for name in names if other.content_hash(name) != conditioning.content_hash(name)] == ["prompt"]
    assert other.content_hash("gray", "sketch") == conditioning.content_hash("sketch", "gray")
    fresh = Conditioning(**{name: getattr(other, name) for name in names})
    assert fresh.content_hash() == other.content_hash()
    with pytest.raises(RangeError, match="no field 'grey'"):
        conditioning.content_hash("grey")


def test_the_hash_is_the_same_in_another_process() -> None:
    code = "from colorlab.conditioning import Conditioning; print(Conditioning(prompt='a red car').content_hash())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert said == Conditioning(prompt="a red car").content_hash()


def test_everything_is_frozen_and_nothing_of_the_user_is_kept() -> None:
    gray, mask = GRAY.copy(), MASK.copy()
    conditioning = Conditioning(gray=gray, masks={"car": mask})
    before = conditioning.content_hash()
    gray[:], mask[:] = 0, True
    assert Conditioning(gray=conditioning.gray, masks=conditioning.masks).content_hash() == before
    with pytest.raises(dataclasses.FrozenInstanceError):
        conditioning.prompt = "x"  # type: ignore[misc]
    with pytest.raises(ValueError, match="read-only"):
        conditioning.gray[0, 0] = 0.5
    with pytest.raises(ValueError, match="read-only"):
        conditioning.masks["car"][0, 0] = False
    with pytest.raises(TypeError):
        conditioning.masks["house"] = mask  # type: ignore[index]


def test_size_and_repr() -> None:
    assert Conditioning().size is None
    assert Conditioning(exemplar=COLOR).size is None
    assert Conditioning(sketch=GRAY).size == (12, 16)
    assert repr(Conditioning(gray=GRAY, prompt="a dog", strokes=[STROKE])) == (
        "Conditioning(gray 12 x 16, prompt='a dog', 1 strokes)"
    )


@pytest.mark.parametrize("prompt", ["", " ", "word " * 500, "un mot inconnu: \u00e9\u4e2d\U0001f3a8 \x00"])
def test_prompts_of_any_kind_are_taken(prompt: str) -> None:
    conditioning = Conditioning(prompt=prompt)
    assert Conditioning.from_json(conditioning.to_json()).prompt == prompt


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"gray": "nowhere.png"}, ImageError, "There is no file 'nowhere.png' for gray"),
        ({"exemplar": np.full((4, 4, 3), np.nan)}, ImageError, "exemplar holds 48 values that are NaN"),
        ({"gray": GRAY, "sketch": GRAY[:5]}, ShapeError, "sketch is 5 x 16 pixels, but gray is 12 x 16"),
        ({"gray": GRAY, "base_image": COLOR[:, :5]}, ShapeError, "base_image is 12 x 5"),
        ({"gray": GRAY, "masks": {"car": MASK[:3]}}, ShapeError, "the picture is 12 x 16"),
        ({"masks": {"car": MASK}}, ShapeError, "no picture that it lies on"),
        ({"gray": GRAY, "masks": {"": MASK}}, RangeError, "A mask is named ''"),
        ({"gray": GRAY, "masks": {" ": MASK}}, RangeError, "A mask is named ' '"),
        ({"gray": GRAY, "masks": {3: MASK}}, RangeError, "A mask is named 3"),
        ({"gray": GRAY, "masks": {"car": MASK & False}}, RangeError, "the mask 'car' is empty"),
        ({"gray": GRAY, "masks": [MASK]}, RangeError, "masks are a list"),
        ({"prompt": None}, RangeError, "prompt is None of type NoneType, but text"),
        ({"negative_prompt": 3}, RangeError, "negative_prompt is 3"),
        ({"strokes": "red"}, RangeError, "strokes is a str"),
        ({"strokes": [3]}, RangeError, "strokes hold 3"),
        ({"strokes": STROKE}, RangeError, "strokes is a Stroke, but a list"),
        ({"manipulations": ["x"]}, RangeError, "manipulations hold 'x'"),
    ],
)
def test_bad_values_give_one_clear_sentence(values: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        Conditioning(**values)
    assert words in str(caught.value)
    assert str(caught.value).endswith(".")


def test_unknown_fields_are_told() -> None:
    with pytest.raises(RangeError, match="no field 'text'; there are: gray, prompt"):
        Conditioning().replace(text="a dog")


@pytest.mark.parametrize(
    "values",
    [
        {"target_text": ""},
        {"target_text": None},
        {"target_scale": "8"},
        {"target_scale": float("nan")},
        {"enhance": 1},
        {"thresholds": (0.5, 0.5, 0.6, 0.7)},
        {"thresholds": (0.1, 0.2, 0.3)},
        {"thresholds": ("a", "b", "c", "d")},
        {"thresholds": 0.5},
        {"thresholds": (-0.1, 0.2, 0.3, 0.4)},
        {"anchor_text": 3},
    ],
)
def test_bad_manipulations_are_told(values: dict[str, Any]) -> None:
    with pytest.raises(RangeError, match=next(iter(values))):
        Manipulation(**{"target_text": "blue hair", "target_scale": 8.0, **values})


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"text": 3}', '{"masks": 3}', '{"manipulations": [3]}', '{"manipulations": 3}', '{"strokes": 3}'],
)
def test_bad_json_is_told(text: str) -> None:
    with pytest.raises(RangeError):
        Conditioning.from_json(text)


@pytest.mark.parametrize("picture", [GRAY / np.float32(255), RNG.random((7, 5, 3)).astype(np.float32), MASK])
def test_pictures_survive_json(picture: np.ndarray) -> None:
    stored = json.loads(json.dumps(encode_picture(np.asarray(picture))))
    decoded = decode_picture(stored, "gray")
    levels = decoded / np.float32(255) if decoded.dtype == np.uint8 else decoded
    assert np.array_equal(levels, picture)


def test_eight_bit_pictures_take_little_room() -> None:
    flat = np.full((200, 200), 128, dtype=np.uint8)
    assert len(Conditioning(gray=flat).to_json()) < 2000


@pytest.mark.parametrize(
    "changes",
    [
        {"data": "AAAA"},
        {"data": "%%%"},
        {"data": None},
        {"encoding": "jpeg"},
        {"shape": [10**9, 10**9]},
        {"shape": [3, -3]},
        {"shape": [3, 3]},
        {"shape": None},
    ],
)
def test_damaged_pictures_in_json_are_told(changes: dict[str, Any]) -> None:
    stored = {**encode_picture(RNG.random((4, 4)).astype(np.float32)), **changes}
    with pytest.raises(ImageError, match="gray") as caught:
        Conditioning.from_json(json.dumps({"gray": stored}))
    assert str(caught.value).endswith(".")


def test_strokes_may_be_given_as_strokes() -> None:
    assert Conditioning(strokes=Strokes([STROKE])) == Conditioning(strokes=(STROKE,))


def test_a_stored_picture_that_claims_an_absurd_size_is_told() -> None:
    stored = encode_picture(GRAY / np.float32(255))
    data = bytearray(base64.b64decode(stored["data"]))
    data[16:24] = struct.pack(">II", 30_000, 30_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    with pytest.raises(ImageError, match="gray in the JSON is damaged"):
        decode_picture({**stored, "data": base64.b64encode(data).decode()}, "gray")
