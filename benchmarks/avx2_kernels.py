"""Run a Python program with ONNX Runtime's AVX2 kernels, on an x86 CPU that has AVX-512 or VNNI.

    gdb -batch -x benchmarks/avx2_kernels.py --args .venv/bin/python benchmarks/int8_speedup.py

ONNX Runtime asks the CPU with the instruction CPUID which kernels it can run. gdb stops at each of these instructions
and clears the bits of AVX-512, VNNI and AMX. All other instructions run at full speed, so latencies and mIoU are those
of the AVX2 kernels on this CPU. torch has its own switches: ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2.
Needs gdb with Python, and objdump (apt install gdb binutils).
"""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any

import gdb

LIBRARY = "onnxruntime_pybind11_state"
#: Bits to clear, by leaf and subleaf of CPUID and by register: AVX-512 with all its parts, VNNI, AVX-VNNI and AMX.
HIDDEN = {
    (7, 0): {
        "rbx": (16, 17, 21, 26, 27, 28, 30, 31),
        "rcx": (1, 6, 11, 12, 14),
        "rdx": (2, 3, 8, 22, 23, 24, 25),
    },
    (7, 1): {"rax": (4, 5, 21, 23), "rdx": (4, 5, 10)},
}
LOW = 0xFFFFFFFF


class Question(gdb.Breakpoint):
    """At a CPUID instruction: remembers what it asks for."""

    asked: tuple[int, int] = (0, 0)

    def stop(self) -> bool:
        frame = gdb.newest_frame()
        leaf, subleaf = (int(frame.read_register(name)) & LOW for name in ("rax", "rcx"))
        Question.asked = leaf, subleaf
        return False


class Answer(gdb.Breakpoint):
    """After a CPUID instruction: clears the bits in its answer."""

    def stop(self) -> bool:
        frame = gdb.newest_frame()
        for name, bits in HIDDEN.get(Question.asked, {}).items():
            value = int(frame.read_register(name)) & LOW & ~sum(1 << bit for bit in bits)
            gdb.execute(f"set ${name} = {value}")
        return False


def on_library(event: Any) -> None:
    """Put breakpoints at every CPUID instruction of ONNX Runtime, before its first line runs."""
    file = event.new_objfile.filename
    if LIBRARY not in file:
        return
    gdb.events.new_objfile.disconnect(on_library)
    objdump = shutil.which("objdump") or "objdump"
    shown = subprocess.run([objdump, "-d", "--no-show-raw-insn", file], capture_output=True, text=True, check=True)
    offsets = [int(offset, 16) for offset in re.findall(r"^\s*([0-9a-f]+):\s+cpuid", shown.stdout, re.MULTILINE)]
    maps = gdb.execute("info proc mappings", to_string=True).splitlines()
    start = min(int(line.split()[0], 16) for line in maps if LIBRARY in line)
    for offset in offsets:
        Question(f"*{start + offset:#x}", internal=True)
        Answer(f"*{start + offset + 2:#x}", internal=True)


gdb.events.new_objfile.connect(on_library)
for command in (
    "set pagination off", "set debuginfod enabled off", "set print thread-events off", "set print inferior-events off",
    "set detach-on-fork on", "handle SIGTERM SIGINT nostop noprint pass", "run", "quit $_exitcode",
):  # fmt: skip
    gdb.execute(command)
