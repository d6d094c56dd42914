"""The Markdown pages: their text, links, anchors and commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
#: Programs whose arguments are checked, and those that are not ours.
OURS = ("python", "segpress", "infer.py", "dvc", "torchrun", "accelerate", "make", "pip")
THEIRS = ("tar", "sh", "ffmpeg", "exiftool", "apt", "cp", "ssh", "pytest", "pre-commit")


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def anchors(text: str) -> set[str]:
    """Anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*?) *$", FENCE.sub("", text), flags=re.MULTILINE)
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


def links(text: str) -> list[str]:
    """Targets of the links and pictures of a page, outside of code."""
    prose = re.sub(r"`[^`]*`", "``", FENCE.sub("", text))
    return re.findall(r"\]\(([^)\s]+)\)", prose)


def commands(text: str) -> Iterator[list[str]]:
    """The commands of a page, split into arguments: those in blocks, and those with arguments in lines of text."""
    for language, block in FENCE.findall(text):
        if language in ("", "sh", "bash", "console"):
            yield from block_commands(block)
    for code in re.findall(r"`([^`]+)`", FENCE.sub("", text)):
        for command in split(" ".join(code.split()), {}):
            words = 2 if command[0] == "python" else 1  # more than the name of a script
            if len(command) > words and command[0] in OURS and "…" not in code:
                yield command


def block_commands(block: str) -> Iterator[list[str]]:
    """The commands of a block that begins with a command; none of any other block, such as a tree of files.

    Raises:
        AssertionError: a line begins with an unknown program.
    """
    variables: dict[str, str] = {}
    lines = [line for line in block.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]
    found = [command for line in lines for command in split(line, variables)]
    if found and found[0][0] in (*OURS, *THEIRS):
        unknown = [command for command in found if command[0] not in (*OURS, *THEIRS)]
        assert not unknown, f"no program of ours, nor one in THEIRS: {unknown}"
        yield from (command for command in found if command[0] in OURS)


def split(line: str, variables: dict[str, str]) -> Iterator[list[str]]:
    """The commands of a line; ``NAME=value`` in front is taken off, and alone it is a variable for later lines."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError:  # text with an apostrophe: no command
        return
    command: list[str] = []
    for word in [*words, ";"]:
        if word[0] not in "|&;<>":
            command.append(word)
            continue
        while command and (assignment := re.fullmatch(r"([A-Z_]+)=(.*)", command[0])):
            command.pop(0)
            if not command:
                variables[assignment[1]] = assignment[2]
        if command and word[0] not in "<>":
            yield [re.sub(r"\$(\w+)", lambda found: variables.get(found[1], found[0]), part) for part in command]
            command = []
