"""Arrays and tensors only: rank-value encoding, packed inference, pooling. Knows no AnnData."""
