"""Names and shapes of Stable Diffusion's original checkpoint layout, written out from its rules, for tests."""

from collections.abc import Sequence
from itertools import pairwise

Shapes = dict[str, tuple[int, ...]]


def unet_shapes(
    widths: Sequence[int],
    *,
    num_res_blocks: int,
    attention_levels: Sequence[int],
    in_channels: int,
    context_width: int,
    out_channels: int = 4,
) -> Shapes:
    """List the original UNet: input blocks, middle block and output blocks are numbered through all levels."""
    first, embed = widths[0], 4 * widths[0]
    shapes = {**_linear("time_embed.0", first, embed), **_linear("time_embed.2", embed, embed)}
    shapes |= _conv("input_blocks.0.0", in_channels, first, 3)
    skips, width, block = [first], first, 1
    for level, out in enumerate(widths):
        for _ in range(num_res_blocks):
            shapes |= _unet_resnet(f"input_blocks.{block}.0", width, out, embed)
            width = out
            if level in attention_levels:
                shapes |= _transformer(f"input_blocks.{block}.1", width, context_width)
            skips.append(width)
            block += 1
        if level != len(widths) - 1:
            shapes |= _conv(f"input_blocks.{block}.0.op", width, width, 3)
            skips.append(width)
            block += 1
    shapes |= _unet_resnet("middle_block.0", width, width, embed)
    shapes |= _transformer("middle_block.1", width, context_width)
    shapes |= _unet_resnet("middle_block.2", width, width, embed)
    block = 0
    for level, out in reversed(list(enumerate(widths))):
        for layer in range(num_res_blocks + 1):
            shapes |= _unet_resnet(f"output_blocks.{block}.0", width + skips.pop(), out, embed)
            width = out
            if level in attention_levels:
                shapes |= _transformer(f"output_blocks.{block}.1", width, context_width)
            if level and layer == num_res_blocks:
                part = 2 if level in attention_levels else 1
                shapes |= _conv(f"output_blocks.{block}.{part}.conv", width, width, 3)
            block += 1
    return {**shapes, **_norm("out.0", first), **_conv("out.2", first, out_channels, 3)}


def vae_shapes(widths: Sequence[int], *, num_res_blocks: int, latent_channels: int = 4) -> Shapes:
    """List the original autoencoder."""
    shapes = {
        f"encoder.{name}": shape for name, shape in encoder_shapes(widths, num_res_blocks, latent_channels).items()
    }
    width = widths[-1]
    shapes |= _conv("decoder.conv_in", latent_channels, width, 3) | _middle("decoder.mid", width)
    for level, out in reversed(list(enumerate(widths))):
        for layer in range(num_res_blocks + 1):
            shapes |= _vae_resnet(f"decoder.up.{level}.block.{layer}", width, out)
            width = out
        if level:
            shapes |= _conv(f"decoder.up.{level}.upsample.conv", width, width, 3)
    shapes |= _norm("decoder.norm_out", width) | _conv("decoder.conv_out", width, 3, 3)
    shapes |= _conv("quant_conv", 2 * latent_channels, 2 * latent_channels, 1)
    return shapes | _conv("post_quant_conv", latent_channels, latent_channels, 1)


def encoder_shapes(widths: Sequence[int], num_res_blocks: int, latent_channels: int = 4) -> Shapes:
    """List the original encoder."""
    width = widths[0]
    shapes = _conv("conv_in", 3, width, 3)
    for level, out in enumerate(widths):
        for layer in range(num_res_blocks):
            shapes |= _vae_resnet(f"down.{level}.block.{layer}", width, out)
            width = out
        if level != len(widths) - 1:
            shapes |= _conv(f"down.{level}.downsample.conv", width, width, 3)
    shapes |= _middle("mid", width) | _norm("norm_out", width)
    return shapes | _conv("conv_out", width, 2 * latent_channels, 3)


