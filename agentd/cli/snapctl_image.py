"""The `snapctl image` commands: guest images of this machine, built in this process."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agentd.cli.progress import StageProgress
from agentd.cli.settings import Settings, common_options, pass_settings
from agentd.cli.tables import Table, age, mib

if TYPE_CHECKING:
    from agentd.image import Image, ProgressEvent


def default_cache_dir() -> Path:
    """Where images are kept: the system's cache for root, the user's own otherwise."""
    if os.geteuid() == 0:
        return Path("/var/cache/snapstart")
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "snapstart"


cache_option = click.option(
    "--cache-dir",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="SNAPSTART_CACHE_DIR",
    default=default_cache_dir,
    show_default="/var/cache/snapstart, or ~/.cache/snapstart",
    help="Where images are kept.",
)


@click.group()
def image() -> None:
    """Build guest images and look at them."""


@image.command(
    epilog="\b\nExample:\n  snapctl image build --package python3-pandas --preload numpy "
    "--preload pandas\n"
)
@click.option("--package", "packages", multiple=True, help="Debian package to add; repeatable.")
@click.option(
    "--preload",
    multiple=True,
    help="Python module to import before the snapshot; repeatable.  [default: numpy]",
)
@click.option("--kernel-package", help="Debian package that brings the kernel.")
@click.option(
    "--rootfs",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Directory to use instead of Debian packages.",
)
@cache_option
@common_options
@pass_settings
def build(
    settings: Settings,
    packages: tuple[str, ...],
    preload: tuple[str, ...],
    kernel_package: str | None,
    rootfs: Path | None,
    cache_dir: Path,
) -> None:
    """Build a guest image, or find it built, and print its directory."""
    from agentd.image import ImageSpec, build_image

    spec = ImageSpec(packages=packages, rootfs=rootfs)
    if preload:
        spec = replace(spec, preload=preload)
    if kernel_package:
        spec = replace(spec, kernel_package=kernel_package)
    with StageProgress(is_quiet=settings.as_json) as bar:

        def show(event: ProgressEvent) -> None:
            bar.update(event.stage, event.done, event.total, event.note)

        built = build_image(spec, cache_dir=cache_dir, progress=show)
    if not settings.as_json:
        for note in built.manifest.notes:
            click.echo(f"note: {note}", err=True)
    settings.show(_document(built))
    settings.say(str(built.directory))


@image.command("list", epilog="\b\nExample:\n  snapctl image list\n")
@cache_option
@common_options
@pass_settings
def list_(settings: Settings, cache_dir: Path) -> None:
    """List the usable images, newest first."""
    from agentd.image import list_images

    images = list_images(cache_dir)
    now = datetime.now(UTC)
    settings.show(
        {"images": [_document(one) for one in images]},
        lambda: Table(
            ("KEY", "AGE", "PYTHON", "KERNEL", "PRELOAD", "MIB"),
            [
                (
                    one.key[:12],
                    age(one.manifest.created_at, now),
                    one.manifest.python,
                    one.manifest.kernel_release,
                    ",".join(one.manifest.preload),
                    mib(one.manifest.kernel.size_bytes + one.manifest.initrd.size_bytes),
                )
                for one in images
            ],
            numeric=frozenset({"MIB"}),
            empty=f"no images in {cache_dir}; build one with `snapctl image build`",
        ),
    )


@image.command(epilog="\b\nExample:\n  snapctl image show 3f2a\n")
@click.argument("key")
@cache_option
@common_options
@pass_settings
def show(settings: Settings, key: str, cache_dir: Path) -> None:
    """Show one image; KEY is its directory, its key, or the key's unique beginning."""
    from agentd.image import load_image

    found = load_image(_complete(key, cache_dir), cache_dir)
    manifest = found.manifest
    settings.show(
        _document(found),
        lambda: Table(
            ("MEMBER", "VALUE"),
            [
                ("key", found.key),
                ("directory", str(found.directory)),
                ("created", manifest.created_at),
                ("python", manifest.python),
                ("preload", ", ".join(manifest.preload)),
                ("kernel", manifest.kernel_release),
                ("command line", " ".join(manifest.cmdline)),
                ("packages", str(len(manifest.packages))),
                *(("note", note) for note in manifest.notes),
            ],
        ),
    )


@image.command(epilog="\b\nExample:\n  snapctl image rm 3f2a\n")
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@cache_option
@common_options
@pass_settings
def rm(settings: Settings, keys: tuple[str, ...], cache_dir: Path) -> None:
    """Delete images. Templates made from them still fork; they no longer start cold."""
    from agentd.image import load_image, remove_image

    found = [load_image(_complete(key, cache_dir), cache_dir) for key in keys]
    each = {one.key: one for one in found}
    for one in each.values():
        remove_image(one)
        settings.say(f"removed {one.key[:12]}")
    settings.show({"removed": list(each)})


def _complete(key: str, cache_dir: Path) -> str | Path:
    from agentd.image import list_images

    if "/" in key or Path(key).is_dir():
        return Path(key)
    fitting = [one.key for one in list_images(cache_dir) if one.key.startswith(key)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise click.UsageError(f"{key!r} begins the keys of {len(fitting)} images; give more of it")
    raise click.UsageError(f"no image in {str(cache_dir)!r} has a key that begins with {key!r}")


def _document(found: Image) -> dict[str, object]:
    return {"directory": str(found.directory), "manifest": found.manifest}
