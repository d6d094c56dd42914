"""Build the site of the pages with Zensical, in build/site or a folder that you name; a broken link is an error.

    python docs/build.py [FOLDER]

The pages are copied with the files to which they link, so that a link works in the repository and on the site.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LINKED = ("*.md", "docs", "results", "pipeline", "stages", "benchmarks", "presets", "params.yaml")


def build(folder: Path) -> int:
    """Copy the pages below a folder and build the site there; returns the exit status."""
    shutil.rmtree(folder / "pages", ignore_errors=True)
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *LINKED]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():  # a deleted file is listed until it is committed
            (folder / "pages" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "pages" / name)
    shutil.copy(ROOT / "zensical.toml", folder)
    return subprocess.run([sys.executable, "-m", "zensical", "build", "--strict"], cwd=folder, check=False).returncode


if __name__ == "__main__":
    sys.exit(build(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build")))
