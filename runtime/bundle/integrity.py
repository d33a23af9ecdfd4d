"""Are the files of a bundle where, and what, its manifest says? Containment first, then sizes and hashes.

Containment is never switched off: regular files only, no symbolic link on the way, no hard link to a file elsewhere,
and nothing unlisted beside a graph, which could name it. Every fault is reported in one error.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...errors import BundleFormatError, BundleIntegrityError, UnsafeBundleError
from .manifest import MANIFEST_FILE, FileEntry, Manifest, file_digest

_MAX_FAULTS = 20


def check_folder(root: Path) -> None:
    """Refuse what is not a folder with a manifest that is a plain file.

    Raises:
        BundleFormatError: nothing there, not a folder, or no manifest inside.
        UnsafeBundleError: the manifest is a link or no regular file.
    """
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise BundleFormatError(f"{root}: {what}, expected a bundle folder; make one with 'edgewise export'")
    if not os.path.lexists(root / MANIFEST_FILE):
        raise BundleFormatError(
            f"{root}: no {MANIFEST_FILE} inside, expected a bundle folder; make one with 'edgewise export'"
        )
    if fault := _link_fault(root, MANIFEST_FILE, allow_hard_links=True):  # what it says is checked, wherever it lies
        raise UnsafeBundleError(f"{root}: {fault}. {_COPY}")


def check_containment(root: Path, manifest: Manifest, *, allow_hard_links: bool = False) -> None:
    """Refuse a listed file that is a link or no regular file, and an unlisted one in the folder of a variant.

    Raises:
        UnsafeBundleError: with every such file.
    """
    faults = [_link_fault(root, entry.path, allow_hard_links=allow_hard_links) for entry in manifest.files]
    if found := [*filter(None, faults), *_unlisted(root, manifest)]:
        raise UnsafeBundleError(f"{root}: {_joined(found)}. {_COPY}")


def check_files(root: Path, manifest: Manifest, *, hashes: bool = True, left_out: Sequence[str] = ()) -> None:
    """Compare every listed file with its entry: there, of its size, and (with ``hashes``) of its SHA-256.

    Files in the folders ``left_out`` are not read: their hashes stay unknown.

    Raises:
        BundleIntegrityError: with every file that differs, what was expected and what is there.
    """

    def read(entry: FileEntry) -> bool:
        return hashes and entry.path.partition("/")[0] not in left_out

    faults = (_content_fault(root / entry.path, entry, hashes=read(entry)) for entry in manifest.files)
    if found := [*filter(None, faults)]:
        raise BundleIntegrityError(f"{root}: {_joined(found)}. Copy or export the bundle again")


_COPY = "Copy the bundle with plain files only ('cp -rL'), or export it again"


def _link_fault(root: Path, path: str, *, allow_hard_links: bool) -> str | None:
    """What is wrong with the place of ``path``, folders on the way included; ``None`` for a plain or absent file."""
    place = root
    *folders, name = path.split("/")
    for folder in folders:
        place /= folder
        if os.path.lexists(place) and not stat.S_ISDIR(place.lstat().st_mode):
            return f"{path} lies in {folder}, which is a link or a file, expected a folder"
    place /= name
    if not os.path.lexists(place):
        return None  # check_files says so
    status = place.lstat()
    if stat.S_ISLNK(status.st_mode):
        return f"{path} is a symbolic link to {str(place.readlink())!r}, expected a plain file"
    if not stat.S_ISREG(status.st_mode):
        return f"{path} is no regular file, expected a plain file"
    if status.st_nlink > 1 and not allow_hard_links:
        return f"{path} is one of {status.st_nlink} hard links to a file, expected 1"
    return None


def _unlisted(root: Path, manifest: Manifest) -> Iterator[str]:
    listed = {entry.path for entry in manifest.files}
    for variant in manifest.variants:
        folder = root / variant.folder
        names = sorted(os.listdir(folder)) if folder.is_dir() and not folder.is_symlink() else []  # noqa: PTH208
        for name in names:
            if f"{variant.folder}/{name}" not in listed:
                yield f"{variant.folder}/{name} is not listed in {MANIFEST_FILE}, expected only listed files there"


def _content_fault(file: Path, entry: FileEntry, *, hashes: bool) -> str | None:
    try:
        size = file.stat().st_size
        if size != entry.bytes:
            return f"{entry.path} has {size} bytes, expected {entry.bytes}"
        digest = file_digest(file) if hashes else entry.sha256
    except OSError as error:
        return f"{entry.path} cannot be read ({error.strerror}), expected a file of {entry.bytes} bytes"
    return None if digest == entry.sha256 else f"{entry.path} has SHA-256 {digest}, expected {entry.sha256}"


def _joined(faults: list[str]) -> str:
    rest = [f"and {len(faults) - _MAX_FAULTS} more"] if len(faults) > _MAX_FAULTS else []
    return "; ".join([*faults[:_MAX_FAULTS], *rest])
