"""Say what the store needs from the code that moves guest memory."""

from __future__ import annotations

from typing import Final, Protocol

from agentd.units import MIB

CHUNK_BYTES: Final = 2 * MIB
HASH_ONLY: Final = -1


class Copied(Protocol):
    """What a copy saw."""

    @property
    def data_bytes(self) -> int:
        """How much is in pages that are not zero."""

    @property
    def chunk_hashes(self) -> tuple[str, ...]:
        """One for each chunk begun: XXH3-64, 16 hexadecimal digits, over the index (8 bytes,
        little-endian) and the content of every page that is not zero, so that a page that was
        cleared, filled or moved changes it.
        """


class Copier(Protocol):
    """Copy memory sparsely, hashing it on the way: `native.copy_memory`."""

    def __call__(
        self, src_fd: int, dst_fd: int, size_bytes: int, chunk_bytes: int, /, *, cancel_fd: int
    ) -> Copied:
        """Copy a whole file to an empty one, leaving holes for pages of zeros.

        Args: dst_fd: HASH_ONLY to copy nothing. size_bytes: of the source; a multiple of the page.
        chunk_bytes: how much one hash covers. cancel_fd: readable means stop; negative for none.
        The caller's deadline arrives through it, too.
        Raises: OSError; ECANCELED when cancelled, ENODATA when the source ends early.
        """
