"""Scratch folders on a disk that is not the job's alone: how much they hold, and their removal.

What lies in them was made by a hostile program: names nested deeper than a path can say, folders that nobody may read,
more files than anybody should count.
"""

import os
import stat

SCRATCH_BYTES = 64 << 20
SCRATCH_FILES = 4096
_DEPTH = 64
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def is_over_quota(folder: str) -> bool:
    """Whether a folder holds more than SCRATCH_BYTES or SCRATCH_FILES, is nested deeply, or cannot be looked into.

    Stops counting at the first of these, so that its time is bounded whatever is there. Files that are unlinked but
    open are not seen; what a job can hide so is bounded by its limits on descriptors and on a file's size.
    """
    left = [SCRATCH_BYTES, SCRATCH_FILES]
    try:
        descriptor = os.open(folder, _FOLDER)
    except FileNotFoundError:
        return False
    return not _fits(descriptor, left, 0)


def _fits(descriptor: int, left: list[int], depth: int) -> bool:
    """Takes what a folder holds off what is left of bytes and entries; closes the descriptor."""
    try:
        with os.scandir(descriptor) as entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                    left[0] -= status.st_blocks * 512
                    left[1] -= 1
                    if min(left) < 0 or depth == _DEPTH:
                        return False
                    if stat.S_ISDIR(status.st_mode) and not _fits(
                        os.open(entry.name, _FOLDER, dir_fd=descriptor), left, depth + 1
                    ):
                        return False
                except FileNotFoundError:
                    continue  # gone since it was listed
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def remove_tree(folder: str) -> None:
    """Removes a folder whose job has ended, and whatever is in it.

    Folders inside folders are moved to the top before they are emptied: no path gets long and nothing recurses.
    """
    top = os.open(folder, _FOLDER)
    moved = 0
    try:
        names = os.listdir(top)
        while names:
            name = names.pop()
            if not _is_folder(name, top):
                os.unlink(name, dir_fd=top)
                continue
            inner = _opened(name, top)
            for entry in os.listdir(inner):
                if _is_folder(entry, inner):
                    os.close(_opened(entry, inner))
                    moved += 1
                    names.append(f"moved {moved} {os.getpid()}")
                    os.rename(entry, names[-1], src_dir_fd=inner, dst_dir_fd=top)
                else:
                    os.unlink(entry, dir_fd=inner)
            os.close(inner)
            os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(folder)


def _is_folder(name: str, parent: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)


def _opened(name: str, parent: int) -> int:
    # Its owner may have shut itself out; a folder is never a link, so that this changes nothing else's mode.
    os.chmod(name, 0o700, dir_fd=parent)
    return os.open(name, _FOLDER, dir_fd=parent)
