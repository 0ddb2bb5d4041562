"""Find what cannot be in settings, before anything is begun with them."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from agentd.settings.cluster_groups import Kuasar, Node, Proxy
from agentd.settings.groups import MONITORS, Lifetime, Pager
from agentd.settings.whole import Settings
from agentd.tracing import check_endpoint
from agentd.typed_settings import Finding
from agentd.typed_settings.group import values

_SOCKET_PATH_BYTES: Final = 107  # unix(7): sun_path without its terminating NUL
_VM_PATH_TAIL: Final = len("/vms/s-0123456789abcdef/vm/channel.sock")
_MOST_READERS: Final = 64
_MOST_RECORDS: Final = 64
_CHOICES: Final = {
    "monitor.kind": MONITORS,
    "monitor.accel": ("auto", "kvm", "tcg"),
    "log.level": ("debug", "info", "warning", "error"),
    "log.format": ("json", "text"),
    "pager.enabled": ("auto", "off"),
}

Findings = Iterator[Finding]


def check(settings: Settings, environ: Mapping[str, str]) -> Findings:
    """What an operator has to change; nothing outside the settings is looked at."""
    yield from _check_paths(settings)
    for key, allowed in _CHOICES.items():
        group, _, field = key.partition(".")
        value: str = getattr(getattr(settings, group), field)
        if value not in allowed:
            yield Finding((key,), f"{key} is {value!r}", f"use one of {', '.join(allowed)}")
    yield from _check_mode(settings.api.socket_mode)
    yield from _check_node(settings.node)
    yield from _check_kuasar(settings.kuasar, settings.node)
    yield from _check_proxy(settings, environ)
    yield from _check_pager(settings.pager)
    if settings.http.port > 65535:
        port = settings.http.port
        yield Finding(("http.port",), f"http.port is {port}", "give one of 0 to 65535")
    endpoint = settings.tracing.endpoint
    if endpoint and (why := check_endpoint(endpoint)):
        hint = "give a URL such as http://127.0.0.1:4318"
        yield Finding(("tracing.endpoint",), f"tracing.endpoint is {endpoint!r}: {why}", hint)
    yield from _check_numbers(settings)
    yield from _check_lifetime(settings.lifetime)


def _check_paths(settings: Settings) -> Findings:
    named = {
        "paths.data_dir": settings.data_dir,
        "paths.run_dir": settings.run_dir,
        "paths.image_cache_dir": settings.image_cache_dir,
        "api.socket": settings.socket,
    }
    for key, path in named.items():
        if not path.is_absolute():
            yield Finding((key,), f"{key} {str(path)!r} is not absolute", "give a full path")
    longest = {
        "api.socket": settings.socket,
        "paths.run_dir": Path(f"{settings.run_dir}{'x' * _VM_PATH_TAIL}"),
    }
    for key, path in longest.items():
        if len(os.fsencode(path)) > _SOCKET_PATH_BYTES:
            what = f"a socket below {str(path.parent)!r} would exceed {_SOCKET_PATH_BYTES} bytes"
            yield Finding((key, "paths.run_dir"), what, "choose a shorter paths.run_dir")


def _check_node(node: Node) -> Findings:
    if not node.enabled:
        return
    if not node.name:
        keys = ("node.name", "node.enabled")
        yield Finding(keys, "node.enabled without node.name", "set it, or $NODE_NAME")
    try:
        ipaddress.ip_network(node.pod_cidr)
    except ValueError as exc:
        hint = "give a network such as 127.88.0.0/16"
        yield Finding(("node.pod_cidr",), f"node.pod_cidr: {exc}", hint)


def _check_kuasar(kuasar: Kuasar, node: Node) -> Findings:
    if not kuasar.enabled:
        return
    if node.virtual:
        yield Finding(
            ("kuasar.enabled", "node.virtual"),
            "kuasar.enabled with node.virtual: a virtual node's Pods are no sandboxer's",
            "set one of them",
        )
    for name in ("admin_socket", "grpc_socket", "listen_socket", "cri_socket"):
        yield from _check_socket(f"kuasar.{name}", getattr(kuasar, name))


def _check_proxy(settings: Settings, environ: Mapping[str, str]) -> Findings:
    """What can be told without looking at files; which addresses are refused is the proxy's."""
    proxy, key = settings.proxy, ("proxy.enabled",)
    if not proxy.enabled:
        return
    if not (settings.node.enabled and settings.kuasar.enabled):
        yield Finding(key, "proxy.enabled without what it serves", "enable node and kuasar")
    if proxy.port > 65535:
        yield Finding(("proxy.port",), f"proxy.port is {proxy.port}", "give one of 1 to 65535")
    if not environ.get("POD_IP"):
        yield Finding(key, "proxy.enabled without $POD_IP", "set it by the downward API")
    if proxy.token_file is None and not environ.get("KUASAR_PROXY_TOKEN"):
        yield Finding(
            key,
            "proxy.enabled without a token, which would let anybody in",
            "set $KUASAR_PROXY_TOKEN or proxy.token_file",
        )
    yield from _check_certificates(proxy)


