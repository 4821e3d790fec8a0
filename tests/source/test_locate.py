import textwrap

from initcheck.source.file import SourceFile

TEXT = textwrap.dedent(
    """\
    from torch import nn

    class Base(nn.Module):
        def build(this):
            this.extra = nn.Linear(2, 3)

    @decorated
    class Net(Base):
        def forward(self, x):
            self.fc1 = x

        def __init__(self, deep):
            super().__init__()
            self.fc1 = nn.Linear(
                3, 4)
            if deep:
                self.fc2: nn.Module = nn.Linear(4, 5)
            self.a, self.b = nn.Linear(1, 2), nn.Linear(2, 1)
            self.add_module("head", nn.Linear(5, 6))
            setattr(self, "tail", nn.Linear(5, 6))
            def inner():
                self.hidden = 3

        class Inner(nn.Module):
            pass

    def make():
        class Inner(nn.Module):
            pass
    """
)
SOURCE = SourceFile.parse("net.py", TEXT)


def line(name: str, attribute: str) -> int | None:
    where = SOURCE.attribute_assignment(name, attribute)
    return where and where.line


def test_attributes():
    assert line("Net", "fc1") == 14  # __init__ before other methods
    assert SOURCE.attribute_assignment("Net", "fc1").end_line == 15
    assert [line("Net", name) for name in ("fc2", "a", "b", "head", "tail")] == [17, 18, 18, 19, 20]
    assert line("Net", "extra") == 5  # of the base, whose self has another name
    assert line("Net", "hidden") is None
    assert line("Net", "nothing") is None
    assert line("Nowhere", "fc1") is None


def test_classes():
    assert SOURCE.find_class("Net").lineno == 8
    assert SOURCE.find_class("Net.Inner").lineno == 24
    assert SOURCE.find_class("make.<locals>.Inner").lineno == 28
    assert SOURCE.find_class("None") is None
    where = SOURCE.class_location("Net")
    assert (where.line, where.column, where.end_column) == (8, 1, 10)
