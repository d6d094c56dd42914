"""params.yaml is checked as a whole: every problem at once, each with where, got, allowed and the closest name."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline import models, plugins
from pipeline.errors import UserError
from pipeline.models import NetworkFacts
from pipeline.settings import params, plugin_options, training_params

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "params.yaml"
MODEL = {"name": "smp", "architecture": "fpn", "encoder": "resnet18"}
STUDENT = {"model": MODEL, "loss": "kd"}


def refused(tmp_path: Path, change: Callable[[dict[str, Any]], object], **options: Any) -> list[str]:
    """The problems of the committed file after a change, without the line that counts them."""
    raw = YAML(typ="safe").load(COMMITTED.read_text())
    change(raw)
    file = tmp_path / "params.yaml"
    with file.open("w") as stream:
        YAML().dump(raw, stream)
    with pytest.raises(UserError) as caught:
        params.load(file, **options)
    first, *problems = str(caught.value).split("\n")
    assert first == f"{file}: {len(problems)} problem{'s' if len(problems) > 1 else ''}"
    return [problem.strip() for problem in problems]


def put(*path: Any) -> Callable[[dict[str, Any]], None]:
    """``put("seed", 3)`` sets a key, ``put("teacher", "model", "name", 3)`` a nested one."""
    *keys, last, value = path

    def change(raw: dict[str, Any]) -> None:
        for key in keys:
            raw = raw[key]
        raw[last] = value

    return change


def drop(*path: str) -> Callable[[dict[str, Any]], None]:
    *keys, last = path

    def change(raw: dict[str, Any]) -> None:
        for key in keys:
            raw = raw[key]
        del raw[last]

    return change


def test_the_committed_file_is_valid() -> None:
    settings = params.load(COMMITTED)
    assert settings.student("kd").loss in plugins.available("losses")
    assert settings.distill.seed is None and settings.distill_seed == settings.seed
    assert settings.runtime_options == YAML(typ="safe").load(COMMITTED.read_text())["convert"][settings.convert.runtime]
    assert params.defaults(settings.distill) == {}


def test_budgets_of_an_earlier_params_file_are_complete(tmp_path: Path) -> None:
    raw = YAML(typ="safe").load(COMMITTED.read_text())
    del raw["budgets"]["confidence"], raw["budgets"]["min_speedup"]
    with (tmp_path / "params.yaml").open("w") as stream:
        YAML().dump(raw, stream)
    assert params.load(tmp_path / "params.yaml", kinds=()).budgets == params.load(COMMITTED, kinds=()).budgets


def test_an_earlier_params_file_compares_and_exports_as_before(tmp_path: Path) -> None:
    raw = YAML(typ="safe").load(COMMITTED.read_text())
    for key in ("split", "weights", "budget", "minutes", "int8"):
        del raw["compare"][key]
    del raw["students"]["kd"]["export"]
    with (tmp_path / "params.yaml").open("w") as stream:
        YAML().dump(raw, stream)
    settings = params.load(tmp_path / "params.yaml", kinds=())
    assert settings.compare == params.load(COMMITTED, kinds=()).compare
    assert (settings.compare.split, settings.compare.weights, settings.compare.budget) == ("val", "best", "steps")
    assert settings.student("kd").export == "best"


def test_a_teacher_may_be_left_untrained(tmp_path: Path) -> None:
    raw = YAML(typ="safe").load(COMMITTED.read_text())
    raw["teacher"]["train"] = False
    with (tmp_path / "params.yaml").open("w") as stream:
        YAML().dump(raw, stream)
    assert params.load(tmp_path / "params.yaml").teacher.train is False
    assert isinstance(params.load(COMMITTED).teacher.train, training_params.Recipe)


def test_all_problems_of_a_file_are_reported_together(tmp_path: Path) -> None:
    def break_it(raw: dict[str, Any]) -> None:
        raw["sead"] = raw.pop("seed")
        raw["teacher"]["train"]["steps"] = "many"
        raw["teacher"]["model"]["encder"] = raw["teacher"]["model"].pop("encoder")
        raw["students"]["kd"].update(loss="kdd", los=1)
        raw["students"]["alone"]["loss"] = {"kd": {"temprature": 1.0}, "fitnt": {}}
        raw["losses"]["kd"]["temprature"] = 4.0
        raw["losses"]["fitnt"] = {}
        raw["convert"]["onnxruntime"]["threds"] = 2
        raw["convert"]["tensorrt"]["workspace_mib"] = "1 GB"
        raw["datasets"]["streets"].pop("val")
        raw["input_size"] = [100, 192]
        raw["check"] = None

    assert sorted(refused(tmp_path, break_it)) == [
        "check: got None; allowed: a section",
        "convert.onnxruntime.threds: unknown key; did you mean 'threads'?",
        "convert.tensorrt.workspace_mib: got '1 GB'; allowed: a valid integer",
        "datasets.streets.val: missing; it has no default",
        "input_size: got [100, 192]; height and width must be multiples of 8; use [104, 192]",
        "losses.fitnt: unknown key; did you mean 'fitnet'?",
        "losses.kd.temprature: unknown key; did you mean 'temperature'?",
        "sead: unknown key; did you mean 'seed'?",
        "seed: missing; it has no default",
        "students.alone.loss.kd.temprature: unknown key; did you mean 'temperature'?",
        "students.alone.loss: got 'fitnt'; pipeline/losses has no such file; did you mean 'fitnet'?",
        "students.kd.los: unknown key; did you mean 'loss'?",
        "students.kd.loss: got 'kdd'; pipeline/losses has no such file; did you mean 'kd'?",
        "teacher.model.encder: unknown key; did you mean 'encoder'?",
        "teacher.model.encoder: missing; it has no default",
        "teacher.train.steps: got 'many'; allowed: a valid integer",
    ]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (put("seed", "1"), "seed: got '1'; allowed: a valid integer"),
        (put("seed", True), "seed: got True; allowed: a valid integer"),
        (put("seed", 1.0), "seed: got 1.0; allowed: a valid integer"),
        (put("seed", -1), "seed: got -1; allowed: greater than or equal to 0"),
        (put("seed", 2**32), f"seed: got {2**32}; allowed: less than {2**32}"),
        (put("dataset", 5), "dataset: got 5; allowed: a valid string"),
        (put("input_size", 128), "input_size: got 128; allowed: a list of two numbers"),
        (put("input_size", [128, "192"]), "input_size.1: got '192'; allowed: a valid integer"),
        (put("input_size", [0, 192]), "input_size.0: got 0; allowed: greater than 0"),
        (put("input_size", [128]), "input_size.1: missing; it has no default"),
        (put("distill", "crop", [64, 65]), "distill.crop: got [64, 65]; height and width must be multiples of 8; use"),
        (put("distill", "scale", [2, 1]), "distill.scale: got [2, 1]; it must be [low, high] with 0 < low <= high"),
        (put("distill", "scale", [0, 1]), "distill.scale: got [0, 1]; it must be [low, high]"),
        (put("distill", "lr", True), "distill.lr: got True; allowed: a valid number"),
        (put("distill", "lr", float("inf")), "distill.lr: got inf; allowed: a finite number"),
        (put("distill", "lr", 0), "distill.lr: got 0; allowed: greater than 0"),
        (put("distill", "batch_size", 0), "distill.batch_size: got 0; allowed: greater than 0"),
        (put("distill", "steps", None), "distill.epochs: got None; the length of training is either steps or epochs"),
        (put("distill", "epochs", 2.5), "distill.epochs: got 2.5; the length of training is either steps or epochs"),
        (
            put("distill", "lr_factors", {"encoder": 1.0, "head": -1.0, "loss": 1.0}),
            "distill.lr_factors.head: got -1.0;",
        ),
        (put("distill", "lr_factors", {"encoder": 1.0, "head": 1.0}), "distill.lr_factors.loss: missing;"),
        (put("distill", "ema", 1.0), "distill.ema: got 1.0; allowed: less than 1"),
        (put("distill", "schedule", "step"), "distill.schedule: got 'step'; allowed: 'poly', 'cosine' or 'constant'"),
        (put("distill", "optimizer", "adam"), "distill.optimizer: got 'adam'; allowed: 'sgd' or 'adamw'"),
        (put("distill", None), "distill: got None; allowed: a section"),
        (drop("distill"), "distill: missing; it has no default"),
        (drop("students", "kd", "loss"), "students.kd.loss: missing; it has no default"),
        (put("students", {}), "students: got {}; dictionary should have at least 1 item"),
        (put("students", "a b", {"model": MODEL, "loss": "kd"}), "students.a b.[key]: got 'a b'; string should match"),
        (put("students", "../x", {"model": MODEL, "loss": "kd"}), "students.../x.[key]: got '../x'; string should"),
        (put("students", "teacher", STUDENT), "students.teacher: artifacts/curves/teacher is already"),
        (put("students", "comparison", STUDENT), "students.comparison: results/comparison.json is already"),
        (put("students", "comparison-a", STUDENT), "students.comparison-a: results/comparison-a.json is already"),
        (put("students", "kd", "loss", 5), "students.kd.loss: got 5; allowed: a name (kd), a list of names ([kd"),
        (put("students", "kd", "loss", None), "students.kd.loss: got None; allowed: a name (kd), a list"),
        (put("students", "kd", "loss", ["kd", 5]), "students.kd.loss: got ['kd', 5]; allowed: a name (kd), a list"),
        (put("students", "kd", "loss", []), "students.kd.loss: got []; at least one loss is needed; 'none' is"),
        (put("students", "kd", "loss", {}), "students.kd.loss: got {}; at least one loss is needed; 'none' is"),
        (put("students", "kd", "loss", ["kd", "kd"]), "students.kd.loss: got ['kd', 'kd']; a loss is named twice"),
        (put("students", "kd", "loss", ["none", "kd"]), "students.kd.loss: got ['none', 'kd']; 'none' is the student"),
        (put("students", "kd", "loss", {"kd": None}), "students.kd.loss: got {'kd': None}; the options of kd must be"),
        (put("students", "kd", "loss", ["kd", "fitnt"]), "students.kd.loss: got 'fitnt'; pipeline/losses has no such"),
        (put("students", "kd", "loss", {"fitnt": {}}), "students.kd.loss: got 'fitnt'; pipeline/losses has no such"),
        (
            put("students", "kd", "loss", {"kd": {}, "fitnet": {"wieght": 5.0}}),
            "students.kd.loss.fitnet.wieght: unknown key; did you mean 'weight'?",
        ),
        (put("students", "kd", "loss", {"kd": {"weight": "1"}}), "students.kd.loss.kd.weight: got '1'; allowed: a num"),
        (put("compare", "seeds", []), "compare.seeds: got []; list should have at least 1 item"),
        (put("compare", "seeds", [1, 1]), "compare.seeds: got [1, 1]; a seed is named twice"),
        (put("compare", "seeds", [-1]), "compare.seeds.0: got -1; allowed: greater than or equal to 0"),
        (put("compare", "budget", "hours"), "compare.budget: got 'hours'; allowed: 'steps' or 'minutes'"),
        (put("compare", "weights", "first"), "compare.weights: got 'first'; allowed: 'best' or 'last'"),
        (put("compare", "minutes", 0), "compare.minutes: got 0; allowed: greater than 0"),
        (put("compare", "int8", "auto"), "compare.int8: got 'auto'; allowed: a valid boolean"),
        (put("students", "kd", "export", "first"), "students.kd.export: got 'first'; allowed: 'best' or 'last'"),
        (put("compare", "losses", "x", ["kd", "fitnt"]), "compare.losses.x: got 'fitnt'; pipeline/losses has no such"),
        (put("compare", "losses", "x", ["none", "kd"]), "compare.losses.x: got ['none', 'kd']; 'none' is the student"),
        (put("compare", "losses", "a b", "kd"), "compare.losses.a b.[key]: got 'a b'; string should match"),
        (drop("compare"), "compare: missing; it has no default"),
        (put("distill", "stage0", {"steps": -1}), "distill.stage0.steps: got -1; allowed: greater than or equal to 0"),
        (
            put("distill", "stage0", {"model": {"name": "smpp"}}),
            "distill.stage0.model.name: got 'smpp'; pipeline/models",
        ),
        (
            put("distill", "stage0", {"model": {"name": "smp", "architecture": "fpn", "encoder": "a", "depht": 1}}),
            "distill.stage0.model.depht: unknown key",
        ),
        (put("distill", "teaching", "scales", [0.5]), "distill.teaching.scales: got [0.5]; the scale 1.0 is missing"),
        (put("distill", "teaching", "scales", [1.0, 9.0]), "distill.teaching.scales.1: got 9.0; allowed: less than or"),
        (put("distill", "teaching", "others", ["a", "a"]), "distill.teaching.others: got ['a', 'a']; a folder is"),
        (put("teacher", "train", "stage0", 5), "teacher.train.stage0: unknown key"),
        (
            put("teacher", "model", "encoder", "resnet18"),
            "teacher.model.encoder_weights: got 'pypi' with encoder 'resnet18'",
        ),
        (put("distill", "seed", -1), "distill.seed: got -1; allowed: greater than or equal to 0"),
        (put("teacher", "train", "seed", 1), "teacher.train.seed: unknown key"),
        (put("teacher", "train", "stepz", 1), "teacher.train.stepz: unknown key; did you mean 'steps'?"),
        (put("teacher", "train", "steps", "1"), "teacher.train.steps: got '1'; allowed: a valid integer"),
        (drop("teacher", "train", "steps"), "teacher.train.steps: missing; it has no default"),
        (put("teacher", "train", None), "teacher.train: got None; allowed: a section, or false"),
        (put("teacher", "train", True), "teacher.train: got True; allowed: a section, or false"),
        (put("teacher", "train", "false"), "teacher.train: got 'false'; allowed: a section, or false"),
        (put("teacher", "train", 0), "teacher.train: got 0; allowed: a section, or false"),
        (put("teacher", "train", []), "teacher.train: got []; allowed: a section, or false"),
        (drop("teacher", "train"), "teacher.train: missing; it has no default"),
        (put("teacher", "model", "classes", ["a"]), "teacher.model.classes: unknown key"),
        (
            put("teacher", "model", "new_classes", "few"),
            "teacher.model.new_classes: got 'few'; allowed: 'none', 'some'",
        ),
        (put("teacher", "model", "class_map", ["a"]), "teacher.model.class_map: got ['a']; allowed: a section"),
        (put("teacher", "model", "weights", 3), "teacher.model.weights: got 3; allowed: a valid string"),
        (
            put("students", "kd", "model", "std", [58.395, 57.12, 57.375]),
            "students.kd.model.std: got [58.395, 57.12, 57.375]; allowed: 0..1, and these are of pixels in 0..255; "
            "use std: [0.229, 0.224, 0.225]",
        ),
        (
            lambda raw: raw["students"]["kd"]["model"].update(weights="a.pth", encoder_weights="imagenet"),
            "students.kd.model.encoder_weights: got 'imagenet'; leave it out, because weights has the encoder too",
        ),
        (put("teacher", "model", "mean", [0.5, 0.5]), "teacher.model.mean: got [0.5, 0.5]; allowed: three numbers"),
        (put("students", "kd", "model", "name", "spm"), "students.kd.model.name: got 'spm'; pipeline/models has no"),
        (put("students", "kd", "model", None), "students.kd.model: got None; allowed: a section"),
        (put("students", "kd", "model", "encoder", 3), "students.kd.model.encoder: got 3; allowed: a valid string"),
        (put("students", "kd", "model", "num_classes", 3), "students.kd.model.num_classes: unknown key"),
        (put("export", "label_stride", 3), "export.label_stride: got 3; allowed: 1, 2 or 4"),
        (put("quantize", "percentile", 50), "quantize.percentile: got 50; allowed: greater than 50"),
        (put("budgets", "latency", 3), "budgets.latency: unknown key; did you mean 'latency_p99_ms'?"),
        (put("budgets", "confidence", 95), "budgets.confidence: got 95; allowed: less than or equal to 0.99"),
        (put("budgets", "confidence", 0.3), "budgets.confidence: got 0.3; allowed: greater than or equal to 0.5"),
        (put("budgets", "min_speedup", -1.0), "budgets.min_speedup: got -1.0; allowed: greater than or equal to 0"),
        (
            put("dataset", "street"),
            "dataset: got 'street'; pipeline/datasets has no such file; did you mean 'streets'?",
        ),
        (put("datasets", "camvd", {}), "datasets.camvd: unknown key; did you mean 'camvid'?"),
        (put("datasets", "camvid", "root", 5), "datasets.camvid.root: got 5; allowed: a valid string"),
        (put("datasets", "streets", "size", [1, "2"]), "datasets.streets.size: got [1, '2']; allowed: a valid integer"),
        (put("losses", "none", None), "losses.none: got None; allowed: a section"),
        (put("losses", "kd", "weight", "1"), "losses.kd.weight: got '1'; allowed: a number, auto"),
        (put("losses", "kd", "temperature", 0), "losses.kd.temperature: got 0; allowed: greater than 0"),
        (put("datasets", "streets", "val", 0), "datasets.streets.val: got 0; allowed: greater than or equal to 1"),
        (put("datasets", "streets", "size", [128]), "datasets.streets.size: got [128]; allowed: a list of two numbers"),
        (put("losses", "fitnet", "weight", float("inf")), "losses.fitnet.weight: got inf; allowed: a finite number"),
        (put("convert", "runtime", "onnx"), "convert.runtime: got 'onnx'; pipeline/runtimes has no such file"),
        (put("convert", "tensorrtx", {}), "convert.tensorrtx: unknown key; did you mean 'tensorrt'?"),
        (put("convert", "onnxruntime", None), "convert.onnxruntime: got None; allowed: a section"),
        (put("convert", "onnxruntime", "threads", True), "convert.onnxruntime.threads: got True; allowed: a valid int"),
        (put(5, 3), "top level: YAML reads the key 5 as a number; write it in quotes"),
        (put("merge_classes", {date(2024, 1, 1): ["car"]}), "merge_classes: YAML reads the key 2024-01-01 as a date"),
        (
            put("merge_classes", {"on": ["car"], True: ["road"]}),
            "merge_classes: YAML reads the key True as true or",
        ),
        (
            put("datasets", "folder", "ids", {None: [1]}),
            "datasets.folder.ids: YAML reads the key None as null",
        ),
        (
            put("datasets", "folder", "classes", ["road", date(2024, 1, 1)]),
            "datasets.folder.classes.1: YAML reads 2024-01-01 as a date; write text in quotes",
        ),
        (put("datasets", "folder", "classes", {"road", "car"}), "datasets.folder.classes: YAML reads {"),
    ],
)
def test_one_problem_is_one_message(tmp_path: Path, change: Callable[[dict[str, Any]], None], problem: str) -> None:
    messages = refused(tmp_path, change)
    assert len(messages) == 1 and messages[0].startswith(problem), messages


def test_options_of_a_chosen_plugin_may_be_left_out_where_all_have_defaults(tmp_path: Path) -> None:
    raw = YAML(typ="safe").load(COMMITTED.read_text())
    raw["losses"] = {}
    del raw["convert"][raw["convert"]["runtime"]]
    with (tmp_path / "params.yaml").open("w") as stream:
        YAML().dump(raw, stream)
    settings = params.load(tmp_path / "params.yaml")
    assert settings.losses == {} and settings.runtime_options == {}
    missing = refused(tmp_path, put("datasets", {}))
    assert "datasets.streets.train: missing; it has no default" in missing and len(missing) == 5


BROKEN = [
    ("a: [1\nb: 2\n", ":2:2: not valid YAML: expected ',' or ']'"),
    (
        "a: [#8000ff]\nb: 2\n",
        """:3:1: not valid YAML: expected ',' or ']', but got '<stream end>'; # begins a comment: write colours in """
        'quotes, "#8000ff"',
    ),
    ("a:\n\tb: 1\n", ":2:1: not valid YAML: found character"),
    ("seed: 1\nseed: 2\n", ':2:1: not valid YAML: found duplicate key "seed"'),
    ("a:\n  b: 1\n  b: 2\n", ':3:3: not valid YAML: found duplicate key "b"'),
    ("a: 1\n---\nb: 2\n", ":2:1: not valid YAML: but found another document"),
    ("a: !!python/object:os.system x\n", ":1:4: not valid YAML: could not determine a constructor"),
    ("a: \x00\n", ": not valid YAML: unacceptable character #x0000"),
    ("", ": holds nothing; a mapping of seed, "),
    ("# only a comment\n", ": holds nothing; a mapping of"),
    ("- seed\n", ": holds a list; a mapping of"),
    ("seed\n", ": holds a str; a mapping of"),
]


