"""What models learn from an AnnData (labels, classes of genes, splits, corpora), and how well they tell it."""
