"""Values of flags: argparse calls these, and says what they complain of.

May import the standard library only.
"""
from __future__ import annotations

import argparse


def share(text: str) -> float:
    """A flag's value from 0 to 1."""
    if not 0 <= float(text) <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to 1")
    return float(text)


def count(text: str) -> int:
    """A flag's value that is a whole number from 1 on."""
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def number_or_all(text: str) -> int | None:
    return None if text == "all" else count(text)
