"""Training: splits, scores, and what a run of the optimizer needs; arrays and tensors only."""
