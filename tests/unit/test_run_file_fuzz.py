"""Damaged run files: one clear error each, no crash, no other exception, no memory beyond the size of the file."""

import copy
import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from tiny import tiny_colorizer, tiny_picture

import colorlab
from colorlab.errors import ColorlabError
from colorlab.runs.run_file import Archive, read_archive, tensor_name, write_archive

STATUS = Path("/proc/self/status")
pytestmark = pytest.mark.filterwarnings("ignore::colorlab.ConditioningWarning")


@pytest.fixture(scope="module")
def colorizer():
    return tiny_colorizer()


@pytest.fixture(scope="module")
def whole(colorizer, tmp_path_factory):
    """A file with two branches, strokes and a mask; small, so that a random place is often one that counts."""
    path = tmp_path_factory.mktemp("whole") / "whole.colorlab"
    picture = tiny_picture(16, 16)
    stroke = colorlab.Stroke([(3, 4), (9.5, 7)], (200, 40, 40), 2.5)
    run = colorizer.start(
        picture,
        prompt="a car",
        num_inference_steps=3,
        solver="dpmpp_2m",
        strokes=[stroke],
        masks={"car": picture > 100},
        mechanisms={"luminance_guidance": {"tap_gains": (1.0, 0.5)}},
    )
    run.step()
    run.step()
    run.branch(step=1, prompt="a red car").step()
    run.save(path)
    return path


def opens(path, colorizer):
    """Open a file; return whether it worked, and check that the error says it in one sentence when not."""
    try:
        colorlab.open(path, colorizer)
    except ColorlabError as error:
        message = str(error)
        assert 20 < len(message) < 600, message
        assert "\n" not in message
        return False
    return True


