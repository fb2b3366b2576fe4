"""Commands of the command line, one per file: read, call gf, write."""
