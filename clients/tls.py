"""The site's side of mutual TLS 1.3."""

from __future__ import annotations

import ssl
from pathlib import Path


def client_context(authority: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """Return the context that shows the site's certificate and trusts its authority alone.

    Raises:
        OSError: a file cannot be read, or is no certificate or key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(authority)
    context.load_cert_chain(certificate, key)
    return context
