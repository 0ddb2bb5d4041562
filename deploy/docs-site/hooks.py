"""What the pages of docs/ need to be a site: links out of it name the file in the repository."""

from __future__ import annotations

import re
from typing import Any

_OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+([^)#]+)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs for each page: a link to a file beside docs/ becomes text that names it."""
    return _OUTSIDE.sub(r"\1 (`\2`)", markdown)
