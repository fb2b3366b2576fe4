"""Choose the size of `mini`: train several widths and depths alike and plot their held-out losses.

    python scripts/scale_mini.py DATA OUT --minutes 1.55 --device cuda

Runs `train_mini.py` for every size at the same time, each for as long, and writes `curves.json` and `scaling.svg`. With
`--plot-only` the figure is drawn anew from `curves.json`. The highest learning rate falls with the square root of the
width beyond 128, the feed-forward width is twice the width.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt

LOSSES = {"held_out_masked_genes": "masked genes", "held_out_paired_halves": "paired halves"}


def start(data: Path, out: Path, width: int, blocks: int, minutes: float, device: str) -> subprocess.Popen:
    """Begin the training of one size."""
    settings = {
        "width": width,
        "blocks": blocks,
        "feed-forward": 2 * width,
        "rate": round(1e-3 * min(1.0, (128 / width) ** 0.5), 6),
        "minutes": minutes,
        "device": device,
        "threads": 1,
        "report": 250,
        "steps": 10_000,
    }
    script = Path(__file__).with_name("train_mini.py")
    options = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    return subprocess.Popen([sys.executable, script, data, out / f"{width}x{blocks}", *options])


def read_curves(out: Path, sizes: list[tuple[int, int]]) -> list[dict]:
    """Width, blocks, parameters and loss curve of every size."""
    curves = []
    for width, blocks in sizes:
        record = json.loads((out / f"{width}x{blocks}" / "geneformer.json").read_text(encoding="utf-8"))["record"]
        curves.append({"width": width, "blocks": blocks, "curve": record["curve"]})
    return curves


def plot(curves: list[dict], to: Path) -> None:
    """Held-out losses against the tokens trained on, one line per size: colour is width, style is depth."""
    widths, depths = (sorted({size[name] for size in curves}) for name in ("width", "blocks"))
    colours = dict(
        zip(widths, plt.get_cmap("viridis")([0.15 + 0.65 * i / len(widths) for i in range(len(widths))]), strict=True)
    )
    styles = dict(zip(depths, ["-", "--", ":", "-."], strict=False))
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for ax, (key, title) in zip(axes, LOSSES.items(), strict=True):
        for size in curves:
            points = [point for point in size["curve"] if point["step"] >= 250]
            x, y = [point["tokens"] / 1e6 for point in points], [point[key] for point in points]
            ax.plot(x, y, marker=".", color=colours[size["width"]], linestyle=styles[size["blocks"]])
        ax.set(title=f"held out: {title}", xlabel="million tokens trained on", ylabel="cross-entropy (nats)")
        ax.spines[["top", "right"]].set_visible(False)
    handles = [plt.Line2D([], [], color=colours[w], label=f"width {w}") for w in widths]
    handles += [plt.Line2D([], [], color="0.3", linestyle=styles[b], label=f"{b} blocks") for b in depths]
    axes[1].legend(handles=handles, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(to, metadata={"Date": None})


def main() -> None:
    """Train, gather, plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with the h5ad files of train_mini.py")
    parser.add_argument("out", type=Path, help="folder for the models, curves and figure")
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--blocks", type=int, nargs="+", default=[3, 6, 12])
    parser.add_argument("--minutes", type=float, default=1.55, help="of training, for each size")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--plot-only", action="store_true")
    options = parser.parse_args()
    table, sizes = options.out / "curves.json", list(product(options.widths, options.blocks))
    if not options.plot_only:
        options.out.mkdir(parents=True, exist_ok=True)
        running = [start(options.data, options.out, *size, options.minutes, options.device) for size in sizes]
        codes = [process.wait() for process in running]
        if any(codes):
            sys.exit("a training failed; its messages are above")
        table.write_text(json.dumps(read_curves(options.out, sizes), indent=1), encoding="utf-8")
    plot(json.loads(table.read_text(encoding="utf-8")), options.out / "scaling.svg")


if __name__ == "__main__":
    main()
