"""Signed files for content that can run code, such as compiled programs. The key belongs to this user's cache alone.

Reading a program back runs code from the file: jax unpickles it, and XLA loads machine code. Therefore the file's
signature (HMAC-SHA256, RFC 2104) is first compared with the signature of its content and address. The key is 32 random
bytes in a file that only its owner may read. A program from another machine, from another address, or with a changed
bit counts as missing.
"""

import contextlib
import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path

from testbed.cache import write

_BEGIN = b"testbed-signed-1\n"
_SIGNATURE = hashlib.sha256().digest_size
_KEY_SIZE = 32


class SignedFiles:
    """Contents by address, as files of a directory; ``key`` is the path of the key's file."""

    def __init__(self, directory: Path, key: Path, suffix: str) -> None:
        self._directory, self._key_path, self._suffix = directory, key, suffix

    def holds(self, address: str) -> bool:
        """Whether there is a file at an address. The file is not read: `load` may refuse it."""
        return self._path(address).exists()

    def load(self, address: str) -> bytes | None:
        """The content at an address; None if there is no content that was signed here for this address. A file with
        another signature is removed."""
        path = self._path(address)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        start = len(_BEGIN) + _SIGNATURE
        signature, content = data[len(_BEGIN) : start], data[start:]
        key = _read(self._key_path)
        fits = key is not None and hmac.compare_digest(signature, _signed(key, address, content))
        if not fits or not data.startswith(_BEGIN):
            self.remove(address)
            return None
        # The modification time shows which files are in use.
        for used in (path, self._key_path):
            with contextlib.suppress(OSError):
                os.utime(used)
        return content

    def save(self, address: str, content: bytes) -> None:
        """Store a content. Raises `Unfinished` if the disk refuses the file, and `OSError` if it refuses the key."""
        key = _read(self._key_path) or _made(self._key_path)
        write(self._path(address), [_BEGIN, _signed(key, address, content), content])

    def remove(self, address: str) -> None:
        """Remove a content, if there is one and the disk allows it."""
        with contextlib.suppress(OSError):
            self._path(address).unlink(missing_ok=True)

    def _path(self, address: str) -> Path:
        return self._directory / f"{address}{self._suffix}"


def _signed(key: bytes, address: str, content: bytes) -> bytes:
    """The signature of a content. The address enters as a hash, so that no two pairs of address and content are signed
    alike."""
    bound = _BEGIN + hashlib.sha256(address.encode()).digest()
    made = hmac.new(key, bound, hashlib.sha256)
    made.update(content)
    return made.digest()


def _read(path: Path) -> bytes | None:
    """The key, if this user owns its file and no other user can read or write it."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        facts = os.fstat(file)
        owned = stat.S_ISREG(facts.st_mode) and facts.st_uid == os.geteuid()
        if not owned or facts.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            return None
        key = os.read(file, _KEY_SIZE + 1)
        return key if len(key) == _KEY_SIZE else None
    except OSError:
        return None
    finally:
        os.close(file)


def _made(path: Path) -> bytes:
    """Make a new key in place of a file that `_read` refuses. If two processes make a key at the same time, the later
    key stays, and programs signed with the other key are compiled again."""
    # The file is created for this user alone.
    write(path, [secrets.token_bytes(_KEY_SIZE)])
    key = _read(path)
    if key is None:
        raise PermissionError(f"{path} is another user's")
    return key
