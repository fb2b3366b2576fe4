"""Token blocks of an AnnData: encoded on the fly, or those stored by `gf.tl.tokenize`."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from scanpy import logging as logg

from scgeneformer._adata import keys
from scgeneformer._adata.context import find_context
from scgeneformer._adata.counts import NO_COUNTS, ROWS_PER_BLOCK, TOKEN_FILE, Counts, is_from_file, open_counts
from scgeneformer._adata.disk.token_files import check_readable
from scgeneformer._adata.frames import in_memory
from scgeneformer._adata.genes import GeneMap, map_genes
from scgeneformer._adata.previous import PREVIOUS, PreviousLayer, find_previous
from scgeneformer._engine.checksums import checksums
from scgeneformer._engine.encodings import fill_context
from scgeneformer._engine.ranking import rank_value_encode
from scgeneformer._engine.sequences import as_sequences, genes_of, ranking_of
from scgeneformer._engine.tokens import Tokens
from scgeneformer._errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from scgeneformer._engine.vocabulary import Vocabulary

GENE_IDS = "gene_ids"  # parameter of tokens: the column of the genes

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class CellTokens:
    """The cells of an AnnData as one model reads them, block by block.

    Parameters
    ----------
    counts
        Where the counts are.
    genes
        Token of each gene.
    vocabulary
        Of the model.
    previous
        Where the counts before are, if the model reads two time points.
    context
        Token of each column of the context of the model, (n_obs, n_columns) int32.
    """

    counts: Counts
    genes: GeneMap
    vocabulary: Vocabulary
    previous: Counts | None = None
    context: np.ndarray | None = None

    def blocks(self) -> Iterator[tuple[int, Tokens, np.ndarray]]:
        """Yield (first row, tokens, known genes before truncation) of consecutive cells; reads one block ahead."""

        def encode(first: int) -> tuple[int, Tokens, np.ndarray]:
            return first, *self.encode(first, self._read(first))

        yield from one_ahead(encode, range(0, self.counts.n_obs, ROWS_PER_BLOCK))

    def blocks_of_counts(self) -> Iterator[tuple[int, list[sp.csr_matrix]]]:
        """Yield (first row, counts at each time point), for :meth:`encode`, of consecutive cells; one block ahead."""
        yield from one_ahead(lambda first: (first, self._read(first)), range(0, self.counts.n_obs, ROWS_PER_BLOCK))

    def encode(self, first: int, counts: Sequence[sp.csr_matrix]) -> tuple[Tokens, np.ndarray]:
        """Tokens of the cells from one on, and their known genes before truncation, from counts at each time point."""
        tokens, n_genes = self._encode(*counts)
        if self.context is not None:
            fill_context(tokens, self.context[first : first + len(tokens)], self.vocabulary)
        return tokens, n_genes

    def _read(self, first: int) -> list[sp.csr_matrix]:
        stop = min(first + ROWS_PER_BLOCK, self.counts.n_obs)
        return [matrix.rows(first, stop) for matrix in self._matrices]

    def _encode(self, *counts: sp.csr_matrix) -> tuple[Tokens, np.ndarray]:
        """Tokens of cells, and their known genes before truncation, from their counts at each time point."""
        columns, gene_tokens = self._columns
        if columns is not None:
            counts = tuple((block.astype(np.float64) @ columns).tocsr() for block in counts)
        now, *before = counts
        return self.vocabulary.encoding.encode(now, gene_tokens, self.vocabulary, *before)

    @cached_property
    def _columns(self) -> tuple[sp.csr_matrix | None, np.ndarray]:
        return _merge_columns(self.genes.tokens)

    def whole_blocks(self) -> Iterator[tuple[int, Tokens, np.ndarray]]:
        """Yield (first row, genes, their values) of consecutive cells, neither cut nor with special tokens.

        The values, (total,) float64, are those the genes are ranked by: counts per 10,000 over the gene's median. The
        10,000 refer to all counts of the cell, genes that the model does not know included.
        """
        columns, gene_tokens = self._columns
        special = {name: token for name, token in self.vocabulary.special.items() if name not in ("<cls>", "<eos>")}
        uncut = replace(self.vocabulary, special=special, input_size=len(gene_tokens) + 1)
        per_count = np.zeros(self.vocabulary.n_tokens)

        def encode(start: int) -> tuple[int, Tokens, np.ndarray]:
            block = self.counts.rows(start, min(start + ROWS_PER_BLOCK, self.counts.n_obs)).astype(np.float64)
            totals = np.asarray(block.sum(axis=1)).ravel()
            block = block if columns is None else (block @ columns).tocsr()
            tokens, _ = rank_value_encode(block, gene_tokens, uncut)
            values = np.empty(len(tokens.ids))
            for i in range(len(tokens)):
                row, some = slice(*block.indptr[i : i + 2]), slice(*tokens.offsets[i : i + 2])
                at = gene_tokens[block.indices[row]]
                per_count[at[at >= 0]] = block.data[row][at >= 0]
                values[some] = per_count[tokens.ids[some]] / totals[i]
            values *= self.vocabulary.target_sum / self.vocabulary.median_of_token[tokens.ids]
            return start, tokens, values

        yield from one_ahead(encode, range(0, self.counts.n_obs, ROWS_PER_BLOCK))

    def counted(self) -> tuple[np.ndarray, Iterator[tuple[int, Tokens]]]:
        """Blocks of tokens, and an array (n_obs,) int32 that holds the tokens of each cell once they were read."""
        n_tokens = np.zeros(self.counts.n_obs, dtype=np.int32)

        def blocks() -> Iterator[tuple[int, Tokens]]:
            for first, tokens, _ in self.blocks():
                n_tokens[first : first + len(tokens)] = tokens.lengths
                yield first, tokens

        return n_tokens, blocks()

    def sample_lengths(self) -> np.ndarray:
        """Tokens of a sample of the cells, to foresee the cost, (n,) int64."""
        samples = zip(*(matrix.sample(200) for matrix in self._matrices), strict=True)
        return np.concatenate([self._encode(*blocks)[0].lengths for blocks in samples])

    def matches(self, found: Any) -> bool:
        """Whether these are the checksums of the cells, (n_obs, n_times): of all in memory, of a sample elsewhere."""
        n, matrices = self.counts.n_obs, [counts.matrix for counts in self._matrices]
        if all(isinstance(matrix, np.ndarray) or sp.issparse(matrix) for matrix in matrices):
            some = [(first, min(first + ROWS_PER_BLOCK, n)) for first in range(0, n, ROWS_PER_BLOCK)]
        else:
            some = self.counts.sampled()
        read = (checksums([counts.rows(*each) for counts in self._matrices]) for each in some)
        return all(np.array_equal(one, np.asarray(found[slice(*each)])) for one, each in zip(read, some, strict=True))

    def from_counts(self) -> CellTokens:
        """The same cells, encoded from their counts even where tokens are stored."""
        return CellTokens(self.counts, self.genes, self.vocabulary, self.previous, self.context)

    @property
    def stored(self) -> list[Any]:
        """The matrices that cells are read from, as stored."""
        return [*(counts.matrix for counts in self._matrices), *([] if self.context is None else [self.context])]

    def of_rows(self, stored: Sequence[Any]) -> CellTokens:
        """The same reading of other cells: those of which `stored` holds the rows of all matrices."""
        now, *others = stored
        context = None if self.context is None else others.pop()
        previous = None if self.previous is None else self.previous.of_rows(*others)
        return replace(self, counts=self.counts.of_rows(now), previous=previous, context=context)

    def without_data(self) -> CellTokens:
        """What :meth:`of_rows` needs, to be sent elsewhere."""
        previous = None if self.previous is None else self.previous.without_data()
        unnamed = np.empty(0, dtype=str)
        vocabulary = replace(self.vocabulary, ensembl_ids=unnamed, symbols=unnamed, aliases={})
        return replace(
            self,
            counts=self.counts.without_data(),
            genes=replace(self.genes, names=unnamed),
            vocabulary=vocabulary,
            previous=previous,
            context=None if self.context is None else self.context[:0],
        )

    @property
    def _matrices(self) -> list[Counts]:
        """Counts at each time point."""
        return [self.counts] if self.previous is None else [self.counts, self.previous]

    @property
    def params(self) -> dict[str, str]:
        """What the tokens depend on; stored beside them, and stored tokens are used only where it is the same."""
        previous = {} if self.previous is None else {PREVIOUS: str(self.previous.key)}
        return {
            "vocabulary": self.vocabulary.checksum,
            "genes": hashlib.sha256(self.genes.tokens.tobytes()).hexdigest(),
            GENE_IDS: self.genes.column,
            "counts": self.counts.name,
            **previous,
            **({} if self.context is None else {"context": hashlib.sha256(self.context.tobytes()).hexdigest()}),
        }


class StoredTokens(CellTokens):
    """Tokens that `gf.tl.tokenize` left in ``obsm``."""

    def blocks(self) -> Iterator[tuple[int, Tokens, np.ndarray]]:
        """Yield (first row, tokens, known genes after truncation) of consecutive cells."""
        adata = self.counts.adata
        binned = self.vocabulary.encoding.n_positions is not None
        for start in range(0, adata.n_obs, ROWS_PER_BLOCK):
            rows = slice(start, start + ROWS_PER_BLOCK)
            bins = np.asarray(adata.obsm[keys.BINS][rows]) if binned else None
            tokens = Tokens.from_padded(np.asarray(adata.obsm[keys.TOKENS][rows]), positions=bins)
            yield start, tokens, (tokens.lengths - self.vocabulary.n_special).clip(0).astype(np.int32)

    @property
    def stored(self) -> list[Any]:
        """The matrices that cells are read from, as stored."""
        there = [keys.TOKENS] if self.vocabulary.encoding.n_positions is None else [keys.TOKENS, keys.BINS]
        return [self.counts.adata.obsm[key] for key in there]

    def of_rows(self, stored: Sequence[Any]) -> CellTokens:
        """The same reading of other cells: those of which `stored` holds the rows of all matrices."""
        obsm = dict(zip((keys.TOKENS, keys.BINS), stored, strict=False))
        return replace(self, counts=replace(self.counts, adata=AnnData(shape=(len(stored[0]), 0), obsm=obsm)))


class FileTokens(StoredTokens):
    """Tokens that `gf.datasets.read_tokens` left in ``obsm``, without counts, as the model reads them."""

    @property
    def stored(self) -> list[Any]:
        """The matrices that cells are read from, as stored."""
        return [self.counts.adata.obsm[keys.TOKENS]]

    def blocks(self) -> Iterator[tuple[int, Tokens, np.ndarray]]:
        """Yield (first row, tokens, genes that the file has) of consecutive cells."""
        for start in range(0, self.counts.n_obs, ROWS_PER_BLOCK):
            genes = self._genes(slice(start, start + ROWS_PER_BLOCK))
            yield start, as_sequences(genes, self.vocabulary), genes.lengths.astype(np.int32)

    def sample_lengths(self) -> np.ndarray:
        """Tokens of a sample of the cells, to foresee the cost, (n,) int64."""
        rows = np.unique(np.linspace(0, self.counts.n_obs - 1, min(200, self.counts.n_obs)).astype(int))
        return as_sequences(self._genes(rows), self.vocabulary).lengths

    def _genes(self, rows: slice | np.ndarray) -> Tokens:
        stored = np.asarray(self.counts.adata.obsm[keys.TOKENS][rows])
        return genes_of(Tokens.from_padded(stored), self.vocabulary)


def open_tokens(
    adata: AnnData,
    vocabulary: Vocabulary,
    *,
    counts_layer: str | None = None,
    use_raw: bool | None = None,
    gene_ids: str | None = None,
    previous_layer: PreviousLayer = False,
    stored: bool = True,
) -> CellTokens:
    """Find the counts and the genes, or tokens that were stored for the same counts, genes and vocabulary.

    Tokens that came from a file are taken wherever counts are looked for, as there are none behind them.

    Raises as :func:`open_counts` and :func:`map_genes` do, and DataError if tokens from a file are of other genes.
    """
    previous = find_previous(adata, vocabulary, previous_layer, use_raw)
    if stored and previous is None and is_from_file(adata):
        return _open_file_tokens(adata, vocabulary, gene_ids)
    counts = open_counts(adata, counts_layer, use_raw)
    genes, context = map_genes(counts.var, vocabulary, gene_ids), find_context(adata, vocabulary)
    tokens = CellTokens(counts, genes, vocabulary, previous, context)
    needed = {keys.TOKENS, keys.CHECKSUMS} | (set() if vocabulary.encoding.n_positions is None else {keys.BINS})
    if not stored or not needed <= set(adata.obsm):
        return tokens
    if other := _differing(adata.uns.get(keys.TOKENS, {}).get("params", {}), tokens.params):
        logg.info(f"    gf.tl.tokenize had other {' and '.join(other)}: adata.obsm[{keys.TOKENS!r}] is not used")
        return tokens
    if not tokens.matches(adata.obsm[keys.CHECKSUMS]):
        logg.info(f"    the counts were changed since gf.tl.tokenize: adata.obsm[{keys.TOKENS!r}] is not used")
        return tokens
    logg.info(f"    using the tokens stored in adata.obsm[{keys.TOKENS!r}]")
    return StoredTokens(counts, genes, vocabulary, previous, context)


def _differing(stored: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Parameters of tokens that differ; the column of the genes may, as long as the genes are the same."""
    return sorted(key for key in {*stored, *now} - {GENE_IDS} if stored.get(key) != now.get(key))


