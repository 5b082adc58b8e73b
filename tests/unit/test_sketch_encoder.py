"""Sketch encoder, its hints inside a UNet, its checkpoint names, and the exemplar's projections."""

import pytest
import torch
from ldm_layout import sketch_encoder_shapes, unet_shapes
from tiny import tiny_unet

from colorlab.checkpoints import load_ldm_weights, unet_key_map
from colorlab.checkpoints.colorizediffusion import (
    SKETCH_PREFIX,
    sketch_encoder_key_map,
    split_colorizediffusion,
)
from colorlab.errors import RangeError, ShapeError, WeightsError
from colorlab.networks.exemplar_projection import ExemplarProjection
from colorlab.networks.libraries import UNet2DConditionModel
from colorlab.networks.sketch_encoder import SketchEncoder, hint_places, injected_hints, sketch_pixels

WIDTHS = (8, 8, 16, 16)
STEM = (4, 4, 6, 8)
GENERATOR = torch.Generator().manual_seed(0)


@pytest.fixture
def encoder():
    return SketchEncoder(stem_channels=STEM, block_out_channels=WIDTHS)


def test_a_fresh_encoder_gives_zero_hints_of_every_size(encoder):
    hints = encoder(torch.rand(2, 3, 128, 64, generator=GENERATOR))
    shapes = [(2, 8, 16, 8), (2, 8, 8, 4), (2, 8, 4, 2), (2, 16, 2, 1), (2, 16, 2, 1)]
    assert [tuple(hint.shape) for hint in hints] == shapes
    assert all(not hint.any() for hint in hints)
    with pytest.raises(ShapeError, match="needs multiples of 64"):
        encoder(torch.zeros(1, 3, 96, 64))


def test_published_names_fill_every_weight(encoder):
    weights = {
        name: torch.randn(shape, generator=GENERATOR) for name, shape in sketch_encoder_shapes(STEM, WIDTHS).items()
    }
    load_ldm_weights(encoder, weights, sketch_encoder_key_map(weights), name="sketch encoder")
    assert torch.equal(encoder.stages[2][3].weight, weights["output_blocks.2.3.weight"])
    assert torch.equal(encoder.zero_convs[0].bias, weights["zero_layer.0.bias"])
    with pytest.raises(WeightsError):
        sketch_encoder_key_map(["model.99x.weight"])


def test_a_published_file_is_split_and_others_are_refused_by_name():
    unet = unet_shapes(WIDTHS, num_res_blocks=2, attention_levels=(0, 1, 2), in_channels=4, context_width=8)
    names = [f"model.diffusion_model.{name}" for name in unet] + [
        SKETCH_PREFIX + name for name in sketch_encoder_shapes(STEM, WIDTHS)
    ]
    weights = dict.fromkeys([*names, "betas", "cond_stage_model.x", "model_ema.y"], torch.zeros(1))
    parts = split_colorizediffusion(weights)
    assert set(parts) == {"unet", "sketch_encoder"}
    assert len(unet_key_map(parts["unet"])) == len(unet)
    for extra, words in (
        ("model.diffusion_model.semantic_input_blocks.0.weight", "single-hint"),
        ("model.diffusion_model.output_blocks.12.0.x", "separate upsampling"),
        ("model.diffusion_model.a.attn2.to_q.lora_down_fg.weight", "version 1.5"),
        ("bg_encoder.x", "version 2"),
        ("something.else", "of no known network"),
    ):
        with pytest.raises(WeightsError, match=words):
            split_colorizediffusion(weights | {extra: torch.zeros(1)})
    with pytest.raises(WeightsError, match="hold no sketch_encoder"):
        split_colorizediffusion({name: value for name, value in weights.items() if "control" not in name})


def test_hints_enter_flow_and_skips_as_written_out_by_hand():
    """The same sums without hooks: blocks called one after the other, hints added where the sheet says."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = tiny_unet(4).eval()
    sample, context = torch.randn(2, 4, 8, 8, generator=GENERATOR), torch.randn(2, 3, 16, generator=GENERATOR)
    timestep = torch.tensor(500)
    hints = [torch.randn(2, *shape, generator=GENERATOR) for shape in ((8, 8, 8), (8, 4, 4), (16, 4, 4))]
    with torch.no_grad():
        with injected_hints(unet, hints):
            hooked = unet(sample, timestep, encoder_hidden_states=context).sample
        plain = unet(sample, timestep, encoder_hidden_states=context).sample

        embedding = unet.time_embedding(unet.time_proj(timestep.expand(2)))
        first, second = unet.down_blocks
        skips = [unet.conv_in(sample) + hints[0]]
        hidden = first.resnets[0](skips[0], embedding)
        hidden = first.attentions[0](hidden, encoder_hidden_states=context, return_dict=False)[0]
        skips += [hidden, first.downsamplers[0](hidden) + hints[1]]
        skips += [second.resnets[0](skips[-1], embedding) + hints[2]]
        hidden = unet.mid_block(skips[-1], embedding, encoder_hidden_states=context)
        up, last = unet.up_blocks
        hidden = up(hidden_states=hidden, temb=embedding, res_hidden_states_tuple=tuple(skips[2:]))
        hidden = last(
            hidden_states=hidden,
            temb=embedding,
            res_hidden_states_tuple=tuple(skips[:2]),
            encoder_hidden_states=context,
        )
        by_hand = unet.conv_out(unet.conv_act(unet.conv_norm_out(hidden)))
    torch.testing.assert_close(hooked, by_hand, rtol=1e-5, atol=1e-5)
    assert float((hooked - plain).abs().max()) > 0.01


def test_the_unet_is_restored_whatever_happens():
    unet = tiny_unet(4)
    hints = [torch.zeros(1)] * len(hint_places(unet))
    with pytest.raises(KeyError), injected_hints(unet, hints):
        raise KeyError
    assert all(not place._forward_hooks for place in hint_places(unet))
    with pytest.raises(ShapeError, match="2 hints came, but this UNet has 3 places"), injected_hints(unet, hints[:2]):
        pass


def test_the_full_size_has_five_places():
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=(320, 640, 1280, 1280), attention_head_dim=(5, 10, 20, 20), cross_attention_dim=1024
        )
        encoder = SketchEncoder()
        hints = encoder(torch.empty(1, 3, 512, 512))
    assert len(hint_places(unet)) == len(hints) == 5
    assert [hint.shape[1] for hint in hints] == [320, 320, 640, 1280, 1280]


def test_lines_are_bright_on_dark_paper():
    assert sketch_pixels(torch.tensor([[[[0.0, 1.0]]]])).unique().tolist() == [-1.0, 1.0]


def test_projections_choose_patches_or_spread_the_class_token():
    tokens = torch.randn(2, 17, 16, generator=GENERATOR)
    assert torch.equal(ExemplarProjection(width=16)(tokens), tokens[:, 1:])
    spread = ExemplarProjection(reads="global", width=16, num_slots=64, slot_width=8)
    context = spread(tokens)
    assert context.shape == (2, 256, 16)
    # Before training all tokens are the class token, normed.
    assert torch.equal(context, context[:, :1].expand_as(context))
    changed = tokens.clone()
    changed[:, 1:] = 0
    assert torch.equal(spread(changed), context)
    for arguments, words in (({"reads": "both"}, "reads is 'both'"), ({"polarity": "up"}, "polarity is 'up'")):
        with pytest.raises(RangeError, match=words):
            ExemplarProjection(width=16, **arguments)
    with pytest.raises(ShapeError):
        spread(tokens[..., :8])
