"""Device memory is planned before any of it is taken, and refused with the figures when it does not fit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from searchpipe.errors import DeviceMemoryError

MIB = 1 << 20

RESERVE_BYTES = 512 * MIB
"""Kept free by default: contexts and lazily loaded kernels of several CUDA libraries, and allocator waste."""


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that will take device memory.

    Attributes:
        name: what it is ("index", "scorer weights").
        nbytes: device memory, at least 0.
        note: how the number came about.
        peak: bytes that it needs besides while it is made and gives back afterwards.
    """

    name: str
    nbytes: int
    note: str = ""
    peak: int = 0

    def __post_init__(self) -> None:
        if self.nbytes < 0 or self.peak < 0:
            raise ValueError(f"{self.name} cannot take {self.nbytes} bytes and {self.peak} at its making.")


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """Everything that one device is to hold. Immutable; any thread.

    Parts are made one after the other, so only the largest ``peak`` counts.

    Attributes:
        parts: in the order in which they are made.
        free_bytes: free on the device before any of them.
        total_bytes: the device's memory.
        reserve_bytes: must stay free beside all parts.
        device: its name, for the table.
    """

    parts: tuple[Part, ...]
    free_bytes: int
    total_bytes: int
    reserve_bytes: int = RESERVE_BYTES
    device: str = "device 0"

    @property
    def lasting_bytes(self) -> int:
        """What all parts hold once they are made."""
        return sum(part.nbytes for part in self.parts)

    @property
    def needed_bytes(self) -> int:
        """The most that is ever taken, the reserve included."""
        highest = held = 0
        for part in self.parts:
            held += part.nbytes
            highest = max(highest, held + part.peak)
        return highest + self.reserve_bytes

    @property
    def fits(self) -> bool:
        """Whether the free memory is enough."""
        return self.needed_bytes <= self.free_bytes

    def left_for(self, name: str) -> int:
        """Bytes that a part called ``name`` could take and still fit; what it takes now is not counted."""
        others = DevicePlan(
            tuple(part for part in self.parts if part.name != name),
            self.free_bytes,
            self.total_bytes,
            self.reserve_bytes,
        )
        return max(0, self.free_bytes - others.lasting_bytes - self.reserve_bytes)

    def with_parts(self, parts: Iterable[Part]) -> DevicePlan:
        """The same device with these parts added."""
        return DevicePlan(
            (*self.parts, *parts), self.free_bytes, self.total_bytes, self.reserve_bytes, self.device
        )

    def summary(self) -> str:
        """The plan in one line, in MiB."""
        held = ", ".join(f"{part.name} {_mib(part.nbytes)}" for part in self.parts)
        return (
            f"{_mib(self.lasting_bytes)} MiB of {_mib(self.free_bytes)} free ({held}), "
            f"{_mib(self.reserve_bytes)} kept free"
        )

    def table(self) -> str:
        """The plan as text, one part a line, in MiB."""
        rows = [(part.name, _mib(part.nbytes), _note(part)) for part in self.parts]
        rows.append(("reserve", _mib(self.reserve_bytes), "stays free"))
        rows.append(("needed", _mib(self.needed_bytes), "at the highest point"))
        rows.append(("free", _mib(self.free_bytes), f"of {_mib(self.total_bytes)} MiB on {self.device}"))
        wide, high = (max(len(row[at]) for row in rows) for at in (0, 1))
        return "\n".join(f"{name:<{wide}}  {size:>{high}} MiB  {note}".rstrip() for name, size, note in rows)

    def check(self) -> DevicePlan:
        """Return the plan itself if it fits.

        Raises:
            DeviceMemoryError: it does not; the message holds the table.
        """
        if self.fits:
            return self
        largest = max(self.parts, key=lambda part: part.nbytes + part.peak, default=None)
        lacking = self.needed_bytes - self.free_bytes
        raise DeviceMemoryError(
            f"The plan needs {_mib(lacking)} MiB more than {self.device} has free:\n{self.table()}\n",
            cure=f"Make the largest part smaller ({largest.name}), or free memory on the device."
            if largest is not None
            else "Free memory on the device.",
        )


def _mib(nbytes: int) -> str:
    return f"{nbytes / MIB:,.0f}"


def _note(part: Part) -> str:
    if not part.peak:
        return part.note
    return f"{part.note}; {_mib(part.peak)} MiB more while it is made".lstrip("; ")
