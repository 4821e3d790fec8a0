"""Bytes to text and back, without losing a byte: PEP 263 encodings, byte order marks, any line ending."""

from __future__ import annotations

import codecs
import io
import re
import tokenize
from dataclasses import dataclass

MAX_BYTES = 16 * 1024 * 1024
"""Larger files are data with a ``.py`` suffix; parsing one would take gigabytes."""

NULL_BYTE = "the file contains a null byte: it is not Python source text"
_NEWLINE = re.compile(r"\r\n|\r|\n")


class SourceError(Exception):
    """A file that cannot be read as Python: what is wrong and where. Lines and columns count from 1."""

    def __init__(self, message: str, line: int = 1, column: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.column = column


@dataclass(frozen=True, slots=True)
class Decoded:
    """A file's text, line endings as they are, and how to write it back. ``text`` never starts with a BOM."""

    text: str
    encoding: str = "utf-8"
    bom: bool = False

    def encode(self, text: str) -> bytes:
        """``text`` in the file's own encoding.

        Raises:
            UnicodeEncodeError: if the encoding lacks a character of ``text``.
        """
        return (codecs.BOM_UTF8 if self.bom else b"") + text.encode(self.encoding)


def decode(data: bytes) -> Decoded:
    """Decode a Python file as the interpreter would (PEP 263: BOM, then coding comment, then UTF-8).

    Raises:
        SourceError: if it is too large, not text in its encoding, or declares an unknown encoding.
    """
    if len(data) > MAX_BYTES:
        raise SourceError(f"the file has {len(data) / 2**20:.0f} MiB; initcheck reads files of up to 16 MiB")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise SourceError("the file is UTF-16; Python files must be UTF-8 or declare their encoding (PEP 263)")
    null = data.find(b"\0")
    if null >= 0:
        raise _at(data, null, NULL_BYTE)
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
    except SyntaxError as error:
        if "invalid or missing encoding" in str(error):  # bytes of the first two lines are not UTF-8
            encoding = "utf-8"
        else:
            raise SourceError(f"{error.msg} (see PEP 263)") from None
    bom = data.startswith(codecs.BOM_UTF8)
    encoding = "utf-8" if bom else encoding
    body = data[len(codecs.BOM_UTF8) :] if bom else data
    try:
        return Decoded(body.decode(encoding), encoding, bom)
    except UnicodeDecodeError as error:
        byte = body[error.start]
        raise _at(
            body,
            error.start,
            f"byte 0x{byte:02x} is not valid {encoding.upper()}; save the file as UTF-8 "
            "or declare its encoding on line 1 (PEP 263)",
        ) from None


def split_lines(text: str) -> list[str]:
    """Lines as Python's parser counts them: a form feed or a Unicode separator does not end a line."""
    return _NEWLINE.split(text)


def _at(data: bytes, offset: int, message: str) -> SourceError:
    before = split_lines(data[:offset].decode("latin-1"))
    return SourceError(message, len(before), len(before[-1]) + 1)
