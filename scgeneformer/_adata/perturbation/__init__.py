"""What `gf.tl.perturb` and `gf.tl.rank_perturbations` read from an AnnData and write into it."""
