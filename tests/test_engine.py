"""A whole run on real files: what is found, what is said of the rest, and that nothing else suffers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

import initcheck
from initcheck.config import Config
from initcheck.engine import run
from initcheck.results import RunResult

GOOD = """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(16, 4)

        def forward(self, x):
            return self.fc(x)
"""


def write(folder: Path, **files: str) -> list[str]:
    paths = []
    for name, text in files.items():
        path = folder / f"{name}.py"
        path.write_text(dedent(text), encoding="utf-8")
        paths.append(str(path))
    return paths


def codes(result: RunResult) -> list[tuple[str, str]]:
    return [(Path(f.location.path).stem, f.code) for f in result.all_findings()]


def models(result: RunResult) -> list[str]:
    return [report.model for file in result.files for report in file.models]


def test_clean_file_shows_that_something_was_checked(tmp_path: Path) -> None:
    result = run(write(tmp_path, good=GOOD), Config()).result
    assert codes(result) == []
    (report,) = result.files[0].models
    assert report.model == "Net"
    assert report.coverage == 1.0
    assert report.rung == "recorder"
    assert [(row.name, row.kind) for row in report.layers] == [("fc", "Linear")]
    # weights 1/3 between samples, biases 1/48 between the 4 units; less what goes into the mean over 8 x 4 elements
    expected = (1 / 3 * (1 - 1 / 32) + 1 / 48 * (1 - 1 / 4)) ** 0.5
    assert report.layers[0].forward_std == pytest.approx(expected, rel=0.001)


HOSTILE = {
    "raises": ("raise ValueError('no such width')", "ValueError: no such width"),
    "exits": ("import sys; sys.exit(3)", "SystemExit: 3"),
    "dies": ("import os; os._exit(7)", "exit code 7"),
    "crashes": ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
    "hangs": ("while True: pass", "longer than"),
}


@pytest.mark.slow
def test_hostile_constructors_cost_only_themselves(tmp_path: Path) -> None:
    """Each yields one IC002 with its reason; the good model beside it, and the other files, are analysed."""
    files = {}
    for name, (body, _) in HOSTILE.items():
        hostile = f"""
    class Bad(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 8)
            {body}

        def forward(self, x):
            return self.fc(x)
"""
        files[name] = dedent(GOOD) + dedent(hostile)
    result = run(write(tmp_path, **files), Config(timeout=5)).result
    assert result.errors == ()
    assert models(result) == ["Net"] * len(HOSTILE)
    found = {Path(f.location.path).stem: f for f in result.all_findings()}
    assert {name: f.code for name, f in found.items()} == dict.fromkeys(HOSTILE, "IC002")
    for name, (_, reason) in HOSTILE.items():
        assert reason in found[name].message
        assert "Traceback" not in found[name].message


def test_what_cannot_be_read_is_a_finding_and_the_rest_is_checked(tmp_path: Path) -> None:
    paths = write(tmp_path, good=GOOD, broken="def f(:\n    pass\n", two='print "old"\n')
    latin = tmp_path / "latin.py"
    latin.write_bytes(b"x = '\xe9\xff'\n")
    result = run([*paths, str(latin)], Config()).result
    assert sorted(codes(result)) == [("broken", "IC001"), ("latin", "IC001"), ("two", "IC001")]
    assert models(result) == ["Net"]


def test_a_missing_path_is_an_error_of_the_run(tmp_path: Path) -> None:
    result = run([tmp_path / "nowhere.py", *write(tmp_path, good=GOOD)], Config()).result
    assert len(result.errors) == 1
    assert "nowhere.py" in result.errors[0]
    assert models(result) == ["Net"]


def test_missing_import_and_failing_forward_are_said(tmp_path: Path) -> None:
    paths = write(
        tmp_path,
        absent=GOOD.replace("import torch\n", "import torch\n    from no_such_package import Block\n", 1).replace(
            "nn.Linear(16, 4)", "Block(16)"
        ),
        forward=GOOD.replace("return self.fc(x)", "raise RuntimeError('not today')"),
    )
    result = run(paths, Config()).result
    assert codes(result) == [("absent", "IC002"), ("forward", "IC002")]
    absent, forward = result.all_findings()
    assert "no_such_package" in absent.message
    assert "not today" in forward.message


def test_a_model_on_a_missing_base_is_said(tmp_path: Path) -> None:
    text = GOOD.replace("from torch import nn\n", "from torch import nn\n    from no_such_package import Base\n", 1)
    result = run(write(tmp_path, based=text.replace("class Net(nn.Module)", "class Net(Base)")), Config()).result
    assert codes(result) == [("based", "IC002")]
    assert "no_such_package" in result.all_findings()[0].message


def test_folders_are_searched_and_excluded_ones_are_not(tmp_path: Path) -> None:
    (tmp_path / "pkg").mkdir()
    (tmp_path / ".venv").mkdir()
    write(tmp_path / "pkg", a="x = 1\n", b="y = 2\n")
    write(tmp_path / ".venv", c="z = 3\n")
    (tmp_path / "pkg" / "notes.txt").write_text("no Python")
    result = run([tmp_path, tmp_path / "pkg" / "a.py"], Config()).result
    assert [Path(file.path).name for file in result.files] == ["a.py", "b.py"]


def test_suppressed_findings_are_silent_and_unused_suppressions_are_not(tmp_path: Path) -> None:
    text = GOOD.replace("nn.Linear(16, 4)", "nn.Linear(16, 4)\n            nn.init.xavier_uniform(self.fc.weight)")
    noted = text.replace("self.fc.weight)", "self.fc.weight)  # noqa: IC801")
    unused = GOOD.replace("nn.Linear(16, 4)", "nn.Linear(16, 4)  # noqa: IC801")
    result = run(write(tmp_path, plain=text, noted=noted, unused=unused), Config()).result
    assert codes(result) == [("plain", "IC801"), ("unused", "IC004")]


def test_user_prints_reach_nobody(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    noisy = (
        dedent(GOOD).replace("        super().__init__()", "        super().__init__(); print('NOISE')")
        + "print('NOISE')\n"
    )
    result = run(write(tmp_path, noisy=noisy), Config()).result
    assert models(result) == ["Net"]
    captured = capfd.readouterr()
    assert "NOISE" not in captured.out + captured.err


def test_torch_stays_out_of_the_parent(tmp_path: Path) -> None:
    """Neither a file without a module nor one with a model makes this process import torch."""
    paths = write(tmp_path, plain="import json\nx = json.dumps({})\n", good=GOOD)
    code = (
        "import sys\n"
        "from initcheck.config import Config\n"
        "from initcheck.engine import run\n"
        "result = run(sys.argv[1:], Config()).result\n"
        "assert [r.model for f in result.files for r in f.models] == ['Net'], result\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


_CRASHING = """
CODE = "IC999"

