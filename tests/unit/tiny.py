"""Tiny models with random weights: every class is the real one, only the sizes are small. They exist in tests only."""

import string
from typing import Any

import numpy as np
import torch

from colorlab.colorizer import Colorizer
from colorlab.methods.base import Method
from colorlab.methods.colorizediffusion import ColorizeDiffusion
from colorlab.methods.ctrlcolor import CtrlColor
from colorlab.methods.diffcolor import DiffColor
from colorlab.methods.lcad import Lcad
from colorlab.methods.text_to_image import TextToImage
from colorlab.networks.deformable import DeformableUnits
from colorlab.networks.exemplar_projection import ExemplarProjection
from colorlab.networks.libraries import (
    AutoencoderKL,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    ControlNetModel,
    UNet2DConditionModel,
)
from colorlab.networks.luminance import LuminanceEncoder
from colorlab.networks.sketch_encoder import SketchEncoder
from colorlab.sampling.schedules import NoiseSchedule
from colorlab.settings import Settings

WIDTHS = (8, 8, 8, 8)
MAX_TOKENS = 12
START, END = "<|startoftext|>", "<|endoftext|>"


def tiny_tokenizer() -> CLIPTokenizer:
    """Spell every lower-case word letter by letter."""
    letters = string.ascii_lowercase
    tokens = [*letters, *(letter + "</w>" for letter in letters), START, END]
    vocab = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(
        vocab=vocab,
        merges=[],
        bos_token=START,
        eos_token=END,
        unk_token=END,
        pad_token=END,
        model_max_length=MAX_TOKENS,
    )


def word_tokenizer(words: str) -> CLIPTokenizer:
    """Read each of some lower-case words as one token, and spell every other one in pieces."""
    letters = string.ascii_lowercase
    merges: dict[tuple[str, str], None] = {}
    for word in words.split():
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            merges[pieces[0], pieces[1]] = None
            pieces = ["".join(pieces[:2]), *pieces[2:]]
    tokens = [*letters, *(letter + "</w>" for letter in letters), *map("".join, merges), START, END]
    tokenizer = CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=list(merges),
        bos_token=START,
        eos_token=END,
        unk_token=END,
        pad_token=END,
        model_max_length=MAX_TOKENS,
    )
    # A merge that one word begins with must not lie inside another one.
    assert all(len(tokenizer(word, add_special_tokens=False).input_ids) == 1 for word in words.split())
    return tokenizer


def tiny_unet(in_channels: int) -> UNet2DConditionModel:
    """Return two levels with cross-attention in one of them."""
    return UNet2DConditionModel(
        in_channels=in_channels,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    )


def tiny_components(extra_channels: int, *, schedule: NoiseSchedule | None = None) -> dict[str, Any]:
    """Return freshly drawn networks, the same every time; the global random generator is left alone."""
    text_config = CLIPTextConfig(
        vocab_size=54,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=52,
        eos_token_id=53,
        pad_token_id=53,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        luminance_encoder = LuminanceEncoder(block_out_channels=WIDTHS, layers_per_block=1, norm_num_groups=4)
        for conv in luminance_encoder.zero_convs:
            torch.nn.init.normal_(conv.weight, std=0.3)
        return {
            "unet": tiny_unet(4 + extra_channels),
            "luminance_encoder": luminance_encoder,
            "vae": AutoencoderKL(
                block_out_channels=WIDTHS,
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                layers_per_block=1,
                latent_channels=4,
                norm_num_groups=4,
            ),
            "text_encoder": CLIPTextModel(text_config),
            "tokenizer": tiny_tokenizer(),
            "scheduler": schedule or NoiseSchedule(),
        }


def tiny_ctrlcolor(*, optional: bool = True) -> CtrlColor:
    """Return a CtrlColor that works at 32 px; its optional networks may be left out."""
    vision_config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=16,
        patch_size=4,
    )
    components = tiny_components(5)
    del components["luminance_encoder"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        components["control_network"] = control = ControlNetModel(
            in_channels=4,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=2,
            norm_num_groups=4,
            conditioning_embedding_out_channels=(4, 4, 8, 8),
        )
        embedding = control.controlnet_cond_embedding.conv_out
        for conv in (*control.controlnet_down_blocks, control.controlnet_mid_block, embedding):
            torch.nn.init.normal_(conv.weight, std=0.3)
        if optional:
            components["deformable_vae"] = components["vae"]
            components["deformable_units"] = units = DeformableUnits(WIDTHS[-1], 4)
            for unit in units.units:
                torch.nn.init.normal_(unit.conv_offset.weight, std=0.1)
            components["image_encoder"] = CLIPVisionModel(vision_config)
    return CtrlColor(components, working_px=32, model_name="tiny/ctrlcolor")


def projected_vision_config() -> CLIPVisionConfig:
    """Return a vision tower of 16 patches whose projection is as wide as that of the tiny text towers."""
    return CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        patch_size=4,
        projection_dim=16,
    )


