"""A server's address -> whether it answers: one free request, for its list of models.

For servers of the user's own that speak OpenAI's protocol; nobody else is asked.
"""

from __future__ import annotations

import json
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from plan_tuning.config.checks import Finding

_TIMEOUT_S = 5.0
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_SHOWN_MODELS = 5
_EXAMPLE = "http://127.0.0.1:8000/v1"


def check_server(
    key: str, address: str, model: str, secret: str | None, *, timeout_s: float = _TIMEOUT_S
) -> Finding:
    """Ask a server for its models.

    Args:
        key: of the configuration that holds the address.
        address: up to and including ``/v1``.
        model: the name under which the server is asked.
        secret: the API key, None: the server takes none.
        timeout_s: seconds that it may take to answer.
    """
    wrong = _malformed(address)
    if wrong:
        return Finding("error", f"{key}={address} {wrong}, for example {key}={_EXAMPLE}")
    parts = urlsplit(address)
    no_port = "" if parts.port else f" The address names no port, as {_EXAMPLE} does."
    request = Request(f"{address.rstrip('/')}/models")
    if secret:
        request.add_header("Authorization", f"Bearer {secret}")
    proxies = [ProxyHandler({})] if parts.hostname in _LOOPBACK else []
    try:
        with build_opener(*proxies).open(request, timeout=timeout_s) as response:
            served = _models(response.read())
    except HTTPError as error:
        error.close()
        return _refused(key, address, error.code, no_port)
    except (URLError, OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        return Finding("error", f"{key}={address}: nobody answers there ({reason}).{no_port}")
    if served is None:
        return Finding("note", f"{key}={address} answers, without a list of models.{no_port}")
    if model not in served:
        shown = ", ".join(served[:_SHOWN_MODELS]) or "nothing"
        return Finding("note", f"{key}={address} answers and lists {shown}, not {model}")
    return Finding("ok", f"{key}={address} answers and serves {model}")


def _malformed(address: str) -> str:
    """Say what is wrong with an address itself, if anything."""
    try:
        parts = urlsplit(address)
        _ = parts.port
    except ValueError as error:
        return f"is no address ({error})"
    if parts.scheme not in ("http", "https"):
        return "begins with neither http:// nor https://"
    return "" if parts.hostname else "names no host"


def _refused(key: str, address: str, status: int, no_port: str) -> Finding:
    if status in (401, 403):
        return Finding("error", f"{key}={address}: the server refuses the key (HTTP {status})")
    where = "" if urlsplit(address).path.rstrip("/").endswith("/v1") else " It may lack /v1."
    text = f"{key}={address} answers HTTP {status} to a request for its models.{where}{no_port}"
    return Finding("note", text)


def _models(body: bytes) -> list[str] | None:
    """Read the names of a list of models; None where it is none."""
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return None
    listed = parsed.get("data") if isinstance(parsed, dict) else None
    if not isinstance(listed, list):
        return None
    return [str(entry["id"]) for entry in listed if isinstance(entry, dict) and "id" in entry]
