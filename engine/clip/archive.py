"""The container of a clip: a ZIP (ZIP64) archive of stored members, read strictly.

`zipfile` parses the directory; members are read by plain positioned reads, so that many threads
can share one open file and nothing outside the member's own bytes is ever interpreted.
"""

from __future__ import annotations

import struct
import threading
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from ..errors import ClipError
from .clip import DAMAGED_HINT

#: What archives are called, and the ending of their files.
CLIP, VIDEO = ("clip", ".p4d"), ("video", ".g2v")
# Local file header: signature, version, flags, method, time, date, crc, sizes, name and extra.
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")
_LOCAL_MAGIC = b"PK\x03\x04"
#: Flag bit 0 encrypted, bit 5 patched, bit 6 strong encryption, bit 13 masked header.
_FORBIDDEN_FLAGS = 0x2061
# What zipfile raises for damaged directories, beyond BadZipFile.
_DIRECTORY_ERRORS = (
    zipfile.BadZipFile,
    struct.error,
    ValueError,
    EOFError,
    LookupError,
    NotImplementedError,
    OverflowError,
    MemoryError,
)


@dataclass(frozen=True)
class Member:
    """Where one member lies. offset: of its local header. size: bytes. crc: CRC-32 of the data."""

    name: str
    offset: int
    size: int
    crc: int


class ArchiveReader:
    """An open archive. `read` may be called from any thread."""

    def __init__(self, path: str | Path, kind: tuple[str, str] = CLIP) -> None:
        """Raises ClipError when the file is missing, no ZIP, truncated or has unusual members."""
        self.path = Path(path)
        self._name = kind[0]
        self._foreign_hint = f"Choose a {kind[1]} file that Peel4D has written"
        try:
            self._file = self.path.open("rb")
        except OSError as error:
            raise ClipError(
                f"cannot open the {self._name} ({error.strerror or error})",
                where=self.path,
                hint="Check the path and the permissions",
            ) from error
        self._lock = threading.Lock()
        try:
            self.members = self._directory()
            self.nbytes = self._file.seek(0, 2)
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Close the file. Reads that are under way finish first."""
        with self._lock:
            self._file.close()

    def where(self, name: str) -> str:
        """How errors name a member."""
        return f"{self.path}, member {name}"

    def size(self, name: str) -> int:
        """Bytes of a member. Raises ClipError when there is none of that name."""
        return self._member(name).size

    def read(self, name: str) -> bytes:
        """A member's verified bytes.

        Raises ClipError when the member is missing, its local header disagrees with the directory,
        the file ends too early or the checksum is wrong.
        """
        member = self._member(name)
        expected = name.encode("ascii", "replace")
        header = self._read_at(member.offset, _LOCAL_HEADER.size + len(expected), name)
        fields = _LOCAL_HEADER.unpack_from(header)
        stored_name = header[_LOCAL_HEADER.size :]
        if fields[0] != _LOCAL_MAGIC or fields[9] != len(expected) or stored_name != expected:
            raise self._damaged("the archive's directory points to something else", name)
        data = self._read_at(member.offset + len(header) + fields[10], member.size, name)
        if zlib.crc32(data) != member.crc:
            raise self._damaged("wrong checksum", name)
        return data

    def _read_at(self, offset: int, size: int, name: str) -> bytes:
        try:
            with self._lock:
                self._file.seek(offset)
                data = self._file.read(size)
        except (OSError, ValueError) as error:  # ValueError: closed meanwhile
            raise ClipError(f"cannot read ({error})", where=self.where(name)) from error
        if len(data) != size:
            raise self._damaged("the file ends too early", name)
        return data

    def _member(self, name: str) -> Member:
        member = self.members.get(name)
        if member is None:
            raise self._damaged("the member is missing", name)
        return member

    def _damaged(self, what: str, name: str) -> ClipError:
        return ClipError(what, where=self.where(name), hint=DAMAGED_HINT)

    def _directory(self) -> dict[str, Member]:
        try:
            if self._file.read(4) != _LOCAL_MAGIC:
                raise ClipError(
                    f"not a Peel4D {self._name} (no ZIP archive)",
                    where=self.path,
                    hint=self._foreign_hint,
                )
            with zipfile.ZipFile(self._file) as archive:
                entries = archive.infolist()
                end = archive.start_dir
        except _DIRECTORY_ERRORS as error:
            raise ClipError(
                f"the archive's directory is damaged or cut off ({error})",
                where=self.path,
                hint=DAMAGED_HINT,
            ) from error
        except OSError as error:
            raise ClipError(f"cannot read ({error.strerror or error})", where=self.path) from error
        members: dict[str, Member] = {}
        for entry in entries:
            name = entry.filename
            if entry.flag_bits & _FORBIDDEN_FLAGS or entry.compress_type != zipfile.ZIP_STORED:
                raise ClipError(
                    f"members of a {self._name} are stored, this one is compressed or encrypted",
                    where=self.where(name),
                    hint=self._foreign_hint,
                )
            first_byte = entry.header_offset + _LOCAL_HEADER.size
            inside = entry.header_offset >= 0 and first_byte + entry.file_size <= end
            if entry.file_size != entry.compress_size or not inside:
                raise self._damaged("its size does not fit the file", name)
            if name in members:
                raise self._damaged("the member exists twice", name)
            members[name] = Member(name, entry.header_offset, entry.file_size, entry.CRC)
        return members
