"""The file ``site.toml``: what an institution says of its site. Reading it needs no torch."""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from collab.data.config import DataConfig
from collab.terms import EgressTerms, Positive
from collab.toml_file import parse_toml, read_text, validate
from protocol.bounds import Frozen, Name

_LABEL: Final = r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)"
_DNS_NAME: Final = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?", re.ASCII)
_PROXY: Final = re.compile(
    r"http://(?P<host>[^\s/@:\[\]]+|\[[0-9A-Fa-f:.]+\]):(?P<port>[0-9]{1,5})/?", re.ASCII
)
_MAX_PORT: Final = 65535


def _is_host(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        # All digits and dots, and yet no address: a slip of the pen, and no name that anybody has.
        return not re.fullmatch(r"[0-9.]+", text) and _DNS_NAME.fullmatch(text) is not None
    return True


def _host(text: str) -> str:
    if not _is_host(text):
        raise ValueError("is neither a DNS name nor an IP address")
    return text


Host = Annotated[str, StringConstraints(min_length=1, max_length=253), AfterValidator(_host)]


class ServerAddress(Frozen):
    """Where the server is: the one place that the site connects to.

    Attributes:
        host: a DNS name or an IP address.
        port: of the server's public listener.
        proxy: ``http://HOST:PORT`` of the institution's own proxy, if connections must go through one. It
            holds no password: this file is read by more than the one process that connects.
    """

    host: Host
    port: int = Field(ge=1, le=_MAX_PORT)
    proxy: str | None = Field(None, repr=False)

    @model_validator(mode="after")
    def _plain_proxy(self) -> ServerAddress:
        # Judged with the table, and not as a field: the refusal of a field quotes it, password and all.
        if self.proxy is None:
            return self
        found = _PROXY.fullmatch(self.proxy) if len(self.proxy) <= 300 else None
        if (
            found is None
            or not _is_host(found["host"].strip("[]"))
            or not 1 <= int(found["port"]) <= _MAX_PORT
        ):
            raise ValueError("proxy is http://HOST:PORT, without user or password")
        return self


class Limits(Frozen):
    """What a site's machine may be used for; what is left out is measured.

    Attributes:
        gpu_memory_share: how much of the GPU's memory the site's process may use; all, if left out.
        results_mib: how much room results may take that wait to be fetched.
    """

    memory_mib: Positive | None = None
    examples_per_s: Positive | None = None
    bandwidth_mbit: Positive | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    gpu_memory_share: float | None = Field(None, gt=0, le=1)
    results_mib: int = Field(2048, ge=1, le=10**9)


class SiteConfig(Frozen):
    """The file ``site.toml``."""

    name: Name
    data: Annotated[dict[Name, DataConfig], Field(min_length=1, max_length=1000)]
    server: ServerAddress | None = None
    limits: Limits = Limits()
    egress: EgressTerms = EgressTerms(models=False, label_histogram="rounded")
    price: float = Field(1.0, ge=0, le=1e12)


def load(path: Path) -> SiteConfig:
    """Return what ``site.toml`` says.

    Raises:
        ConfigError: one line with file, key, what is wrong and what is allowed.
    """
    return validate(SiteConfig, parse_toml(read_text(path), str(path)), str(path))
