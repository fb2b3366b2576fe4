"""What ``scgeneformer demo`` does: 700 real cells from counts to clusters, beside scanpy's PCA."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import scgeneformer as gf

if TYPE_CHECKING:
    from anndata import AnnData

MODEL = "mini"
LABEL = "cell_type"
N_NEIGHBORS = 15


@dataclass(frozen=True)
class Summary:
    """Numbers of one run.

    Parameters
    ----------
    cells, genes
        Size of the data.
    genes_matched, share_of_counts
        Genes the model knows, and the share of all counts that lies in them.
    tokens_median, tokens_total
        Tokens per cell, and of all cells.
    cells_per_second
        Of the embedding alone.
    clusters
        Leiden clusters in the embedding.
    agreement_model, agreement_pca, agreement_chance
        Share of a cell's nearest neighbours that have its cell type: mean over the cells in the embedding and in the
        principal components, and what it would be if neighbours were drawn at random.
    seconds
        Of the whole run.
    figure, results
        Files that were written.
    """

    cells: int
    genes: int
    genes_matched: int
    share_of_counts: float
    tokens_median: int
    tokens_total: int
    cells_per_second: float
    clusters: int
    agreement_model: float
    agreement_pca: float
    agreement_chance: float
    seconds: float
    figure: str
    results: str

    def __str__(self) -> str:
        return f"""\
data      {self.cells} blood cells (PBMC) × {self.genes} genes, scanpy.datasets.pbmc68k_reduced
model     {MODEL}: a small demonstration model inside the package; for real work see `scgeneformer models`
genes     {self.genes_matched} of {self.genes} known to the model, with {self.share_of_counts:.1%} of the counts
tokens    median {self.tokens_median} per cell, {self.tokens_total:,} in all
speed     {self.cells_per_second:,.0f} cells/s (embedding)
clusters  {self.clusters} (Leiden, in the embedding)

Share of a cell's {N_NEIGHBORS} nearest neighbours that have its cell type, mean over the cells:
          {self.agreement_model:.1%}  Geneformer {MODEL}, cell embedding
          {self.agreement_pca:.1%}  scanpy, 50 principal components
          {self.agreement_chance:.1%}  expected by chance

figure    {self.figure}
results   {self.results}
finished in {self.seconds:.0f} s"""


def run(out: Path, model: Any = MODEL) -> Summary:
    """Tokenize, embed, cluster, compare, draw, write.

    Parameters
    ----------
    out
        Directory for ``figures/demo_umap.png`` and ``demo.h5ad``; created.
    model
        What to embed with.
    """
    from scgeneformer._demo_figure import draw
    from scgeneformer._publish import published

    start = time.perf_counter()
    figure, results = out / "figures" / "demo_umap.png", out / "demo.h5ad"
    figure.parent.mkdir(parents=True, exist_ok=True)
    adata = gf.datasets.pbmc68k()
    found = _embed(adata, model) | _compare(adata)
    _cluster(adata)
    draw(adata, found, figure)
    summary = Summary(
        **found,
        clusters=adata.obs["leiden_geneformer"].nunique(),
        seconds=time.perf_counter() - start,
        figure=str(figure),
        results=str(results),
    )
    adata.uns["geneformer_demo"] = {key: value for key, value in asdict(summary).items() if not isinstance(value, str)}
    with published(results) as fresh:
        adata.write_h5ad(fresh)
    return summary


def _embed(adata: AnnData, model: Any) -> dict[str, Any]:
    """Tokens and embeddings; what can be counted on the way."""
    from scgeneformer._adata.counts import count_share, open_counts

    gf.models.load(model)
    gf.pp.map_genes(adata, model)
    gf.tl.tokenize(adata, model)
    start = time.perf_counter()
    gf.tl.embed_cells(adata, model)
    seconds = time.perf_counter() - start
    tokens, n_tokens = adata.var["geneformer_token"].to_numpy(), adata.obs["geneformer_n_tokens"]
    return {
        "cells": adata.n_obs,
        "genes": adata.n_vars,
        "genes_matched": int((tokens >= 0).sum()),
        "share_of_counts": count_share(open_counts(adata), tokens),
        "tokens_median": int(n_tokens.median()),
        "tokens_total": int(n_tokens.sum()),
        "cells_per_second": adata.n_obs / seconds,
    }


def _compare(adata: AnnData) -> dict[str, float]:
    """How well neighbours share their cell type, in the embedding, in scanpy's PCA, and by chance."""
    labels = adata.obs[LABEL].to_numpy()
    sizes = adata.obs[LABEL].value_counts().to_numpy()
    return {
        "agreement_model": neighbour_agreement(adata.obsm["X_geneformer"], labels),
        "agreement_pca": neighbour_agreement(adata.obsm["X_pca"], labels),
        "agreement_chance": float((sizes * (sizes - 1)).sum() / (adata.n_obs * (adata.n_obs - 1))),
    }


def _cluster(adata: AnnData) -> None:
    """Neighbours, clusters and UMAP of the embedding, beside the UMAP that scanpy made from PCA."""
    import scanpy as sc

    pca_umap = adata.obsm["X_umap"].copy()
    sc.pp.neighbors(adata, use_rep="X_geneformer", key_added="geneformer")
    leiden: dict[str, Any] = {"flavor": "igraph", "n_iterations": 2}
    sc.tl.leiden(adata, neighbors_key="geneformer", key_added="leiden_geneformer", **leiden)
    sc.tl.umap(adata, neighbors_key="geneformer")
    adata.obsm["X_umap_geneformer"], adata.obsm["X_umap"] = adata.obsm["X_umap"], pca_umap


def neighbour_agreement(points: np.ndarray, labels: np.ndarray, n_neighbors: int = N_NEIGHBORS) -> float:
    """Share of the nearest neighbours, the cell itself left out, that have its label; mean over the cells."""
    from sklearn.neighbors import NearestNeighbors

    neighbours = NearestNeighbors(n_neighbors=n_neighbors).fit(points).kneighbors(return_distance=False)
    return float((labels[neighbours] == labels[:, None]).mean())