def luminance_shapes(widths: Sequence[int], *, num_res_blocks: int) -> Shapes:
    """List L-CAD's luminance encoder: an encoder and one 1x1 convolution for each tap."""
    shapes = encoder_shapes(widths, num_res_blocks)
    for level, width in enumerate(widths):
        for layer in range(num_res_blocks):
            shapes |= _conv(f"down.{level}.zero_conv.{layer}", width, width, 1)
    for name in ("zero_conv_mid1", "zero_conv_mid2"):
        shapes |= _conv(name, widths[-1], widths[-1], 1)
    return shapes


def sketch_encoder_shapes(stem: Sequence[int], widths: Sequence[int]) -> Shapes:
    """List ColorizeDiffusion's control encoder: eight convolutions, a stage and a 1x1 convolution for each hint."""
    pairs = [(3, stem[0])]
    for narrow, wide in pairwise(stem):
        pairs += [(narrow, narrow), (narrow, wide)]
    pairs.append((stem[-1], widths[0]))
    shapes = _conv("zero_layer.0", widths[0], widths[0], 1)
    for index, (inside, outside) in enumerate(pairs):
        shapes |= _conv(f"model.{2 * index}", inside, outside, 3)
    for index, (inside, outside) in enumerate(pairwise((widths[0], *widths))):
        shapes |= _conv(f"output_blocks.{index}.1", inside, outside, 3)
        shapes |= _conv(f"output_blocks.{index}.3", outside, outside, 3)
        shapes |= _conv(f"zero_blocks.{index}.0", outside, outside, 1)
    return shapes


def _conv(name: str, inside: int, outside: int, size: int) -> Shapes:
    return {f"{name}.weight": (outside, inside, size, size), f"{name}.bias": (outside,)}


def _linear(name: str, inside: int, outside: int, *, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (outside, inside), **({f"{name}.bias": (outside,)} if bias else {})}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _unet_resnet(name: str, inside: int, outside: int, embed: int) -> Shapes:
    shapes = _norm(f"{name}.in_layers.0", inside) | _conv(f"{name}.in_layers.2", inside, outside, 3)
    shapes |= _linear(f"{name}.emb_layers.1", embed, outside)
    shapes |= _norm(f"{name}.out_layers.0", outside) | _conv(f"{name}.out_layers.3", outside, outside, 3)
    return shapes | (_conv(f"{name}.skip_connection", inside, outside, 1) if inside != outside else {})


def _transformer(name: str, width: int, context_width: int) -> Shapes:
    shapes = _norm(f"{name}.norm", width)
    shapes |= _conv(f"{name}.proj_in", width, width, 1) | _conv(f"{name}.proj_out", width, width, 1)
    inner = f"{name}.transformer_blocks.0"
    for attention, source in (("attn1", width), ("attn2", context_width)):
        shapes |= _linear(f"{inner}.{attention}.to_q", width, width, bias=False)
        shapes |= _linear(f"{inner}.{attention}.to_k", source, width, bias=False)
        shapes |= _linear(f"{inner}.{attention}.to_v", source, width, bias=False)
        shapes |= _linear(f"{inner}.{attention}.to_out.0", width, width)
    shapes |= _linear(f"{inner}.ff.net.0.proj", width, 8 * width) | _linear(f"{inner}.ff.net.2", 4 * width, width)
    for index in (1, 2, 3):
        shapes |= _norm(f"{inner}.norm{index}", width)
    return shapes


def _vae_resnet(name: str, inside: int, outside: int) -> Shapes:
    shapes = _norm(f"{name}.norm1", inside) | _conv(f"{name}.conv1", inside, outside, 3)
    shapes |= _norm(f"{name}.norm2", outside) | _conv(f"{name}.conv2", outside, outside, 3)
    return shapes | (_conv(f"{name}.nin_shortcut", inside, outside, 1) if inside != outside else {})


def _middle(name: str, width: int) -> Shapes:
    shapes = _vae_resnet(f"{name}.block_1", width, width) | _norm(f"{name}.attn_1.norm", width)
    for part in ("q", "k", "v", "proj_out"):
        shapes |= _conv(f"{name}.attn_1.{part}", width, width, 1)
    return shapes | _vae_resnet(f"{name}.block_2", width, width)
