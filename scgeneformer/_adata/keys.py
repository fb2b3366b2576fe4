"""Every key of the storage contract."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from scgeneformer._engine.perturbation.edits import EDITS
from scgeneformer._errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

EMBEDDING = "X_geneformer"  # obsm, uns
GENES = "geneformer"  # varm, uns
TOKENS = "geneformer_tokens"  # obsm, uns
BINS = "geneformer_bins"  # obsm: bins of the values of the tokens, for encodings that have any
CHECKSUMS = "geneformer_checksums"  # obsm: of the counts that the tokens were made from
N_GENES = "geneformer_n_genes"  # obs: known genes with a count, before truncation
N_TOKENS = "geneformer_n_tokens"  # obs: tokens of the cell, special ones included, after truncation
ATTENTION = "geneformer_attention"  # varp, uns
LOG_LIKELIHOOD = "geneformer_log_likelihood"  # obs, uns
PSEUDO_PERPLEXITY = "geneformer_pseudo_perplexity"  # obs
GENE_CONTEXT = "rank_genes_context"  # uns
ENSEMBL_ID = "ensembl_id"  # var
GENE_TOKEN = "geneformer_token"  # var
SPLIT = "geneformer_split"  # obs: train, validation or test
FOLD = "geneformer_fold"  # obs: fold of cross-validation
RANK_PERTURBATIONS = "rank_perturbations"  # uns
PERTURBATION = "geneformer_delete"  # layers, obsm, varm, uns: those of the default mode
STATISTICS = ("median", "mean", "variance", "std", "detection")  # var: of the counts of a gene, behind "geneformer_"

FIXED = {
    *(TOKENS, BINS, CHECKSUMS, N_GENES, N_TOKENS, ATTENTION, LOG_LIKELIHOOD, PSEUDO_PERPLEXITY),
    *(GENE_TOKEN, SPLIT, FOLD),
    *(f"{GENES}_{name}" for name in (*STATISTICS, *EDITS, "edits")),
}
ENDINGS = re.compile(r"n_cells|genes|pca|effects(_sd|_n_cells)?|L\d+")  # behind any key


def chosen(key: str | None, default: str, stored: Iterable[str]) -> str:
    """Key of the result that is meant: None takes the default if it is stored, else the only one there is.

    Raises
    ------
    DataError
        If several are stored, but not the default. If none is, whoever reads the default tells what to run.
    """
    there = list(stored)
    if key is not None or default in there or not there:
        return default if key is None else key
    if len(there) > 1:
        named = " or ".join(f"key={one!r}" for one in there)
        raise DataError(f"Several results are stored; name one of them: {named}.")
    return there[0]


def layer_key(key: str, layer: int, n_layers: int) -> str:
    """Key of one of several layers: ``<key>_L<n>``; the plain key if there is only one."""
    return f"{key}_L{layer}" if n_layers > 1 else key


def group_key(key: str, groupby: Sequence[str]) -> str:
    """Key of a result per group: ``<key>_<column>[_<column>...]``; label text never enters a key.

    Raises
    ------
    DataError
        If other results have this key.
    """
    made = _joined(key, groupby)
    if _is_taken(made, key):
        raise DataError(
            f"Results for groups of {', '.join(map(repr, groupby))} would have the key {made!r}, which is that of "
            "other results. Rename the column."
        )
    return made


def _joined(key: str, names: Sequence[str]) -> str:
    return "_".join([key, *names]).replace("/", "_")  # "/" would nest the key in h5ad and zarr


def _is_taken(made: str, key: str) -> bool:
    """Whether a name behind a key makes one that other results have."""
    return made in FIXED or ENDINGS.fullmatch(made.removeprefix(f"{key}_")) is not None


def groups_table(key: str) -> str:
    """Key of the table of the groups of a result per group."""
    return f"{key}_groups"


def numbered(key: str, i: int) -> str:
    """Key of the matrix of group number `i`."""
    return f"{key}_{i}"


def n_cells(key: str) -> str:
    """Key of the number of cells behind a result."""
    return f"{key}_n_cells"


def genes_key(key: str) -> str:
    """Key of the embeddings of chosen genes in every cell."""
    return f"{key}_genes"


def params_key(key: str) -> str:
    """Key of the parameters of a result in `uns` that is no dict itself."""
    return f"{key}_params"


def perturbation_key(key: str, *, hold: bool = False, anchor: bool = False) -> str:
    """Key of the shifts under one mode of perturbation, with positions held and with an anchor gene."""
    return f"{key}{'_hold' if hold else ''}{'_anchor' if anchor else ''}"


def rank_key(key: str) -> str:
    """Key of the ranks of the perturbed genes."""
    return f"{key}_rank"


def exact_key(key: str) -> str:
    """Key of which shifts are exact and which were estimated."""
    return f"{key}_exact"


def state_key(key: str, slug: str) -> str:
    """Key of the shifts towards a state; the slug stands for its name."""
    return f"{key}_to_{slug}"


def effects_key(key: str) -> str:
    """Key of the shifts of other genes under a perturbation."""
    return f"{key}_effects"


def spread_key(key: str) -> str:
    """Key of the standard deviation of a result over cells."""
    return f"{key}_sd"


def vectors_key(key: str) -> str:
    """Key of the differences between embeddings of perturbed and unperturbed cells."""
    return f"{key}_vectors"


def without_anchor(key: str) -> str:
    """Key of the perturbations of single genes beside those with an anchor."""
    return re.sub(r"_anchor(_L\d+)?$", r"\1", key)


def probability_key(key: str) -> str:
    """Key of the probabilities of all classes."""
    return f"{key}_probability"


def confidence_key(key: str) -> str:
    """Key of the probability of the class that is told."""
    return f"{key}_confidence"


def truth_key(key: str) -> str:
    """Key of how what a classifier tells compares with true labels, of whichever cells."""
    return f"{key}_truth"


def evaluation_key(label: str) -> str:
    """Key of how classifiers of a label compare on cells, or genes, that they were not trained on."""
    return f"{prediction_key(label)}_evaluation"


def prediction_key(label: str) -> str:
    """Key of what a classifier tells: ``geneformer_<label>``."""
    return _joined(GENES, [label])


def prediction_keys(labels: Sequence[str], key_added: str | None = None) -> list[str]:
    """Keys of what one classifier tells of each of its labels, checked before anything is written.

    They are those of :func:`prediction_key`; `key_added` in place of "geneformer", and of all of it for one label.

    Raises
    ------
    DataError
        If results of two labels, or other results, have one key.
    """
    if key_added is not None and len(labels) == 1:
        return [key_added]
    start = GENES if key_added is None else key_added
    found, owner = [_joined(start, [label]) for label in labels], dict[str, str]()
    for label, key in zip(labels, found, strict=True):
        if _is_taken(key, start):
            raise DataError(
                f"What is told of {label!r} would have the key {key!r}, which is that of other results. Rename the "
                "label before a classifier is trained; with one that was trained, name another key: key_added='...'."
            )
        endings = (probability_key, confidence_key, params_key, truth_key)
        for one in (key, *(ending(key) for ending in endings), f"{key}_evaluation"):
            if one in owner:
                raise DataError(
                    f"Results of the labels {owner[one]!r} and {label!r} would have the same key, {one!r} ('/' is "
                    "written as '_'). Rename one of the columns before a classifier is trained."
                )
            owner[one] = label
    return found


class PcaKeys(NamedTuple):
    """Where principal components of a representation go, by slot."""

    obsm: str
    varm: str
    uns: str


def pca_keys(rep: str, of_genes: bool, key_added: str | None = None) -> PcaKeys:
    """Keys of the components of a representation: ``<rep>_pca``; where features are genes those of scanpy's PCA."""
    if of_genes and key_added is None:
        return PcaKeys("X_pca", "PCs", "pca")
    return PcaKeys(*[key_added or f"{rep}_pca"] * 3)


def density_key(key: str) -> str:
    """Key of the log-likelihood of each cell under a model of all."""
    return f"{key}_log_likelihood"
