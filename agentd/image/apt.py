"""APT as an ordinary user: which packages, and their files.

The machine's own installed packages must not matter, or an image would differ from host to host:
APT runs with a status file of ours, in which nothing is installed but the packages that have no
place in a guest (ASSUMED). So APT's own solver decides, over the machine's package lists, and
neither those packages nor what only they need is chosen. Nothing here needs a privilege, writes to
APT's directories, or takes its locks.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentd.errors import ConfigError, ErrorCode, SnapStartError, TransientError
from agentd.image.manifest import PackageRecord

# Init systems, boot tools and package managers; what Debian ships for a human at a terminal; and
# libraries behind one forgotten module each (libnsl2, libtirpc3: nis, removed from Python in 3.13;
# libdb5.3: dbm.ndbm, in whose place dbm takes dbm.dumb).
ASSUMED: Final = (
    *("adduser", "cdebconf", "debconf", "debianutils", "dpkg", "install-info", "passwd", "ucf"),
    *("init-system-helpers", "lsb-base", "systemd", "systemd-sysv", "sysvinit-utils", "udev"),
    *("initramfs-tools", "initramfs-tools-core", "kmod", "linux-base"),
    *("gcc-12-base", "libdb5.3", "libnsl2", "libtirpc3", "mawk", "media-types"),
    *("python3-pkg-resources", "python3.11", "readline-common", "sensible-utils"),
)
DOWNLOAD_TIMEOUT_S: Final = 1800.0
_QUERY_TIMEOUT_S: Final = 120.0
_POLL_S: Final = 0.2
_INST: Final = re.compile(r"Inst (\S+)(?: \[\S*\])? \((\S+) .*\[([\w-]+)\]\)")
_SETTINGS: Final = (
    ("ETC", "Dir::Etc/d"),
    ("LISTS", "Dir::State::lists/d"),
    ("ARCH", "APT::Architecture"),
)
_HINT_UPDATE: Final = "run `apt-get update` as root, then try again"


@dataclass(frozen=True)
class AptPaths:
    """Where this machine's APT keeps what its answers depend on."""

    config_dir: Path
    lists_dir: Path
    architecture: str


def read_paths() -> AptPaths:
    """Ask APT for its directories; honours APT_CONFIG as every APT tool does.

    Raises: ConfigError if there is no APT here.
    """
    out = _run(
        ["apt-config", "shell", *(word for setting in _SETTINGS for word in setting)],
        "reading APT's configuration",
    )
    values = dict(re.findall(r"^(\w+)='(.*)'$", out, re.MULTILINE))
    try:
        return AptPaths(Path(values["ETC"]), Path(values["LISTS"]), values["ARCH"])
    except KeyError as exc:
        raise ConfigError(
            ErrorCode.PACKAGES_UNAVAILABLE, f"reading APT's configuration: it has no {exc}: {out!r}"
        ) from exc


def check_lists(paths: AptPaths) -> None:
    """Refuse to start without package lists, which APT reports as unknown package names.

    Raises: ConfigError if there are none.
    """
    try:
        found = any("_Packages" in path.name for path in paths.lists_dir.iterdir())
    except OSError as exc:
        raise ConfigError(
            ErrorCode.PACKAGES_UNAVAILABLE,
            f"reading the package lists in {str(paths.lists_dir)!r}: {exc.strerror}",
            hint=_HINT_UPDATE,
        ) from exc
    if not found:
        raise ConfigError(
            ErrorCode.PACKAGES_UNAVAILABLE,
            f"reading the package lists in {str(paths.lists_dir)!r}: there are none",
            hint=_HINT_UPDATE,
        )


def resolve(names: Sequence[str], paths: AptPaths, scratch: Path) -> tuple[PackageRecord, ...]:
    """Choose the packages that `names` need, pinned by version and digest, sorted by name.

    Args: names: package names. scratch: an existing directory for APT's working files.
    Raises: ConfigError for lists that are empty or names unknown to them.
    """
    check_lists(paths)
    options = _options(scratch)
    (scratch / "status").write_text("")
    known = _show([*names, *(name for name in ASSUMED if name not in names)], options)
    _check_known(names, {stanza["Package"] for stanza in known})
    assumed = [stanza for stanza in known if stanza["Package"] not in names]
    (scratch / "status").write_text("\n".join(_status_stanza(stanza) for stanza in assumed))
    command = ["apt-get", *options, "-s", "-qq", "--no-install-recommends", "install", *names]
    chosen = _INST.findall(_run(command, f"resolving the packages {list(names)!r}"))
    return _records(chosen, options)


def download(
    packages: Iterable[PackageRecord], into: Path, scratch: Path, tick: Callable[[], None]
) -> None:
    """Download packages into a directory; APT checks them against its signed lists.

    Args: tick: called a few times a second meanwhile.
    Raises: TransientError if the archive cannot be reached or moved on.
    Cancellation: an exception, also one of `tick`, ends APT and leaves partial files in `into`.
    """
    wanted = [f"{package.name}:{package.architecture}={package.version}" for package in packages]
    wanted = [item.replace(":all=", "=") for item in wanted]
    (scratch / "status").write_text("")
    command = ["apt-get", *_options(scratch), "-qq", "download", *wanted]
    what = f"downloading {len(wanted)} packages"
    _run(command, what, cwd=into, tick=tick, timeout_s=DOWNLOAD_TIMEOUT_S)


