"""A Jetson, simulated by programs on PATH and /sys folders; the lines of tegrastats are from real boards."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.evaluation import jetson

#: AGX Orin, JetPack 5 (tegrastats of L4T 35).
JETPACK_5 = (
    "10-16-2023 10:59:22 RAM 1205/30623MB (lfb 6429x4MB) SWAP 0/15311MB (cached 0MB) CPU [0%@729,0%@729,1%@729,0%@729,"
    "0%@729,0%@730,0%@730,0%@729,0%@729,0%@729,0%@729,0%@729] EMC_FREQ 0%@204 GR3D_FREQ 0%@114 GR3D2_FREQ 0%@114 "
    "NVJPG1 729 VIC_FREQ 729 APE 233 CV0@-256C CPU@43.5C Tdiode@32.5C SOC2@40.062C SOC0@40.5C CV1@-256C GPU@38.156C "
    "SOC1@39.125C CV2@-256C VDD_GPU_SOC 4788mW/4788mW VDD_CPU_CV 798mW/798mW VIN_SYS_5V0 3842mW/3842mW NC 0mW/0mW "
    "VDDQ_VDD2_1V8AO 707mW/707mW NC 0mW/0mW"
)
#: Orin Nano, JetPack 6 (L4T 36), GPU busy.
JETPACK_6 = (
    "10-08-2026 04:35:02 RAM 6712/7620MB (lfb 12x4MB) SWAP 369/3810MB (cached 8MB) CPU [38%@1497,2%@729,off,off,1%@729,"
    "0%@729] EMC_FREQ 61%@2133 GR3D_FREQ 99%@[612] NVDEC off NVJPG off VIC off OFA off APE 200 cpu@57.125C "
    "soc2@55.093C soc0@56.625C gpu@58.625C tj@58.312C soc1@55.937C VDD_IN 16321mW/11204mW VDD_CPU_GPU_CV "
    "7104mW/4944mW VDD_SOC 3120mW/3659mW"
)


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``programs(name=code)`` puts Python programs on an otherwise empty PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def make(**codes: str) -> None:
        for name, code in codes.items():
            (folder / name).write_text(f"#!{sys.executable} -IS\n{code}\n")
            (folder / name).chmod(0o755)

    return make


def test_a_line_of_jetpack_5_is_read() -> None:
    assert jetson.parse_tegrastats(JETPACK_5) == {
        "ram_mb": [1205, 30623],
        "cpu_percent": [0, 0, 1, *[0] * 9],
        "cpu_mhz": [*[729] * 5, 730, 730, *[729] * 5],
        "gpu_percent": 0,
        "gpu_mhz": [114],
        "temperatures_c": {
            "CPU": 43.5, "Tdiode": 32.5, "SOC2": 40.062, "SOC0": 40.5, "GPU": 38.156, "SOC1": 39.125,
        },
        "rails_mw": {"VDD_GPU_SOC": 4788, "VDD_CPU_CV": 798, "VIN_SYS_5V0": 3842, "VDDQ_VDD2_1V8AO": 707},
    }  # fmt: skip


def test_a_line_of_jetpack_6_is_read() -> None:
    facts = jetson.parse_tegrastats(JETPACK_6)
    assert (facts["ram_mb"], facts["gpu_percent"], facts["gpu_mhz"]) == ([6712, 7620], 99, [612])
    assert (facts["cpu_percent"], facts["cpu_mhz"]) == ([38, 2, 1, 0], [1497, 729, 729, 729])  # two cores are off
    assert facts["temperatures_c"] == {
        "cpu": 57.125, "soc2": 55.093, "soc0": 56.625, "gpu": 58.625, "tj": 58.312, "soc1": 55.937,
    }  # fmt: skip
    assert facts["rails_mw"] == {"VDD_IN": 16321, "VDD_CPU_GPU_CV": 7104, "VDD_SOC": 3120}  # now, not the mean


@pytest.mark.parametrize(
    ("gpu", "expected"),
    [
        ("99%@[1098,1098,1098]", {"gpu_percent": 99, "gpu_mhz": [1098] * 3}),  # Thor
        ("@[314,314,314]", {"gpu_mhz": [314] * 3}),  # Thor, JetPack 7.0
        ("45%@930", {"gpu_percent": 45, "gpu_mhz": [930]}),
        ("0%", {"gpu_percent": 0}),  # Orin Nano, without the rights
    ],
)
def test_formats_of_the_load_of_the_gpu(gpu: str, expected: dict[str, Any]) -> None:
    assert jetson.parse_tegrastats(f"RAM 1/2MB (lfb 1x4MB) GR3D_FREQ {gpu} VIC off") == {"ram_mb": [1, 2], **expected}


@pytest.mark.parametrize("line", ["", "tegrastats: permission denied", "\x00\xff"])
def test_other_lines_have_no_values(line: str) -> None:
    assert jetson.parse_tegrastats(line) == {}


def test_tegrastats_is_killed_after_its_first_line(tmp_path: Path, programs: Any) -> None:
    mark = tmp_path / "pid"
    programs(
        tegrastats=f"import os, sys, time\nopen({str(mark)!r}, 'w').write(f'{{os.getpid()}} {{sys.argv[1:]}}')\n"
        f"line = {JETPACK_6 + chr(10)!r}\n"
        "for half in (line[:90], line[90:]):\n"
        "    sys.stdout.write(half); sys.stdout.flush(); time.sleep(0.05)\n"
        "time.sleep(60)"
    )
    started = time.monotonic()
    assert jetson.read(tmp_path) == {"tegrastats": jetson.parse_tegrastats(JETPACK_6)}
    assert time.monotonic() - started < 30
    number, _, arguments = mark.read_text().partition(" ")
    assert arguments == "['--interval', '100']"
    with pytest.raises(ProcessLookupError):
        os.kill(int(number), 0)


@pytest.mark.parametrize(
    "code", ["import time; time.sleep(60)", "print('no newline', end='')", "raise SystemExit(1)", "print()"]
)
def test_programs_that_hang_or_fail_give_no_values(
    tmp_path: Path, programs: Any, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    monkeypatch.setattr(jetson, "PATIENCE", 0.3)
    programs(tegrastats=code, nvpmodel=code)
    started = time.monotonic()
    assert jetson.read(tmp_path) == {}
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("answer", "status", "expected"),
    [
        ("NV Power Mode: MAXN\n0\n", "pmode:0003 fmode:quiet", {"id": 0, "name": "MAXN"}),
        ("NV Fan Mode:quiet\nNV Power Mode: MODE_15W_6CORE\n2\n", "", {"id": 2, "name": "MODE_15W_6CORE"}),
        ("", "pmode:0000 fmode:fanNull", {"id": 0}),
        (None, "pmode:0010 fmode:quiet", {"id": 10}),
        (None, "", {}),
    ],
    ids=["answers", "fan mode first", "answers nothing", "missing", "missing with its file"],
)
def test_the_power_mode_is_read(
    tmp_path: Path, programs: Any, answer: str | None, status: str, expected: dict[str, Any]
) -> None:
    if answer is not None:
        programs(nvpmodel=f"import sys\nassert sys.argv[1:] == ['-q']\nprint({answer!r}, end='')")
    write(tmp_path, {"var/lib/nvpmodel/status": status} if status else {})
    assert jetson.power_mode(tmp_path) == expected


def test_rails_are_voltage_times_current(tmp_path: Path) -> None:
    monitor = "sys/class/hwmon/hwmon3"
    other = "sys/class/hwmon/hwmon1"
    write(
        tmp_path,
        {
            f"{monitor}/name": "ina3221\n",
            f"{monitor}/in1_label": "VDD_IN\n", f"{monitor}/in1_input": "5064\n", f"{monitor}/curr1_input": "952\n",
            f"{monitor}/in2_label": "VDD_SOC\n", f"{monitor}/in2_input": "5056\n", f"{monitor}/curr2_input": "0\n",
            f"{monitor}/in3_label": "NC\n", f"{monitor}/in3_input": "16\n", f"{monitor}/curr3_input": "8\n",
            f"{monitor}/in7_label": "sum of shunt voltages\n", f"{monitor}/in7_input": "4760\n",
            f"{other}/name": "pwmfan\n",
            f"{other}/in1_label": "FAN\n", f"{other}/in1_input": "1\n", f"{other}/curr1_input": "1\n",
        },
    )  # fmt: skip
    assert jetson.rails(tmp_path) == {"VDD_IN": 4821, "VDD_SOC": 0}


@pytest.mark.parametrize("folder", ["17000000.gpu", "17000000.ga10b", "17000000.gv11b", "gpu-gpc-0"])
def test_clocks_of_the_gpu_have_many_names(tmp_path: Path, folder: str) -> None:
    clocks = {"cur_freq": "612000000\n", "min_freq": "306000000\n", "max_freq": "1020000000\n"}
    write(tmp_path, {f"sys/class/devfreq/{folder}/{name}": text for name, text in clocks.items()})
    write(tmp_path, {"sys/class/devfreq/15340000.vic/cur_freq": "1\n"})
    assert jetson.gpu_clock(tmp_path, "cur_freq") == 612.0
    assert jetson.gpu_range(tmp_path) == [306.0, 1020.0]


def test_a_range_needs_both_limits(tmp_path: Path) -> None:
    write(tmp_path, {"sys/class/devfreq/17000000.gpu/min_freq": "306000000\n"})
    assert jetson.gpu_range(tmp_path) == []
    assert jetson.gpu_clock(tmp_path, "cur_freq") is None
