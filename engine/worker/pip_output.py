"""What pip prints, as progress while it works and as a reason when it has failed."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass, field

#: "Processing" is a file of a local index.
_COLLECTING = re.compile(r"(Collecting|Processing|Downloading|Using cached) (\S+)(?:.*\((.*B)\))?")
_BROKEN = re.compile(r"connection broken by '(?P<what>.*)': \S*$")
_OBJECT = re.compile(r"<[^>]*>:? ?")
_NOT_FOUND = re.compile(r"No matching distribution found for (\S+)")
_NO_SPACE = re.compile(r"No space left on device|Disk quota exceeded|Errno (?:28|122)\b")


@dataclass
class PipOutput:
    """Read line by line. packages: names of those that have been found so far."""

    packages: set[str] = field(default_factory=set)
    installing: bool = False
    _errors: list[str] = field(default_factory=list)
    _broken: str | None = None
    _no_space: bool = False

    def read(self, line: str) -> str | None:
        """Take a line; what it means for people, None where it means nothing."""
        line = line.strip()
        self._no_space = self._no_space or tells_of_full_disk(line)
        if line.startswith("ERROR:"):
            self._errors.append(line.removeprefix("ERROR:").strip())
        elif broken := _BROKEN.search(line):
            self._broken = _plain(broken["what"])
            return "the package index does not answer; trying again"
        elif line.startswith("Installing collected"):
            self.installing = True
            return "installing"
        elif found := _COLLECTING.match(line):
            what, name, size = found.groups()
            name = name.rpartition("/")[2]
            self._broken = None  # it answers
            if what in ("Collecting", "Processing"):
                self.packages.add(name)
            return f"{what.lower()} {name}" + (f" ({size})" if size else "")
        return None

    def failure(self, exit_code: int, free_bytes: int | None) -> tuple[str, str]:
        """(what went wrong, what to do) after a failed run.

        free_bytes: that were left where it unpacked.
        """
        if self._no_space:
            return full_disk(free_bytes)
        if self._broken is not None:
            return (
                f"the packages cannot be downloaded: {self._broken}",
                "Check the network, and try again. A proxy or a mirror is taken from HTTPS_PROXY "
                "and from pip's own configuration. Or set an interpreter that has torch",
            )
        reason = self._errors[0] if self._errors else f"pip ended with exit code {exit_code}"
        if missing := next(filter(None, map(_NOT_FOUND.search, self._errors)), None):
            python = ".".join(platform.python_version_tuple()[:2])
            return (
                f"there is no {missing[1]} for Python {python} on {platform.platform(terse=True)} "
                f"({platform.machine()})",
                "Set an interpreter that has torch in the preferences instead",
            )
        return (
            f"the packages could not be installed: {reason}",
            "Check the network and the free space; the log has the details",
        )


def tells_of_full_disk(text: str) -> bool:
    return bool(_NO_SPACE.search(text))


def full_disk(free_bytes: int | None) -> tuple[str, str]:
    """(what went wrong, what to do)"""
    free = "" if free_bytes is None else f" ({free_bytes / 1e9:.1f} GB free)"
    return (
        f"there is not enough space for the environment{free}",
        "Free some: a CPU build of torch needs 2 GB, one for CUDA 8 GB; or choose another folder "
        "for the environment in the preferences",
    )


def _plain(error: str) -> str:
    """The text inside of an exception's representation: "NewConnectionError('<...>: No route')"."""
    inner = error.partition("(")[2].rpartition(")")[0] or error
    return _OBJECT.sub("", inner).strip("'\", ")
