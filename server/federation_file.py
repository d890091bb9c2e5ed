"""The file ``federation.toml``: who takes part in a federation, and where its server is found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, field_validator

from collab.settings import parse_toml, read_text, validate
from protocol.bounds import Count, Frozen, Name
from protocol.roster import MAX_SITES, RESERVED, Hosts, Port

MAX_DAYS = 397


def _site_name(name: str) -> str:
    if name.lower() in RESERVED:
        raise ValueError(f"'{name}' cannot be a site's name: kits/{name.lower()}/ is another's folder")
    return name


SiteName = Annotated[Name, AfterValidator(_site_name)]


class SiteTerms(Frozen):
    """``[sites.NAME]``: ``max_examples`` is what the site may claim at most in one contribution."""

    max_examples: Annotated[Count, Field(ge=1)] | None = None


class ServerPlace(Frozen):
    """``[server]``: the DNS names and IP addresses that sites reach it by, and its one port."""

    hosts: Hosts
    port: Port


class FederationFile(Frozen):
    """All of the file.

    Attributes:
        name: of the federation.
        sites: their names, in a list; or a table for each.
        server: where sites find the server.
        days: for how long certificates and the roster hold.
    """

    name: Name
    sites: Annotated[dict[SiteName, SiteTerms], Field(min_length=1, max_length=MAX_SITES)]
    server: ServerPlace
    days: int = Field(90, ge=1, le=MAX_DAYS)

    @field_validator("sites", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        if not all(isinstance(name, str) for name in value):
            raise ValueError('write their names, such as sites = ["hospital-a"]')
        if len(set(value)) < len(value):
            raise ValueError("a site stands there twice")
        return {name: {} for name in value}

    @field_validator("sites")
    @classmethod
    def _told_apart(cls, sites: Mapping[str, SiteTerms]) -> Mapping[str, SiteTerms]:
        if len({name.lower() for name in sites}) < len(sites):
            raise ValueError("two sites differ in capital letters only")
        return sites


def read_federation(path: Path) -> FederationFile:
    """Return what ``federation.toml`` says; raise ``ConfigError`` that names the key."""
    return validate(FederationFile, parse_toml(read_text(path), str(path)), str(path))
