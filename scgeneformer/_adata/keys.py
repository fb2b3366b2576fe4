"""Every key of the storage contract."""

from __future__ import annotations

EMBEDDING = "X_geneformer"  # obsm, uns
GENES = "geneformer"  # varm, uns
TOKENS = "geneformer_tokens"  # obsm, uns
N_GENES = "geneformer_n_genes"  # obs: known genes with a count, before truncation
N_TOKENS = "geneformer_n_tokens"  # obs: tokens of the cell, special ones included, after truncation
ATTENTION = "geneformer_attention"  # varp, uns
LOG_LIKELIHOOD = "geneformer_log_likelihood"  # obs, uns
PSEUDO_PERPLEXITY = "geneformer_pseudo_perplexity"  # obs
GENE_CONTEXT = "rank_genes_context"  # uns
ENSEMBL_ID = "ensembl_id"  # var
GENE_TOKEN = "geneformer_token"  # var


def layer_key(key: str, layer: int, n_layers: int) -> str:
    """Key of one of several layers: ``<key>_L<n>``; the plain key if there is only one."""
    return f"{key}_L{layer}" if n_layers > 1 else key


def group_key(key: str, groupby: list[str]) -> str:
    """Key of a result per group: ``<key>_<column>[_<column>...]``; label text never enters a key."""
    return "_".join([key, *groupby]).replace("/", "_")  # "/" would nest the key in h5ad and zarr


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
