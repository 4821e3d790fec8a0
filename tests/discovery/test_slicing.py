"""What a statement touches, and which statements a value needs."""

from __future__ import annotations

import ast

from initcheck.discovery.slicing import closure, slice_for, statement


def statements(text: str) -> list[object]:
    return [statement(node) for node in ast.parse(text).body]


def taken(names: set[str], text: str) -> list[str]:
    return [ast.unparse(s.node) for s in slice_for(names, statements(text))]  # type: ignore[arg-type, attr-defined]


def test_only_what_is_needed_is_taken() -> None:
    text = "a = 1\nb = load()\nc = a + 1\nb2 = b\nd = c * 2"
    assert taken({"d"}, text) == ["a = 1", "c = a + 1", "d = c * 2"]


def test_changes_count() -> None:
    text = "x = []\nx.append(1)\nx[0] = y\ny = 3\nprint(x)\nz = x"
    assert taken({"z"}, text) == ["x = []", "x.append(1)", "x[0] = y", "z = x"]


def test_a_group_of_a_parser_is_part_of_it() -> None:
    text = (
        "p = P()\n"
        "g = p.add_argument_group('model')\n"
        "g.add_argument('--width')\n"
        "add_data_args(p)\n"
        "args = p.parse_args()"
    )  # fmt: skip
    every = statements(text)
    assert closure({"args"}, every) == {0, 1, 2, 3, 4}  # type: ignore[arg-type]


def test_training_is_never_taken() -> None:
    text = "net = make()\nfor x in data:\n    loss = net(x)\n    loss.backward()\n    best = loss\nprint(best)"
    assert closure({"best"}, statements(text)) == set()  # type: ignore[arg-type]


def test_names_inside_functions_are_needed_when_these_are_called() -> None:
    text = "W = 3\ndef f(a, b=D):\n    c = a + W\n    return [c for c in range(q)]\nD = 1"
    defined = statement(ast.parse(text).body[1])
    assert defined.uses == {"D"}
    assert defined.later == {"W", "range", "q"}


def test_locals_of_comprehensions_and_lambdas_are_not_needed() -> None:
    used = statement(ast.parse("y = [x * k for x in xs] + list(map(lambda t: t + u, xs))").body[0])
    assert used.uses == {"k", "xs", "list", "map"}
    assert used.later == {"u"}
