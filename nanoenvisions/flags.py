"""The parser of flags, and values of flags: argparse calls these, and says what they complain of.

May import records.
"""
from __future__ import annotations

import argparse
import difflib
import os

from nanoenvisions.records import fail, read_jsonl


class Parser(argparse.ArgumentParser):
    """Shows its description as it was written, knows no shortened flags, complains in one line."""

    def __init__(self, description=None, **more):
        super().__init__(description=description, **{
            "allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter, **more})

    def error(self, message):
        unknown = message.partition("unrecognized arguments: ")[2].split(" ")[0]
        near = difflib.get_close_matches(unknown, self._option_string_actions, 1)
        hint = f"did you mean {near[0]}?" if near else f"see python {self.prog} --help"
        self.exit(2, f"{self.prog}: error: {message} ({hint})\n")


def value(kind, words: str, fits):
    """A type for a flag: kind(text), if it fits; else argparse says what the flag must be."""
    def parse(text: str):
        try:
            if fits(number := kind(text)):
                return number
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"{text!r} is not {words}")
    return parse


share = value(float, "a number from 0 to 1", lambda number: 0 <= number <= 1)
count = value(int, "a whole number from 1 on", lambda number: 1 <= number < 2 ** 32)
whole = value(int, "a whole number from 0 on", lambda number: 0 <= number < 2 ** 32)
positive_share = value(float, "a number above 0, to 1", lambda number: 0 < number <= 1)
heat = value(float, "a number from 0 to 100", lambda number: 0 <= number <= 100)


def number_or_all(text: str) -> int | None:
    return None if text == "all" else count(text)


def metrics_file(path: str) -> str:
    """A file that rows can be added to; what is wrong with it is said before the work."""
    if os.path.isdir(path):
        fail(f"--metrics {path}: is a folder (give a file, such as metrics.jsonl)")
    if os.path.isfile(path):
        read_jsonl(path, allow_empty=True)
    return path


def check(args, **least: int):
    """Fail unless these whole numbers, of those that were given, are not below their least."""
    for name, lowest in least.items():
        value = getattr(args, name)
        if value is not None and not lowest <= value < 2 ** 32:
            fail(f"--{name.replace('_', '-')} is {value}, it must be from {lowest} to "
                 f"{2 ** 32 - 1}")
