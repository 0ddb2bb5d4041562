"""Tie the life of something to a block."""

from __future__ import annotations

import abc
from types import TracebackType
from typing import Self


class Managed(abc.ABC):
    """What a `with` block starts and closes; a start that fails is closed as well."""

    @abc.abstractmethod
    def start(self) -> None:
        """Start all of it."""

    @abc.abstractmethod
    def close(self) -> None:
        """End what there is of it. Idempotent."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
