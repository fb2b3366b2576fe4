"""In-silico perturbation of cells: edits, perturbed copies, and how far they move; exactly, or estimated by a screen."""