def _check_certificates(proxy: Proxy) -> Findings:
    if (proxy.certificate_file is None) != (proxy.key_file is None):
        keys = ("proxy.certificate_file", "proxy.key_file")
        yield Finding(keys, f"{keys[0]} and {keys[1]} need each other", "set both")
    if proxy.client_ca_file is not None and proxy.certificate_file is None:
        keys = ("proxy.client_ca_file", "proxy.certificate_file")
        yield Finding(keys, f"{keys[0]} without {keys[1]}", "set all three")


def _check_pager(pager: Pager) -> Findings:
    for name in ("journal_dir", "binary", "kuasar_dir"):
        path: Path | None = getattr(pager, name)
        if path is not None and not path.is_absolute():
            key = f"pager.{name}"
            yield Finding((key,), f"{key} is {str(path)!r}", "give a full path")
    for name in ("control_socket", "kuasar_socket"):
        yield from _check_socket(f"pager.{name}", getattr(pager, name))
    # Its supervisor makes a socket in there.
    yield from _check_socket(
        "pager.journal_dir", pager.journal_dir and pager.journal_dir / "notify"
    )
    if (pager.kuasar_socket is None) != (pager.kuasar_dir is None):
        keys = ("pager.kuasar_socket", "pager.kuasar_dir")
        yield Finding(keys, f"{keys[0]} and {keys[1]} need each other", "set both")
    if pager.readers > _MOST_READERS or pager.record_forks > _MOST_RECORDS:
        most = f"at most {_MOST_READERS} readers, {_MOST_RECORDS} record_forks"
        keys = ("pager.readers", "pager.record_forks")
        yield Finding(keys, f"{keys[0]} or {keys[1]} is too large", f"give {most}")


def _check_socket(key: str, path: Path | None) -> Findings:
    if path is None:
        return
    if not path.is_absolute() or len(os.fsencode(path)) > _SOCKET_PATH_BYTES:
        hint = f"give a full path of at most {_SOCKET_PATH_BYTES} bytes"
        yield Finding((key,), f"{key} is {str(path)!r}", hint)


def _check_mode(text: str) -> Findings:
    try:
        fits = 0 <= int(text, 8) <= 0o777
    except ValueError:
        fits = False
    if not fits:
        key = "api.socket_mode"
        yield Finding((key,), f"{key} is {text!r}", 'use octal text such as "0660"')


# What makes no sense as 0: everything else may be, with the meaning its comment gives.
_MAY_BE_ZERO: Final = {
    ("http", "port"),
    ("admission", "memory_bytes"),
    ("admission", "host_reserve_bytes"),
    ("admission", "concurrent_forks"),
    ("admission", "queued_forks"),
    ("warm", "count"),
    ("monitor", "uid_base"),
    ("pager", "record_forks"),
}


def _check_numbers(settings: Settings) -> Findings:
    for group, field, value in values(settings):
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        is_missing = value == 0 and (group, field) not in _MAY_BE_ZERO
        if value < 0 or is_missing or value != value or value > 2**60:
            key = f"{group}.{field}"
            yield Finding((key,), f"{key} is {value!r}", "give a positive number")


def _check_lifetime(lifetime: Lifetime) -> Findings:
    for name in ("ttl_s", "idle_timeout_s"):
        most, usual = (f"lifetime.{kind}_{name}" for kind in ("max", "default"))
        if getattr(lifetime, f"default_{name}") > getattr(lifetime, f"max_{name}"):
            yield Finding((most, usual), f"{usual} exceeds {most}", "raise the maximum")
