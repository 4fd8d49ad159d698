"""TLS of the listening ports: which certificate, whose clients, which versions."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Literal

from service.errors import InvalidSettings

Version = Literal["1.2", "1.3"]
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def tls_context(certificate: Path, key: Path, client_ca: Path | None, minimum: Version) -> ssl.SSLContext:
    """What a server needs to speak TLS. client_ca: clients must show a certificate that one of these signed.
    InvalidSettings where a file is missing, is none, or is locked by a password."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[minimum]
    context.set_alpn_protocols(["http/1.1"])
    load_certificate(context, certificate, key)
    if client_ca is not None:
        try:
            context.load_verify_locations(client_ca)
        except OSError as e:
            raise InvalidSettings(f"tls_client_ca: {client_ca}: {_why(e)}") from e
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def load_certificate(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """Gives new connections of a context this certificate. Where it raises InvalidSettings the context is as it was."""
    tried = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        for each in (tried, context):
            each.load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ValueError) as e:
        raise InvalidSettings(f"tls_certificate, tls_key: {certificate}, {key}: {_why(e)}") from e


def _no_password() -> str:
    raise ValueError("the key is locked by a password, and nothing here could ask for it")


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
