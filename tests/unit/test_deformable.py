"""Deformable convolution by bilinear readings, and the decoder it bends."""

import pytest
import torch
from tiny import tiny_ctrlcolor
from torch.nn import functional

from colorlab.checkpoints import load_ldm_weights
from colorlab.checkpoints.ctrlcolor import controlnet_key_map, deformable_key_map, split_deformable
from colorlab.color import lab_to_rgb
from colorlab.errors import ShapeError, WeightsError
from colorlab.mechanisms.deformable_decoding import edge_error
from colorlab.networks.deformable import UNIT_SITES, content_guide, decode_deformable, deform_conv2d


@pytest.fixture
def inputs():
    draw = torch.Generator().manual_seed(0)
    shapes = {"hidden": (2, 3, 5, 7), "offset": (2, 18, 5, 7), "weight": (4, 3, 3, 3), "bias": (4,)}
    tensors = {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}
    return tensors | {"modulation": torch.rand((2, 9, 5, 7), generator=draw)}


def test_without_offsets_it_is_a_convolution(inputs):
    plain = functional.conv2d(inputs["hidden"], inputs["weight"], inputs["bias"], padding=1)
    zero = torch.zeros_like(inputs["offset"])
    got = deform_conv2d(inputs["hidden"], zero, inputs["weight"], inputs["bias"])
    assert torch.allclose(got, plain, atol=1e-5)


def test_whole_offsets_read_other_cells_as_y_then_x(inputs):
    hidden, weight = inputs["hidden"], inputs["weight"]
    down = torch.zeros(2, 9, 2, 5, 7)
    down[:, :, 0], down[:, :, 1] = 1, -2
    shifted = functional.pad(hidden, (2, 0, 0, 1))[:, :, 1:, :7]
    got = deform_conv2d(hidden, down.flatten(1, 2), weight)
    inside = functional.conv2d(shifted, weight, padding=1)
    assert torch.allclose(got[:, :, 1:-2, 3:-1], inside[:, :, 1:-2, 3:-1], atol=1e-5)


def test_it_equals_torchvision_where_that_runs(inputs):
    from colorlab.networks.libraries import repair_torchvision

    repair_torchvision()
    ops = pytest.importorskip("torchvision.ops", reason="torchvision is not installed")
    for reach in (1.0, 6.0):
        args = (inputs["hidden"], inputs["offset"] * reach, inputs["weight"], inputs["bias"])
        try:
            want = ops.deform_conv2d(*args, padding=1, mask=inputs["modulation"])
        except (RuntimeError, AttributeError, NotImplementedError) as error:
            pytest.skip(f"torchvision has no compiled operators here ({str(error).splitlines()[0][:60]})")
        assert torch.allclose(deform_conv2d(*args, modulation=inputs["modulation"]), want, atol=1e-5)


def test_gradients_reach_every_argument(inputs):
    # Bilinear readings have kinks at whole cells; these offsets stay away from them.
    tensors = {name: value.double() for name, value in inputs.items()}
    tensors["offset"] = torch.rand(tensors["offset"].shape, generator=torch.Generator().manual_seed(3)) * 0.8 + 0.1
    small = {name: value[:1, ..., :3, :3] if value.ndim == 4 else value for name, value in tensors.items()}
    small |= {"weight": tensors["weight"][:2], "bias": tensors["bias"][:2], "offset": small["offset"].double()}
    for tensor in small.values():
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda hidden, offset, weight, bias, modulation: deform_conv2d(
            hidden, offset, weight, bias, modulation=modulation
        ),
        tuple(small[name] for name in ("hidden", "offset", "weight", "bias", "modulation")),
    )


def test_shapes_that_do_not_fit_are_named(inputs):
    with pytest.raises(ShapeError, match="an odd one is expected"):
        deform_conv2d(inputs["hidden"], inputs["offset"], torch.zeros(4, 3, 2, 2))
    with pytest.raises(ShapeError, match="offset has shape"):
        deform_conv2d(inputs["hidden"], inputs["offset"][:, :4], inputs["weight"])


