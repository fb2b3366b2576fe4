"""Read the reference's dictionary pickles without trusting them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from scgeneformer._engine.pickled import RefusedError, read_pickled_dictionary
from scgeneformer._engine.vocabulary import Vocabulary, check_tokens, names_of
from scgeneformer._errors import ModelError
from scgeneformer._foreign import read_bytes

if TYPE_CHECKING:
    from pathlib import Path

MAX_BYTES = 16 * 2**20  # the largest published dictionary has 4 MB


class Release(NamedTuple):
    """One generation of the reference's dictionaries."""

    name: str
    n_tokens: int
    input_size: int
    special: tuple[str, ...]
    suffix: str  # of the published file names


RELEASES = (
    Release("V1", 25_426, 2048, ("<pad>", "<mask>"), "gc30M"),
    Release("V2", 20_275, 4096, ("<pad>", "<mask>", "<cls>", "<eos>"), "gc104M"),
)
HOLDS: dict[str, tuple[tuple[type, ...], str]] = {  # kind -> types of its values, and what they are
    "token_dictionary": ((int,), "tokens, whole numbers"),
    "gene_median_dictionary": ((int, float), "medians, numbers"),
    "ensembl_mapping_dict": ((str,), "Ensembl IDs, text"),
    "gene_name_id_dict": ((str,), "Ensembl IDs, text"),
}
KINDS = tuple(HOLDS)


def read_dictionary(path: Path) -> dict[str, str | int | float]:
    """Read one dictionary pickle: a dict from str to str, int, float or numpy numbers, nothing else.

    Parameters
    ----------
    path
        The pickle file, at most 16 MB.

    Returns
    -------
    The dictionary, numpy numbers turned into Python's.

    Raises
    ------
    ModelError
        If the file is larger, damaged, or holds anything else. Nothing in it is executed.
    """
    try:
        return read_pickled_dictionary(read_bytes(path, MAX_BYTES))
    except RefusedError as error:
        raise ModelError(
            f"{path} was refused: it holds {error}, and a gene dictionary may hold only dict, str, int, float and "
            "numpy numbers. Nothing in it was executed. Take the dictionary from a source you trust."
        ) from error
    except Exception as error:  # a damaged pickle can raise anything
        raise ModelError(f"{path} is not a readable dictionary pickle ({error}). Fetch it again.") from error


def find_dictionaries(folder: Path) -> dict[str, Path]:
    """Paths of the four dictionaries in `folder`, by kind; kinds that are absent are left out."""
    found = {}
    for kind in KINDS:
        matches = sorted(folder.glob(f"{kind}*.pkl"))
        if len(matches) > 1:
            names = ", ".join(path.name for path in matches)
            raise ModelError(f"{folder} holds several files of one kind ({names}). Keep those of one model only.")
        if matches:
            found[kind] = matches[0]
    return found


def _read_kind(kind: str, path: Path) -> dict[str, Any]:
    """Read a dictionary whose values are what those of its kind are."""
    found, (types, what) = read_dictionary(path), HOLDS[kind]
    if odd := next(((name,) for name, value in found.items() if not isinstance(value, types)), None):
        raise ModelError(f"{path} must hold {what}, and its entry {odd[0][:100]!r} is none. Fetch it again.")
    return found


def vocabulary_from_dictionaries(folder: Path, input_size: int | None = None) -> Vocabulary:
    """Build a vocabulary from a folder with the reference's dictionary pickles.

    Parameters
    ----------
    folder
        Holds `token_dictionary*.pkl` and `gene_median_dictionary*.pkl`; `ensembl_mapping_dict*.pkl` and
        `gene_name_id_dict*.pkl` are used where present.
    input_size
        Longest sequence of the model; by default 4096 for vocabularies with ``<cls>``, else 2048.
    """
    paths = find_dictionaries(folder)
    if missing := [kind for kind in KINDS[:2] if kind not in paths]:
        raise ModelError(f"{folder} lacks {' and '.join(f'{kind}*.pkl' for kind in missing)}.")
    tokens, medians, mapping, names = (_read_kind(kind, paths[kind]) if kind in paths else {} for kind in KINDS)
    check_tokens(tokens.values(), paths["token_dictionary"].name)
    special = {name: token for name, token in tokens.items() if name.startswith("<")}
    genes = sorted((token, gene) for gene, token in tokens.items() if gene not in special)
    if without := [gene for _, gene in genes if gene not in medians]:
        raise ModelError(
            f"{len(without)} genes of {paths['token_dictionary'].name} (such as {without[0][:100]!r}) have no median "
            f"in {paths['gene_median_dictionary'].name}. The two files belong to different models (V1/V2)."
        )
    known = {gene for _, gene in genes}
    symbol_of = {gene: symbol for symbol, gene in names.items()}
    return Vocabulary(
        tokens=np.array([token for token, _ in genes], dtype=np.int32),
        ensembl_ids=names_of([gene for _, gene in genes]),
        symbols=names_of([symbol_of.get(gene, "") for _, gene in genes]),
        medians=np.array([medians[gene] for _, gene in genes], dtype=np.float64),
        special=special,
        input_size=input_size or (4096 if "<cls>" in special else 2048),
        aliases={name.upper(): gene for name, gene in mapping.items() if gene in known and name != gene},
    )
