"""Torch tensors in reserved ranges: weights, restored from a holder, and scratch, restored empty."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from restore_driver.replica.vmm import Range

ALIGNMENT_BYTES = 256
"""Alignment of each tensor within a range: that of cudaMalloc, which kernels may rely on."""
_ROW_WORDS = 1 << 15
"""Words of a row of the digest: 256 KiB, so that a range, in units of 2 MiB, has whole rows."""
_MULTIPLIER = 0x9E3779B97F4A7C15
"""2^64 divided by the golden ratio, odd: Knuth's multiplicative hashing, TAOCP 3, 6.4."""


class _Span:
    """Device memory that torch can wrap without a copy (`__cuda_array_interface__` of Numba, version 3)."""

    def __init__(self, address: int, size_bytes: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (size_bytes,),
            "typestr": "|u1",
            "data": (address, False),
            "version": 3,
        }


class ScratchRange:
    """Memory whose content need not survive, such as a KV cache without requests."""

    def __init__(self, size_bytes: int, ordinal: int = 0) -> None:
        self.range = Range(size_bytes, ordinal)
        self.range.map_own()
        self.bytes = _as_tensor(self.range, ordinal)

    def tensor(self, dtype: Any, shape: tuple[int, ...], offset_bytes: int = 0) -> Any:
        """Return a view of a part of it: `shape` elements of a torch `dtype` from `offset_bytes` on."""
        count = 1
        for extent in shape:
            count *= extent
        size = count * dtype.itemsize
        return self.bytes[offset_bytes : offset_bytes + size].view(dtype).view(shape)


class WeightsRange:
    """A model's parameters and buffers, one after the other in one range."""

    def __init__(self, range_: Range, offsets_bytes: Mapping[str, int], tensors: Mapping[str, Any]) -> None:
        self.range, self.offsets_bytes, self.tensors = range_, dict(offsets_bytes), dict(tensors)

    @classmethod
    def adopt(cls, module: Any, ordinal: int = 0) -> WeightsRange:
        """Move all parameters and buffers of a module into a new range; tied ones stay tied.

        The module may be on any device: one on the host never needs its size twice on the GPU.

        Raises:
            VmmError: the GPU has too little memory.
        """
        import torch

        named = dict(_storages(module))
        offsets, total = {}, 0
        for name, tensor in named.items():
            offsets[name] = total
            total += -(-tensor.numel() * tensor.element_size() // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        range_ = Range(total, ordinal)
        range_.map_own()
        whole = _as_tensor(range_, ordinal)
        whole.zero_()
        placed: dict[int, Any] = {}
        tensors = {}
        with torch.no_grad():
            for name, tensor in named.items():
                size = tensor.numel() * tensor.element_size()
                view = whole[offsets[name] : offsets[name] + size].view(tensor.dtype).view(tensor.shape)
                view.copy_(tensor)
                placed[id(tensor)] = tensors[name] = view
            for tensor in [*module.parameters(), *module.buffers()]:
                if id(tensor) in placed:
                    tensor.data = placed[id(tensor)]
        return cls(range_, offsets, tensors)

    @property
    def total_bytes(self) -> int:
        """Bytes of the range."""
        return self.range.size_bytes

    def layout(self) -> dict[str, Any]:
        """Return `total_bytes` and `offsets_bytes` by tensor: what a weights holder needs besides the files."""
        return {"total_bytes": self.total_bytes, "offsets_bytes": self.offsets_bytes}

    def save(self, directory: Path, shard_bytes: int = 4 << 30) -> list[Path]:
        """Write the tensors as safetensors files with `layout.json` beside them; return the files.

        Raises:
            OSError: a file could not be written.
        """
        from safetensors.torch import save_file

        directory.mkdir(parents=True, exist_ok=True)
        files: list[Path] = []
        shard: dict[str, Any] = {}
        size = 0
        for name, tensor in self.tensors.items():
            shard[name] = tensor
            size += tensor.numel() * tensor.element_size()
            if size >= shard_bytes or name == list(self.tensors)[-1]:
                files.append(directory / f"model-{len(files):05d}.safetensors")
                save_file(shard, files[-1])
                shard, size = {}, 0
        (directory / "layout.json").write_text(json.dumps(self.layout()))
        return files

    def digest(self) -> str:
        """Return 64 bits, as 16 hexadecimal digits, over every byte of the range and its place.

        The 64-bit words are laid out in rows; the sums of all rows and of all columns, modulo 2^64, are each weighed by
        odd multipliers of their place and added up. A changed word changes a row and a column; two exchanged words
        change two of either. Damage goes unseen if it cancels out in rows and columns alike, or else once in 2^64: this
        guards against errors; the files' digests guard against adversaries. It takes two reads of the range.
        """
        import torch

        words = _as_tensor(self.range, self.range_ordinal).view(torch.int64).view(-1, _ROW_WORDS)
        rows, columns = words.sum(dim=1), words.sum(dim=0)
        total = sum((part * _multipliers(part)).sum() for part in (rows, columns))
        return f"{int(total.item()) & 0xFFFFFFFFFFFFFFFF:016x}"

    @property
    def range_ordinal(self) -> int:
        """The device that the tensors are on."""
        return int(next(iter(self.tensors.values())).device.index or 0)


def _multipliers(like: Any) -> Any:
    """Return an odd multiplier for each place."""
    import torch

    places = torch.arange(1, like.numel() + 1, dtype=torch.int64, device=like.device)
    return (places * _signed(_MULTIPLIER)) | 1


def _storages(module: Any) -> Iterator[tuple[str, Any]]:
    """Yield each distinct parameter or buffer once, by its first name."""
    seen = set()
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if id(tensor) not in seen and tensor.numel():
            seen.add(id(tensor))
            yield name, tensor


def _as_tensor(range_: Range, ordinal: int) -> Any:
    import torch

    return torch.as_tensor(_Span(range_.address, range_.size_bytes), device=f"cuda:{ordinal}")


def _signed(word: int) -> int:
    """Return the same 64 bits as a signed integer, as torch stores them."""
    return word - (1 << 64) if word >= 1 << 63 else word