@pytest.mark.parametrize(("text", "message"), BROKEN)
def test_invalid_yaml_is_refused_with_line_and_column(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        params.load(tmp_path / "p.yaml")
    assert str(caught.value).startswith(f"{tmp_path}/p.yaml{message}")
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("a: Größe\n".encode("latin-1"))
    for name, message in (("none.yaml", "no such file; run from the project's root"), (".", "cannot be read")):
        with pytest.raises(UserError, match=message):
            params.load(tmp_path / name)
    with pytest.raises(UserError, match="not UTF-8 at byte 5"):
        params.load(tmp_path / "latin.yaml")


@pytest.mark.parametrize("kind", plugins.KINDS)
def test_kinds_choose_whose_options_are_checked(tmp_path: Path, kind: str) -> None:
    def break_all(raw: dict[str, Any]) -> None:
        for section in (raw["datasets"]["camvid"], raw["losses"]["kd"], raw["convert"]["tensorrt"]):
            section["wrong"] = 1
        raw["teacher"]["model"]["wrong"] = 1

    where = {
        "datasets": "datasets.camvid",
        "losses": "losses.kd",
        "models": "teacher.model",
        "runtimes": "convert.tens",
    }
    (problem,) = refused(tmp_path, break_all, kinds=(kind,))
    assert problem.startswith(where[kind]) and ".wrong: unknown key; allowed: " in problem
    assert len(refused(tmp_path, break_all)) == 4


def test_without_kinds_no_plugin_is_imported() -> None:
    program = (
        "import sys; from pathlib import Path; from pipeline.settings import params;"
        "params.load(Path('params.yaml'), kinds=());"
        "print([m for m in sys.modules if m.split('.')[0] in ('torch', 'onnxruntime', 'timm', 'cv2')])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_unknown_student_names_the_closest() -> None:
    with pytest.raises(UserError, match="students has no 'kdd'; did you mean 'kd'"):
        params.load(COMMITTED, kinds=()).student("kdd")


def test_offered_facts_are_those_that_networks_declare() -> None:
    facts = NetworkFacts(channels=1, stage_channels=(1,), output_stride=1, divisor=1)
    offered = {*facts.offered("student"), *facts.offered("teacher"), "num_classes", "ignore_index", "steps", "seed"}
    assert offered == plugin_options.OFFERED["losses"]
    builder = set(inspect.signature(models.build).parameters) - {"name", "options"}
    assert builder == plugin_options.OFFERED["models"]
