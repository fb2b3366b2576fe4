"""Data sets that need no download."""

from scgeneformer.datasets._pbmc68k import pbmc68k

__all__ = ["pbmc68k"]
