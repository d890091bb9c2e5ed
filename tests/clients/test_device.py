"""The device: what was asked for by name is there or refused; ``auto`` takes what there is."""

from __future__ import annotations

import platform
import re
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from clients import device
from protocol.errors import ConfigError


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without CUDA."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose GPU has 8 GiB, as far as torch says."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    properties = SimpleNamespace(total_memory=8 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)


@pytest.mark.usefixtures("no_gpu")
def test_cuda_by_name_never_falls_back() -> None:
    """``cuda`` without CUDA is refused, and the sentence says what to write instead."""
    with pytest.raises(ConfigError, match=r"'cuda' was asked for.*use 'auto' or 'cpu'"):
        device.choose("cuda")


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_auto_is_the_processor() -> None:
    """``auto`` falls back, and the processor has no GPU memory."""
    assert device.choose("auto") == device.choose("cpu") == torch.device("cpu")
    assert device.gpu_memory_mib(device.choose("auto")) == 0.0


@pytest.mark.usefixtures("gpu")
def test_with_a_gpu_auto_takes_it() -> None:
    """``auto`` and ``cuda`` are the GPU, ``cpu`` stays the processor; memory is told in MiB."""
    assert device.choose("auto") == device.choose("cuda") == torch.device("cuda")
    assert device.choose("cpu") == torch.device("cpu")
    assert device.gpu_memory_mib(torch.device("cuda")) == 8192.0


def test_a_share_bounds_this_process_on_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch is told the share once, for the GPU; a processor, or a site without a share, has no bound."""
    told: list[tuple[float, int | None]] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *args: told.append(args))
    device.bound_memory(torch.device("cpu"), 0.5)
    device.bound_memory(torch.device("cuda"), None)
    assert told == []
    device.bound_memory(torch.device("cuda"), 0.25)
    device.bound_memory(torch.device("cuda", 1), 0.5)
    assert told == [(0.25, None), (0.5, 1)]


@pytest.mark.usefixtures("gpu")
def test_a_site_says_what_it_may_use_of_its_gpu() -> None:
    """Of 8 GiB a quarter is 2; without a share it is all."""
    assert device.gpu_memory_mib(torch.device("cuda"), 0.25) == 2048.0
    assert device.gpu_memory_mib(torch.device("cuda"), None) == 8192.0


def test_speed_is_measured() -> None:
    """A processor makes some examples a second, and the probe says how many."""
    assert device.measure_speed(torch.device("cpu")) > 0


@pytest.mark.usefixtures("gpu")
def test_a_gpu_is_waited_for_when_its_speed_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe waits for the GPU at each step: else it would count what has only been queued."""
    waits: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda where: waits.append(str(where)))
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, where: self)
    zeros = partial(torch.zeros, device="cpu")
    monkeypatch.setattr(torch, "zeros", lambda *shape, **_: zeros(*shape))
    assert device.measure_speed(torch.device("cuda")) > 0
    assert set(waits) == {"cuda"}


def test_what_the_bits_depend_on_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor with its instructions, or the GPU with what drives it, and the releases."""
    releases = f"torch {torch.__version__}, numpy {np.__version__}"
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "SVE256")
    processor, gpu = torch.device("cpu"), torch.device("cuda")
    assert device.described(processor) == f"aarch64 SVE256, {releases}"
    of = SimpleNamespace(name="NVIDIA H100", major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: of)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert device.described(gpu) == f"NVIDIA H100 9.0, CUDA 13.0, cuDNN 91002, {releases}"
    before = device.fingerprint(processor)
    assert re.fullmatch("[0-9a-f]{16}", before)
    assert device.fingerprint(gpu) != before
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert device.fingerprint(processor) != before
