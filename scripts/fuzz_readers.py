"""Search for files on which a reader of foreign files does anything but read or refuse them, guided by coverage.

Needs the package atheris (`pip install -e ".[fuzz]"`). What it finds goes to `tests/security/found/<reader>`; from
there `tests/security/test_fuzz.py` replays it ever after.

    nice python scripts/fuzz_readers.py dictionary --seconds 300
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from random import Random

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"
MOST_BYTES, MOST_MB, MOST_SECONDS = 8192, 4096, 20  # of an input, and what it may take


def compiled() -> list[str]:
    """Modules with kernels, which numba does not compile where they are instrumented."""
    files = (ROOT / "scgeneformer").rglob("*.py")
    return [".".join(f.relative_to(ROOT).with_suffix("").parts) for f in files if "numba" in f.read_text("utf-8")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reader", help="dictionary, vocabulary, model, scgpt or tokens")
    parser.add_argument("--seconds", type=int, default=300, help="how long to search")
    parser.add_argument("--corpus", type=Path, help="folder of inputs to go on with; by default one that is removed")
    chosen = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path.insert(0, str(TESTS))
    import atheris
    import transformers.models.bert.modeling_bert  # noqa: F401  not instrumented

    with atheris.instrument_imports(include=["scgeneformer", "json", "zipfile"], exclude=compiled()):
        from security.readers import READERS, damaged, seeds

        import scgeneformer._adata.disk.token_files
        import scgeneformer.models._read  # noqa: F401

    corpus = chosen.corpus or Path(tempfile.mkdtemp())
    corpus.mkdir(parents=True, exist_ok=True)
    for i, seed in enumerate(seeds(chosen.reader)):
        (corpus / f"seed{i}").write_bytes(seed)
    found = TESTS / "security" / "found" / chosen.reader
    found.mkdir(parents=True, exist_ok=True)
    options = {
        "max_total_time": chosen.seconds,
        "max_len": max(MOST_BYTES, *(path.stat().st_size for path in corpus.iterdir())),
        "rss_limit_mb": MOST_MB,
        "timeout": MOST_SECONDS,
        "artifact_prefix": f"{found}/",
        "len_control": 0,
        "keep_seed": 1,
        "print_final_stats": 1,
    }
    whole = seeds(chosen.reader)

    def mutated(data: bytes, most_bytes: int, seed: int) -> bytes:
        """Half of them as the library does it, half in ways that leave most of a file as it was."""
        numbers = Random(seed)
        other = numbers.choice(whole)
        return (damaged(data or other, other, numbers) if seed % 2 else atheris.Mutate(data, most_bytes))[:most_bytes]

    told = [sys.argv[0], *(f"-{name}={value}" for name, value in options.items()), str(corpus)]
    atheris.Setup(told, READERS[chosen.reader], custom_mutator=mutated)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
