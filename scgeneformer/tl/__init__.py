"""Tools: tokens, embeddings, perturbations, classifiers."""

from scgeneformer.tl._attention import attention
from scgeneformer.tl._classify import classify
from scgeneformer.tl._classify_genes import classify_genes
from scgeneformer.tl._embed_cells import embed_cells
from scgeneformer.tl._embed_genes import embed_genes
from scgeneformer.tl._gene_neighbors import gene_neighbors
from scgeneformer.tl._pca import pca
from scgeneformer.tl._perturb import perturb
from scgeneformer.tl._predict_masked_genes import predict_masked_genes
from scgeneformer.tl._pretrain import pretrain
from scgeneformer.tl._probe import probe
from scgeneformer.tl._rank_genes_context import rank_genes_context
from scgeneformer.tl._rank_perturbations import rank_perturbations
from scgeneformer.tl._score_masked_genes import score_masked_genes
from scgeneformer.tl._search_classifier import search_classifier
from scgeneformer.tl._split_cells import split_cells
from scgeneformer.tl._tokenize import tokenize
from scgeneformer.tl._train_classifier import train_classifier
from scgeneformer.tl._train_gene_classifier import train_gene_classifier

__all__ = [
    "attention",
    "classify",
    "classify_genes",
    "embed_cells",
    "embed_genes",
    "gene_neighbors",
    "pca",
    "perturb",
    "predict_masked_genes",
    "pretrain",
    "probe",
    "rank_genes_context",
    "rank_perturbations",
    "score_masked_genes",
    "search_classifier",
    "split_cells",
    "tokenize",
    "train_classifier",
    "train_gene_classifier",
]
