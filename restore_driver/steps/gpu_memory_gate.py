"""Room on the cards, counted before anything is touched: a CUDA restore that runs out of memory is final."""

from __future__ import annotations

from collections.abc import Collection

from restore_driver.deadline import Deadline
from restore_driver.errors import DriverError, Reason
from restore_driver.tools import Tools


def refuse_full_cards(tools: Tools, uuids: Collection[str], needed_bytes: int, deadline: Deadline) -> None:
    """Compares what a replica held before with what is free on its cards together.

    It held weights, KV cache and contexts, and takes all of them again. What the list of processes did not tell (in
    some containers it tells nothing) counts as nothing: then CUDA and the holder are the ones who find out.

    Raises:
        DriverError: TOO_LITTLE_MEMORY.
    """
    if not needed_bytes or tools.cuda is None:
        return
    cards = tools.cuda.memory(deadline.left_s()).cards
    free_bytes = sum(card.free_bytes for card in cards if card.uuid in uuids)
    if free_bytes < needed_bytes:
        raise DriverError(
            Reason.TOO_LITTLE_MEMORY,
            f"the replica held {needed_bytes:,} bytes of device memory, {free_bytes:,} are free",
            "park or end a replica on the card",
        )
