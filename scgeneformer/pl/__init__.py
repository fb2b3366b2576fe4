"""Plots; those of embeddings are scanpy's, all of whose parameters work."""

from scgeneformer.pl._class_scores import class_scores
from scgeneformer.pl._confusion import confusion
from scgeneformer.pl._embedding import embedding
from scgeneformer.pl._gene_context import gene_context
from scgeneformer.pl._gene_embedding import gene_embedding
from scgeneformer.pl._perturbation import perturbation
from scgeneformer.pl._perturbation_arrows import perturbation_arrows
from scgeneformer.pl._perturbation_effects import perturbation_effects
from scgeneformer.pl._reliability import reliability
from scgeneformer.pl._roc import roc
from scgeneformer.pl._tokens import tokens
from scgeneformer.pl._umap import umap

__all__ = [
    "class_scores",
    "confusion",
    "embedding",
    "gene_context",
    "gene_embedding",
    "perturbation",
    "perturbation_arrows",
    "perturbation_effects",
    "reliability",
    "roc",
    "tokens",
    "umap",
]
