"""Run the command line as ``python -m scgeneformer``."""

from scgeneformer.cli import main

if __name__ == "__main__":
    main()
