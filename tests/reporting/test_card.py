"""The model card: every number is from the results or the artifacts, names cannot break it, and equal input gives
equal bytes."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline import artifact, licence
from pipeline.prepared import Prepared
from pipeline.reporting import card, limits, page, results
from pipeline.reporting.card import Details
from pipeline.reporting.measured import Result
from tests.docs.test_commands import check_infer, check_python, check_segpress

ROOT = Path(__file__).parents[2]
CLASSES = ["road", "pole", "car", "boat"]
FREE = {"name": "Apache-2.0", "url": "https://example.org/a", "commercial": True, "note": "free"}
FORBIDS = {"name": "CC BY-NC 4.0", "url": "https://example.org/nc", "commercial": False, "note": "not for sale"}
#: Numbers in the sentences of the card that are not measured: names of formats, and the scale of pixels.
CONSTANTS = [
    "sha256",
    "int8",
    "uint8",
    "INT8",
    "fp16",
    "fp32",
    "3 channels",
    "0..1",
    "10^6",
    "8 bits",
    "CC BY-NC 4.0",
    "p50",
    "p90",
    "p99",
]


def variant(seed: int) -> dict[str, Any]:
    latency = {"p50": 2.1357 + seed, "p90": 3.2468 + seed, "p99": 14.3579 + seed, "n": 57, "cov": 0.05}
    return {
        "miou": 61.2345 + seed, "per_class_iou": [81.4321 + seed, 21.8765 - seed, 55.1472 + seed, None],
        "size_bytes": 1_833_123 + 1_000_000 * seed, "latency_ms": latency, "sha256": f"{seed}abcdef01234" * 5,
        "runtime": "onnxruntime",
    }  # fmt: skip


def contents(**changes: Any) -> dict[str, Any]:
    return {
        "student": "kd",
        "loss": "kd",
        "dataset": "camvid",
        "dataset_sha256": "ab" * 32,
        "split": "val",
        "images": 101,
        "classes": CLASSES,
        "absent_classes": ["boat"],
        "model": "smp unet",
        "parameters": 1_388_563,
        "input_size": [352, 480],
        "weights": {
            "exported": "best",
            "best": {"step": 250, "miou": 64.3791},
            "last": {"step": 300, "miou": 63.1682},
        },
        "licences": [licence.data({"dataset": "camvid", "licence": FORBIDS})],
        "commercial": False,
        "device": {"id": "cpu-x", "name": "CPU X", "int8_kernels": "vnni", "instructions": "avx"},
        "teacher": {"miou": 71.9183, "per_class_iou": [1.0] * 4, "parameters": 11_648_219, "model": "big"},
        "variants": {"torch": variant(3), "fp32": variant(2), "int8": variant(0)},
        "drop": {
            "miou_int8_vs_float": 3.3333,
            "miou_int8_vs_teacher": 10.6838,
            "worst_class": "car",
            "worst_class_drop": 3.4567,
            "confidence": 0.9,
            "classes": [3.0246, -2.9135, 3.4567, None],
            "class_intervals": [[2.8024, 3.1913], [-3.7046, 0.5937], [3.3048, 3.6059], None],
            "class_frames": [97, 88, 79, 0],
        },
        "speedup_int8_vs_fp32": 1.8643,
        "int8_exact_agreement": 99.8124,
        "unstable": ["fp32"],
        "budgets": [{"budget": "class_drop", "limit": 3.25}, {"budget": "size_mb", "limit": None}],
        "passed": False,
        "violations": [{"what": "class car loses 3.46 points", "budget": "class_drop", "class": "car"}],
        "undecided": [{"what": "not enough pixels of pole", "budget": "class_drop", "class": "pole"}],
        **changes,
    }


def result(tmp_path: Path, **changes: Any) -> Result:
    (tmp_path / "kd.json").write_text(json.dumps(contents(**changes)))
    return results.read(tmp_path / "kd.json")


def network(**facts: Any) -> Any:
    meta = {
        "mean": [0.485, 0.456, 0.407], "std": [0.229, 0.224, 0.225], "channel_order": "RGB", "input_size": [352, 480],
        "metrics": {"val": {"miou": 64.3791, "per_class_iou": [84.3, 18.7, 58.1, None]}},
        "last": {"step": 300, "metrics": {"val": {"miou": 63.1682, "per_class_iou": [83.1, 17.2, 57.6, None]}}},
        "training": {"seed": 42, "batch_size": 16}, **facts,
    }  # fmt: skip
    return SimpleNamespace(kind="network", facts=meta, meta=meta)


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    names = {"train": [f"t{i}" for i in range(367)], "val": [f"v{i}" for i in range(101)]}
    meta = {"dataset": "camvid", "splits": names, "classes": CLASSES, "palette": [[i, 0, 0] for i in range(4)]}
    with artifact.create(tmp_path / "data", kind="dataset", meta={**meta, "ignore_index": 255}):
        pass
    return Prepared(tmp_path / "data")


@pytest.fixture
def details(prepared: Prepared) -> Details:
    return Details.of(network(), prepared)


def front_matter(text: str) -> dict[str, Any]:
    _, matter, _ = text.split("---\n", 2)
    facts: dict[str, Any] = YAML(typ="safe").load(matter)
    return facts


def numbers(value: Any) -> list[float]:
    """All numbers of a JSON value, and those in its texts."""
    if isinstance(value, dict):
        return [number for each in value.values() for number in numbers(each)]
    if isinstance(value, list):
        return [number for each in value for number in numbers(each)]
    if isinstance(value, str):
        return [float(text) for text in re.findall(r"\d+(?:\.\d+)?", value)]
    return [] if value is None or isinstance(value, bool) else [float(value)]


def section(text: str, title: str) -> str:
    return text.split(f"\n## {title}\n")[1].split("\n## ", maxsplit=1)[0]


def rows(text: str) -> dict[str, list[str]]:
    """The rows of the tables in a text by their first cell."""
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("| ")]
    return {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines}


def test_every_number_is_from_the_results_or_the_artifacts(tmp_path: Path, details: Details) -> None:
    text = card.render(result(tmp_path), details)
    assert front_matter(text)["model-index"][0]["results"][0]["metrics"][0]["value"] == 61.2345
    body = re.sub(r"`[0-9a-f]{64}`|\| [0-9a-f]{12} \|", "", text.split("---\n", 2)[2].split("## How to run")[0])
    for constant in (*CONSTANTS, "below 50 are"):
        body = body.replace(constant, "")
    known = numbers(contents()) + numbers(network().meta)
    known += [len(CLASSES), 367, 101, 90, *(size / 1e6 for size in (1_833_123, 3_833_123, 4_833_123))]
    found = re.findall(r"\d[\d,]*(?:\.\d+)?", body)
    assert len(found) > 60
    for token in found:
        plain = token.rstrip(",").replace(",", "")
        digits = len(plain.partition(".")[2])
        assert any(f"{abs(number):.{digits}f}" == plain for number in known), f"{token} is in no source"


def test_the_values_stand_where_they_belong(tmp_path: Path, details: Details) -> None:
    text = card.render(result(tmp_path), details)
    accuracy = rows(section(text, "Accuracy"))
    assert accuracy["road"] == ["84.43", "81.43", "3.02", "2.80 to 3.19", "97"]
    assert accuracy["pole"] == ["18.88", "21.88", "\u22122.91", "\u22123.70 to 0.59", "88"]
    assert accuracy["boat"] == ["not measured", "not measured", "not measured", "not measured", "0"]
    for line in (
        "- Float mIoU: 64.23", "- INT8 mIoU: 61.23", "- Points that INT8 loses: 3.33 mIoU; worst class: car, 3.46",
        "- Absent classes: boat", "90% confidence", "101 images of the split val",
    ):  # fmt: skip
        assert line in section(text, "Accuracy"), line
    speed = section(text, "Latency and size")
    assert rows(speed)["int8"] == ["onnxruntime", "61.23", "2.14", "3.25", "14.4", "1.83", "0abcdef01234"]
    assert "Measured on CPU X (avx)" in speed and "p50: 1.9" in speed and "Unstable: fp32" in speed
    training = section(text, "Training")
    for line in (
        "- Loss: kd", "- Teacher: big, 11,648,219 parameters, mIoU 71.92 on val",
        "- Steps: 300, batch size 16, seed 42",
        "step 250, float mIoU 64.38 on val", "step 300, float mIoU 63.17 on val", "the best weights",
    ):  # fmt: skip
        assert line in training, line
    about = section(text, "Network")
    for line in ("smp unet", "1,388,563", "352 x 480", "mean 0.485, 0.456, 0.407;", "deviation 0.229, 0.224", ": RGB"):
        assert line in about, line
    assert f"camvid, sha256 `{'ab' * 32}`" in section(text, "Data")
    assert "Images: train 367, val 101" in section(text, "Data") and "Classes: 4" in section(text, "Data")
    budgets = section(text, "Budgets")
    assert "Verdict: **fail (undecided: pole)**" in budgets and "- Broken: class car loses 3.46 points" in budgets
    assert rows(budgets)["class\\_drop"] == ["3.25 points"] and rows(budgets)["size\\_mb"] == ["none"]
    assert rows(section(text, "Licence"))["data"] == [
        "camvid", "CC BY-NC 4.0", "no", "not for sale; https://example.org/nc",
    ]  # fmt: skip


def test_values_that_are_missing_are_not_measured(tmp_path: Path, details: Details) -> None:
    (tmp_path / "kd.json").write_text(json.dumps({"student": "kd", "device": {"id": "x"}}))
    text = card.render(results.read(tmp_path / "kd.json"), details)
    assert "Measured on a device without a name" in text and "Float mIoU: not measured" in text and "None" not in text


@pytest.mark.parametrize("loss", ["none", "teacher"])
def test_a_network_without_a_teacher(loss: str, tmp_path: Path, details: Details) -> None:
    text = card.render(result(tmp_path, loss=loss), details)
    assert "- Teacher: none" in text and "- Loss: none" in text


@pytest.mark.parametrize(
    ("stated", "allowed", "words", "matter"),
    [
        ([FORBIDS], False, "no", {"license": "cc-by-nc-4.0"}),
        ([FREE], True, "yes", {"license": "apache-2.0"}),
        ([FREE, FORBIDS], False, "no", {"license": "other", "license_name": "Apache-2.0, CC BY-NC 4.0"}),
        ([FREE, None], None, "unknown", {"license": "unknown"}),
        ([{**FREE, "name": "Mine: 1", "commercial": None}], None, "unknown", {"license": "other"}),
    ],
)
def test_commercial_use_follows_from_the_sources(
    stated: list[Any], allowed: bool | None, words: str, matter: dict[str, Any], tmp_path: Path, details: Details
) -> None:
    sources = [licence.source("data", str(index), each) for index, each in enumerate(stated)]
    found = result(tmp_path, licences=sources, commercial=licence.commercial(sources))
    text = card.render(found, details)
    facts = front_matter(text)
    assert facts["commercial"] is allowed and f"Commercial use: **{words}**" in text
    assert facts | matter == facts
    assert card.block(found).commercial == words
    assert card.block(found).licences[-1].endswith(stated[-1]["name"] if stated[-1] else "not stated")


def test_front_matter_is_that_of_the_hub(tmp_path: Path, details: Details) -> None:
    facts = front_matter(card.render(result(tmp_path), details))
    assert facts["datasets"] == ["camvid"] and facts["metrics"] == ["mean_iou"] and "kd" in facts["tags"]
    (entry,) = facts["model-index"]
    assert entry["name"] == "kd" and entry["results"][0]["dataset"]["split"] == "val"
    assert facts["pipeline_tag"] == entry["results"][0]["task"]["type"] == "image-segmentation"


def test_results_of_an_earlier_version_have_an_unknown_licence(tmp_path: Path, prepared: Prepared) -> None:
    old = contents()
    for key in ("licences", "commercial", "budgets", "int8_exact_agreement"):
        del old[key]
    (tmp_path / "kd.json").write_text(json.dumps(old))
    found = results.read(tmp_path / "kd.json")
    old_network = network()
    del old_network.facts["training"]
    text = card.render(found, Details.of(old_network, prepared))
    facts = front_matter(text)
    assert facts["license"] == "unknown" and facts["commercial"] is None
    assert "Commercial use: **unknown**" in text and "The sources were not recorded." in text
    assert "batch size not recorded, seed not recorded" in text and "not compared with exact arithmetic" in text
    assert card.block(found).licences == [] and card.block(found).commercial == "unknown"


EVIL = "a|b\n# <script>alert(1)</script> [x](y) `c` *d*"


def test_names_cannot_break_it(tmp_path: Path, prepared: Prepared) -> None:
    evil = {
        "student": EVIL, "loss": EVIL, "dataset": EVIL, "model": EVIL, "split": EVIL, "dataset_sha256": EVIL,
        "classes": [EVIL, *CLASSES[1:]], "absent_classes": [EVIL], "unstable": [EVIL],
        "licences": [{**licence.source(EVIL, EVIL, FORBIDS), "name": EVIL, "url": EVIL, "note": EVIL}],
        "device": {"name": EVIL, "instructions": EVIL, "int8_kernels": EVIL},
        "teacher": {"miou": 1.0, "parameters": 1, "model": EVIL},
        "violations": [{"what": EVIL}], "warnings": [{"what": EVIL}], "budgets": [{"budget": EVIL, "limit": 1.0}],
    }  # fmt: skip
    plain_text = card.render(result(tmp_path), Details.of(network(), prepared))
    prepared.splits[EVIL] = prepared.splits.pop("val")
    text = card.render(result(tmp_path, **evil), Details.of(network(channel_order=EVIL), prepared))
    assert front_matter(text)["model-index"][0]["name"] == EVIL, "YAML has the name itself"
    body = text.split("---\n", 2)[2].split("```sh")[0]
    assert body.count("alert(1)") > 20
    assert "<script" not in body and "`c`" not in body and not re.search(r"(?<!\\)\[x", body)
    headings = [line for line in body.splitlines() if line.startswith("#")]
    usual = [line for line in plain_text.splitlines() if line.startswith("#")]
    assert headings[1:] == usual[1:] and len(headings) == len(usual)
    for table in re.findall(r"(?:^\|.*\n)+", body, re.MULTILINE):
        widths = {len(re.split(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1, table
    commands = text.split("```sh\n")[1].split("```")[0]
    assert len(commands.splitlines()) == 4, "a name with a line break is on one line"


def test_equal_results_give_equal_bytes_without_date_host_or_path(tmp_path: Path, details: Details) -> None:
    first, second = card.render(result(tmp_path), details), card.render(result(tmp_path), details)
    assert first == second and first.endswith("```\n")
    assert str(tmp_path) not in first and not re.search(r"20\d\d-\d\d|(?<![\w:/.])/\w", first)


@pytest.mark.parametrize("imported", [False, True])
def test_its_commands_are_accepted(
    imported: bool, tmp_path: Path, details: Details, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = network()
    kind.kind = "network" if not imported else "engine"
    details = Details.of(kind, Prepared(tmp_path / "data"))
    text = card.render(result(tmp_path), details)
    lines = [line.split("   #")[0].split() for line in text.split("```sh\n")[1].split("```")[0].splitlines()]
    assert [line[0] for line in lines] == ["segpress", "python", "segpress", "tar"]
    for line in lines[:3]:
        with monkeypatch.context() as patch:
            if line[1] == "infer":
                check_infer(line[2:], patch, tmp_path)
            elif line[0] == "python":
                check_python(line[1:], patch, tmp_path)
            else:
                check_segpress(line[1:], patch, tmp_path)
    assert lines[0][2] == ("OUT/engines/kd" if imported else "artifacts/engines/kd")
    assert ("imported by segpress" in text) == ("not trained here" in text) == imported


def test_a_name_is_quoted_for_the_shell(tmp_path: Path, details: Details) -> None:
    text = card.render(result(tmp_path, student="my net; rm -rf ~"), details)
    line = text.split("```sh\n")[1].splitlines()[0].split("   #")[0]
    assert shlex.split(line)[2] == "artifacts/engines/my net; rm -rf ~"


def test_without_results_it_has_the_accuracy_of_the_float_weights(prepared: Prepared) -> None:
    about = {
        "student": "kd", "loss": "kd", "model": "smp unet", "parameters": 5, "licences": [], "commercial": None,
        "weights": {"exported": "last"},
    }  # fmt: skip
    found = card.unmeasured(about, network(), prepared, split="val", aware={})
    text = card.render(found, Details.of(network(), prepared), in_bundle=True)
    assert rows(section(text, "Accuracy"))["road"] == ["83.10"], "of the last weights, which were exported"
    assert "- Float mIoU: 63.17" in text and "INT8 mIoU" not in text and "- Absent classes: boat" in text
    assert "Verdict: **not measured**" in text and "Latency and size were not measured" in text
    assert "INT8 accuracy, latency and size were not measured" in section(text, "Limits")
    assert "sh run.sh" in text and "artifacts/" not in text
    assert front_matter(text)["model-index"][0]["results"][0]["metrics"][0]["value"] == 63.1682
    best = card.unmeasured({**about, "weights": {"exported": "best"}}, network(), prepared, split="val", aware={})
    assert best.reference.miou == 64.3791
    aware = card.unmeasured(about, network(), prepared, split="val", aware={"steps": 60})
    assert "- Loss: kd, QAT" in card.render(aware, Details.of(network(), prepared))
    other = card.unmeasured(about, network(), prepared, split="test", aware={})
    assert "Float mIoU: not measured" in card.render(other, Details.of(network(), prepared))


def test_what_the_numbers_do_not_say(tmp_path: Path) -> None:
    said = " ".join(limits.sentences(result(tmp_path)))
    for part in (
        "101 images of the split val of camvid", "This is a small split", "chosen by mIoU on val", "not measured: boat",
        "below 50 are weak: pole (21.9).", "whether these keep their budgets: pole", "are those of CPU X",
        "latency of fp32 was unstable", "vnni kernels of CPU X. 99.81 % of them",
    ):  # fmt: skip
        assert part in said, part
    good = {name: {**variant(0), "per_class_iou": [90.0, 50.0, 70.0, 60.0]} for name in ("fp32", "int8")}
    said = " ".join(
        limits.sentences(
            result(tmp_path, images=500, split="test", absent_classes=[], variants=good, undecided=[], unstable=[])
        )
    )
    for part in ("small split", "chosen", "weak", "not measured", "budgets", "unstable", "drawings"):
        assert part not in said, part
    assert "All images are drawings" in " ".join(limits.sentences(result(tmp_path, dataset="streets")))
    assert "not known whether the network was trained" in " ".join(limits.sentences(result(tmp_path, loss="imported")))
    last = {"exported": "last", "last": {"step": 1, "miou": 2.0}}
    assert "weights of the last step" in " ".join(limits.sentences(result(tmp_path, weights=last)))


def test_the_report_has_a_short_version(tmp_path: Path) -> None:
    found = result(tmp_path)
    labels: Any = SimpleNamespace(names=CLASSES, palette=[(0, 0, 0)] * 4)
    html = page.render([found], labels=labels, shares={}, strips={})
    block = html.split("<h2>Model card</h2>")[1].split("<h2>")[0]
    assert html.split("<h2>Model card</h2>")[1].split("<h2>")[1].startswith("How this was measured")
    assert "kd: commercial use no" in block and "data: camvid, CC BY-NC 4.0" in block
    assert "val, 101 images of camvid" in block and "pole (21.9)" in block