def _open_file_tokens(adata: AnnData, vocabulary: Vocabulary, gene_ids: str | None) -> FileTokens:
    check_readable(vocabulary)
    found = adata.uns[keys.TOKENS]
    file = found.get("file", "files")
    if found["ranking"] != ranking_of(vocabulary) or found["max_genes"] < vocabulary.max_genes:
        raise DataError(
            f"The tokens in adata.obsm[{keys.TOKENS!r}] were read from {file} for a model with other genes, other "
            "medians or a smaller input size, and without counts they cannot be made again. Use that model, or read "
            "the file for this one: gf.datasets.read_tokens(path, model='...')."
        )
    logg.info(f"    using the tokens that were read from {file}")
    return file_tokens(adata, vocabulary, gene_ids)


def file_tokens(adata: AnnData, vocabulary: Vocabulary, gene_ids: str | None = None) -> FileTokens:
    """The cells of an AnnData whose tokens came from a file."""

    def read(start: int, stop: int) -> Any:
        raise DataError(f"This needs counts, and adata holds none: {NO_COUNTS}. Begin with data that have counts.")

    return FileTokens(
        Counts(adata, TOKEN_FILE, None, False, read), map_genes(in_memory(adata.var), vocabulary, gene_ids), vocabulary
    )


def _merge_columns(gene_tokens: np.ndarray) -> tuple[sp.csr_matrix | None, np.ndarray]:
    """Matrix that sums the columns that share a token, and the tokens of its columns; None if no two do."""
    known = np.flatnonzero(gene_tokens >= 0)
    unique, column = np.unique(gene_tokens[known], return_inverse=True)
    if len(unique) == len(known):
        return None, gene_tokens
    shape = (len(gene_tokens), len(unique))
    return sp.csr_matrix((np.ones(len(known)), (known, column)), shape=shape), unique.astype(np.int32)


def one_ahead(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Map `function` over `items`, computing the next result in a thread while the caller works on this one."""
    with ThreadPoolExecutor(1) as pool:
        waiting = None
        for item in items:
            following = pool.submit(function, item)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()
