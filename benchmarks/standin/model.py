"""The stand-in's decoder: Llama-like layers, one decode step of static shape.

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

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, position: Tensor, mask: Tensor) -> Tensor:
        """x: (sequences, width); keys, values: (sequences, heads, context, head width); position: (1,)."""
        sequences, heads = x.shape[0], self.sizes.heads
        query, key, value = self.qkv(self.before_attention(x)).view(sequences, 3, heads, -1).unbind(1)
        # Whole inputs of the compiled graph, written in place: a view of one would be copied for each write.
        keys[:, :, position] = key.unsqueeze(2)
        values[:, :, position] = value.unsqueeze(2)
        seen = nn.functional.scaled_dot_product_attention(query.unsqueeze(2), keys, values, attn_mask=mask)
        x = x + self.out(seen.reshape(sequences, -1))
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

    def forward(self, tokens: Tensor, caches: list[Tensor], position: Tensor) -> tuple[Tensor, Tensor]:
        """tokens: (sequences,); caches: keys and values of each layer; position: (1,), the same for all.

        Returns next tokens and their logits.
        """
        places = torch.arange(self.sizes.context, device=tokens.device)
        mask = (places <= position).view(1, 1, 1, -1)
        x = self.embedding(tokens)
        for number, layer in enumerate(self.layers):
            x = layer(x, caches[2 * number], caches[2 * number + 1], position, mask)
        logits = self.head(self.norm(x)).float()
        best = logits.max(dim=-1)
        return best.indices, best.values


class Engine:
    """The compiled decode step as a CUDA graph over one cache."""

    def __init__(self, model: Decoder, caches: list[Tensor], *, compiled: bool) -> None:
        self.model, self.caches = model, caches
        self.step: Callable[..., Any] = torch.compile(model, dynamic=False) if compiled else model
        self.graph = self._capture(model.sizes.sequences)

    @torch.no_grad()
    def generate(self, prompt: list[int], steps: int) -> tuple[list[int], list[float]]:
        """Greedy tokens of the first sequence, and their logits; the cache is written anew from its beginning."""
        graph, tokens, position, best, values = self.graph
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
    def _capture(self, sequences: int) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor, Tensor, Tensor]:
        tokens = torch.zeros(sequences, dtype=torch.int64, device="cuda")
        position = torch.zeros(1, dtype=torch.int64, device="cuda")
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.step(tokens, self.caches, position)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            best, values = self.step(tokens, self.caches, position)
        return graph, tokens, position, best, values
