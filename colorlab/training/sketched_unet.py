"""What ColorizeDiffusion trains: UNet, sketch encoder and exemplar projection as one module, and how it begins.

It begins from the family's L-CAD: the latents' part of its first convolution, and cross-attention whose keys and values
read an exemplar's patch as if it were the noun of a caption that names what the patch shows. CLIP's patches are aligned
to words one by one, so that a linear map from patches to hidden states of nouns says which noun that is.

Source: ours; the paper begins from the weights of a text-to-image model and trains 4.8 million pairs.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from colorlab.networks.exemplar_projection import ExemplarProjection
from colorlab.networks.libraries import UNet2DConditionModel
from colorlab.networks.sketch_encoder import SketchEncoder, hint_places, injected_hints
from colorlab.training.sketched_kinds import KindReader

__all__ = [
    "SketchedUnet",
    "TaughtSketchEncoder",
    "fit_token_map",
    "mini_sketch_encoder",
    "read_tokens_as_words",
    "without_taps",
]

_STEM_CHANNELS = (12, 24, 64, 128)
_RIDGE = 1e-2


class SketchedUnet(nn.Module):
    """UNet, sketch encoder, exemplar projection, and the reader of kinds that teaches the sketch encoder.

    Args:
        unet: with four input channels.
        sketch_encoder: of its widths.
        projection: of the exemplar's tokens.
        kind_reader: None for an untrained one.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        sketch_encoder: SketchEncoder,
        projection: ExemplarProjection,
        kind_reader: KindReader | None = None,
    ) -> None:
        super().__init__()
        self.unet, self.sketch_encoder, self.projection = unet, sketch_encoder, projection
        self.kind_reader = kind_reader or kind_reader_of(sketch_encoder)

    def forward(
        self, noisy: torch.Tensor, timesteps: torch.Tensor, hints: Sequence[torch.Tensor], tokens: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Predict from (B, 4, h, w) latents, (B,) timesteps, the sketch encoder's hints and (B, N, D) tokens.

        Returns:
            The prediction, and the features at each hint's place with the hint in them.
        """
        seen: list[torch.Tensor] = []
        with injected_hints(self.unet, hints), ExitStack() as stack:
            for place in hint_places(self.unet):
                handle = place.register_forward_hook(lambda module, args, output: seen.append(output))
                stack.callback(handle.remove)
            predicted: torch.Tensor = self.unet(noisy, timesteps, encoder_hidden_states=tokens).sample
        return predicted, seen


class TaughtSketchEncoder(nn.Module):
    """A sketch encoder and its reader of kinds; `forward` is the encoder's."""

    def __init__(self, sketch_encoder: SketchEncoder) -> None:
        super().__init__()
        self.sketch_encoder, self.kind_reader = sketch_encoder, kind_reader_of(sketch_encoder)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Encode (B, 3, H, W) sketch pixels."""
        hints: tuple[torch.Tensor, ...] = self.sketch_encoder(pixels)
        return hints


def kind_reader_of(sketch_encoder: SketchEncoder, *, seed: int = 0) -> KindReader:
    """Return an untrained reader of the three finest hints; cells of coarser ones are larger than objects."""
    config = sketch_encoder.config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return KindReader((config.block_out_channels[0], *config.block_out_channels[:2]))


def mini_sketch_encoder(unet: UNet2DConditionModel, *, seed: int = 0) -> SketchEncoder:
    """Return the family's untrained sketch encoder for a UNet."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SketchEncoder(stem_channels=_STEM_CHANNELS, block_out_channels=unet.config.block_out_channels)


def without_taps(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Copy a UNet without the input channels behind the latents' four."""
    config = {name: value for name, value in unet.config.items() if not name.startswith("_")}
    with torch.device("meta"):
        bare = UNet2DConditionModel.from_config(config | {"in_channels": 4})
    weights = {name: value.detach().clone() for name, value in unet.state_dict().items()}
    weights["conv_in.weight"] = weights["conv_in.weight"][:, :4].clone()
    bare.load_state_dict(weights, assign=True)
    return bare.train(unet.training)


def fit_token_map(tokens: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """Fit the matrix W of least squares with W x near y.

    Args:
        tokens: (M, D), x.
        states: (M, E), y.

    Returns:
        (E, D); the identity where M is 0, as with an untrained CLIP, whose patches say nothing: tokens are then read as
        they are.
    """
    if len(tokens) == 0:
        return torch.eye(states.shape[1], tokens.shape[1])
    gram = tokens.T @ tokens / len(tokens)
    ridge = _RIDGE * gram.diagonal().mean() * torch.eye(len(gram))
    return torch.linalg.solve(gram + ridge, tokens.T @ states / len(tokens)).T


@torch.no_grad()
def read_tokens_as_words(unet: UNet2DConditionModel, token_map: torch.Tensor) -> None:
    """Let keys and values of cross-attention read tokens through a map; the UNet is changed in place.

    Args:
        unet: its cross-attention reads E wide words, and afterwards D wide tokens.
        token_map: (E, D) with E = D, as their layers are not made anew.
    """
    attentions: Sequence[Any] = [module for name, module in unet.named_modules() if name.endswith("attn2")]
    for attention in attentions:
        for projection in (attention.to_k, attention.to_v):
            projection.weight.copy_(projection.weight @ token_map)
