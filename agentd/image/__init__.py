"""Guest images: kernel plus initramfs built from Debian packages by an ordinary user."""

from __future__ import annotations

from agentd.image.builder import build_image
from agentd.image.manifest import ImageManifest, PackageRecord
from agentd.image.spec import DEFAULT_MODULES, ImageSpec, Progress, ProgressEvent
from agentd.image.store import Image, list_images, load_image, remove_image

__all__ = [
    "DEFAULT_MODULES",
    "Image",
    "ImageManifest",
    "ImageSpec",
    "PackageRecord",
    "Progress",
    "ProgressEvent",
    "build_image",
    "list_images",
    "load_image",
    "remove_image",
]
