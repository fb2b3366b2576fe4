"""In-silico perturbation: edits of cells, perturbed copies, how far these move; exactly, or estimated by a screen."""
