"""Conditions of a measurement, read from simulated /sys and /proc folders and a simulated NVML."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.evaluation import environment

CPU = "sys/devices/system/cpu"


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.fixture
def no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setenv("PATH", "")


@pytest.mark.usefixtures("no_card")
def test_clocks_and_temperatures_of_a_jetson(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            **{f"{CPU}/cpu{i}/cpufreq/scaling_cur_freq": f"{c}000\n" for i, c in enumerate((700, 1500, 2200))},
            **{f"{CPU}/cpu{i}/cpufreq/scaling_governor": "schedutil\n" for i in range(3)},
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
            "sys/class/thermal/thermal_zone0/temp": "48250\n",
            "sys/class/thermal/thermal_zone1/temp": "51000\n",
            "sys/class/thermal/thermal_zone2/temp": "not now\n",
            "sys/class/devfreq/17000000.gpu/cur_freq": "918000000\n",
            "sys/class/devfreq/17000000.gpu/min_freq": "306000000\n",
            "sys/class/devfreq/17000000.gpu/max_freq": "918000000\n",
            "var/lib/nvpmodel/status": "pmode:0002 fmode:quiet\n",
            "proc/loadavg": "0.52 0.40 0.30 1/100 42\n",
        },
    )  # fmt: skip
    assert environment.conditions(tmp_path) == {
        "cpu_mhz": 1500.0,
        "governor": "schedutil",
        "temperatures_c": {"cpu-thermal": 48.2, "thermal_zone1": 51.0},
        "gpu_mhz": 918.0,
        "load": 0.52,
        "jetson": {"power_mode": {"id": 2}, "gpu_mhz_range": [306.0, 918.0]},
    }


@pytest.mark.usefixtures("no_card")
def test_a_machine_without_readable_values(tmp_path: Path) -> None:
    assert environment.conditions(tmp_path) == {}


def test_a_card_that_does_not_report_its_power(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class NVMLError(Exception):
        pass

    def hidden(card: Any) -> float:
        raise NVMLError

    closed: list[int] = []
    fake = SimpleNamespace(
        NVMLError=NVMLError, NVML_CLOCK_SM=1, NVML_CLOCK_MEM=2, NVML_TEMPERATURE_GPU=0,
        nvmlInit=lambda: None, nvmlShutdown=lambda: closed.append(1), nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index, nvmlDeviceGetName=lambda card: f"Card {card}",
        nvmlDeviceGetClockInfo=lambda card, kind: 1000 * kind + card,
        nvmlDeviceGetTemperature=lambda card, kind: 40 + card,
        nvmlDeviceGetPowerUsage=hidden, nvmlDeviceGetEnforcedPowerLimit=lambda card: 350_000,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    first, second = environment.conditions(tmp_path)["gpus"]
    assert first == {
        "name": "Card 0",
        "sm_mhz": 1000,
        "memory_mhz": 2000,
        "temperature_c": 40,
        "power_limit_mw": 350_000,
    }
    assert second["sm_mhz"] == 1001 and closed == [1]


def test_conditions_of_this_machine() -> None:
    assert set(environment.conditions()) <= {
        "cpu_mhz",
        "governor",
        "temperatures_c",
        "gpu_mhz",
        "load",
        "gpus",
        "jetson",
    }