def tiny_colorizediffusion(*, reads: str = "local", has_lines: bool = False) -> ColorizeDiffusion:
    """Return a ColorizeDiffusion that works at 32 px with 16 patches; `global` reads the class token."""
    components = tiny_components(0)
    line_encoder = components.pop("luminance_encoder")
    if has_lines:
        components["line_encoder"] = line_encoder
    text_config = components.pop("text_encoder").config
    text_config.projection_dim = 16
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        components["projected_text_encoder"] = CLIPTextModelWithProjection(text_config)
        components["projected_image_encoder"] = CLIPVisionModelWithProjection(projected_vision_config())
        encoder = SketchEncoder(stem_channels=(4, 4, 4, 8), block_out_channels=(8, 16))
        for conv in encoder.zero_convs:
            torch.nn.init.normal_(conv.weight, std=0.3)
        components["sketch_encoder"] = encoder
        components["exemplar_projection"] = ExemplarProjection(reads=reads, width=16, num_slots=4, slot_width=8)
    return ColorizeDiffusion(components, working_px=32, model_name="tiny/colorizediffusion")


def tiny_lcad(*, schedule: NoiseSchedule | None = None) -> Lcad:
    """Return an L-CAD that works at 32 px."""
    return Lcad(tiny_components(WIDTHS[-1], schedule=schedule), working_px=32, model_name="tiny/lcad")


DIFFCOLOR_WORDS = "a an the photo of colorful cat sofa on brown blue red sks zwx ohwx"


def tiny_diffcolor() -> DiffColor:
    """Return a DiffColor that works at 32 px, knows a few words, and has a CLIP of two towers."""
    components = tiny_components(0)
    del components["luminance_encoder"]
    tokenizer = components["tokenizer"] = word_tokenizer(DIFFCOLOR_WORDS)
    text_config = components["text_encoder"].config
    sizes = {"vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id}
    text_config.update({**sizes, "eos_token_id": tokenizer.eos_token_id, "projection_dim": 16})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        components["text_encoder"] = CLIPTextModel(text_config)
        components["projected_text_encoder"] = CLIPTextModelWithProjection(text_config)
        components["projected_image_encoder"] = CLIPVisionModelWithProjection(projected_vision_config())
    return DiffColor(components, working_px=32, model_name="tiny/diffcolor")


def tiny_text_to_image() -> TextToImage:
    """Return a text-to-image model that works at 32 px."""
    return TextToImage(tiny_components(0), working_px=32)


def tiny_colorizer(method: Method | None = None) -> Colorizer:
    """Return a Colorizer around a tiny model that takes four steps."""
    return Colorizer(method or tiny_lcad(), settings=Settings(num_inference_steps=4))


def tiny_picture(height: int = 40, width: int = 56) -> np.ndarray:
    """Return a gray gradient with a bright disc, (H, W) uint8."""
    y, x = np.mgrid[0:height, 0:width]
    picture = 40 + 100 * x / width
    picture[(y - height / 2) ** 2 + (x - width / 2) ** 2 < (height / 4) ** 2] = 220
    return picture.astype(np.uint8)
