"""Results as objects of their own: AnnData and data frames."""

from scgeneformer.get._aggregate import aggregate
from scgeneformer.get._attention_df import attention_df
from scgeneformer.get._rank_genes_context_df import rank_genes_context_df

__all__ = ["aggregate", "attention_df", "rank_genes_context_df"]
