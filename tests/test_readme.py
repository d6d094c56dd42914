"""The tree is true. Other checks of the pages are in tests/docs."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]


def named_paths(tree: str) -> list[str]:
    """The paths of a tree in a block of code: two spaces more is one level deeper, and folders end with ``/``."""
    block = tree.split("```")[1].strip("\n")
    parents: list[str] = []
    paths = []
    for line in block.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.split()[0]
        del parents[depth:]
        paths.append("".join([*parents, name]))
        parents.append(name)
    return paths


def missing_and_unknown(paths: list[str], root: Path) -> tuple[set[str], set[str]]:
    """Files of code that a tree does not name, and paths of it that do not exist.

    A folder without files in the tree means all its files.
    """
    whole = [
        path
        for path in paths
        if path.endswith("/") and not any(other.startswith(path) for other in paths if other != path)
    ]
    code = {
        path.relative_to(root).as_posix()
        for folder in ("pipeline", "stages")
        for path in (root / folder).rglob("*.py")
        if path.name != "__init__.py"
    }
    missing = {path for path in code if path not in paths and not path.startswith(tuple(whole))}
    return missing, {path for path in paths if not (root / path).exists()}


def test_the_tree_names_every_file_of_the_library_and_no_other() -> None:
    paths = named_paths((ROOT / "docs/tree.md").read_text(encoding="utf-8"))
    assert len(paths) == len(set(paths)) and "pipeline/errors.py" in paths
    assert missing_and_unknown(paths, ROOT) == (set(), set())


def test_whole_paths_are_compared(tmp_path: Path) -> None:
    for path in ("pipeline/a/one.py", "pipeline/b/two.py", "pipeline/parts/three.py", "stages/one.py"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    lines = ["pipeline/", "  a/", "    two.py  elsewhere", "  b/", "    two.py", "  parts/  all", "stages/", "  one.py"]
    missing, unknown = missing_and_unknown(named_paths("\n".join(["```", *lines, "```"])), tmp_path)
    assert missing == {"pipeline/a/one.py"} and unknown == {"pipeline/a/two.py"}
