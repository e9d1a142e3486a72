"""A report as a table in the terminal, as Markdown, and as plots."""

from __future__ import annotations

import re


def number(value):
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def cells(row):
    spread = " to ".join(number(v) for v in row["spread"]) if row["spread"] and row["rounds"] > 1 else ""
    ratio = f"{row['ratio_to_floor']:.2f}" if row["ratio_to_floor"] else ""
    return [row["case"], row["side"], number(row["median"]), row["unit"], spread, ratio, row["note"]]


HEADS = ["case", "side", "median", "unit", "spread", "ratio to the floor", "note"]


def shown(report):
    from rich.console import Console
    from rich.table import Table

    table = Table(*HEADS, title=f"{report['machine']}; load {report['load']:.1f}; {report['seconds']} s")
    before = ""
    for row in report["rows"]:
        if before and row["case"] != before:
            table.add_section()
        table.add_row(*(["", *cells(row)[1:]] if row["case"] == before else cells(row)))
        before = row["case"]
    Console(width=150).print(table)


def markdown(report, pictures=()):
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    pieces = f", in {report['pieces']} pieces" if report.get("pieces") else ""
    lines = [
        "# Benchmarks",
        "",
        f"Written by `make bench{' QUICK=1' if report['quick'] else ''}` in {report['seconds']} s{pieces}. {report['machine']};"
        f" load average {report['load']:.1f}. {versions}.",
        "",
        "A scripted OpenAI-compatible server on loopback, real HTTP, each side in a process of its own, in turns. The floor is"
        " bare LiteLLM (`litellm.acompletion` with the same prompts) unless the row says otherwise. Spread is least to most.",
        "",
        *(f"Not measured: {name} ({why})." for name, why in report["peers"].items() if why != "measured"),
        *([f"Left out for time: {', '.join(report['left_out'])}."] if report["left_out"] else []),
        "",
        *(f"![{name.replace('_', ' ')}]({name}.svg)\n" for name in pictures),
        f"| {' | '.join(HEADS)} |",
        f"|{'---|' * len(HEADS)}",
        *(f"| {' | '.join(cell.replace('|', '/') for cell in cells(row))} |" for row in report["rows"]),
        "",
    ]
    return "\n".join(lines)


# What the README shows: cases, and how they are called there; sides, each by the names it goes by.
SUMMARY = {
    "import": "import",
    "run of 2": "a run of two iterations",
    "each further iteration": "each further iteration",
    "100 MB input": "a run over 100 MB",
    "50 on 200 MB": "50 runs over one text of 200 MB",
    "1000 sub-calls of 100 ms": "1,000 sub-calls of 100 ms",
    "calls a second, 64 in flight": "calls a second of one process, 64 in flight",
    "128 runs of 5 x 200 ms": "128 runs at once, 5 calls of 200 ms each",
    "prompts of 20 iterations, all": "all prompts of a run of 20",
}
SIDES = {
    "dszig_py": ("ours", "dszig_py"),
    "`direct:`": ("ours, direct", "bare direct"),
    "LiteLLM alone": ("bare LiteLLM", "LiteLLM"),
    "dspy.RLM": ("dspy.RLM", "dspy"),
    "alexzhang13/rlm": ("alexzhang13/rlm",),
    "predict-rlm": ("predict-rlm",),
}
BEGIN, END = "<!-- written by make bench -->\n", "<!-- end of what make bench writes -->\n"


def summary(report):
    """The README's table: medians of some cases, a column for each side."""
    found = {(row["case"], row["side"]): row for row in report["rows"] if row["median"] is not None}
    lines = [f"| | {' | '.join(SIDES)} |", f"|---|{'---|' * len(SIDES)}"]
    for case, told in SUMMARY.items():
        rows = [next((found[case, n] for n in names if (case, n) in found), None) for names in SIDES.values()]
        shown = ["" if row is None else f"{number(row['median'])} {row['unit']}" for row in rows]
        lines.append(f"| {told} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def into_readme(readme, report):
    """``readme`` with the table in its place."""
    before, rest = readme.split(BEGIN)
    return before + BEGIN + summary(report) + END + rest.split(END)[1]


def plots(report, folder):
    """Seconds over the size of the case, where matplotlib is installed; the names of the pictures."""
    try:
        import matplotlib as mpl
    except ImportError:
        return []
    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "benchmarks"  # the same picture is the same file
    from matplotlib import pyplot as plt

    drawn = []
    for name, ending in (("fan_out", "sub-calls of 100 ms"), ("inputs", "MB input"), ("runs", "runs of 5 x 200 ms")):
        lines: dict[str, list[tuple[int, float]]] = {}
        for row in report["rows"]:
            if (found := re.fullmatch(rf"(\d+) {ending}", row["case"])) and row["median"] is not None:
                lines.setdefault(row["side"], []).append((int(found[1]), row["median"]))
        if not lines:
            continue
        figure, axes = plt.subplots(figsize=(7, 4))
        for side, points in lines.items():
            axes.plot(*zip(*sorted(points), strict=True), marker="o", label=side)
        axes.set(xscale="log", yscale="log", xlabel=ending, ylabel="seconds")
        axes.legend(fontsize=7)
        figure.savefig(folder / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
        plt.close(figure)
        drawn.append(name)
    return drawn
