"""Tiny diffusers pipelines with random weights, and what people do to their UNets. They exist in tests only."""

from typing import Any

import torch
from tiny import MAX_TOKENS, tiny_components, tiny_tokenizer

from colorlab.networks.libraries import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    ControlNetModel,
    DDIMScheduler,
    UNet2DConditionModel,
)

# Not before `libraries`, which repairs torchvision.
import diffusers  # isort: skip

PIPELINES = ("StableDiffusion", "StableDiffusionImg2Img", "StableDiffusionInpaint", "StableDiffusionControlNet")
PIPELINES = (*PIPELINES, "StableDiffusionXL")
VARIANTS = ("plain", "lora", "ip_adapter", "fused_qkv", "compiled")

SIZE = (48, 64)
PROMPT, NEGATIVE = "a red car", "blue"


def tiny_pipeline(name: str, *, scheduler: Any = None, num_levels: int = 2) -> Any:
    """Return a pipeline of the class that `name` begins."""
    parts = tiny_components(0)
    common = {"vae": parts["vae"], "text_encoder": parts["text_encoder"], "tokenizer": parts["tokenizer"]}
    common["scheduler"] = scheduler or DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1)
    pipeline_class = getattr(diffusers, f"{name}Pipeline")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name == "StableDiffusionXL":
            common |= {
                "unet": _unet(4, num_levels, is_xl=True),
                "text_encoder_2": _second_encoder(),
                "tokenizer_2": tiny_tokenizer(),
            }
        else:
            common["unet"] = _unet(9 if name.endswith("Inpaint") else 4, num_levels)
            common |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        if "ControlNet" in name:
            common["controlnet"] = _control(common["unet"])
        pipe = pipeline_class(**common)
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    return pipe


def change(pipe: Any, variant: str) -> dict[str, Any]:
    """Do to a pipeline what a variant is called after; return what its call then needs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        if variant == "lora":
            add_lora(pipe.unet)
        elif variant == "ip_adapter":
            pipe.unet._load_ip_adapter_weights([_ip_adapter(pipe.unet)])
            return {"ip_adapter_image_embeds": [torch.randn(2, 1, 24)]}
        elif variant == "fused_qkv":
            pipe.fuse_qkv_projections()
        elif variant == "compiled":
            pipe.unet = torch.compile(pipe.unet, backend="eager", dynamic=False)
    return {}


def call(pipe: Any, **arguments: Any) -> torch.Tensor:
    """Call a pipeline with what its class needs; return the pictures, (B, 3, H, W)."""
    name = type(pipe).__name__
    generator = torch.Generator().manual_seed(5)
    picture = torch.rand(1, 3, *SIZE, generator=generator)
    needs: dict[str, Any] = {"height": SIZE[0], "width": SIZE[1]}
    if "Img2Img" in name:
        needs = {"image": picture, "strength": 0.8}
    elif "Inpaint" in name:
        needs |= {"image": picture, "mask_image": (picture[:, :1] > 0.5).float(), "strength": 1.0}
    elif "ControlNet" in name:
        needs |= {"image": picture, "controlnet_conditioning_scale": 0.7}
    needs |= {"prompt": PROMPT, "negative_prompt": NEGATIVE, "num_inference_steps": 4, "guidance_scale": 4.0}
    return pipe(**(needs | arguments), generator=generator, output_type="pt").images


class LowRank(torch.nn.Module):
    """A projection with a low-rank adapter around it, as peft puts it there."""

    def __init__(self, base_layer: torch.nn.Linear) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.lora_A = torch.nn.Linear(base_layer.in_features, 2, bias=False)
        self.lora_B = torch.nn.Linear(2, base_layer.out_features, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.base_layer(tokens) + self.lora_B(self.lora_A(tokens))


def add_lora(unet: torch.nn.Module) -> None:
    """Put a low-rank adapter around the projections of every attention layer."""
    for layer in [module for module in unet.modules() if hasattr(module, "to_q") and hasattr(module, "heads")]:
        for name in ("to_q", "to_k", "to_v"):
            setattr(layer, name, LowRank(getattr(layer, name)).eval().requires_grad_(False))


def hooks_of(pipe: Any) -> list[Any]:
    """Return everything that a recorder or a probe could leave behind; the libraries have hooks of their own."""
    modules = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    found: list[Any] = [(sorted(vars(pipe)), sorted(vars(pipe.scheduler)))]
    for module in [module for part in modules for module in part.modules()]:
        found.append((list(module._forward_hooks), list(module._forward_pre_hooks), module._compiled_call_impl))
    return found


def _unet(in_channels: int, num_levels: int, *, is_xl: bool = False) -> UNet2DConditionModel:
    """Return a UNet with cross-attention in its first of two levels; SDXL has two text encoders side by side.

    SDXL also gets their pooled vector and the sizes of the picture, beside the time.
    """
    xl: dict[str, Any] = {
        "transformer_layers_per_block": num_levels,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 6 * 4 + 12,
    }
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=in_channels,
        out_channels=4,
        block_out_channels=(8, 16)[:num_levels],
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D")[-num_levels:],
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D")[:num_levels],
        cross_attention_dim=32 if is_xl else 16,
        attention_head_dim=2,
        norm_num_groups=4,
        **(xl if is_xl else {}),
    )


def _second_encoder() -> CLIPTextModelWithProjection:
    """Return the second text encoder of SDXL."""
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=54,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=MAX_TOKENS,
            projection_dim=12,
            bos_token_id=52,
            eos_token_id=53,
            pad_token_id=53,
        )
    )


def _control(unet: UNet2DConditionModel) -> ControlNetModel:
    """Return a control network whose residuals are not zero."""
    control = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 8, 8, 8))
    for layer in (*control.controlnet_down_blocks, control.controlnet_mid_block):
        torch.nn.init.normal_(layer.weight, std=0.3)
    torch.nn.init.normal_(control.controlnet_cond_embedding.conv_out.weight, std=0.3)
    return control


def _ip_adapter(unet: Any) -> dict[str, dict[str, torch.Tensor]]:
    """Return the weights of an IP-Adapter with 4 tokens for a picture that is 24 numbers."""
    width, weights, number = unet.config.cross_attention_dim, {}, 1
    for name in unet.attn_processors:
        if name.endswith("attn2.processor"):
            inner = unet.get_submodule(name.removesuffix(".processor")).inner_dim
            for part in ("k", "v"):
                weights[f"{number}.to_{part}_ip.weight"] = torch.randn(inner, width)
            number += 2
    projection = {
        "proj.weight": torch.randn(4 * width, 24),
        "proj.bias": torch.zeros(4 * width),
        "norm.weight": torch.ones(width),
        "norm.bias": torch.zeros(width),
    }
    return {"image_proj": projection, "ip_adapter": weights}
