"""What lies on disk beside an AnnData in memory: its files, folders of tokens, and the parts of long runs."""
