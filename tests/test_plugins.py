"""The contract of every plugin of every kind, and what happens to a file that breaks it."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from pipeline import datasets, losses, models, plugins, runtimes
from pipeline.errors import UserError
from pipeline.models.weights.initial import InitialWeights

ALL = [(kind, name) for kind in plugins.KINDS for name in plugins.available(kind)]
FOLDER = Path(plugins.__file__).parent


def test_every_kind_has_plugins() -> None:
    names = {kind: [name for other, name in ALL if other == kind] for kind in plugins.KINDS}
    assert {"camvid", "streets"} <= set(names["datasets"])
    assert {"kd", "none"} <= set(names["losses"])
    assert {"smp"} <= set(names["models"])
    assert {"onnxruntime", "tensorrt", "tensorrt_rtx"} <= set(names["runtimes"])


def test_every_file_is_a_plugin_or_private() -> None:
    for kind in plugins.KINDS:
        public = [path.stem for path in (FOLDER / kind).glob("*.py") if not path.stem.startswith("_")]
        assert sorted(public) == plugins.available(kind)


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_loads_as_one_concrete_class_of_its_kind(kind: str, name: str) -> None:
    plugin = plugins.load(kind, name)
    assert issubclass(plugin, importlib.import_module(f"pipeline.{kind}._base").PLUGIN)
    assert not inspect.isabstract(plugin), plugin.__abstractmethods__


def constructor_arguments(plugin: type[Any]) -> dict[str, inspect.Parameter]:
    """Of the constructor that is ours; none when it is inherited from another library."""
    owner = next(cls for cls in plugin.__mro__ if "__init__" in vars(cls))
    if not owner.__module__.startswith("pipeline."):
        return {}
    arguments = dict(inspect.signature(owner.__init__).parameters)
    del arguments["self"]
    return arguments


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_arguments_are_keyword_only_and_annotated(kind: str, name: str) -> None:
    plugin = plugins.load(kind, name)
    arguments = constructor_arguments(plugin)
    hints = get_type_hints(plugin.__init__)
    for argument, parameter in arguments.items():
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY, argument
        assert argument in hints, argument
    assert plugins.signature(plugin).keys() == arguments.keys()


def documented(plugin: type[Any]) -> list[str]:
    """Names in the Args section of a docstring: ``name:`` or ``name, other:``."""
    section = re.search(r"^Args:\n((?:    .*\n|\n)+)", (inspect.getdoc(plugin) or "") + "\n", re.MULTILINE)
    heads = re.findall(r"^    (\w[\w, ]*):", section.group(1), re.MULTILINE) if section else []
    return [name.strip() for head in heads for name in head.split(",")]


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_docstring_has_a_first_line_and_names_every_argument(kind: str, name: str) -> None:
    plugin = plugins.load(kind, name)
    assert plugin.__doc__ and plugin.__doc__.split("\n")[0].strip().endswith(".")
    assert sorted(documented(plugin)) == sorted(constructor_arguments(plugin))


def test_unknown_kind_and_unknown_plugin_name_the_closest() -> None:
    with pytest.raises(UserError, match="no plugin kind 'loses'; did you mean 'losses'"):
        plugins.available("loses")
    with pytest.raises(UserError, match="pipeline/losses has no plugin 'fitnett'; did you mean 'fitnet'"):
        plugins.load("losses", "fitnett")


@pytest.mark.parametrize("name", ["_base", "__init__", "../losses/kd", "kd.py", ""])
def test_private_files_and_paths_are_no_plugins(name: str) -> None:
    with pytest.raises(UserError, match="has no plugin"):
        plugins.load("losses", name)


def test_public_doors_agree() -> None:
    for module, kind in ((datasets, "datasets"), (losses, "losses"), (models, "models"), (runtimes, "runtimes")):
        assert module.available() == plugins.available(kind)


HEAD = "from pipeline.datasets._base import Dataset\n\n\n"
ONE = "class {name}(Dataset):\n    def splits(self): return {{}}\n    def read(self, split, name): ...\n\n\n"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Write ``pipeline/datasets/<name>.py``, in a folder of this test."""
    folder = tmp_path / "datasets"
    folder.mkdir()
    monkeypatch.setattr(plugins, "__file__", str(tmp_path / "plugins.py"))
    monkeypatch.setattr(datasets, "__path__", [*datasets.__path__, str(folder)])
    before = set(sys.modules)

    def file(name: str, text: str) -> None:
        (folder / f"{name}.py").write_text(HEAD + text)
        importlib.invalidate_caches()

    yield file
    for module in set(sys.modules) - before:
        if module.startswith("pipeline.datasets."):
            del sys.modules[module]


