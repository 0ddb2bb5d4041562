"""Have a sandboxer remove templates, and see whether it did: one form says yes to everything."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agentd.errors import ConfigError, ErrorCode, UsageError
from agentd.kuasar.client import KuasarAccess, KuasarClient, KuasarTemplate

Found = list[KuasarTemplate]


async def remove_all(access: KuasarAccess, found: Found) -> None:
    """Remove templates of one key until none is left.

    Raises: UsageError TEMPLATE_IN_USE when some stay; TransientError PROVIDER_UNREACHABLE while the
    sandboxer may not know yet what uses them; as KuasarClient.
    """
    left = await reduce(access, found, list)
    if left:
        raise UsageError(
            ErrorCode.TEMPLATE_IN_USE,
            f"removing artifact {left[0].key!r}: {len(left)} of its templates stay although the "
            "Kuasar sandboxer was asked to remove them: running sandboxes need them",
            hint="end its sessions first",
        )


async def reduce(access: KuasarAccess, found: Found, choose: Callable[[Found], Found]) -> Found:
    """Have the chosen ones removed until there are none, or nothing goes any more.

    Args: found: of one key. Returns: what is left.
    Raises: as `remove_all`, but never TEMPLATE_IN_USE.
    """
    while spare := choose(found):
        await access.require_settled()
        client = await access.client()
        for one in spare:
            await _ask_to_go(client, one)
        left = await client.find(spare[0].key)
        if len(left) >= len(found):
            return left
        found = left
    return found


async def _ask_to_go(client: KuasarClient, template: KuasarTemplate) -> None:
    try:
        await client.remove(template)
    except UsageError as exc:
        if exc.code not in (ErrorCode.TEMPLATE_IN_USE, ErrorCode.TEMPLATE_NOT_FOUND):
            raise


async def read_uses(client: KuasarClient, templates: Found) -> Mapping[str, int]:
    """Running sandboxes by template; nothing where templates have no ids, or there is no pool."""
    if not any(one.template_id for one in templates):
        return {}
    try:
        return (await client.pool()).uses
    except ConfigError as exc:
        if exc.code is not ErrorCode.PROVIDER_UNABLE:
            raise
        return {}
