"""What a user wants to perturb: genes one by one, and combinations of genes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from scanpy import logging as logg

from scgeneformer._adata.gene_choice import choose_genes
from scgeneformer._adata.perturbation.target import in_terms_of_the_engine
from scgeneformer._checks import check_choice
from scgeneformer._engine.perturbation.edits import EDITS, Edit
from scgeneformer._errors import DataError

if TYPE_CHECKING:
    import pandas as pd

    from scgeneformer._adata.genes import GeneMap
    from scgeneformer._engine.vocabulary import Vocabulary

    Combination = Sequence[str] | Mapping[str, Any]
    Genes = str | Combination | Sequence[str | Combination] | None

NONE = np.empty(0, dtype=np.int32)
MIXED = "edits"


@dataclass(frozen=True, eq=False)
class Choice:
    """Perturbations, found in the data and the vocabulary.

    Parameters
    ----------
    mode
        Of the genes perturbed one by one; `MIXED` if there are only combinations of several modes.
    singles
        Tokens of the genes perturbed one by one; None: every gene of each cell.
    to
        What they are set to, replaced by or moved to, from the token of a gene to the `to` of :class:`edits.Edit`.
    combinations
        The edits of each combination.
    names
        Names of the combinations.
    asked
        Genes as they were named, and combinations; None: every gene.
    """

    mode: str
    singles: np.ndarray | None
    to: Callable[[int], tuple[float, ...]]
    combinations: tuple[tuple[Edit, ...], ...] = ()
    names: tuple[str, ...] = ()
    asked: tuple[str, ...] | None = None


class Chooser:
    """Finds perturbations in one data set.

    Parameters
    ----------
    var
        Annotation of the genes.
    mapped
        Their tokens.
    vocabulary
        The genes the model knows.
    """

    def __init__(self, var: pd.DataFrame, mapped: GeneMap, vocabulary: Vocabulary) -> None:
        self.var, self.mapped, self.vocabulary = var, mapped, vocabulary

    def choose(self, genes: Genes, mode: str, to: Any = None) -> Choice:
        """Find the genes, and what is done to them.

        Genes that are not found are named in one warning, and combinations for lack of a gene in another.

        Raises
        ------
        DataError
            If nothing is left, or a mode or `to` cannot be used.
        """
        singles, combinations = split(genes)
        mixed = bool(combinations) and not singles and all(isinstance(one, Mapping) for one in combinations)
        of_all = self._to(mode, to) if not mixed else lambda token: ()
        if singles is None:
            if EDITS[mode].to == "value":
                raise DataError(f"mode={mode!r} gives one value to all genes. Name the genes: genes=[...].")
            return Choice(mode, None, of_all)
        tokens = choose_genes(self.var, self.mapped, self.vocabulary, singles)[1] if singles else NONE
        parts = {_name(one): self._parts(one, mode, to) for one in combinations}
        found = {name: edits for name, edits in parts.items() if edits is not None}
        if lacking := [name for name in parts if name not in found]:
            logg.warning(f"{len(lacking)} combinations are left out for lack of a gene: {', '.join(lacking)}")
        if not len(tokens) and not found:
            raise DataError(
                "None of the combinations can be used: each has a gene that adata.var or the model lacks. Name other "
                "genes."
            )
        asked = (*map(str, singles), *found)
        return Choice(MIXED if mixed else mode, tokens, of_all, tuple(found.values()), tuple(found), asked)

    def token_of(self, gene: str) -> int | None:
        """Token of a gene of the data, None if there is none of that name that the model knows."""
        try:
            return int(choose_genes(self.var, self.mapped, self.vocabulary, [gene])[1][0])
        except DataError:
            return None

    def _parts(self, combination: Combination, mode: str, to: Any) -> tuple[Edit, ...] | None:
        """The edits of a combination, None if a gene is not found."""
        mixed = isinstance(combination, Mapping)
        edits = []
        for one, named in combination.items() if isinstance(combination, Mapping) else [(mode, combination)]:
            check_mode(one)
            targets = _targets(named, None if mixed else to)
            tokens = [token for name, _ in targets if (token := self.token_of(name)) is not None]
            if len(tokens) < len(targets):
                return None
            values = [self._to(one, value)(token) for token, (_, value) in zip(tokens, targets, strict=True)]
            edits.append(Edit(one, tuple(tokens), tuple(chain(*values))))
        tokens = [token for edit in edits for token in edit.targets]
        if len(set(tokens)) < len(tokens) or not tokens:
            raise DataError(
                f"{_name(combination)!r} does not have each of its genes in exactly one edit. Name every gene once."
            )
        return tuple(edits)

    def _to(self, mode: str, to: Any) -> Callable[[int], tuple[float, ...]]:
        return in_terms_of_the_engine(mode, to, self.vocabulary)


def check_mode(mode: Any) -> None:
    """Refuse a mode that does not exist."""
    check_choice(EDITS, mode=mode)


def split(genes: Genes) -> tuple[list[str] | None, list[Combination]]:
    """Genes to be perturbed one by one (None: all), and combinations."""
    if genes is None:
        return None, []
    if isinstance(genes, str):
        return [genes], []
    if isinstance(genes, tuple | Mapping):
        return [], [genes]
    singles = [one for one in genes if isinstance(one, str)]
    combinations = [one for one in genes if not isinstance(one, str)]
    if bad := [one for one in combinations if not isinstance(one, tuple | list | Mapping)]:
        raise DataError(
            f"genes holds {bad[0]!r}, which is no name of a gene and no combination such as ('GATA4', 'TBX5')."
        )
    if not singles and not combinations:
        raise DataError("genes=[] names no gene. Name at least one, or leave genes out for every gene of each cell.")
    return singles, combinations


def _targets(named: Any, to: Any) -> list[tuple[str, Any]]:
    """Genes of one edit, and `to` of each."""
    if isinstance(named, Mapping):
        return [(str(name), value) for name, value in named.items()]
    return [(str(name), to) for name in ([named] if isinstance(named, str) else named)]


def _name(combination: Combination) -> str:
    """Name such as "GATA4 + TBX5", or "delete GATA4 + activate TBX5 to 1"."""
    if not isinstance(combination, Mapping):
        return " + ".join(map(str, combination))
    parts = [(mode, *pair) for mode, named in combination.items() for pair in _targets(named, None)]
    return " + ".join(f"{mode} {gene}" + ("" if to is None else f" to {to}") for mode, gene, to in parts)
