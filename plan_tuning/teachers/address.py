"""A server's address: which one would work where it is wrong.

An address that is one path or one letter off answers with a redirect, a 404, a web page or a broken
handshake. None of these is cured by a retry, so the first of them ends the run, and its one line
says which address would work: the one that the server redirects to, or one of the usual ones that
is found to answer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from plan_tuning.config.teacher import is_loopback
from plan_tuning.teachers.failures import CallFailure, Fatal, redact

if TYPE_CHECKING:
    from aiohttp import ClientSession

_ENDPOINT = "/chat/completions"
_REDIRECTS = (301, 302, 303, 307, 308)
_MISSING = (404, 405, 501)
_PREFIXES = ("/v1", "/api/v1", "/openai/v1", "/v1beta/openai", "")  # of the usual servers
_PROBE_S = 0.7  # twice at most: a person waits for it
_HANDSHAKE = ("WRONG_VERSION_NUMBER", "wrong version number", "record layer failure")


async def misplaced(
    address: str, failure: CallFailure, headers: Mapping[str, str], body: str
) -> CallFailure | None:
    """Explain a failure by the server's address.

    Args:
        address: as configured, without ``/chat/completions``.
        failure: what the response or the connection was read as.
        headers: of the response.
        body: of the response; one that speaks of a model does not speak of the address.

    Returns:
        A failure that names an address that works; None where the address is not at fault, or none
        is found that is better.
    """
    if failure.status in _REDIRECTS:
        location = {name.lower(): value for name, value in headers.items()}.get("location", "")
        target = urljoin(address + _ENDPOINT, location)
        if target.endswith(_ENDPOINT) and location:
            return _wrong(address, f"redirects to {target}", target.removesuffix(_ENDPOINT))
        found = await _working(address)
        if found is None:
            return Fatal(
                "address",
                f"teacher.api_base={address} redirects to {redact(target)}, which does not speak "
                "OpenAI's protocol: give the address up to and including /v1, for example: "
                "teacher.api_base=http://127.0.0.1:8000/v1",
                status=failure.status,
            )
        return _wrong(address, f"redirects to {target}", found)
    if failure.kind == "connection":
        if address.startswith("https:") and any(sign in failure.message for sign in _HANDSHAKE):
            return _wrong(address, "does not speak TLS", "http:" + address.removeprefix("https:"))
        return None
    is_page = failure.kind == "bad_body" and _is_page(body)
    if not is_page and (failure.status not in _MISSING or "model" in body.lower()):
        return None
    found = await _working(address, is_known_wrong=not is_page)
    if found is None:
        return None
    said = "answers with a web page" if is_page else f"answers {failure.status}"
    return _wrong(address, said, found)


def _wrong(address: str, said: str, better: str) -> Fatal:
    return Fatal(
        "address",
        redact(f"teacher.api_base={address} {said}. This would work: teacher.api_base={better}"),
    )


def _is_page(body: str) -> bool:
    return body.lstrip()[:200].lower().startswith(("<!doctype html", "<html"))


async def _working(address: str, *, is_known_wrong: bool = True) -> str | None:
    """Find an address that answers, among the usual ones of the same server.

    None where the configured one answers as well, unless it is known not to: then it is not at
    fault.

    Nothing is generated: the list of models is asked for, else an empty request, which a server of
    the protocol refuses and any other does not know.
    """
    import aiohttp

    parts = urlsplit(address)
    root = f"{parts.scheme}://{parts.netloc}"
    places = [] if address.endswith("/v1") else [address + "/v1"]
    places = [
        place for place in (*places, *(root + name for name in _PREFIXES)) if place != address
    ]
    places = list(dict.fromkeys(places if is_known_wrong else (address, *places)))
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=_PROBE_S), trust_env=not is_loopback(address)
    ) as session:
        answers = await asyncio.gather(*(_answers(session, place) for place in places))
    found = next((place for place, works in zip(places, answers, strict=True) if works), None)
    return None if found == address else found


async def _answers(session: ClientSession, place: str) -> bool:
    import aiohttp

    failures = (aiohttp.ClientError, ConnectionError, TimeoutError)
    try:
        async with session.get(f"{place}/models", allow_redirects=False) as response:
            if response.status in (401, 403):
                return True
            if response.status == 200 and _is_json(await response.text(errors="replace")):
                return True
    except failures:
        return False
    try:
        async with session.post(
            place + _ENDPOINT, data="{}", headers={"Content-Type": "application/json"},
            allow_redirects=False,
        ) as response:  # fmt: skip
            if response.status in (*_MISSING, *_REDIRECTS):
                return False
            return not _is_page(await response.text(errors="replace"))
    except aiohttp.ServerDisconnectedError:
        return True  # a server that breaks on an empty request takes requests here
    except failures:
        return False


def _is_json(body: str) -> bool:
    try:
        return isinstance(json.loads(body), dict | list)
    except (ValueError, RecursionError):
        return False
