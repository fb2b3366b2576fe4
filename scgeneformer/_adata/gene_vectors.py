"""The gene embeddings that `gf.tl.embed_genes` left in `varm`, of all cells or of one group."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scanpy import logging as logg

from scgeneformer._adata.frames import in_memory
from scgeneformer._adata.gene_choice import first_of_name
from scgeneformer._adata.genes import INDEX, names_in, usual_columns
from scgeneformer._engine.genes import normalise_name
from scgeneformer._errors import DataError, MissingKeyError, missing_key

if TYPE_CHECKING:
    from anndata import AnnData


def gene_vectors(adata: AnnData, key: str, group: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the genes that have an embedding, and the embeddings.

    Parameters
    ----------
    adata
        With ``varm[key]`` of (n_vars, d), or (n_vars, n_groups, d) and the names in ``uns[key]["groups"]``.
    key
        Key in `varm`.
    group
        Group, if the embeddings are per group.

    Raises
    ------
    MissingKeyError
        If the key does not exist.
    DataError
        If the group does not exist, is missing, or is named where there are none; or no gene has an embedding.
    """
    if not isinstance(key, str) or key not in adata.varm:
        raise missing_key(
            "varm", key, adata.varm, "Run gf.tl.embed_genes(adata) first; the genes asked for are named by genes=."
        )
    values = np.asarray(adata.varm[key])
    if values.ndim == 3:
        values = values[:, _position(adata, key, group)]
    elif values.ndim != 2:
        raise DataError(f"adata.varm[{key!r}] has shape {values.shape}; gene embeddings are genes × d.")
    elif group is not None:
        raise DataError(
            f"adata.varm[{key!r}] holds one embedding per gene, over all cells: group={group!r} has no meaning there. "
            "Those per group are of gf.tl.embed_genes(adata, groupby='...'): key='geneformer_<groupby>'."
        )
    known = np.flatnonzero(np.isfinite(values).all(axis=1) & (values != 0).any(axis=1))
    if not len(known):
        raise DataError(f"No gene has an embedding in adata.varm[{key!r}]{'' if group is None else f' of {group!r}'}.")
    return known, values[known]


def _position(adata: AnnData, key: str, group: str | None) -> int:
    """Where the group is on the second axis."""
    stored = adata.uns.get(key, {}).get("groups")
    if stored is None:
        raise MissingKeyError(
            f"adata.uns[{key!r}]['groups'] does not exist. Run gf.tl.embed_genes(adata, groupby='...') again."
        )
    names = [str(name) for name in stored]
    if group is None or str(group) not in names:
        listed = ", ".join(map(repr, names))
        said = (
            "has an embedding per group, of which one is meant: group='...'"
            if group is None
            else f"has no group {group!r}"
        )
        raise DataError(f"adata.varm[{key!r}] {said}; the groups are: {listed}.")
    return names.index(str(group))


def rows_of(adata: AnnData, genes: list[str], known: np.ndarray) -> np.ndarray:
    """Positions within `known` of genes, each once; warns of those that are not there.

    They are named as in the index, or in any case as there or in the usual columns of IDs and symbols.

    Raises
    ------
    MissingKeyError
        If none of the genes is in `var` and has an embedding.
    """
    var, place = in_memory(adata.var), np.full(adata.n_vars, -1)
    place[known] = np.arange(len(known))
    exact = first_of_name(names_in(var, INDEX).tolist(), place.tolist())
    columns = [INDEX, *usual_columns(var)]
    names = [normalise_name(name) for column in columns for name in names_in(var, column).tolist()]
    folded = first_of_name(names, place.tolist() * len(columns))
    there = {gene: exact.get(gene, folded.get(normalise_name(gene))) for gene in genes}
    found = list(dict.fromkeys(at for at in there.values() if at is not None and at >= 0))
    absent = [gene for gene, at in there.items() if at is None]
    bare = [gene for gene, at in there.items() if at == -1]
    kinds = (("not in adata.var", absent), ("without embedding (unknown to the model, or in no cell)", bare))
    why = "; ".join(f"{kind}: {', '.join(map(repr, names))}" for kind, names in kinds if names)
    if genes and not found:
        raise MissingKeyError(f"None of the genes can be used ({why}). Name others of adata.var_names.")
    if why:
        logg.warning(f"{len(absent) + len(bare)} of {len(there)} genes are left out ({why})")
    return np.array(found, dtype=np.int64)
