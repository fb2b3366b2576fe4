"""Read a dictionary of text and numbers from a pickle by following it step by step; the module pickle is not used.

A pickle is a program of a small machine with a stack. The machine here knows the steps with which Python and numpy
write down text, numbers and one dictionary of them, in any protocol, and no others. No step imports a name or calls
what a name stands for: the names by which numpy writes its numbers are known as text. A pickle can therefore do nothing
but give a dictionary, and what it takes meanwhile is bounded: see :func:`read_pickled_dictionary`.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_STEPS = 2**21  # each leaves at most 200 bytes behind; the largest published dictionary takes 585,179

SHORT_TEXT, MEMOIZE, GET, LONG_GET, STOP = b"\x8c\x94hj."
SCALARS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
NAMES = ("numpy.dtype", *SCALARS)
NUMBERS = dict(zip(("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"), "bhiqBHIQefd", strict=True))
"""Code of a numpy dtype -> that of `struct`."""
DOUBLE = Struct(">d")
ORDERS = {"<": "<", ">": ">", "=": "=", "|": "="}


class RefusedError(ValueError):
    """The pickle holds something a gene dictionary has no use for."""


class _Name:
    """Something to import, which nobody does."""

    def __init__(self, text: str) -> None:
        self.text = text


class _Dtype:
    """The dtype of plain numbers."""

    def __init__(self, code: str) -> None:
        self.code, self.form = NUMBERS[code], Struct(f"={NUMBERS[code]}")

    def set_order(self, order: str) -> None:
        """The order of its bytes."""
        self.form = Struct(ORDERS[order] + self.code)


class _Machine:
    """What the steps work on."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Follow the pickle to its end; what is on top of the stack then. The commonest steps are done here."""
        data, stack, memo, at = self.data, self.stack, self.memo, 0
        for _ in range(MOST_STEPS):
            code = data[at]
            at += 1
            if code == SHORT_TEXT:
                start, at = at + 1, at + 1 + data[at]
                stack.append(data[start:at].decode())
            elif code == MEMOIZE:
                memo[len(memo)] = stack[-1]
            elif code == GET:
                stack.append(memo[data[at]])
                at += 1
            elif code == LONG_GET:
                stack.append(memo[int.from_bytes(data[at : at + 4], "little")])
                at += 4
            elif code == STOP:
                return stack[-1]
            elif (step := _STEPS.get(code)) is not None:
                self.at = at
                step(self)
                at = self.at
            else:
                raise RefusedError(f"the pickle instruction {_instruction(code)}")
        raise RefusedError(f"more than {MOST_STEPS:,} pickle instructions")

    def take(self, n: int) -> bytes:
        """The next `n` bytes."""
        start, self.at = self.at, self.at + n
        if self.at > len(self.data):
            raise EOFError("it ends too early")
        return self.data[start : self.at]

    def whole(self, n: int, *, signed: bool = False) -> int:
        """The whole number in the next `n` bytes."""
        return int.from_bytes(self.take(n), "little", signed=signed)

    def line(self) -> bytes:
        """What there is up to the end of the line."""
        return self.take(self.data.index(b"\n", self.at) + 1 - self.at)[:-1]

    def top(self, n: int) -> list[Any]:
        """Take the last `n` objects from the stack."""
        if n > len(self.stack):
            raise IndexError("there is nothing on the stack")
        start = len(self.stack) - n
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def marked(self) -> list[Any]:
        """Take what is behind the last mark from the stack."""
        return self.top(max(0, len(self.stack) - self.marks.pop()))

    def name(self, module: Any, name: Any) -> None:
        """Module and name of something to import."""
        if not type(module) is type(name) is str:
            raise RefusedError("a name that is no text")
        if (text := f"{module}.{name}") not in NAMES:
            raise RefusedError(f"the name {text[:100]!r}")
        self.stack.append(_Name(text))

    def reduce(self) -> None:
        """What stands for a call; the two calls that make a number of numpy are known."""
        name, arguments = self.top(2)
        if not isinstance(name, _Name) or not isinstance(arguments, tuple):
            raise RefusedError("a call")
        self.stack.append(_scalar(*arguments) if name.text in SCALARS else _dtype(*arguments))

    def build(self) -> None:
        """What sets the state of an object: of a dtype, its byte order, which is the second entry."""
        dtype, state = self.top(2)
        if not isinstance(dtype, _Dtype) or not isinstance(state, tuple) or type(state[1]) is not str:
            raise RefusedError("the state of an object")
        dtype.set_order(state[1])
        self.stack.append(dtype)

    def dictionary(self, items: list[Any]) -> None:
        """A new dictionary of keys and values, in turn."""
        self.stack.append({})
        self.put(items)

    def put(self, items: list[Any]) -> None:
        """Put keys and values, in turn, into the dictionary on top of the stack."""
        table, keys, values = self.stack[-1], items[::2], items[1::2]
        if type(table) is not dict:
            raise RefusedError(f"entries of {_article(type(table))}")
        if odd := {*map(type, keys)} - {str}:
            raise RefusedError(f"a key that is {_article(odd.pop())}")
        if odd := {*map(type, values)} - {str, int, float}:
            kind = odd.pop()
            name = next(k for k, v in zip(keys, values, strict=True) if type(v) is kind)
            raise RefusedError(f"an entry {name[:100]!r} that is {_article(kind)}")
        table.update(zip(keys, values, strict=True))


