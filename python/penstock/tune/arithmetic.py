"""Numbers as the advice writes them."""

from __future__ import annotations


def many(number: float) -> str:
    """1,000,000; what is no whole number, with what matters of it."""
    return f"{number:,.0f}" if float(number).is_integer() else f"{number:,g}"


def counted(number: int, what: str) -> str:
    plural = "es" if what.endswith("s") else "s"
    return f"{many(number)} {what}" + ("" if number == 1 else plural)


def size(count: float) -> str:
    """Bytes in the unit that reads best: `3.8 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def power_of_two(number: int) -> int:
    """The next one that is not below: hash tables and queues come in them."""
    return 1 << max(0, number - 1).bit_length()


def rounded(number: int, step: int = 1024) -> int:
    """Up to a multiple of `step`: a value that a person can read again."""
    return -(-number // step) * step
