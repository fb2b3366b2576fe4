"""Preprocessing: check the data, map the genes, statistics of the genes."""

from scgeneformer.pp._check import check
from scgeneformer.pp._gene_medians import gene_medians
from scgeneformer.pp._map_genes import map_genes

__all__ = ["check", "gene_medians", "map_genes"]
