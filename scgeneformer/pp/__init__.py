"""Preprocessing: check the data, map the genes."""

from scgeneformer.pp._check import check
from scgeneformer.pp._map_genes import map_genes

__all__ = ["check", "map_genes"]