def _dtype(code: Any = None, *_: Any) -> _Dtype:
    if not isinstance(code, str) or code not in NUMBERS:
        raise RefusedError("a numpy dtype that is not of plain numbers")
    return _Dtype(code)


def _scalar(dtype: Any = None, data: Any = None, *_: Any) -> int | float:
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
        raise RefusedError("a numpy scalar that is not a plain number")
    return dtype.form.unpack(data)[0]


def _instruction(code: int) -> str:
    from pickletools import code2op  # type: ignore[attr-defined]  # for its name alone

    return code2op[chr(code)].name if chr(code) in code2op else repr(bytes([code]))


def _article(kind: type) -> str:
    return f"a {kind.__name__.strip('_').lower()}"


def _pusher(read: Callable[[_Machine], Any]) -> Callable[[_Machine], None]:
    return lambda m: m.stack.append(read(m))


def _digits(m: _Machine) -> bytes:
    if len(text := m.line()) > 100:
        raise RefusedError("a number of more than 100 digits")
    return text.removesuffix(b"L")


_PUSH: dict[bytes, Callable[[_Machine], Any]] = {  # what the steps that make one object push
    b"N": lambda m: None,
    b"\x88": lambda m: True,
    b"\x89": lambda m: False,
    b"}": lambda m: {},
    b")": lambda m: (),
    b"t": lambda m: tuple(m.marked()),
    b"\x85": lambda m: tuple(m.top(1)),
    b"\x86": lambda m: tuple(m.top(2)),
    b"\x87": lambda m: tuple(m.top(3)),
    b"I": lambda m: int(_digits(m)),
    b"L": lambda m: int(_digits(m)),
    b"J": lambda m: m.whole(4, signed=True),
    b"K": lambda m: m.whole(1),
    b"M": lambda m: m.whole(2),
    b"\x8a": lambda m: m.whole(m.whole(1), signed=True),
    b"F": lambda m: float(_digits(m)),
    b"G": lambda m: DOUBLE.unpack(m.take(8))[0],
    b"V": lambda m: m.line().decode("raw-unicode-escape").encode().decode(),
    b"X": lambda m: m.take(m.whole(4)).decode(),
    b"B": lambda m: m.take(m.whole(4)),
    b"C": lambda m: m.take(m.whole(1)),
    b"g": lambda m: m.memo[int(_digits(m))],
}
_DO: dict[bytes, Callable[[_Machine], Any]] = {  # the others
    b"\x80": lambda m: m.take(1),  # protocol
    b"\x95": lambda m: m.take(8),  # frame
    b"(": lambda m: m.marks.append(len(m.stack)),
    b"d": lambda m: m.dictionary(m.marked()),
    b"s": lambda m: m.put(m.top(2)),
    b"u": lambda m: m.put(m.marked()),
    b"p": lambda m: m.memo.__setitem__(int(_digits(m)), m.stack[-1]),
    b"q": lambda m: m.memo.__setitem__(m.whole(1), m.stack[-1]),
    b"r": lambda m: m.memo.__setitem__(m.whole(4), m.stack[-1]),
    b"c": lambda m: m.name(m.line().decode(), m.line().decode()),
    b"\x93": lambda m: m.name(*m.top(2)),
    b"R": _Machine.reduce,
    b"b": _Machine.build,
}
_STEPS = {code[0]: step for code, step in (_DO | {code: _pusher(read) for code, read in _PUSH.items()}).items()}


def read_pickled_dictionary(data: bytes) -> dict[str, str | int | float]:
    """The dictionary that a pickle holds: from text to text and numbers.

    Parameters
    ----------
    data
        The pickle, of any protocol. Reading it takes its size several times, and at most 400 MB beside.

    Raises
    ------
    RefusedError
        If it holds anything else.
    Exception
        Of any other kind, if it is damaged.
    """
    found = _Machine(data).run()
    if type(found) is not dict:
        raise RefusedError(f"{_article(type(found))} in place of a dictionary")
    return found
