"""Texts of errors quote files of strangers, and are shown on terminals."""

from __future__ import annotations

import pickle

import pytest

from scgeneformer import _errors

KINDS = [kind for kind in vars(_errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_what_a_terminal_would_obey_is_escaped_and_all_else_shown(kind):
    error = kind("µ 'naïve T'\n\x1b]0;title\x07\0 \u202e x")
    shown = "µ 'naïve T'\n\\x1b]0;title\\x07\\x00 \\u202e x"
    assert str(error) == shown
    assert str(pickle.loads(pickle.dumps(error))) == shown


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_error_of_a_worker_arrives_as_it_was(kind):
    """`distributed` sends errors with tblib, which makes those with an `__init__` of their own in its own way."""
    support = pytest.importorskip("tblib.pickling_support")
    error = kind("no 'G1'")
    error.add_note("call again")
    make, arguments, *state = support.pickle_exception(error)
    arrived = make(*arguments)
    for one in state:
        arrived.__setstate__(one)
    assert type(arrived) is kind
    assert str(arrived) == "no 'G1'"
    assert arrived.__notes__ == ["call again"]