def test_no_gain_is_the_plain_decoder_and_a_guide_serves_a_batch():
    method = tiny_ctrlcolor()
    vae, units = (method.components[name] for name in ("deformable_vae", "deformable_units"))
    latents = torch.randn(2, 4, 4, 6, generator=torch.Generator().manual_seed(0))
    guide = content_guide(vae, torch.rand(1, 1, 32, 48, generator=torch.Generator().manual_seed(1)))
    plain = vae.decode(latents / vae.config.scaling_factor).sample
    straight, _ = decode_deformable(vae, units, latents, guide, gain=0.0)
    assert torch.allclose(straight, plain, atol=1e-5)
    bent, done = decode_deformable(vae, units, latents, guide)
    assert len(done) == len(UNIT_SITES)
    assert not torch.allclose(bent, plain, atol=1e-3)
    one, _ = decode_deformable(vae, units, latents[1:], guide)
    assert torch.allclose(one, bent[1:], atol=1e-5)
    with pytest.raises(ShapeError, match="same picture size"):
        decode_deformable(vae, units, latents, guide[..., :3])


def test_fresh_units_look_at_their_place():
    method = tiny_ctrlcolor()
    fresh = type(method.components["deformable_units"])(8, 4)
    _, done = decode_deformable(method.vae, fresh, torch.zeros(1, 4, 4, 4), torch.zeros(1, 4, 4, 4))
    assert all(not unit.offset.any() and (unit.modulation == 0.5).all() for unit in done)


def test_published_names_of_units_and_losses():
    units = tiny_ctrlcolor().components["deformable_units"]
    places = ["dcn_in", "mid.block_1.dcn1", "mid.block_1.dcn2", "mid.block_2.dcn1", "mid.block_2.dcn2"]
    original = {
        f"decoder.{places[int(name.split('.')[1])]}.{name.split('.', 2)[2]}": value + 1
        for name, value in units.state_dict().items()
    }
    extra = {"loss.logvar": torch.zeros(()), "decoder.conv_in.weight": torch.zeros(1)}
    rest, found = split_deformable({**original, **extra})
    assert list(rest) == ["decoder.conv_in.weight"]
    load_ldm_weights(units, found, deformable_key_map(found), name="deformable decoder")
    assert torch.equal(units.units[4].bias, original["decoder.mid.block_2.dcn2.bias"])
    with pytest.raises(WeightsError, match="not the weights of a Stable Diffusion deformable decoder"):
        deformable_key_map(["decoder.mid.block_9.dcn1.weight"])


def test_published_names_of_the_control_network():
    names = ["time_embed.0.weight", "input_blocks.0.0.bias", "zero_convs.0.0.weight", "middle_block_out.0.bias"]
    names += [f"input_hint_block.{index}.weight" for index in range(0, 16, 2)]
    mapped = controlnet_key_map(names)
    assert mapped["input_hint_block.0.weight"] == "controlnet_cond_embedding.conv_in.weight"
    assert mapped["input_hint_block.12.weight"] == "controlnet_cond_embedding.blocks.5.weight"
    assert mapped["input_hint_block.14.weight"] == "controlnet_cond_embedding.conv_out.weight"
    assert mapped["middle_block_out.0.bias"] == "controlnet_mid_block.bias"
    assert mapped["zero_convs.0.0.weight"] == "controlnet_down_blocks.0.weight"
    with pytest.raises(WeightsError):
        controlnet_key_map(["somewhere.else.weight"])


def test_edge_error_sees_chroma_where_the_gray_has_no_edge():
    lightness = torch.full((1, 1, 12, 16), 50.0)
    lightness[..., 8:] = 70.0
    ab = torch.zeros(1, 2, 12, 16)
    ab[:, 0, :, 8:] = 40.0
    along = edge_error(lab_to_rgb(torch.cat([lightness, ab], dim=1)), lightness)
    assert float(along.max()) < 0.01
    ab = ab.roll(4, dims=-1)
    ab[..., :4] = 0.0
    apart = edge_error(lab_to_rgb(torch.cat([torch.full_like(lightness, 60.0), ab], dim=1)), lightness)
    # The step of chroma lies between columns 11 and 12.
    assert float(apart[..., 11].min()) == pytest.approx(40.0, abs=0.5)
    assert float(apart[..., [0, 3, 6, 9, 13, 15]].max()) < 0.01
    gray = torch.rand(1, 1, 12, 16, generator=torch.Generator().manual_seed(0)).repeat(1, 3, 1, 1)
    assert float(edge_error(gray, lightness).max()) < 0.05
    with pytest.raises(ShapeError, match="lightness"):
        edge_error(gray, lightness[..., :-1])
