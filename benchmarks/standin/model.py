"""The stand-in's decoder: Llama-like layers, one decode step of static shape for each batch size.

At the default sizes 13.5 GB of bf16 weights, and 8 GiB of KV cache for 8 sequences of 2,048 tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Sizes:
    """What makes the model large or small."""

    layers: int = 32
    width: int = 4096
    heads: int = 32
    hidden: int = 11008
    vocabulary: int = 32000
    sequences: int = 8
    context: int = 2048

    @property
    def kv_bytes(self) -> int:
        """Keys and values of all layers and sequences, bf16."""
        return self.layers * 2 * self.sequences * self.context * self.width * 2


class Layer(nn.Module):
    """Attention over a static cache, then a gated MLP."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.before_attention = nn.RMSNorm(sizes.width)
        self.before_mlp = nn.RMSNorm(sizes.width)
        self.qkv = nn.Linear(sizes.width, 3 * sizes.width, bias=False)
        self.out = nn.Linear(sizes.width, sizes.width, bias=False)
        self.gate_up = nn.Linear(sizes.width, 2 * sizes.hidden, bias=False)
        self.down = nn.Linear(sizes.hidden, sizes.width, bias=False)

    def forward(self, x: Tensor, cache: Tensor, position: Tensor, mask: Tensor) -> Tensor:
        """x: (batch, width); cache: (2, sequences, heads, context, head width); position: (1,)."""
        batch, heads = x.shape[0], self.sizes.heads
        query, key, value = self.qkv(self.before_attention(x)).view(batch, 3, heads, -1).unbind(1)
        cache[0, :batch].index_copy_(2, position, key.unsqueeze(2))
        cache[1, :batch].index_copy_(2, position, value.unsqueeze(2))
        seen = nn.functional.scaled_dot_product_attention(
            query.unsqueeze(2), cache[0, :batch], cache[1, :batch], attn_mask=mask
        )
        x = x + self.out(seen.reshape(batch, -1))
        gate, up = self.gate_up(self.before_mlp(x)).chunk(2, dim=-1)
        return x + self.down(nn.functional.silu(gate) * up)


class Decoder(nn.Module):
    """Token in, most likely next token out."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.embedding = nn.Embedding(sizes.vocabulary, sizes.width)
        self.layers = nn.ModuleList(Layer(sizes) for _ in range(sizes.layers))
        self.norm = nn.RMSNorm(sizes.width)
        self.head = nn.Linear(sizes.width, sizes.vocabulary, bias=False)

    def forward(self, tokens: Tensor, caches: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """tokens: (batch,); position: (1,), the same for all; returns next tokens and their logits."""
        places = torch.arange(self.sizes.context, device=tokens.device)
        mask = (places <= position).view(1, 1, 1, -1)
        x = self.embedding(tokens)
        for layer, cache in zip(self.layers, caches, strict=True):
            x = layer(x, cache, position, mask)
        logits = self.head(self.norm(x)).float()
        best = logits.max(dim=-1)
        return best.indices, best.values


class Engine:
    """Compiled decode steps as CUDA graphs, one for each batch size, over one cache."""

    def __init__(self, model: Decoder, cache: Tensor, batches: tuple[int, ...], *, compiled: bool) -> None:
        self.model, self.cache = model, cache
        self.step: Callable[..., Any] = torch.compile(model, dynamic=False) if compiled else model
        self.graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor, Tensor, Tensor, Tensor]] = {}
        for batch in batches:
            self.graphs[batch] = self._capture(batch)

    @torch.no_grad()
    def generate(self, prompt: list[int], steps: int, batch: int = 1) -> tuple[list[int], list[float]]:
        """Greedy tokens of the first sequence, and their logits; the cache is written anew from its beginning."""
        graph, tokens, position, best, values = self.graphs[batch]
        answer: list[int] = []
        logits: list[float] = []
        token = prompt[0]
        for place in range(len(prompt) + steps - 1):
            tokens.fill_(token)
            position.fill_(place)
            graph.replay()
            token = prompt[place + 1] if place + 1 < len(prompt) else int(best[0].item())
            if place + 1 >= len(prompt):
                answer.append(token)
                logits.append(float(values[0].item()))
        return answer, logits

    @torch.no_grad()
    def _capture(self, batch: int) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor, Tensor, Tensor]:
        tokens = torch.zeros(batch, dtype=torch.int64, device="cuda")
        position = torch.zeros(1, dtype=torch.int64, device="cuda")
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.step(tokens, self.cache, position)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            best, values = self.step(tokens, self.cache, position)
        return graph, tokens, position, best, values
