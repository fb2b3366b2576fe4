"""What can be said of an AnnData before a model reads it: a table of small inspections."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scgeneformer._adata.counts import Counts, count_share, open_counts
from scgeneformer._adata.frames import in_memory
from scgeneformer._adata.genes import INDEX, GeneMap, map_genes
from scgeneformer._adata.kind import check_anndata
from scgeneformer._adata.tokens import CellTokens
from scgeneformer._engine.genes import is_ensembl, species_of
from scgeneformer._errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

    from scgeneformer._engine.vocabulary import Vocabulary


class Finding(NamedTuple):
    """One thing found: its topic, its level ("ok", "note", "problem"), what it is, what to do about it."""

    topic: str
    level: str
    finding: str
    remedy: str = ""


@dataclass
class Case:
    """What the inspections look at; `counts` and `genes` are filled by the first two, if they can be."""

    adata: AnnData
    vocabulary: Vocabulary
    counts_layer: str | None
    use_raw: bool | None
    gene_ids: str | None
    counts: Counts | None = None
    genes: GeneMap | None = None
    lengths: np.ndarray | None = field(default=None)


def find_all(adata: AnnData, vocabulary: Vocabulary, **where: str | bool | None) -> list[Finding]:
    """Findings of all inspections, in order; those that need counts or genes are left out where there are none."""
    check_anndata(adata)
    case = Case(adata, vocabulary, **where)  # type: ignore[arg-type]
    return [finding for inspect in INSPECTIONS if (finding := inspect(case)) is not None]


def _counts(case: Case) -> Finding:
    try:
        case.counts = open_counts(case.adata, case.counts_layer, case.use_raw)
    except DataError as error:
        return Finding("counts", "problem", str(error), _elsewhere(case))
    if np.isnan(case.counts.log_base):
        return Finding("counts", "ok", f"{case.counts.name} holds counts, or another linear scale")
    return Finding(
        "counts", "note", f"{case.counts.name} looks like log1p of normalised counts, which rank like the counts"
    )


def _elsewhere(case: Case) -> str:
    """Where usable counts were found."""
    places: dict[str, tuple[str | None, bool]] = {f"counts_layer={k!r}": (k, False) for k in case.adata.layers}
    if case.adata.raw is not None:
        places["use_raw=True"] = (None, True)
    usable = []
    for name, (layer, raw) in places.items():
        try:
            open_counts(case.adata, layer, raw)
        except DataError:
            continue
        usable.append(name)
    return f"Usable: {' or '.join(usable)}." if usable else ""


def _genes(case: Case) -> Finding:
    var = in_memory(case.adata.var) if case.counts is None else case.counts.var
    try:
        case.genes = map_genes(var, case.vocabulary, case.gene_ids)
    except DataError as error:
        return Finding("genes", "problem", str(error))
    kind = "Ensembl IDs" if np.mean([is_ensembl(name) for name in case.genes.names]) > 0.5 else "symbols"
    species = species_of(case.genes.names.tolist()) or "no sign of another species"
    column = case.genes.column if case.genes.column == INDEX else f"var[{case.genes.column!r}]"
    return Finding("genes", "ok", f"{kind} in adata.{column}, {species}")


def _coverage(case: Case) -> Finding | None:
    if case.genes is None:
        return None
    n, total = case.genes.n_matched, len(case.genes.tokens)
    text = f"the model knows {n:,} of {total:,} genes"
    if case.counts is None:
        return Finding("coverage", "ok", text)
    share = count_share(case.counts, case.genes.tokens)
    text += f", with {share:.1%} of the counts"
    if share < 0.5:
        remedy = "Half of the counts are lost: are gene_ids= and the model those of these data?"
        return Finding("coverage", "note", text, remedy)
    return Finding("coverage", "ok", text)


def _duplicates(case: Case) -> Finding | None:
    if case.genes is None or not case.genes.n_duplicates:
        return None
    return Finding(
        "duplicates", "note", f"{case.genes.n_duplicates} genes share a token with another and are summed with it"
    )


def _empty_cells(case: Case) -> Finding | None:
    if case.genes is None or case.counts is None:
        return None
    case.lengths = CellTokens(case.counts, case.genes, case.vocabulary).sample_lengths()
    n, sampled = int((case.lengths == 0).sum()), len(case.lengths)
    if n:
        return Finding(
            "empty cells",
            "note",
            f"{n} of {sampled} cells looked at have no count of a gene the model knows; their results will be NaN",
            "Drop them after embedding: adata = adata[adata.obs['geneformer_n_tokens'] > 0].copy().",
        )
    return Finding("empty cells", "ok", f"none among {sampled} cells looked at")


def _truncation(case: Case) -> Finding | None:
    if case.lengths is None or not len(case.lengths):
        return None
    size = case.vocabulary.input_size
    share = float((case.lengths >= size).mean())
    text = f"median {int(np.median(case.lengths)):,} of at most {size:,} tokens per cell"
    if share > 0:
        text += f"; {share:.0%} of the cells fill it: genes of the lowest ranks are cut off"
    return Finding("truncation", "note" if share > 0.5 else "ok", text)


INSPECTIONS: tuple[Callable[[Case], Finding | None], ...] = (
    _counts,
    _genes,
    _coverage,
    _duplicates,
    _empty_cells,
    _truncation,
)
