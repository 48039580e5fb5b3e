"""Draws results.svg from results.json: python chart.py results.json results.svg"""

import json
import sys

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

# Text stays text, and the same results give the same bytes.
plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "cortex", "font.size": 9})

COLOURS = ["#4477aa", "#66ccee", "#aa3377", "#ee99cc"]


def main():
    source, target = sys.argv[1:]
    with open(source) as file:
        results = json.load(file)
    # What aims are for: hot weights at batch 1 stand in the page alone.
    ratios = [r for r in results["ratios"] if r["cold"] or r["B"] > 1]
    panels = []
    for r in ratios:
        name = "mask" if r["sparsity"] else r["class"]
        if name not in panels:
            panels.append(name)
    columns = sorted({(r["shape"], r["threads"]) for r in ratios}, key=lambda c: (len(c[0]), c))
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(8, 1.9 * len(panels) + 0.6), squeeze=False, layout="constrained"
    )
    for axis, panel in zip(axes[:, 0], panels):
        draw(axis, panel, [r for r in ratios if panel in (r["class"], "mask" if r["sparsity"] else "")], columns)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(target, metadata={"Date": None})


def draw(axis, panel, ratios, columns):
    def group(r):
        return (r["sparsity"] or "", r["B"])

    groups = sorted({group(r) for r in ratios})
    width = 0.8 / len(columns)
    for i, (shape, threads) in enumerate(columns):
        mine = {group(r): r for r in ratios if (r["shape"], r["threads"]) == (shape, threads)}
        if not mine and panel != "mask":
            continue
        places = [j + (i - (len(columns) - 1) / 2) * width for j in range(len(groups))]
        values = [mine[g]["ratio"] if g in mine else 0 for g in groups]
        label = f"{shape.replace('x', '×')}, {threads} thread{'s' if threads > 1 else ''}"
        axis.bar(places, values, width * 0.92, color=COLOURS[i % len(COLOURS)], label=label)
        for place, value in zip(places, values):
            if value:
                axis.annotate(
                    f"{value:.2f}", (place, value), ha="center", va="bottom", fontsize=6.5
                )
    aims = {group(r): r["aim"] for r in ratios if r["aim"]}
    for j, g in enumerate(groups):
        if g in aims:
            label = "aim" if g == next(iter(sorted(aims))) else None
            axis.hlines(aims[g], j - 0.45, j + 0.45, color="black", lw=1.2, label=label)
    axis.axhline(1, color="grey", lw=0.6, ls=":")
    names = [f"{sparsity}\nbatch {batch}" if sparsity else f"batch {batch}" for sparsity, batch in groups]
    axis.set_xticks(range(len(groups)), names)
    axis.set_xlim(-0.6, len(groups) - 0.4)
    title = "mask, f32, by share of zeros" if panel == "mask" else ratios[0]["title"]
    axis.set_title(f"{title}: times as fast as the best peer", fontsize=9, loc="left")
    axis.margins(y=0.15)
    axis.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
