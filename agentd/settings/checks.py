"""Refuse settings that cannot be, before anything is begun with them."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from agentd.settings.cluster_groups import Node
from agentd.settings.groups import MONITORS
from agentd.settings.problems import invalid
from agentd.settings.whole import Settings

_SOCKET_PATH_BYTES: Final = 107  # unix(7): sun_path without its terminating NUL
_VM_PATH_TAIL: Final = len("/vms/s-0123456789abcdef/vm/channel.sock")
_MOST_READERS: Final = 64
_MOST_RECORDS: Final = 64


def check(settings: Settings, where: str) -> None:
    """Raises: ConfigError naming what cannot be."""
    for path in (settings.data_dir, settings.run_dir, settings.image_cache_dir, settings.socket):
        if not path.is_absolute():
            raise invalid(where, f"path {str(path)!r} is not absolute", "give a full path")
    for path in (settings.socket, Path(f"{settings.run_dir}{'x' * _VM_PATH_TAIL}")):
        if len(os.fsencode(path)) > _SOCKET_PATH_BYTES:
            raise invalid(
                where,
                f"a socket below {str(path.parent)!r} would exceed {_SOCKET_PATH_BYTES} bytes",
                "choose a shorter paths.run_dir",
            )
    _check_choice(where, "monitor.kind", settings.monitor.kind, MONITORS)
    _check_choice(where, "monitor.accel", settings.monitor.accel, ("auto", "kvm", "tcg"))
    _check_choice(where, "log.level", settings.log.level, ("debug", "info", "warning", "error"))
    _check_choice(where, "log.format", settings.log.format, ("json", "text"))
    _check_mode(where, settings.api.socket_mode)
    _check_node(where, settings.node)
    _check_kuasar(where, settings)
    _check_pager(where, settings)
    _check_numbers(settings, where)


def _check_choice(where: str, key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise invalid(where, f"{key} is {value!r}", f"use one of {', '.join(allowed)}")


def _check_node(where: str, node: Node) -> None:
    if not node.enabled:
        return
    if not node.name:
        raise invalid(where, "node.enabled without node.name", "set it, or $NODE_NAME")
    try:
        ipaddress.ip_network(node.pod_cidr)
    except ValueError as exc:
        raise invalid(
            where, f"node.pod_cidr: {exc}", "give a network such as 127.88.0.0/16"
        ) from exc


def _check_kuasar(where: str, settings: Settings) -> None:
    if not settings.kuasar.enabled:
        return
    if settings.node.virtual:
        raise invalid(
            where,
            "kuasar.enabled with node.virtual: a virtual node's Pods are no sandboxer's",
            "set one of them",
        )
    for name in ("admin_socket", "grpc_socket", "listen_socket", "cri_socket"):
        _check_socket(where, f"kuasar.{name}", getattr(settings.kuasar, name))


def check_proxy(where: str, settings: Settings, environ: Mapping[str, str]) -> None:
    """What can be told without looking at files; which addresses are refused is the proxy's."""
    proxy = settings.proxy
    if not proxy.enabled:
        return
    if not (settings.node.enabled and settings.kuasar.enabled):
        raise invalid(where, "proxy.enabled without what it serves", "enable node and kuasar")
    if proxy.port > 65535:
        raise invalid(where, f"proxy.port is {proxy.port}", "give one of 1 to 65535")
    if not environ.get("POD_IP"):
        raise invalid(where, "proxy.enabled without $POD_IP", "set it by the downward API")
    if proxy.token_file is None and not environ.get("KUASAR_PROXY_TOKEN"):
        raise invalid(
            where,
            "proxy.enabled without a token, which would let anybody in",
            "set $KUASAR_PROXY_TOKEN or proxy.token_file",
        )
    if (proxy.certificate_file is None) != (proxy.key_file is None):
        raise invalid(
            where, "proxy.certificate_file and proxy.key_file need each other", "set both"
        )
    if proxy.client_ca_file is not None and proxy.certificate_file is None:
        raise invalid(where, "proxy.client_ca_file without proxy.certificate_file", "set all three")


def _check_pager(where: str, settings: Settings) -> None:
    pager = settings.pager
    _check_choice(where, "pager.enabled", pager.enabled, ("auto", "off"))
    for name in ("journal_dir", "binary", "kuasar_dir"):
        path: Path | None = getattr(pager, name)
        if path is not None and not path.is_absolute():
            raise invalid(where, f"pager.{name} is {str(path)!r}", "give a full path")
    for name in ("control_socket", "kuasar_socket"):
        _check_socket(where, f"pager.{name}", getattr(pager, name))
    # Its supervisor makes a socket in there.
    _check_socket(where, "pager.journal_dir", pager.journal_dir and pager.journal_dir / "notify")
    if (pager.kuasar_socket is None) != (pager.kuasar_dir is None):
        raise invalid(where, "pager.kuasar_socket and pager.kuasar_dir need each other", "set both")
    if pager.readers > _MOST_READERS or pager.record_forks > _MOST_RECORDS:
        most = f"at most {_MOST_READERS} readers, {_MOST_RECORDS} record_forks"
        raise invalid(where, "pager.readers or pager.record_forks is too large", f"give {most}")


def _check_socket(where: str, key: str, path: Path | None) -> None:
    if path is None:
        return
    if not path.is_absolute() or len(os.fsencode(path)) > _SOCKET_PATH_BYTES:
        hint = f"give a full path of at most {_SOCKET_PATH_BYTES} bytes"
        raise invalid(where, f"{key} is {str(path)!r}", hint)


def _check_mode(where: str, text: str) -> None:
    try:
        fits = 0 <= int(text, 8) <= 0o777
    except ValueError:
        fits = False
    if not fits:
        raise invalid(where, f"api.socket_mode is {text!r}", 'use octal text such as "0660"')


# What makes no sense as 0: everything else may be, with the meaning its comment gives.
_MAY_BE_ZERO: Final = {
    ("admission", "memory_bytes"),
    ("admission", "host_reserve_bytes"),
    ("admission", "concurrent_forks"),
    ("admission", "queued_forks"),
    ("warm", "count"),
    ("monitor", "uid_base"),
    ("pager", "record_forks"),
}


def _check_numbers(settings: Settings, where: str) -> None:
    for group in settings.__struct_fields__:
        subject = getattr(settings, group)
        for field in subject.__struct_fields__:
            value = getattr(subject, field)
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            low = 0 if (group, field) in _MAY_BE_ZERO else None
            if value < 0 or (low is None and value == 0) or value != value or value > 2**60:
                raise invalid(where, f"{group}.{field} is {value!r}", "give a positive number")
    life = settings.lifetime
    if life.default_ttl_s > life.max_ttl_s or life.default_idle_timeout_s > life.max_idle_timeout_s:
        raise invalid(where, "a default of lifetime exceeds its maximum", "raise the maximum")
