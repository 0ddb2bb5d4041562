"""Write a Kubernetes quantity in one form for each value."""

from __future__ import annotations

import re
from decimal import Decimal, localcontext
from typing import Final

_QUANTITY: Final = re.compile(
    r"(?P<number>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))"
    r"(?P<suffix>[KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]{1,2})?"
)
_TEXT_MAX: Final = 64
_DECIMAL: Final = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY: Final = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}


def canonical_quantity(value: str | int) -> str:
    """A plain decimal number: `1000m` gives 1, `1Gi` gives 1073741824.

    Returns: what is no quantity, as it was: the API server refuses it, no hash needs to.
    Source: k8s.io/apimachinery, pkg/api/resource, the grammar of Quantity.
    """
    text = str(value)
    match = _QUANTITY.fullmatch(text) if len(text) <= _TEXT_MAX else None
    if match is None:
        return text
    number, suffix = match["number"], match["suffix"] or ""
    if number.isdigit() and (not suffix or suffix in _BINARY):  # nearly all of them
        return str(int(number) << _BINARY.get(suffix, 0))
    with localcontext() as context:
        context.prec = 2 * _TEXT_MAX  # exact for every text that gets here
        return _plain(_scaled(Decimal(number), suffix))


def _scaled(number: Decimal, suffix: str) -> Decimal:
    if suffix in _BINARY:
        return number * (1 << _BINARY[suffix])
    exponent = _DECIMAL[suffix] if suffix in _DECIMAL else int(suffix[1:] or 0)
    return number.scaleb(exponent)


def _plain(number: Decimal) -> str:
    text = f"{number:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else text