def check_model(context):
    raise ZeroDivisionError("oops")
    yield
"""


def test_a_model_rule_that_crashes_is_a_defect_and_the_other_rules_report(tmp_path: Path) -> None:
    """Exit code 2, the rule and the model named, the traceback on demand; in the process that runs the models, too."""
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "ic999_crashing.py").write_text(_CRASHING)
    startup = f"import initcheck.rules\ninitcheck.rules.__path__.append({str(tmp_path / 'more')!r})\n"
    (tmp_path / "sitecustomize.py").write_text(startup)
    (tmp_path / "net.py").write_text(
        dedent(
            """
            import torch
            from torch import nn

            class Net(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.body, self.head = nn.Linear(8, 16), nn.Linear(16, 4)
                    nn.init.zeros_(self.body.weight)
                    nn.init.zeros_(self.head.weight)

                def forward(self, x):
                    return self.head(torch.relu(self.body(x)))
            """
        )
    )
    package = str(Path(initcheck.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), package])}

    def initcheck_run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "initcheck", "net.py", *options]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    plain, debug = initcheck_run(), initcheck_run("--debug")
    assert plain.returncode == debug.returncode == 2
    assert "rule IC999 crashed on model Net: ZeroDivisionError: oops" in plain.stderr
    assert "Traceback" not in plain.stderr
    assert "IC701" in plain.stdout
    assert "Traceback" in debug.stderr
    assert "ic999_crashing.py" in debug.stderr


def test_an_init_call_that_two_models_trip_over_is_one_finding(tmp_path: Path) -> None:
    broken = """
        from torch import nn

        class Broken(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(4, 4)
                self.init_weights()

            def init_weights(self):
                nn.init.normal_(self.fc.weight, std=self.missing)

            def forward(self, x):
                return self.fc(x)

        class Other(Broken):
            pass
    """
    result = run(write(tmp_path, broken=broken), Config(jobs=1)).result
    found = [(f.code, f.location.line) for file in result.files for f in file.findings]
    assert sorted(found) == [("IC002", 4), ("IC002", 16), ("IC803", 11)]


def test_a_net_of_dead_units_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What chance makes of such a net is beyond a floating-point number: the report says so."""
    from initcheck.cli import main

    dead = """
        import torch
        from torch import nn

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(64, 64)
                self.head = nn.Linear(64, 10)
                nn.init.kaiming_normal_(self.fc.weight)
                nn.init.constant_(self.fc.bias, -10.0)

            def forward(self, x):
                return self.head(torch.relu(self.fc(x)))

        Net()(torch.randn(8, 64))
    """
    assert main([*write(tmp_path, dead=dead), "--jobs", "1"]) == 1
    out = capsys.readouterr().out
    assert "no unit gets a gradient" in out
    assert "more than 1000" in out