def test_a_new_file_is_a_plugin(write: Callable[[str, str], None]) -> None:
    write("mine", ONE.format(name="Mine") + ONE.format(name="_Helper") + "Old = Mine\nLimit = 5\n")
    assert plugins.available("datasets") == ["mine"]
    assert plugins.load("datasets", "mine").__name__ == "Mine"


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("class Stranger: ...\n", "none"),
        (ONE.format(name="_Private"), "none"),
        (ONE.format(name="First") + ONE.format(name="Second"), "First, Second"),
    ],
)
def test_a_file_without_exactly_one_class_is_refused(write: Callable[[str, str], None], text: str, got: str) -> None:
    write("mine", text)
    with pytest.raises(UserError, match=f"mine.py must hold exactly one public Dataset; it holds {got}$"):
        plugins.load("datasets", "mine")


def test_a_type_alias_is_no_class(write: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    write("mine", ONE.format(name="Mine") + "import types\nMany = types.GenericAlias(Mine, (int,))\n")
    isclass = inspect.isclass
    monkeypatch.setattr(  # what Python 3.10 says
        inspect, "isclass", lambda value: isclass(value) or isinstance(value, types.GenericAlias)
    )
    assert plugins.load("datasets", "mine").__name__ == "Mine"


CONSTRUCTOR = "    def __init__(self, *, root: str, num_classes: int, size: int = 3) -> None:\n        self.got = {0}\n"


def test_build_passes_options_and_the_offered_facts_of_the_signature(write: Callable[[str, str], None]) -> None:
    got = "dict(root=root, num_classes=num_classes, size=size)"
    write("mine", ONE.format(name="Mine").rstrip() + "\n" + CONSTRUCTOR.format(got))
    plugin = plugins.build("datasets", "mine", {"root": "r"}, num_classes=7, teacher_channels=64)
    assert plugin.got == {"root": "r", "num_classes": 7, "size": 3}


def test_build_refuses_every_wrong_option_at_once(write: Callable[[str, str], None]) -> None:
    write("mine", ONE.format(name="Mine").rstrip() + "\n" + CONSTRUCTOR.format("None"))
    with pytest.raises(UserError) as caught:
        plugins.build("datasets", "mine", {"sise": 1, "num_classes": 9}, num_classes=7)
    assert str(caught.value).split("\n") == [
        "datasets.mine: 3 problems",
        "  sise: unknown option; did you mean 'size'?",
        "  num_classes: unknown option; allowed: root, size",
        "  root: missing; it has no default",
    ]
    with pytest.raises(UserError, match="1 problem\n  num_classes: missing"):
        plugins.build("datasets", "mine", {"root": "r"})


SHARED = """
from dataclasses import dataclass

@dataclass(frozen=True, kw_only=True)
class Files:
    root: str
    suffix: str = ".png"


class Mine(Dataset):
    def __init__(self, *, files: Files, size: int = 3) -> None:
        self.got = (files, size)
    def splits(self): return {}
    def read(self, split, name): ...
"""


def test_fields_of_a_dataclass_are_keys_of_the_section(write: Callable[[str, str], None]) -> None:
    """Plugins share options, and params.yaml stays flat."""
    write("mine", SHARED)
    assert list(plugins.keys(plugins.load("datasets", "mine"))) == ["root", "suffix", "size"]
    files, size = plugins.build("datasets", "mine", {"root": "r", "size": 5}).got
    assert (files.root, files.suffix, size) == ("r", ".png", 5)
    with pytest.raises(UserError) as caught:
        plugins.build("datasets", "mine", {"files": {"root": "r"}, "sufix": ".jpg"})
    assert str(caught.value).split("\n") == [
        "datasets.mine: 3 problems",
        "  files: unknown option; allowed: root, size, suffix",
        "  sufix: unknown option; did you mean 'suffix'?",
        "  root: missing; it has no default",
    ]


def test_shared_options_of_networks_are_documented_once() -> None:
    section = inspect.getdoc(InitialWeights) or ""
    for field in fields(InitialWeights):
        assert re.search(rf"^    {field.name}: ", section, re.MULTILINE), field.name
    for name in models.available():
        assert {field.name for field in fields(InitialWeights)} <= set(plugins.keys(plugins.load("models", name)))
