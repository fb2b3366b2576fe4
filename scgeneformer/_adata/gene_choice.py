"""Find the genes that a user names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scanpy import logging as logg

from scgeneformer._checks import as_names, did_you_mean
from scgeneformer._engine.genes import match_genes
from scgeneformer._errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    in_var: dict[str, int] = {}  # of several genes of one name the first that has a token
    for names in (var.index.astype(str).tolist(), mapped.names.tolist()):
        for name, token in zip(names, tokens, strict=True):
            if in_var.get(name, -1) < 0:
                in_var[name] = token
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
    hint = did_you_mean(
        (name for name in unknown if not name.upper().startswith("ENS")),  # an ID that is near is another gene
        (name for name, token in in_var.items() if token >= 0),
    )
    if not found:
        why = why or "genes=[] names none"
        raise DataError(f"None of the genes{of} can be used ({why}).{hint} Name genes of adata.var.")
    if why:
        logg.warning(
            f"{len(absent) + len(unknown)} of {len(asked)} genes{of} are left out ({why}){hint and '.' + hint}"
        )
    return list(found.values()), np.array(list(found), dtype=np.int32)
