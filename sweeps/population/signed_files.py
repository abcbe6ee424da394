"""Files that hold what runs, such as compiled programs: each is signed with a key that only this user's cache has.

Reading a program back runs code from the file: jax unpickles it, and XLA loads machine code. So before anything else is
done with such a file, its signature (HMAC-SHA256, RFC 2104) is compared with that of its content and address. The key
is 32 random bytes in a file that nobody but its owner may read. A program from elsewhere, from another address, or with
a bit flipped counts as missing.
"""

import contextlib
import hashlib
import hmac
import os
import secrets
import stat
import tempfile
from pathlib import Path

from testbed.cache import write

_BEGIN = b"testbed-signed-1\n"
_SIGNATURE = hashlib.sha256().digest_size
_KEY_SIZE = 32


class SignedFiles:
    """Contents by address, as files of a directory; ``key`` is the path of the key's file."""

    def __init__(self, directory: Path, key: Path, suffix: str) -> None:
        self._directory, self._key_path, self._suffix = directory, key, suffix

    def load(self, address: str) -> bytes | None:
        """The content at an address; None if there is none that was signed here for it. A file with another signature
        is removed."""
        path = self._path(address)
        try:
            found = path.read_bytes()
        except OSError:
            return None
        start = len(_BEGIN) + _SIGNATURE
        signature, content = found[len(_BEGIN) : start], found[start:]
        key = _read(self._key_path)
        fits = key is not None and hmac.compare_digest(signature, _signed(key, address, content))
        if not fits or not found.startswith(_BEGIN):
            self.remove(address)
            return None
        # What is in use can be told from what is not.
        for used in (path, self._key_path):
            with contextlib.suppress(OSError):
                os.utime(used)
        return content

    def save(self, address: str, content: bytes) -> None:
        """Keep a content. Raises `Unfinished` if the disk refuses the file, and `OSError` if it refuses the key."""
        key = _read(self._key_path) or _made(self._key_path)
        write(self._path(address), [_BEGIN, _signed(key, address, content), content])

    def remove(self, address: str) -> None:
        """Let a content go, if there is one and the disk allows it."""
        with contextlib.suppress(OSError):
            self._path(address).unlink(missing_ok=True)

    def _path(self, address: str) -> Path:
        return self._directory / f"{address}{self._suffix}"


def _signed(key: bytes, address: str, content: bytes) -> bytes:
    """The signature of a content. The address comes as its hash, so that no two pairs of both are signed alike."""
    bound = _BEGIN + hashlib.sha256(address.encode()).digest()
    made = hmac.new(key, bound, hashlib.sha256)
    made.update(content)
    return made.digest()


def _read(path: Path) -> bytes | None:
    """The key, if its file is this user's own, and nobody else's to read or write."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        facts = os.fstat(file)
        own = stat.S_ISREG(facts.st_mode) and facts.st_uid == os.geteuid()
        if not own or facts.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            return None
        key = os.read(file, _KEY_SIZE + 1)
        return key if len(key) == _KEY_SIZE else None
    except OSError:
        return None
    finally:
        os.close(file)


def _made(path: Path) -> bytes:
    """A new key, in place of a file that `_read` does not take; or the one that another process has made meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # With O_EXCL, and for this user alone.
    file, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with open(file, "wb") as opened:
            opened.write(secrets.token_bytes(_KEY_SIZE))
            opened.flush()
            os.fsync(file)
        with contextlib.suppress(FileNotFoundError):
            if _read(path) is None:
                os.unlink(path)
        # A link, unlike a rename, replaces no key that is there by now: its programs stay good.
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        os.unlink(temporary)
    key = _read(path)
    if key is None:
        raise PermissionError(f"{path} is another user's")
    return key
