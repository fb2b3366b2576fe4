"""Every key of the storage contract."""

from __future__ import annotations

EMBEDDING = "X_geneformer"  # obsm, uns
TOKENS = "geneformer_tokens"  # obsm, uns
N_GENES = "geneformer_n_genes"  # obs: known genes with a count, before truncation
N_TOKENS = "geneformer_n_tokens"  # obs: tokens of the cell, special ones included, after truncation
ENSEMBL_ID = "ensembl_id"  # var
GENE_TOKEN = "geneformer_token"  # var


def layer_key(key: str, layer: int, n_layers: int) -> str:
    """Key of one of several layers: ``<key>_L<n>``; the plain key if there is only one."""
    return f"{key}_L{layer}" if n_layers > 1 else key


def group_key(key: str, groupby: list[str]) -> str:
    """Key of a result per group: ``<key>_<column>[_<column>...]``; label text never enters a key."""
    return "_".join([key, *groupby]).replace("/", "_")  # "/" would nest the key in h5ad and zarr
