"""How a command speaks to the server that runs on this machine."""

from __future__ import annotations

import json
import stat
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from protocol.errors import ConfigError, RunError, UserError
from server.inner import COMMANDS, SECRET_HEADER

_TIMEOUT_S = 15.0
_MAX_ANSWER = 64 * 2**20


def ask(
    kit: Path, command: str, query: Mapping[str, str] | None = None, given: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Ask the running server of a kit.

    Raises:
        UserError: no server runs there, this user may not speak to it, or it says why not.
        RunError: it does not answer.
    """
    contact = _contact(kit)
    url = f"http://{contact['address']}{COMMANDS}{command}?{urlencode(query or {})}"
    body = None if given is None else json.dumps(dict(given)).encode()
    headers = {SECRET_HEADER: contact["secret"], "content-type": "application/json"}
    request = urllib.request.Request(url, data=body, headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback has no proxy
    try:
        with opener.open(request, timeout=_TIMEOUT_S) as answer:
            found = json.loads(answer.read(_MAX_ANSWER))
    except urllib.error.HTTPError as error:
        said = _said(error)
        raise (UserError if error.code < 500 else RunError)(
            said or f"the server answers {error.code}"
        ) from None
    except (OSError, ValueError) as error:
        raise RunError(f"the server of {kit} does not answer ({error}): is it running?") from None
    if not isinstance(found, dict):
        raise RunError(f"the server of {kit} answers what is no table: is it of another release?")
    return found


def _said(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.loads(error.read(65_536)).get("error", ""))
    except (ValueError, AttributeError):
        return ""


def _contact(kit: Path) -> dict[str, str]:
    path = kit / "state" / "contact.json"
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise ConfigError(f"{path}: is no file of a server's")
        found = json.loads(path.read_text(encoding="utf-8"))
        return {"address": str(found["address"]), "secret": str(found["secret"])}
    except FileNotFoundError:
        raise UserError(
            f"no server runs on the kit {kit}: start it with `consilium server up {kit}`, or name its kit "
            "with --kit or $CONSILIUM_KIT"
        ) from None
    except PermissionError:
        raise UserError(
            f"{path}: may be read by the server's user, and by the group in server.toml"
        ) from None
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path}: cannot be read; start the server again") from None
