"""A small blocking client of the API server, for setting tests up; not the one under test."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.kube.pki import KeyPair

Object = dict[str, Any]

FIELD_MANAGER = "snapstart-test-setup"
DISCOVERY_S = 10.0
POLL_S = 0.05


class ApiError(Exception):
    """The API server refused a request."""

    def __init__(self, what: str, status: int, reason: str, message: str) -> None:
        super().__init__(f"{what}: {status} {reason}: {message}")
        self.status = status
        self.reason = reason


class Api:
    """Requests as one user; one connection for each, so that nothing is left open."""

    def __init__(self, url: str, ca: Path, client: KeyPair) -> None:
        """Args: url: https with host, port. ca: who signed the server. client: who we are."""
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 443
        self._tls = ssl.create_default_context(cafile=str(ca))
        self._tls.load_cert_chain(client.certificate, client.key)
        self._resources: dict[tuple[str, str], tuple[str, bool]] = {}
        self._lock = threading.Lock()

    def read(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        content_type: str = "application/json",
        timeout_s: float = 30.0,
    ) -> tuple[int, bytes]:
        """One request; returns status with body. Raises: OSError when nobody answers."""
        headers = {"Accept": "application/json, */*"}
        if body is not None:
            headers["Content-Type"] = content_type
        link = http.client.HTTPSConnection(
            self._host, self._port, timeout=timeout_s, context=self._tls
        )
        try:
            link.request(method, path, body, headers)
            reply = link.getresponse()
            return reply.status, reply.read()
        except http.client.HTTPException as exc:
            raise ConnectionError(f"{method} {path}: {exc!r}") from exc
        finally:
            link.close()

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        content_type: str = "application/json",
        timeout_s: float = 30.0,
    ) -> Object:
        """One request with JSON both ways. Raises: ApiError for a refusal, OSError for silence."""
        raw = None if body is None else json.dumps(body).encode()
        status, reply = self.read(method, path, raw, content_type=content_type, timeout_s=timeout_s)
        if status < 300:
            return _as_object(reply)
        try:
            said = _as_object(reply)
        except ValueError:
            said = {"message": reply[:500].decode(errors="replace")}
        raise ApiError(f"{method} {path}", status, said.get("reason", ""), said.get("message", ""))

    def get(self, path: str) -> Object:
        """The object or list at `path`."""
        return self.call("GET", path)

    def delete(self, path: str) -> None:
        """Delete what is at `path`; nothing if it is gone."""
        try:
            self.call("DELETE", path)
        except ApiError as exc:
            if exc.status != 404:
                raise

    def apply(self, objects: Iterable[Mapping[str, Any]]) -> list[Object]:
        """Server-side apply, in order, taking over every field named."""
        query = f"?fieldManager={FIELD_MANAGER}&force=true"
        kind = "application/apply-patch+yaml"
        return [
            self.call("PATCH", self.path_of(item) + query, item, content_type=kind)
            for item in objects
        ]

    def path_of(self, item: Mapping[str, Any]) -> str:
        """The path of an object from its own apiVersion, kind, name, namespace."""
        metadata = item["metadata"]
        plural, is_namespaced = self.resource(item["apiVersion"], item["kind"])
        return object_path(
            item["apiVersion"],
            plural,
            metadata["name"],
            metadata.get("namespace", "default") if is_namespaced else None,
        )

    def resource(self, api_version: str, kind: str) -> tuple[str, bool]:
        """The plural of a kind, and whether it is namespaced; waits for one just installed."""
        deadline = time.monotonic() + DISCOVERY_S
        while True:
            with self._lock:
                known = self._resources.get((api_version, kind))
            if known is not None:
                return known
            self._discover(api_version)
            if (api_version, kind) in self._resources:
                continue
            if time.monotonic() > deadline:
                raise LookupError(f"the API server does not serve {kind} in {api_version}")
            time.sleep(POLL_S)

    def _discover(self, api_version: str) -> None:
        try:
            found = self.get(group_path(api_version))["resources"] or ()
        except ApiError as exc:
            if exc.status in (404, 503):
                return
            raise
        rows = [row for row in found if "/" not in row["name"]]
        with self._lock:
            for row in rows:
                self._resources[(api_version, row["kind"])] = (row["name"], row["namespaced"])


def _as_object(raw: bytes) -> Object:
    value: Object = json.loads(raw)
    return value


def group_path(api_version: str) -> str:
    """The path that a group and version are served below."""
    return f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"


def object_path(api_version: str, plural: str, name: str, namespace: str | None) -> str:
    """The path of one object; cluster-scoped when `namespace` is None."""
    within = f"/namespaces/{namespace}" if namespace is not None else ""
    return f"{group_path(api_version)}{within}/{plural}/{name}"
