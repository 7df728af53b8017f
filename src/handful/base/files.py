"""Files that are either whole or not there, that know whether they were changed since, and that one process writes."""

import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import weakref
from collections.abc import Iterator
from io import BufferedIOBase
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from safetensors import SafetensorError

from handful.base.errors import HandfulError, shown


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; renamed onto `path`, durably, when the block ends without error.

    Nothing half-written ever has the final name. A full disk is one clear sentence, and the temporary file is removed.
    """
    temporary = here(path).with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
            if not _lives(left.name.split(".")[-2]):
                left.unlink(missing_ok=True)  # of a process that was killed
        temporary.touch()  # with the permissions that the umask leaves; some writers make files for their owner alone
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except (OSError, SafetensorError) as error:
        if (isinstance(error, OSError) and error.errno == errno.ENOSPC) or "No space left" in str(error):
            raise HandfulError(f"the disk is full: {path} could not be written; free some space and go on") from error
        raise HandfulError(f"{path} could not be written: {getattr(error, 'strerror', None) or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def changing(folder: Path) -> Iterator[None]:
    """What cannot be made or removed in a folder inside the block is one sentence with its name."""
    try:
        yield
    except OSError as error:
        raise HandfulError(f"{error.filename or folder} could not be written: {error.strerror}") from error


def made(folder: str | Path) -> Path:
    """A folder, made where it is not there; one sentence where it cannot be."""
    where = here(Path(folder))
    with changing(where):
        where.mkdir(parents=True, exist_ok=True)
    return where


@contextlib.contextmanager
def made_for(folder: str | Path) -> Iterator[Path]:
    """A folder for what the block writes there, made where it is not there; gone again where the block ends with an
    error and the folder is empty."""
    where = made(folder)
    try:
        yield where
    except BaseException:
        with contextlib.suppress(OSError):
            where.rmdir()
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def a_file(path: Path) -> Path:
    """The path, of a file. Raises OSError, as to open it would where there is none, for what is in the place of one: a
    pipe would be waited for, a device has no end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "it is a folder, a pipe, a device or the like, not a file", str(path))
    return path


def replacing(path: Path, *read: object) -> Path:
    """The path of a file to be written. HandfulError where that is a file that is read for it.

    >>> replacing(Path("predictions.csv"), "table.csv")
    PosixPath('predictions.csv')
    """
    for one in read:
        if isinstance(one, str | os.PathLike) and os.path.exists(one) and path.exists() and path.samefile(one):
            raise HandfulError(f"{shown(path)} is read here, and would be replaced: write to another file")
    return path


def here(path: Path) -> Path:
    """The path. Raises HandfulError for an address, which would be taken for folders of that name.

    >>> here(Path("s3://b/run"))
    Traceback (most recent call last):
      ...
    handful.base.errors.HandfulError: s3://b/run is an address; runs, pages and exports lie on a disk of this machine
    """
    if path.parts and re.fullmatch(r"[\w+.-]{2,}:", path.parts[0]):
        address = f"{path}".replace(":/", "://", 1)
        raise HandfulError(f"{address} is an address; runs, pages and exports lie on a disk of this machine")
    return path


def said(path: Path) -> str:
    """A path as it is shown: from where we are, if it is below that.

    >>> said(Path("runs/one").absolute())
    'runs/one'
    """
    with contextlib.suppress(OSError, ValueError):  # the folder where we were is gone; or it is elsewhere
        return shown(str(path.relative_to(Path.cwd())))
    return shown(str(path))