def flipped(data, chance):
    damaged = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 8))):
        damaged[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(damaged)


def truncated(data, chance):
    return data[: chance.randrange(len(data))]


def other_length(data, chance):
    """Claim another length of the header."""
    length = chance.choice((0, 1, 7, len(data), 10**8 - 1, 10**8, 2**31, 2**40, 2**63 - 1, 2**64 - 1))
    return chance.choice((length, chance.randrange(len(data)))).to_bytes(8, "little") + data[8:]


def other_header(data, chance):
    """Put something else where the header is."""
    headers = (
        b"[" * 200_000,
        b'{"a":' * 50_000,
        b"{}",
        b'{"__metadata__":{}}',
        b'{"__metadata__":' + b'{"a":"' + b"x" * 1_000_000 + b'"}}',
        b'{"x":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}',
        b'{"x":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}',
        bytes(chance.randrange(256) for _ in range(300)),
    )
    header = chance.choice(headers)
    return len(header).to_bytes(8, "little") + header + data[chance.randrange(len(data)) :]


def spliced(data, chance):
    """Lose, repeat or replace a stretch."""
    start = chance.randrange(len(data))
    end = min(len(data), start + chance.randrange(1, 400))
    filler = chance.choice((b"", data[start:end] * 2, bytes(end - start), chance.randbytes(50)))
    return data[:start] + filler + data[end:]


@pytest.mark.parametrize(
    ("damage", "num_cases"), [(flipped, 140), (truncated, 60), (other_length, 30), (other_header, 40), (spliced, 50)]
)
def test_a_damaged_file_is_refused(colorizer, whole, tmp_path, damage, num_cases):
    data, chance = whole.read_bytes(), random.Random(damage.__name__)
    assert opens(whole, colorizer)
    path = tmp_path / "damaged.colorlab"
    for case in range(num_cases):
        damaged = damage(data, chance)
        path.write_bytes(damaged)
        assert not opens(path, colorizer) or damaged == data, f"case {case}"


def places(value, path=()):
    """List every place in nested tables."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


STRANGE = (
    None,
    True,
    -1,
    0,
    3,
    2**70,
    1e308,
    float("nan"),
    "",
    "e1",
    "i0",
    "r1",
    "x" * 10_000,
    [],
    {},
    [[]],
    {"tensor": "none"},
    [10**9] * 4,
)


def changed(content, chance):
    """Change, remove or double a random entry of the tables."""
    content = copy.deepcopy(content)
    *parents, last = chance.choice([path for path in places(content) if path])
    target = content
    for key in parents:
        target = target[key]
    match chance.randrange(4):
        case 0:
            del target[last]
        case 1 if isinstance(target, list):
            target.append(target[last])
        case 2:
            keys = [path for path in places(content) if path]
            other = content
            for key in chance.choice(keys):
                other = other[key]
            target[last] = copy.deepcopy(other)
        case _:
            target[last] = chance.choice(STRANGE)
    return content


def test_tables_that_make_no_sense_are_refused_or_are_another_file(colorizer, whole, tmp_path):
    """The checksums are right here: somebody wrote these files. What opens must be usable."""
    archive, chance, path = read_archive(whole), random.Random(1), tmp_path / "changed.colorlab"
    refused = 0
    for _ in range(130):
        write_archive(path, Archive(changed(archive.content, chance), archive.tensors), is_durable=False)
        if opens(path, colorizer):
            run = colorlab.open(path, colorizer)
            assert repr(run.tree)
            assert all(state.latents.shape == run.state.latents.shape for state in run.states)
        else:
            refused += 1
    assert refused > 70


def test_tensors_of_wrong_shape_or_type_are_refused(colorizer, whole, tmp_path):
    archive, chance, path = read_archive(whole), random.Random(2), tmp_path / "shapes.colorlab"
    text = json.dumps(archive.content)
    for _ in range(50):
        name = chance.choice(list(archive.tensors))
        old = archive.tensors[name]
        other = chance.choice(
            (
                lambda tensor: tensor[:0],
                lambda tensor: tensor.flatten(),
                lambda tensor: tensor[None],
                lambda tensor: torch.zeros(3, 1, 7, 7),
                lambda tensor: torch.zeros(tensor.shape, dtype=torch.int64),
                lambda tensor: torch.zeros(1, 4, 512, 512),
                lambda tensor: torch.zeros((), dtype=torch.bool),
            )
        )(old)
        if other.shape == old.shape and other.dtype == old.dtype:
            continue
        tensors = {key: tensor for key, tensor in archive.tensors.items() if key != name}
        tensors[tensor_name(other)] = other
        content = json.loads(text.replace(name, tensor_name(other)))
        write_archive(path, Archive(content, tensors), is_durable=False)
        assert not opens(path, colorizer)


def test_a_circle_of_steps_ends(colorizer, whole, tmp_path):
    archive = read_archive(whole)
    archive.content["edges"]["e0"]["before"] = "e1"
    path = tmp_path / "circle.colorlab"
    write_archive(path, archive)
    with pytest.raises(ColorlabError, match="go round in a circle"):
        colorlab.open(path, colorizer)


def test_a_tensor_that_changed_is_seen_though_the_file_is_sound(whole, tmp_path, colorizer):
    archive = read_archive(whole)
    name = next(name for name, tensor in archive.tensors.items() if tensor.is_floating_point())
    archive.tensors[name][0, 0, 0, 0] += 1e-6
    path = tmp_path / "changed.colorlab"
    write_archive(path, archive)
    with pytest.raises(ColorlabError, match="1 of its tensors changed"):
        colorlab.open(path, colorizer)
    path.write_bytes(save(archive.tensors, {"colorlab_run_file": "1", "content": "{}", "sha256": "0"}))
    with pytest.raises(ColorlabError, match="its table of contents changed"):
        colorlab.open(path, colorizer)


def peak_kib():
    """Return the most memory that this process had since `reset_peak`, in KiB."""
    return int(next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM")).split()[1])


@pytest.mark.skipif(not STATUS.exists(), reason="needs /proc")
def test_no_file_asks_for_more_memory_than_it_has_bytes(colorizer, whole, tmp_path):
    archive, path = read_archive(whole), tmp_path / "bomb.colorlab"
    gray = next(iter(archive.content["conditionings"].values()))["gray"]
    # 7e9 pixels in 40 bytes: the header of a PNG that ends there.
    png = bytes.fromhex("89504e470d0a1a0a0000000d49484452000143800001438008000000009d1f8e5a00000000")
    bombs = [other_header(whole.read_bytes(), random.Random(case)) for case in range(10)]
    for stored in ({"encoding": "png"}, {"encoding": "float32-zlib", "shape": [80_000, 80_000]}):
        data = torch.frombuffer(bytearray(png), dtype=torch.uint8)
        gray.clear()
        gray.update(stored, data=tensor_name(data))
        write_archive(path, Archive(archive.content, {**archive.tensors, tensor_name(data): data}))
        bombs.append(path.read_bytes())
    opens(whole, colorizer)
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_kib()
    for bomb in bombs:
        path.write_bytes(bomb)
        assert not opens(path, colorizer)
    assert peak_kib() - before < 100 * 1024
