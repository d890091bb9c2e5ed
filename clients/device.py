"""Which device a site computes on, and how fast it is."""

from __future__ import annotations

import platform
import time
from hashlib import sha256

import numpy as np
import torch
from torch import nn

from protocol.errors import ConfigError

_PROBE_ROWS, _PROBE_FEATURES, _PROBE_SECONDS = 256, 64, 0.2


def choose(wanted: str) -> torch.device:
    """Return the device for ``auto`` (CUDA where there is one), ``cpu`` or ``cuda``.

    Raises:
        ConfigError: ``cuda`` was asked for by name and is not there; it never falls back silently.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: 'cuda' was asked for, but torch sees no CUDA device; use 'auto' or 'cpu'")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def gpu_memory_mib(device: torch.device, share: float | None = None) -> float:
    """Return what may be used of the GPU's memory in MiB: ``share`` of it, or all; 0 for a CPU."""
    if device.type != "cuda":
        return 0.0
    total = float(torch.cuda.get_device_properties(device).total_memory) / 2**20
    return total if share is None else total * share


def bound_memory(device: torch.device, share: float | None) -> None:
    """Let this process use no more than ``share`` (0, 1] of the GPU's memory; a CPU has no such bound.

    What goes beyond it fails as if the GPU were full, and leaves the rest to whoever else computes there.
    """
    if device.type == "cuda" and share is not None:
        torch.cuda.set_per_process_memory_fraction(share, device.index)


def described(device: torch.device) -> str:
    """Return, in words, what the bits of a training depend on beside its rows, its seeds and our release."""
    if device.type == "cuda":
        of = torch.cuda.get_device_properties(device)
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        name = f"{of.name} {of.major}.{of.minor}, CUDA {torch.version.cuda}, cuDNN {cudnn}"
    else:
        name = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return f"{name}, torch {torch.__version__}, numpy {np.__version__}"


def fingerprint(device: torch.device) -> str:
    """Return a digest of that: what the server needs to know, and the same length at every site."""
    return sha256(described(device).encode()).hexdigest()[:16]


def measure_speed(device: torch.device) -> float:
    """Return examples a second of a small perceptron's training step, measured for a moment."""
    model = nn.Sequential(nn.Linear(_PROBE_FEATURES, 128), nn.ReLU(), nn.Linear(128, 10)).to(device)
    x = torch.zeros(_PROBE_ROWS, _PROBE_FEATURES, device=device)
    steps, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < _PROBE_SECONDS:
        model(x).sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        steps += 1
    return steps * _PROBE_ROWS / elapsed
