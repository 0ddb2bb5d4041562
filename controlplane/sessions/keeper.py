"""Keep the webhooks' certificates fresh, known to the API servers."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import structlog

from controlplane.api.meta import JsonObject
from controlplane.errors import (
    AlreadyExistsError,
    ConflictError,
    ControlPlaneError,
    NotFoundError,
    PeerError,
)
from controlplane.kube.api import KubeApi
from controlplane.kube.resource import SECRETS, Resource
from controlplane.sessions.certificates import plan_certificates
from controlplane.sessions.pki import CertificateBox, observe, perform, read_box, write_box
from controlplane.sessions.serving import CertificateFiles, ServingContext

_ATTEMPTS: Final = 5
_RETRY_S: Final = (1.0, 2.0, 5.0, 10.0, 30.0)
_FILES_S: Final = 10.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class KeeperSettings:
    """namespace, secret: where the certificates live. dns_names: what API servers call us.

    webhooks: the configurations whose CA is ours to fill in.
    """

    namespace: str
    secret: str
    dns_names: frozenset[str]
    webhooks: tuple[tuple[Resource, str], ...]


class CertificateKeeper:
    """Every replica runs one; they meet in the Secret, which each writes by compare-and-set."""

    def __init__(
        self,
        api: KubeApi,
        settings: KeeperSettings,
        serving: ServingContext,
        clock: Callable[[], datetime],
    ) -> None:
        self._api = api
        self._settings = settings
        self._serving = serving
        self._clock = clock

    async def run(self) -> None:
        """Look again whenever something is due, until cancelled."""
        failures = 0
        while True:
            try:
                due = await self.look()
            except ControlPlaneError as exc:
                delay_s = _RETRY_S[min(failures, len(_RETRY_S) - 1)]
                failures += 1
                _log.warning("certificates.failed", error=str(exc), retry_s=delay_s)
            else:
                failures, delay_s = 0, max(1.0, (due - self._clock()).total_seconds())
            await asyncio.sleep(delay_s)

    async def look(self) -> datetime:
        """Do what is due; the time to look again.

        The bundle reaches the API servers before a new certificate is served.
        Raises: ControlPlaneError; calling again is safe.
        """
        box, due = await self._settle()
        for resource, name in self._settings.webhooks:
            await self._inject(resource, name, box.bundle_pem)
        if box.serving is not None:
            changed = self._serving.load(box.serving.certificate_pem, box.serving.key_pem)
            if changed:
                _log.info("certificates.loaded", not_after=str(_expiry(box)))
        return due

    async def _settle(self) -> tuple[CertificateBox, datetime]:
        """The Secret's content once nothing is to be done about it."""
        for _ in range(_ATTEMPTS):
            secret = await self._read()
            box = read_box((secret or {}).get("data") or {})
            now = self._clock()
            plan = plan_certificates(observe(box), now, self._settings.dns_names)
            if not plan.steps:
                return box, plan.next_look
            for step in plan.steps:
                box = perform(box, step, now, self._settings.dns_names)
            await self._write(secret, box, [step.value for step in plan.steps])
        raise PeerError(
            f"write secret {self._settings.namespace}/{self._settings.secret}: it was written by "
            f"others {_ATTEMPTS} times",
            hint="see who else writes it",
        )

    async def _read(self) -> JsonObject | None:
        try:
            return await self._api.get(SECRETS, self._settings.secret, self._settings.namespace)
        except NotFoundError:
            return None

    async def _write(
        self, secret: JsonObject | None, box: CertificateBox, steps: Sequence[str]
    ) -> None:
        """Whoever lost the race finds the winner's content at the next reading."""
        try:
            if secret is None:
                await self._api.create(SECRETS, self._new_secret(box))
            else:
                await self._api.replace(SECRETS, {**secret, "data": write_box(box)})
        except (ConflictError, AlreadyExistsError, NotFoundError):
            return
        _log.info("certificates.written", secret=self._settings.secret, steps=list(steps))

    def _new_secret(self, box: CertificateBox) -> JsonObject:
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "Opaque",
            "metadata": {
                "name": self._settings.secret,
                "namespace": self._settings.namespace,
                "labels": {"app.kubernetes.io/managed-by": "snapstart-controlplane"},
            },
            "data": write_box(box),
        }

    async def _inject(self, resource: Resource, name: str, bundle_pem: bytes) -> None:
        """Put the CA into every webhook of a configuration; an absent one needs none."""
        for _ in range(_ATTEMPTS):
            try:
                found = await self._api.get(resource, name)
                webhooks = with_bundle(found.get("webhooks") or [], bundle_pem)
                if webhooks is not None:
                    await self._api.merge(resource, name, _webhooks_patch(found, webhooks))
                    _log.info("certificates.injected", configuration=name)
            except ConflictError:
                continue
            except NotFoundError:
                _log.debug("certificates.no_configuration", configuration=name)
            return
        raise PeerError(f"write the CA into {resource} {name}: it was written by others each time")


def with_bundle(webhooks: list[JsonObject], bundle_pem: bytes) -> list[JsonObject] | None:
    """The webhooks with this CA; None if they have it already."""
    wanted = base64.b64encode(bundle_pem).decode()
    if all((one.get("clientConfig") or {}).get("caBundle") == wanted for one in webhooks):
        return None
    return [
        {**one, "clientConfig": {**(one.get("clientConfig") or {}), "caBundle": wanted}}
        for one in webhooks
    ]


def _webhooks_patch(found: JsonObject, webhooks: list[JsonObject]) -> JsonObject:
    """A merge patch replaces lists as a whole, so it is bound to what was read."""
    metadata: dict[str, Any] = found.get("metadata") or {}
    return {
        "metadata": {"resourceVersion": metadata.get("resourceVersion")},
        "webhooks": webhooks,
    }


def _expiry(box: CertificateBox) -> datetime | None:
    return box.serving.certificate.not_valid_after_utc if box.serving else None


async def follow_files(files: CertificateFiles) -> None:
    """Serve what the files hold, soon after they change, until cancelled."""
    while True:
        await asyncio.sleep(_FILES_S)
        try:
            if files.reload():
                _log.info("certificates.reloaded")
        except ControlPlaneError as exc:
            _log.warning("certificates.failed", error=str(exc), retry_s=_FILES_S)
