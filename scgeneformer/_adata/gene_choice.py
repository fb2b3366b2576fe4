"""Find the genes that a user names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scanpy import logging as logg

from scgeneformer._checks import as_names
from scgeneformer._engine.genes import match_genes, normalise_name
from scgeneformer._errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pandas as pd

    from scgeneformer._adata.genes import GeneMap
    from scgeneformer._engine.vocabulary import Vocabulary


def choose_genes(
    var: pd.DataFrame, mapped: GeneMap, vocabulary: Vocabulary, genes: Sequence[str] | str, *, of: str = ""
) -> tuple[list[str], np.ndarray]:
    """Find genes by their name in the index of `var`, in the column that maps them, or in the vocabulary.

    Genes that are not found are named in one warning; one that is named twice counts once.

    Parameters
    ----------
    var
        Annotation of the genes.
    mapped
        Their tokens.
    vocabulary
        The genes the model knows.
    genes
        The names.
    of
        What they are the genes of, such as " of 'kinases'", for messages.

    Returns
    -------
    The names that were found, in the order asked for, and their tokens, (n,) int32.

    Raises
    ------
    DataError
        If none is found.
    """
    asked = list(dict.fromkeys(as_names(genes)))
    tokens = mapped.tokens.tolist()
    there = set(tokens)
    in_var = first_of_name([*var.index.astype(str), *mapped.names.tolist()], tokens * 2)
    found: dict[int, str] = {}
    absent: list[str] = []
    unknown: list[str] = []
    for name, token in zip(asked, match_genes(asked, vocabulary).tolist(), strict=True):
        token = in_var.get(name, token)
        if token >= 0 and token in there:
            found.setdefault(token, name)
        else:
            (unknown if token < 0 else absent).append(name)
    kinds = (("not in adata.var", absent), ("unknown to the model", unknown))
    why = "; ".join(f"{kind}: {', '.join(map(repr, names))}" for kind, names in kinds if names)
    hint = _did_you_mean(unknown, [name for name, token in in_var.items() if token >= 0]) if unknown else ""
    if not found:
        why = why or "genes=[] names none"
        raise DataError(f"None of the genes{of} can be used ({why}).{hint} Name genes of adata.var.")
    if why:
        logg.warning(
            f"{len(absent) + len(unknown)} of {len(asked)} genes{of} are left out ({why}){hint and '.' + hint}"
        )
    return list(found.values()), np.array(list(found), dtype=np.int32)


def first_of_name(names: Iterable[str], places: Iterable[int]) -> dict[str, int]:
    """Place of each name; of several genes of one name the first that has a place, -1 if none has."""
    found: dict[str, int] = {}
    for name, place in zip(names, places, strict=True):
        if found.get(name, -1) < 0:
            found[name] = place
    return found


def _did_you_mean(unknown: list[str], known: list[str]) -> str:
    """A hint at a gene that differs from one of those unknown in hyphens, dots or spaces alone."""
    spelled = {_spelled(name): name for name in known}
    meant = next((spelled[_spelled(name)] for name in unknown if _spelled(name) in spelled), None)
    return "" if meant is None else f" Did you mean {meant!r}?"


def _spelled(name: str) -> str:
    """Letters and digits of a name: symbols that differ in one are two genes, however near (CD20, CD320)."""
    return "".join(filter(str.isalnum, normalise_name(name)))