def sha256(path: Path) -> str:
    """Of a file's bytes, as hexadecimal digits."""
    with open(a_file(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_text(text: str) -> str:
    """The SHA-256 of a text, in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


_CHECKED = re.compile(r'\{"sha256": "([0-9a-f]{64})"(?:, )?')


def write_json(path: Path, table: dict[str, Any], indent: int | None = None) -> None:
    """Write a table as JSON, atomically; its first entry is the SHA-256 of the rest."""
    body = json.dumps(table, indent=indent)
    write_text(path, f'{{"sha256": "{of_text(body)}"{", " if table else ""}{body[1:]}')


def read_json(path: Path, *needed: str) -> dict[str, Any]:
    """The table that `write_json` wrote. Raises HandfulError, naming the file, for one that is missing or changed, or
    whole without the entries that are needed."""
    try:
        text = a_file(path).read_bytes().decode()
        head = _CHECKED.match(text)
        if head is None or of_text("{" + text[head.end() :]) != head[1]:
            raise HandfulError(f"{path} is damaged, or no file that handful wrote: its checksum does not match")
        table: dict[str, Any] = json.loads("{" + text[head.end() :])
    except UnicodeDecodeError:
        raise HandfulError(f"{path} is damaged: it is not text") from None
    except OSError as error:
        raise HandfulError(f"{path} cannot be read: {error.strerror}") from None
    if lacking := sorted(set(needed) - table.keys()):
        raise HandfulError(f"{path} has no {lacking[0]!r}: another version of handful wrote it; use that one")
    return table


_HELD = weakref.WeakSet[TextIO]()
# What was forked is another process: a lock that it kept would outlive the one that writes.
os.register_at_fork(after_in_child=lambda: [file.close() for file in _HELD])


def hold(path: Path) -> TextIO:
    """An open file that no one else can hold until it is closed or this process is gone, however that ends.

    Raises HandfulError with the process that holds it. Where the file system has no such locks, what the file says
    counts: it is refused while the process that it names lives, or is on another machine.
    """
    here = f"process {os.getpid()} on {socket.gethostname()}"
    try:
        if os.path.lexists(path):
            a_file(path)
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115  it stays open
    except OSError as error:
        raise HandfulError(f"{path} could not be written: {error.strerror}") from None
    file.seek(0)
    holder, free = file.read().strip(), True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        free = False
    except OSError:  # no locks here
        free = not holder or holder == here or _is_gone(holder)
    if not free:
        file.close()
        raise HandfulError(
            f"{path.parent} is being written by {holder or 'another process'}; wait until it ends, or choose another "
            "folder"
        )
    with contextlib.suppress(OSError):  # a full disk does not undo the lock; nothing is left over for close() to write
        file.truncate(0)
        os.write(file.fileno(), here.encode())
    _HELD.add(file)
    return file


def _is_gone(holder: str) -> bool:
    """Whether the process is known not to live any more."""
    found = re.fullmatch(r"process (\d+) on (.*)", holder)
    return found is not None and found[2] == socket.gethostname() and not _lives(found[1])


def _lives(pid: str) -> bool:
    """Whether there is a process of this number on this machine; True where that cannot be told."""
    return Path("/proc", pid).exists() or not Path("/proc/self").exists()


def written_down(stream: BufferedIOBase | BinaryIO, beside: Path) -> Path:
    """A table that is piped in, as a file of that name: CSV or, where it begins with a brace, JSON Lines.

    HandfulError where there is nothing.
    """
    first = stream.read(1 << 16)
    if not first.strip():
        raise HandfulError("standard input is empty; give it CSV with a header line, or JSON Lines")
    where = beside.with_name(f"{beside.name}.{'jsonl' if first.lstrip().startswith(b'{') else 'csv'}")
    where.parent.mkdir(parents=True, exist_ok=True)
    with atomic(where) as temporary, temporary.open("wb") as file:
        file.write(first)
        shutil.copyfileobj(stream, file)
    return where


def free_folder(data: str, suffix: str = "") -> Path:
    """A run folder for data of this name (-: what is piped in) that is not there yet: runs/NAME-K. Where torchrun
    starts a process again, the last one that is there: its run goes on."""
    plain = re.sub(r"[*?\[\]]", "", Path(data.rstrip("/")).name.split(".")[0]).strip("-_")  # data may be a pattern
    name = "stdin" if data == "-" else (plain or "run")
    name += suffix
    free = next(k for k in count(1) if not (Path("runs") / f"{name}-{k}").exists())
    again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    return Path("runs") / f"{name}-{max(1, free - again)}"
