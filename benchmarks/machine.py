"""On what was measured: processor, units, versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import torch

LIBRARIES = ("torch", "transformers", "peft", "pytorch-lightning")


def describe(threads: int) -> dict[str, Any]:
    """Processor, cores, matrix units, threads of torch, and the versions that matter."""
    units = {
        "AVX512": torch.cpu._is_avx512_supported(),
        "AVX512-BF16": torch.cpu._is_avx512_bf16_supported(),
        "AMX": torch.cpu._is_amx_tile_supported(),
    }
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "units": [name for name, there in units.items() if there],
        "threads": threads,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
    }


def has_bf16_units() -> bool:
    """Whether the processor, on which everything is measured, multiplies bfloat16 matrices in hardware."""
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def processor() -> str:
    """The processor's model name, with family and model number where the name alone says little."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return platform.processor() or platform.machine()
    pairs = (line.split(":", 1) for line in path.read_text().split("\n\n")[0].splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in pairs}
    numbers = f"family {fields['cpu family']}, model {fields['model']}" if "cpu family" in fields else ""
    return f"{fields.get('model name', platform.machine())} ({numbers})" if numbers else platform.machine()
