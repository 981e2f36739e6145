"""Draws what `bench/store_scale.py --json` measured into a PNG: `make plot`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

PANELS = (
    (
        "index, bytes a blob",
        {"index_bytes_per_blob": "file", "index_used_per_blob": "pages in use"},
        400,
    ),
    ("clean close and open, seconds", {"clean_close_s": "close", "clean_open_s": "open"}, 1),
    (
        "open after losses, seconds",
        {"killed_open_s": "after a kill", "rebuilt_open_s": "without an index"},
        None,
    ),
    ("verification, GB/s", {"verify_gb_s": "store", "verify_raw_gb_s": "raw read + BLAKE3"}, None),
    (
        "operations a second",
        {"reads_s": "cached reads of 64 B", "appends_s": "durable appends of 4 KiB"},
        None,
    ),
    ("memory, MiB", {"rss_anon_mib": "anonymous", "rss_file_mib": "mapped files"}, None),
)
"""Title, figures with their names, and the goal where there is one."""


def main() -> None:
    """`plot_scale.py figures.json picture.png`."""
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    results = sorted(json.loads(source.read_text("utf-8")), key=lambda result: result["blobs"])
    sizes = [result["blobs"] for result in results]
    figure, axes = plt.subplots(2, 3, figsize=(12, 6.5), layout="constrained")
    for (title, lines, goal), panel in zip(PANELS, axes.flat, strict=True):
        for key, label in lines.items():
            panel.plot(sizes, [result[key] for result in results], marker="o", label=label)
        if goal is not None:
            panel.axhline(goal, color="grey", linestyle="--", linewidth=1, label="goal")
        panel.set_xscale("log")
        if title.startswith("open after"):
            panel.set_yscale("log")
        else:
            panel.set_ylim(bottom=0)
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("blobs")
        panel.legend(fontsize=8)
        panel.grid(alpha=0.3)
    figure.savefig(target, dpi=100)


if __name__ == "__main__":
    main()
