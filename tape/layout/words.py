"""Eight bytes at a time: digits read from text and text written from digits, whole columns at once.

A *word* is eight bytes of text in one uint64, the first character in the lowest byte. Reading a
number gathers the words that end where its field ends; writing one computes words and scatters
them, each followed by whatever comes next, so that the garbage behind a short word is overwritten.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]

PAD = 8
BLOCK_ROWS = 1 << 13

_ZEROS = np.uint64(0x3030303030303030)
_OVER_NINE = np.uint64(0x7676767676767676)
_HIGH_BITS = np.uint64(0x8080808080808080)
POWERS = np.array([10**k for k in range(19)], dtype=np.int64)


class Text:
    """Some bytes of a source, padded so that any eight bytes before or after a position can be gathered."""

    def __init__(self, data: bytes | memoryview) -> None:
        self.size = len(data)
        self._padded = np.zeros(self.size + 2 * PAD, np.uint8)
        self._padded[PAD : PAD + self.size] = np.frombuffer(data, np.uint8)
        self.bytes: Bytes = self._padded[PAD : PAD + self.size]
        self._words = _overlapping(self._padded)

    def at(self, positions: Ints) -> Bytes:
        """The byte at each position; 0 just before the start and after the end (-8 .. size + 7)."""
        found: Bytes = self._padded[positions + PAD]
        return found

    def words_before(self, ends: Ints) -> Words:
        """The eight bytes that end before each position."""
        found: Words = self._words[ends]
        return found

    def words_from(self, starts: Ints) -> Words:
        """The eight bytes that start at each position."""
        found: Words = self._words[starts + PAD]
        return found

    @cached_property
    def has_quotes(self) -> bool:
        """Whether there is any double quote."""
        return bool((self.bytes == ord('"')).any())

    @cached_property
    def has_minus(self) -> bool:
        """Whether there is any minus sign."""
        return bool((self.bytes == ord("-")).any())

    @cached_property
    def points(self) -> Ints:
        """Positions of every full stop."""
        return np.flatnonzero(self.bytes == ord("."))


class Span:
    """The fields of one column in a text: where each starts and ends."""

    def __init__(self, text: Text, starts: Ints, ends: Ints) -> None:
        self.text = text
        self.starts = starts
        self.ends = ends

    @cached_property
    def lengths(self) -> Ints:
        """Bytes of each field."""
        lengths: Ints = self.ends - self.starts
        return lengths

    @cached_property
    def longest(self) -> int:
        """Bytes of the longest field."""
        return int(self.lengths.max(initial=0))

    @cached_property
    def shortest(self) -> int:
        """Bytes of the shortest field."""
        return int(self.lengths.min(initial=1 << 62))

    @cached_property
    def shift(self) -> Words | np.uint64:
        """Bits of a word in front of each field, where no field is longer than a word."""
        return _shift(self.longest if self.shortest == self.longest else self.lengths)

    @cached_property
    def words(self) -> Words:
        """The eight bytes that end with each field, or zeros before it; not to be changed."""
        if self.longest > 1:
            return self.text.words_before(self.ends)
        lasts = self.text.at(self.ends - 1).astype(np.uint64)
        lasts <<= np.uint64(56)
        return lasts


def _overlapping(data: Bytes) -> Words:
    return np.ndarray((len(data) - 7,), np.dtype("<u8"), buffer=data.data, strides=(1,))


def _shift(lengths: Ints | int) -> Words | np.uint64:
    """Bits of a word that the last `lengths` (<= 8) of its bytes leave."""
    if isinstance(lengths, int):
        return np.uint64(8 * (8 - lengths))
    shift = (8 - lengths).view(np.uint64)
    shift <<= np.uint64(3)
    return shift


def _eight(words: Words, shift: Words | np.uint64) -> tuple[Words, Words]:
    """Value of the digits behind the first `shift` bits of each word, and non-zero where one is no digit."""
    words ^= _ZEROS
    words >>= shift  # shifting by 64 gives 0, as it should for no digits
    words <<= shift
    bad = words + _OVER_NINE
    bad |= words
    bad &= _HIGH_BITS
    words *= np.uint64(10 * 256 + 1)
    words >>= np.uint64(8)
    words &= np.uint64(0x00FF00FF00FF00FF)
    words *= np.uint64(100 * 65536 + 1)
    words >>= np.uint64(16)
    words &= np.uint64(0x0000FFFF0000FFFF)
    words *= np.uint64(10000 * (1 << 32) + 1)
    words >>= np.uint64(32)
    return words, bad


def read_digits(text: Text, ends: Ints, lengths: Ints | int, words: Words | None = None) -> tuple[Words, Mask]:
    """Unsigned value of the `lengths` (0 .. 19) bytes before each end, and whether all of them are digits.

    `words`: the eight bytes before each end where they are known; they are overwritten. Lengths must not
    reach before the start of the text; where the mask is false the value means nothing.
    """
    if words is None:
        words = text.words_before(ends)
    longest = lengths if isinstance(lengths, int) else int(lengths.max(initial=0))
    first = min(lengths, 8) if isinstance(lengths, int) else (np.minimum(lengths, 8) if longest > 8 else lengths)
    value, bad = _eight(words, _shift(first))
    for part in (1, 2):
        done = 8 * part
        if longest <= done:
            break
        if isinstance(lengths, int):
            more: Ints | int = min(lengths - done, 8)
        else:
            more = np.clip(lengths - done, 0, 8)
        high, wrong = _eight(text.words_before(np.maximum(ends - done, 0)), _shift(more))
        value += high * np.uint64(10**done)
        bad |= wrong
    return value, bad == 0


def short_digits(span: Span) -> Words | None:
    """Unsigned value of fields of 1 .. 8 bytes; None if any byte of them is no digit."""
    value, bad = _eight(span.words.copy(), span.shift)
    return None if bad.any() else value


def count_digits(values: Words) -> Ints | int:
    """How many decimal digits each value (< 10^19) has, one number if all have as many; 1 for 0."""
    least = len(str(int(values.min(initial=(1 << 64) - 1))))
    most = len(str(int(values.max(initial=0))))
    if least >= most:
        return most
    count = np.full(len(values), least, np.uint8)
    for k in range(least, most):
        count += (values >= np.uint64(10**k)).view(np.uint8)
    return count.astype(np.int64)


class Token:
    """One piece of every row's text: a word per row (or one for all) and how many of its bytes count (0 .. 8).

    `right`: instead of the word, one whose last bytes count.
    """

    __slots__ = ("_words", "lengths", "right")

    def __init__(self, words: Words | int | None, lengths: Ints | int, right: Words | None = None) -> None:
        self._words = words
        self.lengths = lengths
        self.right = right

    @property
    def words(self) -> Words | int:
        """The words whose first bytes count."""
        if self._words is None:
            assert self.right is not None
            self._words = self.right >> _shift(self.lengths)
        return self._words

    @property
    def longest(self) -> int:
        """Bytes of the longest."""
        return self.lengths if isinstance(self.lengths, int) else int(self.lengths.max(initial=0))


def constant(text: bytes) -> list[Token]:
    """Tokens that write the same text in every row."""
    pieces = [text[k : k + 8] for k in range(0, len(text), 8)]
    return [Token(int.from_bytes(piece, "little"), len(piece)) for piece in pieces]


def _ascii(values: Words) -> Words:
    """Eight ASCII digits, leading zeros included, of each value < 10^8."""
    if int(values.max(initial=0)) < 10:
        digits = values << np.uint64(56)
        digits |= _ZEROS
        return digits
    high = values // np.uint64(10000)
    pairs = values - high * np.uint64(10000)
    pairs <<= np.uint64(32)
    pairs |= high
    high = pairs * np.uint64(5243)
    high >>= np.uint64(19)
    high &= np.uint64(0x0000007F0000007F)
    pairs -= high * np.uint64(100)
    pairs <<= np.uint64(16)
    pairs |= high
    high = pairs * np.uint64(103)
    high >>= np.uint64(10)
    high &= np.uint64(0x000F000F000F000F)
    pairs -= high * np.uint64(10)
    pairs <<= np.uint64(8)
    pairs |= high
    pairs |= _ZEROS
    return pairs


def write_digits(values: Words, lengths: Ints | int) -> list[Token]:
    """Tokens of each value (< 10^19) as exactly `lengths` (0 .. 19) digits, zeros in front where it has fewer."""
    longest = lengths if isinstance(lengths, int) else int(lengths.max(initial=0))
    tokens: list[Token] = []
    parts = max(1, -(-longest // 8))
    rest = values
    for part in range(parts):
        if part + 1 < parts:
            high = rest // np.uint64(10**8)
            low = rest - high * np.uint64(10**8)
            rest = high
        else:
            low = rest
        if isinstance(lengths, int):
            count: Ints | int = min(lengths - 8 * part, 8)
        elif parts == 1:
            count = lengths
        else:
            count = np.clip(lengths - 8 * part, 0, 8)
        tokens.append(Token(None, count, _ascii(low)))
    return tokens[::-1]


def appended(tokens: Sequence[Token], text: bytes) -> list[Token]:
    """The same tokens with a constant text behind: in the last word where there is room for it."""
    if not text:
        return list(tokens)
    if not tokens or tokens[-1].longest + len(text) > 8:
        return [*tokens, *constant(text)]
    return [*tokens[:-1], _grown(tokens[-1], int.from_bytes(text, "little"), len(text))]


def _grown(token: Token, tail: int, size: int) -> Token:
    if isinstance(token.lengths, int):
        room = (1 << 8 * token.lengths) - 1
        tail <<= 8 * token.lengths
        if isinstance(token.words, int):
            return Token(token.words & room | tail, token.lengths + size)
        return Token(token.words & np.uint64(room) | np.uint64(tail), token.lengths + size)
    shift = token.lengths.view(np.uint64) << np.uint64(3)
    rooms = (np.uint64(1) << shift) - np.uint64(1)
    words = np.uint64(token.words) if isinstance(token.words, int) else token.words
    return Token(words & rooms | np.uint64(tail) << shift, token.lengths + size)


def masked(tokens: Sequence[Token], keep: Mask) -> list[Token]:
    """The same tokens, empty in the rows where `keep` is false."""
    return [Token(token.words, keep * np.int64(1) * token.lengths) for token in tokens]


def spells(tokens: Sequence[Token], span: Span) -> bool:
    """Whether the tokens, one after the other, are exactly the fields of a column."""
    short = span.longest <= 8
    if short and len(tokens) == 1 and (right := tokens[0].right) is not None:
        difference = right ^ span.words
        difference >>= span.shift
        return not difference.any() and bool((span.lengths == tokens[0].lengths).all())
    place = span.starts
    rest = span.words >> span.shift if short else span.words
    for token in tokens:
        words = rest if short else span.text.words_from(np.minimum(place, span.text.size))
        words = words ^ (np.uint64(token.words) if isinstance(token.words, int) else token.words)
        if isinstance(token.lengths, int):
            shift: Words | np.uint64 = np.uint64(8 * token.lengths)
        else:
            shift = token.lengths.view(np.uint64) << np.uint64(3)
        words <<= np.uint64(64) - shift
        if words.any():
            return False
        place = place + token.lengths
        if short and token is not tokens[-1]:
            rest = rest >> shift
    return bool((place == span.ends).all())


def assemble(tokens: Sequence[Token], rows: int) -> tuple[Bytes, Ints]:
    """The text of all rows one after the other, and where each row's text ends."""
    if rows == 0 or not tokens:
        return np.empty(0, np.uint8), np.zeros(rows, np.int64)
    lengths = np.empty((rows, len(tokens)), np.int64)
    for k, token in enumerate(tokens):
        lengths[:, k] = token.lengths
    ends = np.cumsum(lengths.reshape(-1))
    out = np.empty(int(ends[-1]) + 8, np.uint8)
    into = _overlapping(out)
    for start in range(0, rows, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, rows)
        words = np.empty((stop - start, len(tokens)), np.uint64)
        for k, token in enumerate(tokens):
            words[:, k] = token.words if isinstance(token.words, int) else token.words[start:stop]
        block = slice(start * len(tokens), stop * len(tokens))
        # Ascending positions, written in this order: each word overwrites what the one before left behind itself.
        into[ends[block] - lengths.reshape(-1)[block]] = words.reshape(-1)
    return out[:-8], ends[len(tokens) - 1 :: len(tokens)]
