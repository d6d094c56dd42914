"""Print tables about the content of a data set, before a training uses it."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.preparation.survey import Survey

BAR = 10  # length of the longest bar, in characters
SIZES = 4  # number of image sizes that are printed


def show(name: str, result: Survey, console: Console | None = None) -> None:
    """Print splits, image sizes, the class histogram, all warnings and all errors.

    Args:
        name: key of the data set.
        console: where to print; None: standard output.
    """
    console = console or Console()
    console.print(_splits(name, result))
    console.print(_classes(result))
    for warning in (*result.absences(), *result.warnings):
        console.print(Text(f"warning: {warning}", style="yellow"), soft_wrap=True)
    if result.problems:
        console.print(f"\n[bold red]{len(result.problems)} error{'s' if len(result.problems) > 1 else ''}[/]")
        for problem in result.problems:
            console.print(Text(f"  {problem}"), soft_wrap=True)
    else:
        console.print("[green]no errors[/]")


def _splits(name: str, result: Survey) -> Table:
    title = f"{name}: {result.labels.num_classes} classes"
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for column, side in (("split", "left"), ("samples", "right"), ("valid", "right"), ("ignored", "right")):
        table.add_column(column, justify="right" if side == "right" else "left")
    table.add_column("sizes (height x width)")
    for split, names in result.names.items():
        counts = result.counts[split]
        pixels = int(counts.pixels.sum()) + counts.ignored
        sizes = [f"{height}x{width} ({count})" for (height, width), count in counts.sizes.most_common(SIZES)]
        more = f", {len(counts.sizes) - SIZES} more" if len(counts.sizes) > SIZES else ""
        ignored = f"{counts.ignored / pixels:.1%}" if pixels else "-"
        table.add_row(split, str(len(names)), str(counts.sizes.total()), ignored, ", ".join(sizes) + more)
    return table


def _classes(result: Survey) -> Table:
    """Share of the labelled pixels, with a bar, and number of images, for each class with pixels, in each split."""
    title = "classes: share of the labelled pixels, number of images with the class"
    table = Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
    )
    table.add_column("id", justify="right")
    table.add_column("class", no_wrap=True)
    for split in result.names:
        table.add_column(split, justify="right")
        table.add_column("")
        table.add_column("images", justify="right")
    shares = {split: counts.shares() for split, counts in result.counts.items()}
    top = max((float(share.max()) for share in shares.values()), default=0.0) or 1.0
    for index, name in enumerate(result.labels.names):
        if not any(counts.pixels[index] for counts in result.counts.values()):
            continue  # a warning below the table names it
        colour = "#{:02x}{:02x}{:02x}".format(*result.labels.palette[index])
        row: list[str | Text] = [str(index), Text.assemble(("■ ", colour), name)]
        for split, counts in result.counts.items():
            share = float(shares[split][index])
            row.append(f"{share:.2%}" if counts.pixels[index] else Text("-", style="dim"))
            row.append(Text("▇" * max(round(BAR * share / top), 1 if share else 0), style=colour))
            row.append(str(counts.images[index]))
        table.add_row(*row)
    return table