def _options(scratch: Path) -> list[str]:
    """Options that keep APT's state out of the machine's; the caches make later calls faster."""
    scratch = scratch.absolute()  # APT takes a relative path for one below its own directories
    settings = {
        "Dir::State::status": scratch / "status",
        "Dir::State::extended_states": scratch / "extended_states",
        "Dir::Cache::pkgcache": scratch / "pkgcache.bin",
        "Dir::Cache::srcpkgcache": scratch / "srcpkgcache.bin",
        "Dir::Cache::archives": scratch / "archives",
        "Dir::Log": scratch / "log",
    }
    return [item for name, value in settings.items() for item in ("-o", f"{name}={value}")]


def _status_stanza(stanza: dict[str, str]) -> str:
    kept = ("Package", "Version", "Architecture", "Multi-Arch", "Provides")
    lines = [f"{field}: {stanza[field]}" for field in kept if field in stanza]
    # On hold, or APT "upgrades" it to the same version, whose description differs from this one.
    lines += ["Status: hold ok installed", "Maintainer: none", "Description: none", ""]
    return "\n".join(lines)


def _check_known(names: Sequence[str], known: set[str]) -> None:
    """APT would take an unknown name for a pattern, or a trailing `-` for "remove"."""
    if missing := sorted(set(names) - known):
        raise ConfigError(
            ErrorCode.PACKAGES_UNAVAILABLE,
            f"looking for the packages {missing!r}: the package lists have none of that name",
            hint="check the names (a virtual package has none of its own), or " + _HINT_UPDATE,
        )


def _records(
    chosen: Sequence[tuple[str, str, str]], options: Sequence[str]
) -> tuple[PackageRecord, ...]:
    wanted = {(name.partition(":")[0], version) for name, version, _ in chosen}
    stanzas = _show([f"{name}={version}" for name, version, _ in chosen], options)
    records = {
        key: PackageRecord(
            name=key[0],
            version=key[1],
            architecture=stanza["Architecture"],
            sha256=stanza["SHA256"],
            size_bytes=int(stanza["Size"]),
        )
        for stanza in stanzas
        if (key := (stanza["Package"], stanza["Version"])) in wanted and "SHA256" in stanza
    }
    if missing := sorted(wanted - records.keys()):
        raise ConfigError(
            ErrorCode.PACKAGES_UNAVAILABLE,
            f"looking up the SHA256 of {missing!r}: the package lists have none",
            hint=_HINT_UPDATE,
        )
    return tuple(records[key] for key in sorted(records))


def _show(names: Sequence[str], options: Sequence[str]) -> list[dict[str, str]]:
    command = ["apt-cache", *options, "--no-all-versions", "show", *names]
    out = _run(command, f"looking up {len(names)} packages")
    stanzas = [
        dict(re.findall(r"^([A-Za-z0-9-]+): (.*)$", stanza, re.MULTILINE))
        for stanza in out.split("\n\n")
        if stanza.strip()
    ]
    # An unknown name is a pattern to APT: `python3.11` would bring `python3.11-minimal`.
    wanted = {re.split("[=:]", name)[0] for name in names}
    return [stanza for stanza in stanzas if stanza.get("Package") in wanted]


def _run(
    command: Sequence[str],
    what: str,
    *,
    cwd: Path | None = None,
    tick: Callable[[], None] = lambda: None,
    timeout_s: float = _QUERY_TIMEOUT_S,
) -> str:
    """Run a command of APT to its end; it never outlives this call."""
    try:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(),
            text=True,
            errors="replace",
        )
    except FileNotFoundError as exc:
        raise ConfigError(
            ErrorCode.PACKAGES_UNAVAILABLE,
            f"{what}: {command[0]!r} is not installed",
            hint="build images on Debian 12, or give a rootfs and a kernel from elsewhere",
        ) from exc
    with process:
        try:
            out, err = _communicate(process, tick, timeout_s)
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise _classify_failure(what, err, process.returncode)
    return out


def _communicate(
    process: subprocess.Popen[str], tick: Callable[[], None], timeout_s: float
) -> tuple[str, str]:
    for _ in range(int(timeout_s / _POLL_S) + 1):
        with suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=_POLL_S)
        tick()
    raise TransientError(
        ErrorCode.DEADLINE_EXCEEDED, f"running {process.args!r}: not done in {timeout_s:.0f} s"
    )


def _environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}


def _classify_failure(what: str, stderr: str, code: int) -> SnapStartError:
    """Whose move it is, from APT's own words; unsure means: worth another try."""
    errors = [line[3:] for line in stderr.splitlines() if line.startswith("E: ")]
    message = f"{what}: APT ended with {code}: {' '.join(errors) or stderr.strip()}"
    if "No space left" in stderr or "enough free space" in stderr:
        return TransientError(ErrorCode.DISK_FULL, message, hint="free some space")
    if re.search(r"Unable to locate|no installation candidate|No packages found", stderr):
        hint = "check the names, or " + _HINT_UPDATE
        return ConfigError(ErrorCode.PACKAGES_UNAVAILABLE, message, hint=hint)
    if "unmet dependencies" in stderr:
        message = f"{what}: {' '.join(stderr.split())}"
        return ConfigError(ErrorCode.PACKAGES_UNAVAILABLE, message, hint="leave one of them out")
    if "Permission denied" in stderr:
        return ConfigError(ErrorCode.PERMISSION_DENIED, message)
    hint = "check the network; if the archive answers 404, " + _HINT_UPDATE
    return TransientError(ErrorCode.PACKAGES_UNAVAILABLE, message, hint=hint)
