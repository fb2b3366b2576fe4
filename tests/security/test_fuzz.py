"""Readers of foreign files on damaged ones: those a search found something in, and the same random ones each time.

The search itself, `scripts/fuzz_readers.py`, takes minutes and the package atheris.
"""

import random
from pathlib import Path

import pytest
from security.readers import READERS, damaged, seeds

FOUND = sorted((Path(__file__).parent / "found").glob("*/*"))
N_DAMAGED = {"dictionary": 1000, "vocabulary": 500, "model": 60, "scgpt": 40, "tokens": 200}


@pytest.mark.parametrize("path", FOUND, ids=lambda path: f"{path.parent.name}-{path.name[:12]}")
def test_what_was_found_is_mended(path):
    READERS[path.parent.name](path.read_bytes())


@pytest.mark.filterwarnings("ignore")  # of libraries, about what is damaged
@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_read_or_refused(name):
    whole, numbers = seeds(name), random.Random(0)
    for data in whole:
        READERS[name](data)
    for _ in range(N_DAMAGED[name]):
        READERS[name](damaged(numbers.choice(whole), numbers.choice(whole), numbers))
