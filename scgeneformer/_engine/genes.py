"""Match gene names of a data set with the genes of a vocabulary, and tell the species from the names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scgeneformer._engine.vocabulary import Vocabulary

SPECIES_OF_PREFIX = {
    "ENSG": "human",
    "ENSMUSG": "mouse",
    "ENSRNOG": "rat",
    "ENSDARG": "zebrafish",
    "ENSMMUG": "macaque",
    "ENSSSCG": "pig",
    "ENSBTAG": "cow",
    "ENSGALG": "chicken",
    "FBGN": "fruit fly",
    "WBGENE": "worm",
}
_ENSEMBL = re.compile(r"((?:ENS[A-Z]*G|FBGN|WBGENE)\d{5,})(?:\.\d+)?(?:_PAR_Y)?", re.IGNORECASE)
_RODENT_SYMBOL = re.compile(r"[A-Z][a-z0-9-]*[a-z][a-z0-9-]+(?:Rik)?|\d{7}[A-Z]\d{2}Rik")
_MADE_UNIQUE = re.compile(r"(.+)-\d+")


def normalise_name(name: str) -> str:
    """Upper-case name without white space and, for Ensembl IDs, without the version suffix."""
    name = name.strip()
    if match := _ENSEMBL.fullmatch(name):
        return match[1].upper()
    return name.upper()


def is_ensembl(name: str) -> bool:
    """Whether `name` is an Ensembl gene ID, with or without version."""
    return _ENSEMBL.fullmatch(name.strip()) is not None


def species_of(names: Sequence[str]) -> str | None:
    """Species the names belong to, or None if they do not tell.

    Ensembl IDs tell by their prefix. Symbols written like `Gapdh` are those of mouse or rat (human symbols are upper
    case), which shows only as long as the case is not folded.
    """
    kinds: dict[str, int] = {}
    for name in names:
        if match := _ENSEMBL.fullmatch(name.strip()):
            species = SPECIES_OF_PREFIX.get(match[1].upper().rstrip("0123456789"), "another species")
        elif _RODENT_SYMBOL.fullmatch(name):
            species = "mouse or rat"
        elif any(map(str.isalpha, name)):
            species = ""
        else:
            continue
        kinds[species] = kinds.get(species, 0) + 1
    commonest = max(kinds, key=lambda k: kinds[k], default="")
    return commonest or None


def match_genes(names: Sequence[str], vocabulary: Vocabulary) -> np.ndarray:
    """Token of each gene name, (n,) int32, -1 where the vocabulary does not know it.

    Ensembl IDs match with or without version; symbols and aliases match in any case. A name made unique by a suffix
    (``MATR3-1`` beside ``MATR3``) stands for the same gene, unless the vocabulary has no Ensembl IDs, as that of scGPT:
    without them ``NKX2-1`` cannot be told from a second ``NKX2``.
    """
    table = vocabulary.token_of_name
    keys = [normalise_name(name) for name in names]
    present = set(keys) if any(map(is_ensembl, vocabulary.ensembl_ids[:1])) else set()
    tokens = np.full(len(names), -1, dtype=np.int32)
    for i, key in enumerate(keys):
        token = table.get(key)
        if token is None and (match := _MADE_UNIQUE.fullmatch(key)) and match[1] in present:
            token = table.get(match[1])
        if token is not None:
            tokens[i] = token
    return tokens
