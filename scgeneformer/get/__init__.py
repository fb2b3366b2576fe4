"""Results as objects of their own: AnnData and data frames."""

from scgeneformer.get._aggregate import aggregate
from scgeneformer.get._attention_df import attention_df
from scgeneformer.get._classification_df import classification_df
from scgeneformer.get._gene_classification_df import gene_classification_df
from scgeneformer.get._perturbation_effects_df import perturbation_effects_df
from scgeneformer.get._rank_genes_context_df import rank_genes_context_df
from scgeneformer.get._rank_perturbations_df import rank_perturbations_df

__all__ = [
    "aggregate",
    "attention_df",
    "classification_df",
    "gene_classification_df",
    "perturbation_effects_df",
    "rank_genes_context_df",
    "rank_perturbations_df",
]
