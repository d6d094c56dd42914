"""What a data set holds, before anything is trained on it: tables in the terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.survey import Survey

BAR = 10  # characters of the longest bar
SIZES = 4  # image sizes that are named


def show(name: str, found: Survey, console: Console | None = None) -> None:
    """Print splits, sizes, the histogram of classes, every warning and every fault.

    Args:
        name: key of the data set.
        console: where to; standard output when it is None.
    """
    console = console or Console()
    console.print(_splits(name, found))
    console.print(_classes(found))
    for warning in (*found.absences(), *found.warnings):
        console.print(Text(f"warning: {warning}", style="yellow"), soft_wrap=True)
    if found.faults:
        console.print(f"\n[bold red]{len(found.faults)} fault{'s' if len(found.faults) > 1 else ''}[/]")
        for fault in found.faults:
            console.print(Text(f"  {fault}"), soft_wrap=True)
    else:
        console.print("[green]no fault[/]")


def _splits(name: str, found: Survey) -> Table:
    title = f"{name}: {found.labels.num_classes} classes"
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for column, side in (("split", "left"), ("samples", "right"), ("sound", "right"), ("ignored", "right")):
        table.add_column(column, justify="right" if side == "right" else "left")
    table.add_column("sizes (height x width)")
    for split, names in found.names.items():
        counts = found.counts[split]
        pixels = int(counts.pixels.sum()) + counts.ignored
        sizes = [f"{height}x{width} ({count})" for (height, width), count in counts.sizes.most_common(SIZES)]
        more = f", {len(counts.sizes) - SIZES} more" if len(counts.sizes) > SIZES else ""
        ignored = f"{counts.ignored / pixels:.1%}" if pixels else "-"
        table.add_row(split, str(len(names)), str(counts.sizes.total()), ignored, ", ".join(sizes) + more)
    return table


def _classes(found: Survey) -> Table:
    """Share of labelled pixels, with a bar, and number of images, for each class that is there and each split."""
    title = "classes: share of the labelled pixels, images that show it"
    table = Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
    )
    table.add_column("id", justify="right")
    table.add_column("class", no_wrap=True)
    for split in found.names:
        table.add_column(split, justify="right")
        table.add_column("")
        table.add_column("images", justify="right")
    shares = {split: counts.shares() for split, counts in found.counts.items()}
    top = max((float(share.max()) for share in shares.values()), default=0.0) or 1.0
    for index, name in enumerate(found.labels.names):
        if not any(counts.pixels[index] for counts in found.counts.values()):
            continue  # named below the table
        colour = "#{:02x}{:02x}{:02x}".format(*found.labels.palette[index])
        row: list[str | Text] = [str(index), Text.assemble(("■ ", colour), name)]
        for split, counts in found.counts.items():
            share = float(shares[split][index])
            row.append(f"{share:.2%}" if counts.pixels[index] else Text("-", style="dim"))
            row.append(Text("▇" * max(round(BAR * share / top), 1 if share else 0), style=colour))
            row.append(str(counts.images[index]))
        table.add_row(*row)
    return table
