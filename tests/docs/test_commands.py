"""Commands in the pages are ones that their programs accept; nothing is computed.

The arguments of scripts and verbs go through their real parsers. Values for DVC (``-S``) are written into a copy of
params.yaml, which is then checked as a whole. These tests run the commands: ``tests/pipeline_run`` (the graph, and the
launch lines of docs/scaling.md), ``tests/imported/test_own_network.py`` (docs/own-network.md), ``tests/video``
(``infer``).
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import re
import shutil
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tomllib
from ruamel.yaml import YAML

from pipeline.settings import params, presets
from tests.docs import pages

ROOT = pages.ROOT
COMMANDS = [
    pytest.param(command, id=f"{pages.name(page)}: {' '.join(command)[:80]}")
    for page in pages.PAGES
    for command in dict.fromkeys(map(tuple, pages.commands(page.read_text(encoding="utf-8"))))
]


class AcceptedError(Exception):
    """The parser has accepted the arguments: the program would begin to work now."""


@cache
def script(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"documented_{path.parent.name}_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def parse(main: Callable[[], Any], patch: pytest.MonkeyPatch, command: list[str]) -> None:
    """Call ``main`` and stop it as soon as it has parsed the arguments."""

    def stopped(parse: Callable[..., Any]) -> Callable[..., None]:
        def parsed(*args: Any, **kwargs: Any) -> None:
            parse(*args, **kwargs)
            raise AcceptedError

        return parsed

    patch.setattr(sys, "argv", command)
    for name in ("parse_args", "parse_intermixed_args"):
        patch.setattr(argparse.ArgumentParser, name, stopped(getattr(argparse.ArgumentParser, name)))
    with pytest.raises(AcceptedError):
        main()


def check_python(command: list[str], patch: pytest.MonkeyPatch, folder: Path) -> None:
    if command[0] == "-m":
        assert importlib.util.find_spec(command[1]), f"python -m {command[1]}: no such module"
        return
    path = ROOT / command[0]
    assert path.is_file(), f"{command[0]}: no such file"
    if path.parent.name == "docs":
        return  # no arguments
    parse(script(path).main, patch, command)


def check_segpress(command: list[str], patch: pytest.MonkeyPatch, folder: Path) -> None:
    verbs = importlib.import_module("pipeline.verbs")
    if len(command) == 1:  # the page names a verb
        assert command[0] in (*verbs.available(), "--help")
        return
    parse(lambda: verbs.run(command[0], command[1:]), patch, ["segpress", *command])


def check_infer(command: list[str], patch: pytest.MonkeyPatch, folder: Path) -> None:
    check_python(["stages/infer.py", *command], patch, folder)


def check_dvc(command: list[str], patch: pytest.MonkeyPatch, folder: Path) -> None:
    from dvc.cli.parser import get_main_parser  # noqa: PLC0415
    from dvc.utils.hydra import apply_overrides  # noqa: PLC0415

    given = get_main_parser().parse_args(command)
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    if command[0] in ("repro", "commit"):
        assert [target for target in given.targets if target.partition("@")[0] not in stages] == []
    if changes := getattr(given, "set_param", None):
        shutil.copy(ROOT / "params.yaml", folder)
        presets.apply("streets", folder / "params.yaml")
        apply_overrides(folder / "params.yaml", changes)
        params.load(folder / "params.yaml")


def check_torchrun(command: list[str], patch: pytest.MonkeyPatch, folder: Path) -> None:
    from torch.distributed.run import get_args_parser  # noqa: PLC0415

    given = get_args_parser().parse_args(command)
    check_python([given.training_script, *given.training_script_args], patch, folder)


def check_accelerate(command: list[str], patch: pytest.MonkeyPatch, folder: Path) -> None:
    from accelerate.commands.launch import launch_command_parser  # noqa: PLC0415

    assert command[0] == "launch"
    given = launch_command_parser().parse_args(command[1:])
    check_python([given.training_script, *given.training_script_args], patch, folder)


def check_make(command: list[str], patch: pytest.MonkeyPatch, folder: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert {word for word in command if "=" not in word} <= targets


def check_pip(command: list[str], patch: pytest.MonkeyPatch, folder: Path) -> None:
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    own = [word for word in command if word.startswith(".[")]
    assert {extra for word in own for extra in word[2:-1].split(",")} <= extras


CHECKS = {
    "python": check_python,
    "segpress": check_segpress,
    "infer.py": check_infer,
    "dvc": check_dvc,
    "torchrun": check_torchrun,
    "accelerate": check_accelerate,
    "make": check_make,
    "pip": check_pip,
}


def test_every_program_of_ours_is_checked_and_documented() -> None:
    assert set(CHECKS) == set(pages.OURS)
    programs = {param.values[0][0] for param in COMMANDS}
    assert {"python", "dvc", "torchrun", "accelerate", "make", "pip"} <= programs
    assert len(COMMANDS) > 40


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_accepted(command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    words = [word for index, word in enumerate(command) if "..." not in (word, *command[index + 1 : index + 2])]
    CHECKS[command[0]](words[1:], monkeypatch, tmp_path)


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("python stages/report.py --results results --shwo", SystemExit),
        ("python stages/absent.py", AssertionError),
        ("dvc exp run -S students.kd.loss=absent", params.UserError),
        ("dvc repro absent", AssertionError),
        ("make absent", AssertionError),
        ("pip install '.[absent]'", AssertionError),
    ],
)
def test_a_wrong_command_fails(
    line: str, wrong: type[BaseException], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (command,) = pages.split(line, {})
    with pytest.raises(wrong):
        CHECKS[command[0]](command[1:], monkeypatch, tmp_path)


def test_commands_are_found() -> None:
    block = "X=1\nY=2 dvc repro  # why\npython a.py $X \\\n  'b c' && tar xzf d | sh e\n"
    text = f"`make a` and `dvc` `b c`\n\n```\n{block}```\n"
    assert list(pages.commands(text)) == [["dvc", "repro"], ["python", "a.py", "1", "b c"], ["make", "a"]]
    with pytest.raises(AssertionError, match="pyhton"):
        list(pages.commands("```\ndvc repro\npyhton a.py\n```\n"))
