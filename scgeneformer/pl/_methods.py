"""How the methods of a comparison look: one color for each, the same in every plot of the comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#e07b39", "#7a5195", "#555555", "#9bb8a0")
MARKERS = ("o", "s", "^", "D")


def looks(present: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Color and marker of each method, by its place among all that are stored."""
    n = len(COLORS)
    return {name: (COLORS[i % n], MARKERS[i // n % len(MARKERS)]) for i, name in enumerate(present)}


def legend(ax: Axes, title: str) -> None:
    """A legend at the right, outside."""
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "borderaxespad": 0.0}
    ax.legend(**place, frameon=False, fontsize="small", title=title, title_fontsize="small", alignment="left")
