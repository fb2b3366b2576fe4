"""The kinds of :func:`scgeneformer.pl.perturbation`, in one table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scgeneformer.pl._figure import small_numbers, titled
from scgeneformer.pl._heat_map import first_in_turn, gene_table, heat_map
from scgeneformer.pl._labels import spread

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes

UP, DOWN, NONE = "#b2182b", "#2166ac", "0.72"
DARKEST = 5.0  # −log10 of the FDR with the darkest color, unless one is smaller
EFFECTS = {  # test: what its effect is
    "vs_null": "shift beyond that of {null}",
    "vs_null_unpaired": "shift beyond that of {null} (unpaired)",
    "goal": "shift towards {goal}",
    "mixture": "shift of the cell",
    "mean": "shift of the cell",
}
NULLS = {"rank": "genes of the same rank", "random": "random others"}


@dataclass(frozen=True, eq=False)
class Ranking:
    """What is to be drawn.

    Parameters
    ----------
    frame
        Rows with an effect, in the order of the ranking.
    stored
        The result in `uns`.
    n_genes
        How many.
    fdr
        Where significance begins.
    named
        Genes in place of the first.
    cmap
        Color map, None for that of the kind.
    """

    frame: pd.DataFrame
    stored: dict[str, Any]
    n_genes: int
    fdr: float
    named: list[str] | None
    cmap: str | None

    @property
    def first(self) -> pd.DataFrame:
        """The rows to be drawn, of one group."""
        if self.named is not None:
            return self.frame[self.frame["names"].isin(self.named)]
        return self.frame.head(self.n_genes)

    @property
    def has_pvalues(self) -> bool:
        """Whether there is a significance to draw."""
        return "pvals_adj" in self.frame and bool(self.frame["pvals_adj"].notna().any())

    @property
    def significant(self) -> pd.Series:
        """Which rows are."""
        return self.frame["pvals_adj"] < self.fdr if self.has_pvalues else pd.Series(False, index=self.frame.index)

    @property
    def effect_label(self) -> str:
        """What the effect is."""
        params = self.stored["params"]
        null = params.get("null", "")
        null = NULLS.get(null, null) if isinstance(null, str) else f"{len(null)} given genes"
        towards = f" (towards {params['state']})" if "state" in params else ""
        states = self.stored.get("states")
        return EFFECTS[params["test"]].format(null=null, goal="" if states is None else states[1]) + towards

    def note(self, *parts: str) -> list[str]:
        """What stands small below: the parts that are not empty, and the correlation with rank."""
        groups = [str(name) for name in self.stored["groups"]]
        drawn = self.frame["group"].unique()
        rho = np.array([self.stored["rank_correlation"][groups.index(name)] for name in drawn])
        rho = rho[~np.isnan(rho)]
        if len(rho):
            span = f"{rho[0]:.2f}" if len(rho) == 1 else f"{rho.min():.2f} to {rho.max():.2f}"
            parts = (*parts, f"Spearman of effect and rank: {span}")
        return [part for part in parts if part]

    @property
    def title(self) -> str:
        """What was ranked, and in which cells."""
        groups = self.frame["group"].unique()
        alone = f", {groups[0]}" if len(groups) == 1 and len(self.stored["groups"]) > 1 else ""
        perturbed = self.stored.get("perturbation", {})
        held = ", positions held" if perturbed.get("positions") == "hold" else ""
        anchor = f" with {perturbed['anchor']}" if "anchor" in perturbed else ""
        mode = str(perturbed.get("mode", self.stored["params"]["key"]))
        return f"{titled(mode)}{anchor}{held}{alone}"


@dataclass(frozen=True)
class Kind:
    """One entry of the table.

    Parameters
    ----------
    draw
        Draws into an Axes.
    size
        Of a figure, in inches.
    many_groups
        Whether several groups are drawn.
    needs_pvalues
        Whether there must be p-values.
    """

    draw: Callable[[Axes, Ranking], None]
    size: Callable[[Ranking], tuple[float, float]]
    many_groups: bool = False
    needs_pvalues: bool = False


def _log(pvals: pd.Series) -> np.ndarray:
    """−log10, with p-values of 0 just beyond the smallest of the others."""
    found = -np.log10(np.maximum(pvals.to_numpy(dtype=np.float64), 1e-320))
    zero = pvals.to_numpy() == 0
    if zero.any() and not zero.all():
        found[zero] = found[~zero].max() * 1.03 + 0.5
    return found


def _ranking(ax: Axes, ranking: Ranking) -> None:
    """A line and a dot per gene, the largest effect on top."""
    rows = ranking.first.sort_values("effect", ascending=False, kind="stable")
    y, effect = np.arange(len(rows)), rows["effect"].to_numpy()
    filled = ranking.significant[rows.index].to_numpy()
    ax.hlines(y, 0, effect, color="0.8", linewidth=1.4, zorder=1)
    ax.axvline(0, color="0.3", linewidth=0.8, zorder=1)
    if filled.any():
        values = _log(rows["pvals_adj"])
        look: dict[str, Any] = {"cmap": ranking.cmap or "viridis_r", "vmin": 0, "vmax": max(np.nanmax(values), DARKEST)}
        dots = ax.scatter(effect, y, s=46, zorder=3, linewidths=0, c=values, **look)
        bar = ax.figure.colorbar(dots, ax=ax, shrink=min(0.9, 7 / len(rows)), aspect=16, pad=0.03)
        bar.set_label("−log10 FDR", labelpad=8)
        bar.outline.set_visible(False)
    if ranking.has_pvalues:
        hollow = ax.scatter(effect[~filled], y[~filled], s=46, zorder=4, facecolors="white", edgecolors="0.45")
        hollow.set_linewidth(1.1)
    else:
        in_impact = rows["impact"].to_numpy() == 1 if "impact" in rows else np.ones(len(rows), dtype=bool)
        ax.scatter(effect, y, s=46, zorder=3, linewidths=0, c=np.where(in_impact, UP, NONE))
    ax.set_yticks(y, rows["names"], fontstyle="italic")
    ax.set_ylim(len(rows) - 0.3, -0.7)
    ax.tick_params(axis="y", length=0)
    ax.margins(x=0.08)
    ax.locator_params(axis="x", nbins=6)
    hollow_note = f"hollow: FDR ≥ {ranking.fdr:g}" if ranking.has_pvalues and not filled.all() else ""
    impact_note = "red: in the component of large shifts" if "impact" in rows else ""
    _finish(ax, ranking, ranking.effect_label, ranking.note(hollow_note, impact_note))


def _volcano(ax: Axes, ranking: Ranking) -> None:
    """Effect and significance of all genes, the first of them with their names."""
    frame = ranking.frame[ranking.frame["pvals_adj"].notna()]
    x, y = frame["effect"].to_numpy(), _log(frame["pvals_adj"])
    significant = ranking.significant[frame.index].to_numpy()
    colors = np.where(~significant, NONE, np.where(x > 0, UP, DOWN))
    ax.scatter(x, y, s=np.clip(9000 / len(x), 7, 34), c=colors, linewidths=0, alpha=0.85, zorder=2)
    ax.axhline(-np.log10(ranking.fdr), color="0.5", linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    ax.axvline(0, color="0.5", linewidth=0.8, zorder=1)
    ax.set_ylim(-0.03 * max(y.max(), 2), 1.08 * max(y.max(), 2))
    rows = ranking.first if ranking.named is not None else frame[significant].head(ranking.n_genes)
    at = np.flatnonzero(frame["names"].isin(rows["names"]))
    _name(ax, x[at], y[at], frame["names"].to_numpy()[at])
    ax.set_ylabel("−log10 FDR")
    up, down = int((significant & (x > 0)).sum()), int((significant & (x < 0)).sum())
    count = f"{up} up and {down} down of {len(frame):,} at FDR < {ranking.fdr:g}"
    _finish(ax, ranking, ranking.effect_label, ranking.note(count))


def _name(ax: Axes, x: np.ndarray, y: np.ndarray, names: np.ndarray) -> None:
    """Names in a column at the left for negative effects and at the right for positive ones, with lines to them."""
    ax.scatter(x, y, s=30, facecolors="none", edgecolors="black", linewidths=0.8, zorder=4)
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    for positive, edge, align in ((False, left, "right"), (True, right, "left")):
        side = np.flatnonzero((x > 0) == positive)
        side = side[np.lexsort((np.abs(x[side]), y[side]))]  # of points at one height the outer has the higher name
        gap = min(0.044 * (high - low), (high - low) / max(len(side), 1))
        heights = spread(y[side], gap)
        room = low + gap / 2, high - gap / 2  # names stay beside the plot
        over = max(float(heights[-1]) - room[1], 0) if len(side) else 0
        heights = np.maximum(heights - over, room[0] + gap * np.arange(len(side)))
        for i, height in zip(side, heights, strict=True):
            ax.annotate(
                names[i],
                (x[i], y[i]),
                (edge, height),
                ha=align,
                va="center",
                fontsize="small",
                fontstyle="italic",
                arrowprops={"arrowstyle": "-", "color": "0.55", "linewidth": 0.5, "shrinkA": 1, "shrinkB": 3},
                annotation_clip=False,
                zorder=3,
            )
    if (x < 0).any():  # their names stand between the axis and its numbers
        ax.tick_params(axis="y", length=0, pad=6 + 5.6 * max(map(len, names[x < 0])))


def _heat_map(ax: Axes, ranking: Ranking) -> None:
    """Effects of genes × groups; a dot marks the significant ones."""
    frame = ranking.frame
    names = first_in_turn(frame, ranking.n_genes) if ranking.named is None else ranking.named
    effect, dots = gene_table(frame, names, size=frame["effect"].abs(), significant=ranking.significant)
    signed = bool((frame["effect"] < 0).any())
    most = max(float(np.nanpercentile(np.abs(effect), 98)), 1e-12)  # one outlier must not bleach all others
    look = {"cmap": ranking.cmap or ("RdBu_r" if signed else "magma_r"), "label": ranking.effect_label}
    missing = heat_map(ax, effect, dots, low=-most if signed else 0.0, high=most, **look)
    dot = f"dot: FDR < {ranking.fdr:g}" if ranking.has_pvalues else ""
    _finish(ax, ranking, "", [])
    notes = ranking.note(dot, "gray: in too few of the cells" if missing else "")
    ax.set_xlabel("\n".join(notes), fontsize="small", color="0.4", loc="left")


def _finish(ax: Axes, ranking: Ranking, label: str, notes: list[str]) -> None:
    """Labels, title, and the note small below."""
    ax.set_title(ranking.title, fontsize="medium", loc="left")
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_xlabel(label + small_numbers(ax) if label else "")
    if notes:
        ax.annotate(
            "; ".join(notes),
            (0, 0),
            xycoords=("axes fraction", ax.xaxis.label),
            xytext=(0, -4),
            textcoords="offset points",
            va="top",
            fontsize="small",
            color="0.4",
        )


def _height(ranking: Ranking) -> float:
    n = ranking.n_genes if ranking.named is None else len(ranking.named)
    return 0.25 * min(n, ranking.frame["names"].nunique())


KINDS: dict[str, Kind] = {
    "ranking": Kind(_ranking, lambda ranking: (5.4, 1.5 + _height(ranking))),
    "volcano": Kind(_volcano, lambda ranking: (6.4, 5.0), needs_pvalues=True),
    "heatmap": Kind(
        _heat_map,
        lambda ranking: (3.4 + 0.42 * ranking.frame["group"].nunique(), 2.6 + _height(ranking)),
        many_groups=True,
    ),
}
