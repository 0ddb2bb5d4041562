"""Follow the public key by which sandboxes know the router."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable
from typing import Final

import structlog

from controlplane.api.meta import JsonObject
from controlplane.errors import ControlPlaneError, NotFoundError
from controlplane.kube.api import KubeApi
from controlplane.kube.resource import SECRETS

# AgentCube's router makes it.
SECRET: Final = "picod-router-identity"  # the name of a Secret, not its content
MEMBER: Final = "public.pem"
_ABSENT_S: Final = 5.0
_PRESENT_S: Final = 30.0

_log = structlog.get_logger(__name__)


class PublicKey:
    """The key as last read; a server that does not answer takes nothing away.

    It is read by name, again and again: a watch would need the right to list Secrets.
    Args: namespace: the router's.
    """

    def __init__(self, api: KubeApi, namespace: str) -> None:
        self._api = api
        self._namespace = namespace
        self.value = ""

    async def run(self, on_change: Callable[[], None]) -> None:
        """Keep reading until cancelled; `on_change` is called when the value is another one."""
        while True:
            before = self.value
            try:
                await self.look()
            except ControlPlaneError as exc:
                _log.warning("public_key.failed", error=str(exc), secret=SECRET)
            if self.value != before:
                _log.info("public_key.changed", secret=SECRET, is_known=bool(self.value))
                on_change()
            await asyncio.sleep(_PRESENT_S if self.value else _ABSENT_S)

    async def look(self) -> None:
        """Read once. Raises: ControlPlaneError, with the old value kept."""
        try:
            self.value = read_key(await self._api.get(SECRETS, SECRET, self._namespace))
        except NotFoundError:
            self.value = ""


def read_key(secret: JsonObject) -> str:
    """The PEM text in a Secret, empty if there is none."""
    encoded = (secret.get("data") or {}).get(MEMBER) or ""
    try:
        text = base64.b64decode(encoded, validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        return ""
    return text if text.lstrip().startswith("-----BEGIN ") else ""
