"""Where to write the names of points in a scatter so that they do not cover each other.

Greedy and deterministic: points are labelled one after the other, each at the first of eight places
that touches nothing placed before. Four orders are tried, and the one that names the most points is
kept. Good enough for fifteen points; a point for which no place is free keeps its name in the hover
text alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PLACES = (
    "top right",
    "bottom left",
    "top left",
    "bottom right",
    "middle right",
    "middle left",
    "top center",
    "bottom center",
)
"""Best first: a Pareto line runs to the right of its points and down to them, so the corners are clear."""

CHARACTER_PX = 6.6
LINE_PX = 16.0
GAP_PX = 9.0


@dataclass(frozen=True, slots=True)
class Box:
    """A label's or a point's rectangle, in pixels."""

    left_px: float
    top_px: float
    right_px: float
    bottom_px: float

    def touches(self, other: Box) -> bool:
        """Return whether the two rectangles share a pixel."""
        return (
            self.left_px < other.right_px
            and other.left_px < self.right_px
            and self.top_px < other.bottom_px
            and other.top_px < self.bottom_px
        )


def label_places(
    points_px: Sequence[tuple[float, float]], names: Sequence[str], width_px: float, height_px: float
) -> tuple[str, ...]:
    """Return a place of `PLACES` for each point, or "" for none; y grows downwards."""
    given = range(len(points_px))
    orders = (
        list(given),
        list(reversed(given)),
        sorted(given, key=lambda i: (points_px[i][1], i)),
        sorted(given, key=lambda i: (-points_px[i][1], i)),
    )
    tried = [_placed(points_px, names, order, width_px, height_px) for order in orders]
    best = min(tried, key=lambda places: sum(not p for p in places.values()))
    return tuple(best[i] for i in given)


def _placed(
    points_px: Sequence[tuple[float, float]],
    names: Sequence[str],
    order: Sequence[int],
    width_px: float,
    height_px: float,
) -> dict[int, str]:
    markers = [Box(x - 6, y - 6, x + 6, y + 6) for x, y in points_px]
    labels: list[Box] = []
    places = {}
    for i in order:
        others = markers[:i] + markers[i + 1 :] + labels
        boxes = {p: _box(*points_px[i], names[i], p) for p in PLACES}
        places[i] = next((p for p in PLACES if _free(boxes[p], others, width_px, height_px)), "")
        if places[i]:
            labels.append(boxes[places[i]])
    return places


def _box(x_px: float, y_px: float, name: str, place: str) -> Box:
    length = CHARACTER_PX * len(name)
    vertical, horizontal = place.split()
    left = {"left": x_px - GAP_PX - length, "center": x_px - length / 2, "right": x_px + GAP_PX}[horizontal]
    top = {"top": y_px - GAP_PX - LINE_PX, "middle": y_px - LINE_PX / 2, "bottom": y_px + GAP_PX}[vertical]
    return Box(left, top, left + length, top + LINE_PX)


def _free(box: Box, others: Sequence[Box], width_px: float, height_px: float) -> bool:
    inside = box.left_px >= 0 and box.right_px <= width_px and box.top_px >= 0 and box.bottom_px <= height_px
    return inside and not any(box.touches(o) for o in others)
