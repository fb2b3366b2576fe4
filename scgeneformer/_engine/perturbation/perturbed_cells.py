"""Perturbed copies of cells, generated lazily, block by block, each behind the unperturbed cell it is compared with."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scgeneformer._engine.masks import mix
from scgeneformer._engine.perturbation.edits import EDITS, NO_VALUES, Edit, Edited, perturb_cell, ranked
from scgeneformer._engine.tokens import Tokens, around_genes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from scgeneformer._engine.vocabulary import Vocabulary

TOKENS_PER_BLOCK = 2**22  # of perturbed copies; a block is what is written to disk at once, and what a device takes


@dataclass(frozen=True, eq=False)
class Plan:
    """What is done to every cell.

    The results of a perturbation of one gene have the gene's token as their column; behind all tokens come the
    combinations.

    Parameters
    ----------
    mode
        Of the perturbations of one gene.
    singles
        Tokens of the genes perturbed one by one; None: every gene of each cell.
    to
        From the token of a gene to the `to` of :class:`edits.Edit`, for the perturbations of one gene.
    combinations
        The edits of each combination.
    anchor
        Gene that is perturbed together with each of the others.
    n_matched
        Besides `singles`, so many other genes of the cell for each of them, those of nearest rank; for genes that are
        not in the cell, others of `pool` that are not.
    pool
        Tokens that may serve as matched genes.
    refill
        Edit before the cell is cut.
    hold
        Genes keep their positions where others are removed.
    """

    mode: str
    singles: np.ndarray | None
    to: Callable[[int], tuple[float, ...]] = lambda token: ()
    combinations: tuple[tuple[Edit, ...], ...] = ()
    anchor: int | None = None
    n_matched: int = 0
    pool: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int32))
    refill: bool = False
    hold: bool = False

    @property
    def whole_cells(self) -> bool:
        """Whether genes beyond the cut, and the values of all genes, are needed for any perturbation."""
        return self.refill or self.mode == "set" or any(map(self.whole_cell, self.combinations))

    def whole_cell(self, edits: tuple[Edit, ...]) -> bool:
        """Whether they are needed for this one."""
        return self.refill or any(edit.mode == "set" for edit in edits)

    def columns(self, window: np.ndarray, n_tokens: int) -> np.ndarray:
        """Perturbations that can apply to a cell with these genes, as columns of the result, ascending."""
        if self.singles is None:
            tokens = window
        elif EDITS[self.mode].everywhere:
            tokens = self.singles
        else:
            tokens = self.singles[np.isin(self.singles, window)]
        if self.n_matched and self.singles is not None:
            tokens = np.concatenate([tokens, self._matched(tokens, self.singles, window)])
        combinations = n_tokens + np.arange(len(self.combinations))
        return np.concatenate([np.unique(tokens), combinations]).astype(np.int64)

    def edits(self, column: int, n_tokens: int) -> tuple[Edit, ...]:
        """The edits behind a column."""
        if column >= n_tokens:
            return self.combinations[column - n_tokens]
        if self.anchor is None or column == self.anchor:
            return (Edit(self.mode, (column,), self.to(column)),)
        return (Edit(self.mode, (self.anchor, column), self.to(self.anchor) + self.to(column)),)

    def _matched(self, tokens: np.ndarray, named: np.ndarray, window: np.ndarray) -> np.ndarray:
        """For each gene `n_matched` others, of the nearest rank or, where it has none, by their hash."""
        eligible = ~np.isin(window, named) & np.isin(window, self.pool)
        places = np.flatnonzero(eligible)
        found = []
        absent = np.setdiff1d(self.pool, np.concatenate([window, named]))
        for token in tokens.tolist():
            at = np.flatnonzero(window == token)
            if len(at):
                nearest = np.argsort(np.abs(places - at[0]), kind="stable")[: self.n_matched]
                found.append(window[places[nearest]])
            else:
                seed = np.uint64(token) << np.uint64(32)
                order = np.argsort(mix(seed + absent.astype(np.uint64)), kind="stable")
                found.append(absent[order[: self.n_matched]])
        return np.concatenate([np.empty(0, dtype=np.int32), *found])


class Job(NamedTuple):
    """One sequence to run: a cell as it is (column `UNPERTURBED`), or with one perturbation.

    `rank` is that of the gene in the unperturbed cell, 1 for the first, 0 for genes that are not in it.
    """

    block: int
    cell: int
    column: int
    rank: int
    edited: Edited


class Part(NamedTuple):
    """Some perturbations of one cell: its genes in rank order, their values, columns, and how many these are in all."""

    cell: int
    ids: np.ndarray
    values: np.ndarray
    columns: np.ndarray
    n_columns: int


UNPERTURBED = -1


@dataclass(frozen=True, eq=False)
class Block:
    """Some perturbations of some consecutive cells.

    Parameters
    ----------
    number
        Of the block.
    parts
        What is done to each cell.
    """

    number: int
    parts: list[Part]

    @property
    def n_cells(self) -> float:
        """Cells in the block, parts of cells as parts."""
        return sum(len(part.columns) / part.n_columns for part in self.parts)

    @property
    def checksum(self) -> str:
        """SHA-256 of the cells and of what is done to them."""
        digest = hashlib.sha256()
        for part in self.parts:
            digest.update(f"{part.cell}:{len(part.ids)}:{len(part.columns)};".encode())
            for array in (part.ids, part.values, part.columns):
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def cut_blocks(
    cells: Iterable[tuple[int, np.ndarray, np.ndarray]], plan: Plan, vocabulary: Vocabulary, *, split: bool = True
) -> Iterator[Block]:
    """Cut all perturbations of all cells into blocks of about `TOKENS_PER_BLOCK` tokens; the same in every run.

    Parameters
    ----------
    cells
        (row, genes in rank order, their values) of each cell to be perturbed.
    plan
        What is done to each.
    vocabulary
        Of the model.
    split
        As for :func:`blocks_of`.
    """

    def part_of(cell: int, ids: np.ndarray, values: np.ndarray) -> Part:
        columns = plan.columns(ids[: vocabulary.max_genes], vocabulary.n_tokens)
        return Part(cell, ids, values, columns, len(columns))

    return blocks_of((part_of(*cell) for cell in cells), vocabulary, split=split)


def blocks_of(parts: Iterable[Part], vocabulary: Vocabulary, *, split: bool = True) -> Iterator[Block]:
    """Gather perturbations in blocks of about `TOKENS_PER_BLOCK` tokens.

    Parameters
    ----------
    parts
        Perturbations of consecutive cells.
    vocabulary
        Of the model.
    split
        Divide the perturbations of a cell between two blocks where the first is full; False leaves them together.
    """
    number, size, gathered = 0, 0, []
    for part in parts:
        columns, length = part.columns, max(1, min(len(part.ids), vocabulary.max_genes))
        while len(columns):
            room = max(1, (TOKENS_PER_BLOCK - size) // length) if split else len(columns)
            gathered.append(part._replace(columns=columns[:room]))
            size += length * len(columns[:room])
            columns = columns[room:]
            if size + length > TOKENS_PER_BLOCK:
                yield Block(number, gathered)
                number, size, gathered = number + 1, 0, []
    if gathered or not number:  # one block at least, so that there are results, be they empty
        yield Block(number, gathered)


class PerturbedCells:
    """The sequences of blocks, for :func:`run.run`, and what each of them is.

    Parameters
    ----------
    blocks
        The blocks to run.
    plan
        What is done to the cells.
    vocabulary
        Of the model.
    begin
        Called before a block is run with the block, its number of perturbed sequences, and the jobs that leave their
        cell as it is: their effect is zero, and they are not run.
    needs_others
        Pass over perturbations that leave the cell no other gene: there is none to compare.
    """

    def __init__(
        self,
        blocks: Iterable[Block],
        plan: Plan,
        vocabulary: Vocabulary,
        begin: Callable[[Block, int, list[Job]], object],
        *,
        needs_others: bool,
    ) -> None:
        self.blocks, self.plan, self.vocabulary, self.begin = blocks, plan, vocabulary, begin
        self.needs_others = needs_others
        self.jobs: dict[int, Job] = {}  # row -> job, until it was run

    def __iter__(self) -> Iterator[tuple[int, Tokens]]:
        row = 0
        for block in self.blocks:
            unchanged: list[Job] = []
            jobs = [job for part in block.parts for job in self._jobs(block.number, part, unchanged)]
            self.begin(block, sum(job.column != UNPERTURBED for job in jobs), unchanged)
            self.jobs.update(zip(range(row, row + len(jobs)), jobs, strict=True))
            yield row, self._tokens(jobs)
            row += len(jobs)

    def _jobs(self, block: int, part: Part, unchanged: list[Job]) -> Iterator[Job]:
        """The perturbed sequences of a cell, each variant of the unperturbed one in front of those it belongs to."""
        plan, most = self.plan, self.vocabulary.max_genes
        ids, genes = part.ids[:most], ranked(part.ids, part.values)
        rank = {token: i for i, token in enumerate(ids.tolist(), start=1)}
        found: dict[int, list[Job]] = {}
        for column in part.columns.tolist():
            edits = plan.edits(column, self.vocabulary.n_tokens)
            edited = perturb_cell(genes, edits, most, refill=plan.whole_cell(edits))
            if edited is None:
                continue
            job = Job(block, part.cell, column, rank.get(column, 0), edited)
            if np.array_equal(edited.ids, ids):
                unchanged.append(job)
            elif len(edited.shared) or not self.needs_others:
                found.setdefault(edited.n_original, []).append(job)
        for n, jobs in sorted(found.items(), reverse=True):
            places = np.arange(n)
            yield Job(block, part.cell, UNPERTURBED, 0, Edited(ids[:n], places, places, n))
            yield from jobs

    def _tokens(self, jobs: list[Job]) -> Tokens:
        """The sequences laid end to end, special tokens included."""
        lead, trail = self.vocabulary.n_lead, self.vocabulary.n_trail
        tokens = around_genes(np.array([len(job.edited.ids) for job in jobs], dtype=np.int64), self.vocabulary)
        positions = np.empty(len(tokens.ids), dtype=np.int64) if self.plan.hold else None
        for (start, stop), job in zip(pairwise(tokens.offsets.tolist()), jobs, strict=True):
            tokens.ids[start + lead : stop - trail] = job.edited.ids
            if positions is not None:
                positions[start : start + lead] = 0
                positions[start + lead : stop - trail] = lead + job.edited.origin
                positions[stop - trail : stop] = lead + job.edited.n_original
        return Tokens(tokens.ids, tokens.offsets, positions)

    def take(self, rows: np.ndarray) -> list[Job]:
        """What these rows are; can be asked for once."""
        return [self.jobs.pop(row) for row in rows.tolist()]


def each_cell(blocks: Iterable[tuple[int, Tokens, np.ndarray]], chosen: np.ndarray) -> Iterator[tuple]:
    """Chosen cells that have genes, one by one: (row, genes in rank order, their values).

    Parameters
    ----------
    blocks
        (row of the first cell, genes without special tokens, their values or an empty array) of consecutive cells.
    chosen
        Which cells to give, (n_cells,) bool.
    """
    for first, tokens, values in blocks:
        for i in np.flatnonzero(chosen[first : first + len(tokens)] & (tokens.lengths > 0)).tolist():
            some = slice(tokens.offsets[i], tokens.offsets[i + 1])
            yield first + i, tokens.ids[some], values[some] if len(values) else NO_VALUES
