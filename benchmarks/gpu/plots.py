"""The pictures and tables of `docs/performance.md`: `python -m benchmarks.gpu.plots RESULT -o docs/images`.

Each is made of rows that were measured; where there are none it is left out, and said so.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes

mpl.use("Agg")
from matplotlib import pyplot

Row = Mapping[str, Any]
Rows = Sequence[Row]


def measured(result: Mapping[str, Any], section: str) -> list[Row]:
    """The rows of a section that have figures."""
    rows: Rows = result["sections"].get(section, {}).get("rows", ())
    return [row for row in rows if row["measured"]]


def plot_throughput(result: Mapping[str, Any], axis: Axes) -> bool:
    """Images per second by batch, of each network with copies and without, its bound, and the official code's best."""
    rows = measured(result, "throughput")
    for index, name in enumerate(dict.fromkeys(map(_network, rows))):
        own = [row for row in rows if _network(row) == name]
        batches, colour = [row["batch"] for row in own], f"C{index}"
        axis.plot(batches, [row["images_per_second"] for row in own], "o-", color=colour, label=name)
        axis.plot(batches, [row["device_images_per_second"] for row in own], ":", color=colour, label="without copies")
        bounds = [1000 * row["batch"] / row["roofline_ms"] for row in own]
        axis.plot(batches, bounds, "--", color=colour, alpha=0.5, label="bound")
        for key, word in (("official_images_per_second", "eager"), ("official_compiled_images_per_second", "compiled")):
            if (best := own[0].get(key)) is not None:
                axis.axhline(best, color=colour, lw=0.8, ls="-." if word == "eager" else "-", label=f"official, {word}")
    axis.set(xlabel="batch", ylabel="images per second", xscale="log", ylim=(0, None))
    batches = sorted({row["batch"] for row in rows})
    axis.set_xticks(batches, list(map(str, batches)))
    axis.minorticks_off()
    return bool(rows)


def plot_parts(result: Mapping[str, Any], axis: Axes) -> bool:
    """Milliseconds of each part of a network."""
    rows = [row for row in measured(result, "parts") if row.get("parts_ms")]
    if rows:
        parts = dict(sorted(rows[0]["parts_ms"].items(), key=lambda part: part[1]))
        axis.barh(list(parts), list(parts.values()))
        axis.set(xlabel=f"ms per batch of {rows[0].get('batch', 1)}, {_network(rows[0])}")
    return bool(rows)


def plot_server(result: Mapping[str, Any], axis: Axes) -> bool:
    """The server's share of the bare engine's throughput, by kind of request, and what it waits for."""
    rows = [row for row in measured(result, "server") if row.get("engine_share") is not None]
    names = [f"{row['name']}, {row['streams']} stream{'s' * (row['streams'] > 1)}" for row in rows]
    axis.barh(names, [100 * row["engine_share"] for row in rows])
    for at, row in enumerate(rows):
        axis.text(1, at, f" {row['images_per_second']:.1f}/s, bottleneck: {row['bottleneck']}", va="center", fontsize=7)
    axis.set(xlabel="% of the bare engine's images per second")
    axis.invert_yaxis()
    return bool(rows)


def plot_finish(result: Mapping[str, Any], axis: Axes) -> bool:
    """What finishing costs the host, and the device, by the size of the image."""
    rows = measured(result, "finish")
    for place, key, colour in (("host", "host_cpu_ms", "C0"), ("device", "median_ms", "C1")):
        for colours in (False, True):
            own = [row for row in rows if (row["place"], row["colours"]) == (place, colours)]
            sizes = [row["size"][0] * row["size"][1] / 1e6 for row in own]
            costs = [row["time"][key] if place == "device" else row[key] for row in own]
            what = "matte and colours" if colours else "matte"
            label = f"{what}: {'core of the host' if place == 'host' else 'device, with its copies'}"
            axis.plot(sizes, costs, "o-" if colours else "o--", color=colour, label=label)
    axis.set(xlabel="megapixels", ylabel="ms", yscale="log")
    return bool(rows)


PLOTS: Mapping[str, Callable[[Mapping[str, Any], Axes], bool]] = {
    "gpu-throughput.png": plot_throughput,
    "gpu-parts.png": plot_parts,
    "gpu-server.png": plot_server,
    "gpu-finish.png": plot_finish,
}


def throughput_table(result: Mapping[str, Any]) -> str:
    """Speed, quality and share of the bound in one row each, as Markdown."""
    lines = [
        "| network | precision | batch | images/s | ms | share of the bound | MiB | max \\|Δα\\| | mean \\|Δα\\| |"
    ]
    lines.append("| --- | --- " + "| ---: " * 7 + "|")
    for row in measured(result, "throughput"):
        lines.append(
            f"| {_network(row)} | {row['precision']} | {row['batch']} | {row['images_per_second']:.1f} "
            f"| {row['time']['median_ms']:.2f} | {100 * row['roofline_share']:.0f} % | {row['reserved_mib']:.0f} "
            f"| {row['max_abs']:.1e} | {row['mean_abs']:.1e} |"
        )
    return "\n".join(lines)


def server_table(result: Mapping[str, Any]) -> str:
    """What the live server does, of what the engine alone does, and why not more, as Markdown."""
    lines = [
        "| requests | streams | images/s | of the engine | bottleneck | mean batch |",
        "| --- " + "| ---: " * 5 + "|",
    ]
    for row in measured(result, "server"):
        if "clients" in row:
            share = f"{100 * row['engine_share']:.0f} %" if row["engine_share"] is not None else "not measured"
            lines.append(
                f"| {row['name']} | {row['streams']} | {row['images_per_second']:.1f} | {share} | {row['bottleneck']} "
                f"| {row['mean_batch']:.1f} |"
            )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw, and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.plots", description=__doc__)
    parser.add_argument("result", type=Path, help="of python -m benchmarks.gpu, or of its merge")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder of the pictures")
    arguments = parser.parse_args(argv)
    result = json.loads(arguments.result.read_text(encoding="utf-8"))
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, draw in PLOTS.items():
        if not _draw(result, draw, arguments.out / name):
            print(f"{name}: nothing of it was measured", file=sys.stderr)
    print(throughput_table(result), server_table(result), sep="\n\n")
    return 0


def _draw(result: Mapping[str, Any], draw: Callable[[Mapping[str, Any], Axes], bool], path: Path) -> bool:
    figure, axis = pyplot.subplots(figsize=(8, 4.5))
    drawn = draw(result, axis)
    if drawn:
        machine = result["machine"]
        axis.set_title(f"{machine['gpu']['name']}, {machine['commit']['sha'][:10]}", fontsize=9)
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=7)
        figure.tight_layout()
        figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
    return drawn


def _network(row: Row) -> str:
    return f"{row['backbone']} {row['size'][0]}×{row['size'][1]}"


if __name__ == "__main__":
    raise SystemExit(main())
