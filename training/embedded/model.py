"""The Phi3 architecture in plain PyTorch, for training only.

Parameter names and arithmetic are those of transformers' Phi3ForCausalLM, so a state dict moves over unchanged.
No key-value cache and no sampling: answers come from the served engines.
"""

import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as fn
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The model's dimensions."""

    vocabulary: int = 2048
    """Tokens."""
    hidden: int = 256
    """Width; heads * head_dim."""
    intermediate: int = 512
    """Width of the gated feed-forward part."""
    layers: int = 6
    """Blocks."""
    heads: int = 4
    """Query heads."""
    kv_heads: int = 2
    """Key-value heads."""
    head_dim: int = 64
    """Width of a head."""
    rotary_dim: int = 48
    """Rotated part of a head; its half must be a multiple of 8 (vLLM's and onnxruntime's CPU kernels)."""
    theta: float = 10_000.0
    """Base of the rotary frequencies."""
    original_context: int = 4_096
    """Longest prompt on the short factors, tokens."""
    context: int = 131_072
    """Longest prompt on the long factors, tokens."""
    eps: float = 1e-5
    """Of the RMS norms."""

    @property
    def short_factors(self) -> list[float]:
        """Rotary rescaling up to `original_context`: none."""
        return [1.0] * (self.rotary_dim // 2)

    @property
    def long_factors(self) -> list[float]:
        """Rotary rescaling beyond it: geometric from 1 for the fastest frequency to context / original_context."""
        half = self.rotary_dim // 2
        ratio = self.context / self.original_context
        return [round(ratio ** (index / (half - 1)), 6) for index in range(half)]

    @property
    def rotary_scale(self) -> float:
        """LongRoPE's magnitude factor on cos and sin (Ding et al. 2024), used for both factor lists."""
        return math.sqrt(1 + math.log(self.context / self.original_context) / math.log(self.original_context))


def rotary_table(shape: Shape, length: int, *, long: bool) -> Tensor:
    """Return cos and sin, shape (2, length, rotary_dim)."""
    factors = torch.tensor(shape.long_factors if long else shape.short_factors)
    exponents = torch.arange(0, shape.rotary_dim, 2).float() / shape.rotary_dim
    angles = torch.outer(torch.arange(length).float(), 1.0 / (factors * shape.theta**exponents))
    angles = torch.cat((angles, angles), dim=-1)
    return torch.stack((angles.cos(), angles.sin())) * shape.rotary_scale


def _rotate(states: Tensor, table: Tensor) -> Tensor:
    """Rotate the first rotary_dim numbers of each head; states (B, heads, T, head_dim)."""
    width = table.shape[-1]
    turned, kept = states[..., :width], states[..., width:]
    half = width // 2
    swapped = torch.cat((-turned[..., half:], turned[..., :half]), dim=-1)
    return torch.cat((turned * table[0] + swapped * table[1], kept), dim=-1)


class Norm(nn.Module):
    """RMS norm with a learned scale, computed in float32."""

    def __init__(self, width: int, eps: float) -> None:
        """Start at scale one."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, states: Tensor) -> Tensor:
        """Normalize the last dimension."""
        return fn.rms_norm(states.float(), (states.shape[-1],), self.weight.float(), self.eps).to(states.dtype)


class Attention(nn.Module):
    """Grouped-query causal attention."""

    def __init__(self, shape: Shape) -> None:
        """Create the fused projections."""
        super().__init__()
        self.shape = shape
        width = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
        self.qkv_proj = nn.Linear(shape.hidden, width, bias=False)
        self.o_proj = nn.Linear(shape.heads * shape.head_dim, shape.hidden, bias=False)

    def forward(self, states: Tensor, table: Tensor) -> Tensor:
        """Attend."""
        shape = self.shape
        batch, length, _ = states.shape
        joined = self.qkv_proj(states).view(batch, length, -1, shape.head_dim).transpose(1, 2)
        query, key, value = joined.split((shape.heads, shape.kv_heads, shape.kv_heads), dim=1)
        query, key = _rotate(query, table).to(value.dtype), _rotate(key, table).to(value.dtype)
        groups = shape.heads // shape.kv_heads
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        mixed = fn.scaled_dot_product_attention(query, key, value, is_causal=True)
        return cast(Tensor, self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1)))


class FeedForward(nn.Module):
    """Gated feed-forward part (SwiGLU)."""

    def __init__(self, shape: Shape) -> None:
        """Create the fused gate and up projection, and the way down."""
        super().__init__()
        self.gate_up_proj = nn.Linear(shape.hidden, 2 * shape.intermediate, bias=False)
        self.down_proj = nn.Linear(shape.intermediate, shape.hidden, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        """Apply it."""
        gate, up = self.gate_up_proj(states).chunk(2, dim=-1)
        return cast(Tensor, self.down_proj(up * fn.silu(gate)))


class Block(nn.Module):
    """One pre-norm layer."""

    def __init__(self, shape: Shape) -> None:
        """Create both halves."""
        super().__init__()
        self.self_attn = Attention(shape)
        self.mlp = FeedForward(shape)
        self.input_layernorm = Norm(shape.hidden, shape.eps)
        self.post_attention_layernorm = Norm(shape.hidden, shape.eps)

    def forward(self, states: Tensor, table: Tensor) -> Tensor:
        """Apply it."""
        states = states + self.self_attn(self.input_layernorm(states), table)
        return cast(Tensor, states + self.mlp(self.post_attention_layernorm(states)))


class Body(nn.Module):
    """Everything below the head."""

    def __init__(self, shape: Shape) -> None:
        """Create embedding, blocks and last norm."""
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.hidden)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = Norm(shape.hidden, shape.eps)


class CausalModel(nn.Module):
    """The whole model; the head is the embedding."""

    def __init__(self, shape: Shape) -> None:
        """Draw the weights: normal with deviation 0.02, smaller where a block writes to the residual stream."""
        super().__init__()
        self.shape = shape
        self.model = Body(shape)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                scale = 1 / math.sqrt(2 * shape.layers) if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
                nn.init.normal_(parameter, std=0.02 * scale if "embed" in name else 0.05 * scale)

    def forward(self, tokens: Tensor, table: Tensor) -> Tensor:
        """Return the normed last states (B, T, hidden); `table` holds the rotary rows of these positions."""
        states = self.model.embed_tokens(tokens)
        for block in self.model.layers:
            states = block(states, table)
        return cast(Tensor, self.model.norm(states))

    def logits(self, states: Tensor) -> Tensor:
        """Return float32 scores over the vocabulary for states of any leading shape."""
        return fn.linear(states, self.model.embed_tokens.weight).float()
