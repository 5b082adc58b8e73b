"""Attention layers: which of them can be read or patched, and one with its matrices in the open for patches."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional

from colorlab.errors import StateError

__all__ = [
    "MatrixChange",
    "OpenAttention",
    "check_plain_attention",
    "check_readable_attention",
    "has_plain_processor",
    "image_key_projections",
    "key_projection",
    "query_projection",
]

MatrixChange = Callable[[torch.Tensor], torch.Tensor]
RowChanges = Callable[[], Sequence[tuple[slice, Sequence[MatrixChange], Sequence[MatrixChange]]]]

_PLAIN_PROCESSORS = ("AttnProcessor", "AttnProcessor2_0")
_FUSED_PROCESSOR = "FusedAttnProcessor2_0"
# They attend to the context as the plain ones do, the first from projections in one, the others beside images.
_READABLE_PROCESSORS = (_FUSED_PROCESSOR, "IPAdapterAttnProcessor", "IPAdapterAttnProcessor2_0")
# Behind the projections, and in front of them: what the projections hand on is queries and keys in the second case.
_QUERY_NORMS = ("norm_q", "norm_k")
_INPUT_NORMS = ("group_norm", "spatial_norm")


class OpenAttention:
    """A diffusers attention processor that computes chosen batch rows by hand, and all others as ever.

    First the fused kernel computes the whole batch, as without this processor; then the rows that are to be changed
    are computed once more through their full matrices and replaced. Rows that nobody changes keep their bits.

    Args:
        changes: asked at every call: (batch rows, changes of the scores, changes of the probabilities), each change
            from (rows, heads, Q, K) to the same shape; scores are scaled, with the mask added, before the softmax.
    """

    def __init__(self, changes: RowChanges) -> None:
        self.changes = changes

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attend; arguments and result as those of diffusers' `AttnProcessor2_0`.

        Source: huggingface/diffusers:src/diffusers/models/attention_processor.py, `AttnProcessor2_0`, for attention
            layers without spatial, group, query or key norms, as all UNets and control networks have them.
        """
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if encoder_hidden_states is not None and attn.norm_cross:
            context = attn.norm_encoder_hidden_states(context)
        if attention_mask is not None:
            attention_mask = attn.prepare_attention_mask(attention_mask, context.shape[1], len(context))
            attention_mask = attention_mask.view(len(context), attn.heads, -1, attention_mask.shape[-1])

        # 1. As ever.
        query, key, value = (
            tokens.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for tokens in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)

        # 2. By hand where somebody changes something.
        changes = self.changes()
        if changes:
            attended = attended.clone()
        for rows, of_scores, of_probs in changes:
            scores = query[rows].float() @ key[rows].float().transpose(-1, -2) * attn.scale
            if attention_mask is not None:
                scores = scores + attention_mask[rows]
            for change in of_scores:
                scores = change(scores)
            probs = scores.softmax(dim=-1)
            for change in of_probs:
                probs = change(probs)
            attended[rows] = (probs @ value[rows].float()).to(attended.dtype)

        # 3. As ever.
        output: torch.Tensor = attn.to_out[0](attended.transpose(1, 2).flatten(2).to(query.dtype))
        output = attn.to_out[1](output)
        if attn.residual_connection:
            output = output + hidden_states
        return output / attn.rescale_output_factor


def has_plain_processor(attn: Any) -> bool:
    """Return whether an attention layer computes softmax(scale q k') v and nothing else."""
    return type(attn.processor).__name__ in _PLAIN_PROCESSORS or isinstance(attn.processor, OpenAttention)


def check_plain_attention(attn: Any, path: str, purpose: str) -> None:
    """Check that the attention matrix of a layer follows from `to_q` and `to_k`.

    Raises:
        StateError: its projections are fused, its queries are normalised, or it has a processor of its own.
    """
    name = type(attn.processor).__name__
    if _is_fused(attn):
        raise StateError(f"The projections of {path} are fused, so {purpose} is not possible; unfuse them first.")
    if not has_plain_processor(attn) or _has_any(attn, (*_QUERY_NORMS, *_INPUT_NORMS)):
        raise StateError(
            f"{path} attends by {name}, where {purpose} is not possible; use a network with the standard processor."
        )


def check_readable_attention(attn: Any, path: str) -> None:
    """Check that queries and keys of a layer can be read where its projections hand them on.

    Beside plain layers these are layers with fused projections, and layers of an IP-Adapter, which attend to the
    context as ever and add what they find in images.

    Raises:
        StateError: its queries are normalised, or it has a processor of its own.
    """
    is_known = has_plain_processor(attn) or type(attn.processor).__name__ in _READABLE_PROCESSORS
    if not is_known or _has_any(attn, _QUERY_NORMS):
        raise StateError(
            f"{path} attends by {type(attn.processor).__name__}, where reading its attention is not possible; use a "
            "network with the standard processor."
        )


def query_projection(attn: Any) -> tuple[Any, int, int]:
    """Return the module that makes the queries, and which part of how many equal parts of its output they are."""
    return (attn.to_qkv, 0, 3) if _is_fused(attn) and hasattr(attn, "to_qkv") else (attn.to_q, 0, 1)


def key_projection(attn: Any) -> tuple[Any, int, int]:
    """Return the same for the keys."""
    if not _is_fused(attn):
        return attn.to_k, 0, 1
    return (attn.to_qkv, 1, 3) if hasattr(attn, "to_qkv") else (attn.to_kv, 0, 2)


def image_key_projections(attn: Any) -> tuple[Any, ...]:
    """Return the modules that make keys of images, one for each IP-Adapter; none where there is no adapter."""
    return tuple(getattr(attn.processor, "to_k_ip", ()))


def _is_fused(attn: Any) -> bool:
    """Return whether a layer computes from fused projections; its flag and they stay behind when it is unfused."""
    return type(attn.processor).__name__ == _FUSED_PROCESSOR


def _has_any(attn: Any, norms: Sequence[str]) -> bool:
    """Return whether a layer has one of some norms."""
    return any(getattr(attn, norm, None) is not None for norm in norms)
