"""A tournament of slots: which has the least key, in O(log R) per change and O(1) per look.

A tree over `size` leaves (a power of two) is one float64 array of `2 * size`: leaf `i` is at
`size + i`, node `k` holds the lesser of its children `2k` and `2k + 1`, so the winner's key is at 1.
A change climbs only as far as the minimum changes. Equal keys: the lowest slot wins, always.
Read on in `events.py`, which keeps three of these trees.
"""

from __future__ import annotations

import numpy as np

from policies.arrays import FloatArray
from simulations.engine.jit import kernel

NEVER = np.inf


def make_tree(slots: int) -> FloatArray:
    """Return a tree in which no slot takes part."""
    size = 1
    while size < slots:
        size *= 2
    return np.full(2 * size, NEVER)


@kernel
def set_key(tree: FloatArray, slot: int, key: float) -> None:
    """Give `slot` the key `key` (NEVER takes it out)."""
    node = (tree.shape[0] >> 1) + slot
    if tree[node] == key:
        return
    tree[node] = key
    while node > 1:
        sibling = tree[node ^ 1]
        least = min(key, sibling)
        node >>= 1
        if tree[node] == least:
            return
        tree[node] = least
        key = least


@kernel
def winner(tree: FloatArray) -> int:
    """Return the slot with the least key; the lowest of equals. Meaningless when the winner's key is NEVER."""
    size = tree.shape[0] >> 1
    least = tree[1]
    node = 1
    while node < size:
        node <<= 1
        if tree[node] != least:
            node += 1
    slot: int = node - size
    return slot
