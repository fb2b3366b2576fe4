"""What can be said of an AnnData before a model reads it: a table of inspections, each with its remedy as code."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from scgeneformer._adata.counts import count_share, is_from_file, open_counts
from scgeneformer._adata.frames import in_memory
from scgeneformer._adata.genes import (
    MIN_MATCHED,
    foreign_species,
    genome_prefix,
    map_genes,
    matches,
    other_column,
    where_genes,
)
from scgeneformer._adata.kind import check_anndata
from scgeneformer._adata.scale import evident_base
from scgeneformer._adata.tokens import CellTokens
from scgeneformer._engine.genes import is_ensembl, match_genes
from scgeneformer._errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd
    from anndata import AnnData

    from scgeneformer._adata.counts import Counts
    from scgeneformer._adata.genes import GeneMap
    from scgeneformer._engine.vocabulary import Vocabulary

PROBLEM, NOTE, OK = LEVELS = ("problem", "note", "ok")  # in the order in which they are told
OURS = "geneformer_"  # what layers with results of this package begin with
LIKELY = ("counts", "raw_counts", "raw", "umi", "umis")  # layers to look at first
MORE = 1.2  # a place of counts with so many times the known genes is the better one
HALF = 0.5
SHOWN = 0.005  # smaller shares are 0 %
FEW_GENES = 100  # in a cell; ranks among fewer tell little
SAMPLE = 1000  # names of cells that are looked at
READ = "adata = sc.read_h5ad('cells.h5ad')  # read the data again: {why}"
UNDIVIDE = "adata.X = scipy.sparse.csr_matrix(adata.X).multiply(adata.var['length'].to_numpy()).tocsr()  # if they are"


class Finding(NamedTuple):
    """One thing found: its topic, its level ("ok", "note", "problem"), what it is, and a line of code about it."""

    topic: str
    level: str
    finding: str
    remedy: str = ""


class Place(NamedTuple):
    """A place of usable counts: the parameters that name it, the counts, how many of its genes the model knows."""

    parameters: dict[str, Any]
    counts: Counts
    n_known: int


@dataclass
class Case:
    """What the inspections look at, and what they leave for those behind them.

    Parameters
    ----------
    adata
        The data.
    vocabulary
        Of the model.
    parameters
        What the user gave: `model`, `counts_layer`, `use_raw`, `gene_ids`.
    better
        Parameters with which more can be made of the data.
    counts, genes, lengths
        Where the counts are, the tokens of the genes, and the tokens of a sample of the cells; None if unknown.
    """

    adata: AnnData
    vocabulary: Vocabulary
    parameters: dict[str, Any]
    better: dict[str, Any] = field(default_factory=dict)
    counts: Counts | None = None
    genes: GeneMap | None = None
    lengths: np.ndarray | None = None

    @property
    def var(self) -> pd.DataFrame:
        """Annotation of the genes of the counts."""
        return in_memory(self.adata.var) if self.counts is None else self.counts.var

    def only(self, *names: str) -> dict[str, Any]:
        """Some of the parameters."""
        return {name: self.parameters[name] for name in names}

    def check_again(self, **better: Any) -> str:
        """The line that looks at the data with better parameters, which are noted."""
        self.better |= better
        return call("gf.pp.check", self.parameters | better)

    def tokenized(self, then: str) -> str:
        """A line that encodes the cells, and what to do then."""
        return f"{call('gf.tl.tokenize', self.parameters)}; {then}"

    def n_known(self, counts: Counts, gene_ids: str | None) -> int:
        """How many genes of these counts the model knows."""
        try:
            return map_genes(counts.var, self.vocabulary, gene_ids).n_matched
        except DataError:
            return 0

    def best_place(self) -> Place | None:
        """Other counts than those that were asked for, with the most genes the model knows; None if there are none."""
        layers = sorted(self.adata.layers, key=lambda name: name.lower() not in LIKELY)
        places: list[dict[str, Any]] = [{"counts_layer": name} for name in layers if not name.startswith(OURS)]
        places += [{"use_raw": True}] if self.adata.raw is not None else []
        places += [{}] if self.adata.X is not None else []
        asked = given(self.only("counts_layer", "use_raw"))
        found = [place for one in places if one != asked and (place := self.place(one)) is not None]
        return max(found, key=lambda place: place.n_known, default=None)

    def place(self, parameters: dict[str, Any]) -> Place | None:
        try:
            counts = open_counts(self.adata, **parameters)
        except DataError:
            return None
        n_known = self.n_known(counts, self.parameters["gene_ids"])
        return Place({"counts_layer": None, "use_raw": None} | parameters, counts, n_known)


def find_all(
    adata: AnnData, vocabulary: Vocabulary, parameters: dict[str, Any]
) -> tuple[list[Finding], dict[str, Any] | None]:
    """Findings of all inspections, the gravest first, and the parameters to go on with, None if there are none yet."""
    check_anndata(adata)
    case = Case(adata, vocabulary, parameters)
    findings = _inspect(case)
    if case.better and _usable(_inspect(Case(adata, vocabulary, parameters | case.better))):
        return findings, given(parameters | case.better)
    return findings, given(parameters) if _usable(findings) else None


def call(function: str, parameters: dict[str, Any]) -> str:
    """A call as a user would write it; what cannot be written as text stands as the variable of that name."""
    written = [f"{k}={v!r}" if isinstance(v, str | bool) else f"{k}={k}" for k, v in given(parameters).items()]
    return f"{function}({', '.join(['adata', *written])})"


def given(parameters: dict[str, Any]) -> dict[str, Any]:
    """Those that are not left at their default."""
    return {name: value for name, value in parameters.items() if value is not None and value is not False}


def _usable(findings: list[Finding]) -> bool:
    return all(finding.level != PROBLEM for finding in findings)


def _inspect(case: Case) -> list[Finding]:
    found = [finding for inspect in INSPECTIONS if (finding := inspect(case)) is not None]
    return sorted(found, key=lambda finding: LEVELS.index(finding.level))


def _told(error: DataError) -> str:
    """What is wrong, without the remedy, which is the last sentence."""
    sentences = re.split(r"(?<=[.?]) (?=[A-Z])", str(error))
    return " ".join(sentences[:-1] or sentences)


def _is_log(counts: Counts) -> bool:
    return not np.isnan(counts.log_base)


def _is_whole(counts: Counts) -> bool:
    return all((block.data == np.rint(block.data)).all() for block in counts.sample(200))


# --- the inspections, in the order in which they build on each other -------------------------------------------------


def _size(case: Case) -> Finding | None:
    if all(case.adata.shape):
        return None
    what = "genes" if case.adata.n_obs else "cells"
    text = f"adata has no {what} ({case.adata.n_obs:,} cells × {case.adata.n_vars:,} genes)."
    return Finding("size", PROBLEM, text, READ.format(why=f"a filter left no {what}"))


def _counts(case: Case) -> Finding | None:
    if not all(case.adata.shape):
        return None
    if is_from_file(case.adata) and case.adata.X is None:
        return Finding("counts", OK, "tokens that were read from a file stand in for the counts.")
    try:
        case.counts = open_counts(case.adata, case.parameters["counts_layer"], case.parameters["use_raw"])
    except DataError as error:
        return Finding("counts", PROBLEM, _told(error), _find_counts(case))
    if _is_log(case.counts):
        return _logarithms(case, case.counts)
    if _is_whole(case.counts):
        return Finding("counts", OK, f"{case.counts.name} holds counts.")
    return _fractions(case, case.counts)


def _find_counts(case: Case) -> str:
    """The line that takes other counts, or makes them of these."""
    if (best := case.best_place()) is not None:
        return case.check_again(**best.parameters)
    values = None if case.adata.X is None else _values(case.adata.X)
    if values is not None and not np.isfinite(values).all():
        data = "adata.X.data" if hasattr(case.adata.X, "indptr") else "adata.X"
        return f"{data} = numpy.nan_to_num({data}, posinf=0)  # if what is missing was not counted"
    return READ.format(why="adata.layers['counts'] = adata.X.copy() keeps the counts before they are scaled")


def _values(matrix: Any) -> np.ndarray | None:
    """The stored values of a matrix in memory."""
    values = getattr(matrix, "data", matrix) if hasattr(matrix, "indptr") else matrix
    return values if isinstance(values, np.ndarray) else None


def _logarithms(case: Case, counts: Counts) -> Finding:
    """Logarithms, or values that are taken for such."""
    if "log1p" in case.adata.uns or evident_base(sp.vstack(list(counts.sample()), format="csr")) is not None:
        return Finding("counts", OK, f"{counts.name} holds log1p of normalised counts, which rank like the counts.")
    text = f"{counts.name} holds fractions that do not tell their scale: taken as log1p of normalised counts."
    best = case.best_place()
    if best is not None and _is_whole(best.counts):
        return Finding("counts", NOTE, text, case.check_again(**best.parameters))
    line = "adata.uns['log1p'] = {'base': None}  # if they are; else multiply them by 1e6, which changes no rank"
    return Finding("counts", NOTE, text, line)


def _fractions(case: Case, counts: Counts) -> Finding:
    """A linear scale that is not that of counts."""
    text = (
        f"{counts.name} holds fractions: counts divided by the total of the cell rank like the counts, those "
        "divided by the length of the gene (TPM, RPKM) do not."
    )
    best = case.best_place()
    better = best is not None and (_is_log(best.counts) or _is_whole(best.counts))
    return Finding("counts", NOTE, text, case.check_again(**best.parameters) if best and better else UNDIVIDE)


def _left_out(case: Case) -> Finding | None:
    """Genes that only `raw` has."""
    if case.counts is None or case.counts.raw or case.adata.raw is None:
        return None
    raw = case.place({"use_raw": True})
    here = case.n_known(case.counts, case.parameters["gene_ids"])
    if raw is None or raw.n_known <= MORE * here:
        return None
    text = f"the model knows {raw.n_known:,} genes of adata.raw, but {here:,} of {case.counts.name}: give it all genes."
    return Finding("genes left out", NOTE, text, case.check_again(**raw.parameters))


def _genes(case: Case) -> Finding | None:
    if not case.adata.n_vars:
        return None
    try:
        case.genes = map_genes(case.var, case.vocabulary, case.parameters["gene_ids"])
    except DataError as error:
        return _transposed(case) or Finding("genes", PROBLEM, _told(error), _name_genes(case))
    kind = "Ensembl IDs" if np.mean([is_ensembl(name) for name in case.genes.names]) > HALF else "symbols"
    species = case.genes.species or "no sign of another species"
    others = f" and, for {n:,} genes without one, names in other columns" if (n := case.genes.n_filled) else ""
    return Finding("genes", OK, f"{kind} in {where_genes(case.genes.column)}{others}, {species}.")


def _transposed(case: Case) -> Finding | None:
    """Genes in the rows."""
    n_obs = case.adata.n_obs
    names = case.adata.obs_names[np.unique(np.linspace(0, n_obs - 1, min(n_obs, SAMPLE)).astype(int))].astype(str)
    if not len(names) or (match_genes(names.tolist(), case.vocabulary) >= 0).mean() < MIN_MATCHED:
        return None
    text = f"the rows of adata are genes (such as {names[0]!r}); rows must be cells, and columns genes."
    return Finding("genes", PROBLEM, text, f"adata = adata{'.to_memory()' if case.adata.isbacked else ''}.T.copy()")


def _name_genes(case: Case) -> str:
    """The line after which the model knows the genes, or that tells more of them."""
    var, gene_ids = case.var, case.parameters["gene_ids"]
    if gene_ids is not None and case.counts is not None and case.n_known(case.counts, None):
        return case.check_again(gene_ids=None)
    if (column := other_column(var, case.vocabulary)) is not None:
        return case.check_again(gene_ids=column)
    if prefix := genome_prefix(var.index):
        return f"adata.var_names = adata.var_names.str.removeprefix({prefix!r})"
    named = matches(var, case.vocabulary)
    if species := next(filter(None, (foreign_species(one, case.vocabulary) for one in named)), None):
        return f"adata.var['orthologs'] = adata.var_names.map(orthologs)  # a dict, {species} gene: gene of the model"
    return "adata.var.head()  # none of these columns holds Ensembl IDs or symbols that the model knows"


def _time_points(case: Case) -> Finding | None:
    if case.vocabulary.encoding.n_times == 1:
        return None
    text = "the model reads each cell at two: name the layer with the counts before by previous_layer."
    return Finding("time points", NOTE, text, "list(adata.layers)  # then previous_layer='...' in the call below")


def _names(case: Case) -> Finding | None:
    axes = [name for name in ("obs_names", "var_names") if not getattr(case.adata, name).is_unique]
    if not axes:
        return None
    text = f"adata.{' and adata.'.join(axes)} are not unique, and cells and genes are told apart by their names."
    return Finding("names", NOTE, text, "; ".join(f"adata.{name}_make_unique()" for name in axes))


def _coverage(case: Case) -> Finding | None:
    if case.genes is None:
        return None
    share = np.nan if case.counts is None else count_share(case.counts, case.genes.tokens)
    text = f"the model knows {case.genes.n_matched:,} of {len(case.genes.tokens):,} genes"
    text += "" if np.isnan(share) else f", with {share:.1%} of the counts"
    if n := case.genes.n_duplicates:
        text += f"; {n:,} of them share a token with another and are summed with it"
    if not share < HALF:
        return Finding("coverage", OK, f"{text}.")
    others = "adata.var_names[adata.var['geneformer_token'] < 0]  # those that it does not know"
    mapped = call("gf.pp.map_genes", case.parameters)
    return Finding("coverage", NOTE, f"{text}.", f"{mapped}; {others}")


def _empty_cells(case: Case) -> Finding | None:
    if case.genes is None or case.counts is None:
        return None
    case.lengths = CellTokens(case.counts, case.genes, case.vocabulary).sample_lengths()
    n, sampled = int((case.lengths == 0).sum()), len(case.lengths)
    if not n:
        return Finding("empty cells", OK, f"none among {sampled:,} cells looked at.")
    text = f"{n:,} of {sampled:,} cells looked at have no count of a gene the model knows; their results will be NaN."
    drop = "adata = adata[adata.obs['geneformer_n_tokens'] > 0].copy()"
    if n < sampled:
        return Finding("empty cells", NOTE, text, case.tokenized(drop))
    best = case.best_place()
    again = case.check_again(**best.parameters) if best and best.n_known else READ.format(why="there are no counts")
    return Finding("empty cells", PROBLEM, text, again)


def _genes_per_cell(case: Case) -> Finding | None:
    if case.lengths is None or not case.lengths.any():
        return None
    filled = case.lengths[case.lengths > 0]
    n_genes, most = int(np.median(filled)) - case.vocabulary.n_special, case.vocabulary.max_genes
    full = float((case.lengths >= case.vocabulary.input_size).mean())
    text = f"the model knows {'at least ' if n_genes >= most else ''}{n_genes:,} genes of a cell (median), and reads "
    text += f"at most {most:,}"
    text += f"; in {full:.0%} of the cells those of the lowest ranks are cut off" if full >= SHOWN else ""
    text += "; ranks among so few tell little" if n_genes < FEW_GENES else ""
    if n_genes >= FEW_GENES and full <= HALF:
        return Finding("genes per cell", OK, f"{text}.")
    return Finding("genes per cell", NOTE, f"{text}.", case.tokenized("gf.pl.tokens(adata)  # genes per cell"))


INSPECTIONS: tuple[Callable[[Case], Finding | None], ...] = (
    _size,
    _counts,
    _left_out,
    _genes,
    _time_points,
    _names,
    _coverage,
    _empty_cells,
    _genes_per_cell,
)
