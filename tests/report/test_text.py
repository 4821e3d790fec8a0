"""The text report: what a person at a terminal, or an editor that follows paths, can rely on."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import report_samples as samples
from rich.cells import cell_len

from initcheck.config import Config
from initcheck.findings import Finding, Location, Severity
from initcheck.report import closing, render
from initcheck.results import FileResult, FixSummary, Report, RunResult, Stretch


def text(result: RunResult, **options: object) -> str:
    return render(result, samples.SOURCES, Config(**options))  # type: ignore[arg-type]


def lines(result: RunResult, **options: object) -> list[str]:
    return text(result, **options).splitlines()


def test_a_finding_begins_with_its_place_code_name_and_message() -> None:
    assert (
        "models/deep.py:8:39: IC202 [forward-vanishing] error: "
        "the signal of Deep shrinks to 3e-58 of its size over 50 layers"
    ) in lines(samples.run())


def test_the_source_line_stands_below_with_carets_under_the_range() -> None:
    shown = lines(samples.run())
    index = next(i for i, line in enumerate(shown) if line.startswith("models/deep.py:8:39"))
    source, carets = shown[index + 1 : index + 3]
    begin = source.index("nn.Linear")
    assert carets.index("^") == begin
    assert source[begin : begin + carets.count("^")] == "nn.Linear(100, 100, bias=False)"


def test_carets_stand_right_below_a_tab_and_wide_characters() -> None:
    finding = replace(samples.DEPRECATED, location=Location("w.py", 1, 9, 1, 13))
    result = RunResult((FileResult("w.py", findings=(finding,)),))
    source, carets = render(result, {"w.py": "\t'初期化', bad()"}, Config()).splitlines()[1:3]
    assert source == "1 |     '初期化', bad()"
    assert carets == "  | " + " " * (4 + 8 + 2) + "^^^^"  # a tab is 4 cells, a quoted word of 3 wide characters 8


def test_evidence_suggestion_and_fix_follow() -> None:
    shown = text(samples.run())
    assert "= σ² = n·σ_w²/2 = 100·0.01²/2 = 0.005 per layer" in shown
    assert "= the class is made here  (models/deep.py:5)" in shown
    assert 'help: nn.init.kaiming_normal_(module.weight, nonlinearity="relu")' in shown
    assert "fix available (--fix, changes numerics): initialise every nn.Linear" in shown
    assert "fix available (--fix): rename it to xavier_uniform_" in shown


def test_a_model_without_findings_takes_one_line_that_says_what_was_checked() -> None:
    (line,) = [line for line in lines(samples.run()) if "Fine" in line]
    assert line == (
        "models/deep.py:1:1: Fine: ok; built by Deep(); input float32[2,100]; 1 layer, 100 % of the graph known "
        "(recorder); forward std 0.1; gradient std 2e-07"
    )


def test_the_range_of_scales_names_its_layers_and_says_what_is_unknown() -> None:
    (line,) = [line for line in lines(samples.run()) if ": Deep: " in line]
    assert "forward std 0.001 (head) to 0.1 (layers.0), 1 of 4 unknown" in line
    assert "gradient std 2e-07 (layers.0) to inf (layers.1), 1 of 4 unknown" in line


def test_ok_is_said_only_where_everything_was_understood() -> None:
    def verdict(**changes: object) -> str:
        report = replace(samples.FINE, **changes)  # type: ignore[arg-type]
        (line,) = [line for line in lines(RunResult((FileResult("a.py", (report,)),))) if "Fine" in line]
        return line.split(": ")[2].split(";")[0]

    unknown = replace(samples.LAYERS[0], forward_std=None, grad_std=None)
    assert verdict() == "ok"
    assert verdict(coverage=0.9) == "ok as far as known"
    assert verdict(layers=(samples.LAYERS[0], unknown)) == "ok as far as known"
    assert verdict(layers=(unknown,)) == "not judged"
    assert verdict(layers=()) == "not judged"


def test_a_path_with_spaces_is_not_broken() -> None:
    path = "a folder with a long name/and a file.py"
    finding = replace(samples.DEPRECATED, location=Location(path, 1, 1))
    assert lines(RunResult((FileResult(path, findings=(finding,)),)), width=30)[0].startswith(f"{path}:1:1:")


def test_coverage_is_not_rounded_up_to_everything() -> None:
    assert "99 % of the graph known" in text(samples.run())


def test_info_is_counted_and_shown_on_demand_only() -> None:
    assert "IC003" not in text(samples.run())
    assert "(1 info hidden, see --show-info)" in text(samples.run())
    assert "IC003 [partly-analysed] info" in text(samples.run(), show_info=True)
    assert "hidden" not in text(samples.run(), show_info=True)


def test_info_that_makes_the_run_fail_is_shown() -> None:
    assert "IC003 [partly-analysed] info" in text(samples.run(), fail_on=Severity.INFO)


def test_the_summary_counts_what_was_and_what_was_not_checked() -> None:
    shown = lines(samples.run())
    assert "1 error, 1 warning (1 info hidden, see --show-info)." in shown
    assert "Checked 2 files, 2 models, 5 layers, 99 % of the graphs known in 4.2 s." in shown
    assert "Not checked: what depends on 2 ops without a rule: erfcx (3x), bincount" in shown
    assert "2 fixable with --fix (--diff shows the edits)." in shown


def test_a_run_that_could_check_nothing_does_not_look_clean() -> None:
    lost = Finding("IC002", "model-not-analysed", Severity.WARNING, "model Net could not be analysed", samples.CLASS)
    shown = text(RunResult((FileResult(samples.PATH, findings=(lost,)),)), fail_on=None)
    assert "No findings" not in shown
    assert "Not checked: 1 model that could not be built or run (IC002)" in shown
    assert "0 models" in shown


def test_a_run_without_files_or_models_says_so() -> None:
    assert lines(RunResult(()))[0] == "No Python file found."
    nothing = RunResult((FileResult("a.py"),))
    assert lines(nothing)[0] == "No findings, no model found."
    assert lines(nothing, select=("IC801",))[0] == "No findings."


def test_quiet_leaves_only_findings() -> None:
    shown = text(samples.run(), quiet=True)
    assert "IC202" in shown
    assert "Checked" not in shown
    assert "Fine" not in shown
    assert text(samples.CLEAN, quiet=True) == ""


def test_statistics_count_by_code() -> None:
    shown = lines(samples.run(), statistics=True)
    assert "1  IC202  forward-vanishing     error  (1 fixable)" in shown
    assert "1  IC801  deprecated-init-name  warning  (1 fixable)" in shown


def test_no_colour_codes_unless_wanted() -> None:
    assert "\x1b" not in text(samples.run())
    colored = text(samples.run(), color=True)
    assert "\x1b[1;31mIC202" in colored
    assert re.sub(r"\x1b\[[0-9;]*m", "", colored) == text(samples.run())


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_lines_keep_to_the_width_and_paths_are_never_broken(width: int) -> None:
    shown = lines(samples.run(), width=width)
    assert all(cell_len(line) <= width or " " not in line.strip() for line in shown)
    assert any("(models/deep.py:5)" in line for line in shown)
    assert sum(line.startswith("models/deep.py:") for line in shown) == 4
    assert (
        " ".join(" ".join(shown).split()).count("the signal of Deep shrinks to 3e-58 of its size over 50 layers") == 1
    )


@pytest.mark.parametrize("width", [40, 60, 80])
def test_a_long_source_line_is_cut_around_the_range(width: int) -> None:
    source = "x = " + "a + " * 60 + "bad(1, 2) + " + "b + " * 60 + "c"
    column = source.index("bad") + 1
    finding = replace(samples.DEPRECATED, location=Location("long.py", 1, column, 1, column + 9))
    shown = render(RunResult((FileResult("long.py", findings=(finding,)),)), {"long.py": source}, Config(width=width))
    excerpt, carets = (line for line in shown.splitlines() if " | " in line)
    assert cell_len(excerpt) <= width
    begin = carets.index("^")
    assert excerpt[begin : begin + carets.count("^")] == "bad(1, 2)"


def test_a_range_beyond_the_end_of_the_file_shows_no_source() -> None:
    finding = replace(samples.DEPRECATED, location=Location(samples.PATH, 99, 1, 99, 5))
    assert " | " not in text(RunResult((FileResult(samples.PATH, findings=(finding,)),)))


def test_control_characters_of_user_code_do_not_reach_the_terminal() -> None:
    finding = replace(
        samples.DEPRECATED, message="raised \x1b[2J\x07 boo\nsecond line", location=Location("a.py", 1, 1)
    )
    shown = render(RunResult((FileResult("a.py", findings=(finding,)),)), {"a.py": "x\x1b[0m = 1"}, Config())
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "second line" in shown


def test_measured_and_predicted_stand_side_by_side_before_and_after() -> None:
    shown = lines(samples.run(measured=True))
    head = next(i for i, line in enumerate(shown) if line.startswith("layer "))
    assert shown[head].split() == ["layer", "kind"] + ["predicted", "measured", "after"] * 2
    assert shown[head + 1].split() == (
        ["layers.0.attention.query_projection", "Linear", "0.1", "0.11", "0.98", "2e-07", "2.1e-07", "1.02"]
    )
    assert shown[head + 2].split() == ["head", "Linear", "0.001", "-", "1.01", "?", "1", "1"]
    groups = shown[head - 1]
    assert groups.index("forward std") < groups.index("gradient std")


def test_on_a_narrow_terminal_kinds_go_and_long_names_lose_their_front() -> None:
    shown = lines(samples.run(measured=True), width=80)
    head = next(i for i, line in enumerate(shown) if line.startswith("layer "))
    assert shown[head].split() == ["layer"] + ["predicted", "measured", "after"] * 2
    assert shown[head + 1].startswith("…")
    assert "query_projection " in shown[head + 1]
    table = shown[head - 1 : head + 3]
    assert max(map(cell_len, table)) <= 80


def test_what_became_of_the_fixes_is_said_with_reasons() -> None:
    fixes = FixSummary((samples.DEPRECATED,), ((samples.VANISHING, "another finding would come up"),), "", written=True)
    shown = text(samples.run(fixes=fixes), fix=True)
    assert "models/deep.py:10:19: IC801 [deprecated-init-name] fixed" in shown
    assert "models/deep.py:8:39: IC202 [forward-vanishing] not fixed: another finding would come up" in shown
    assert "Fixed 1 finding." in shown


def test_diff_puts_the_diff_alone_on_stdout_and_the_rest_beside_it() -> None:
    diff = "--- a/x.py\n+++ b/x.py\n@@ -1 +1 @@\n-a\n+b\n"
    result = samples.run(fixes=FixSummary((samples.DEPRECATED,), (), diff))
    assert text(result, diff=True) == diff
    assert re.sub(r"\x1b\[\d+m", "", text(result, diff=True, color=True)) == diff
    assert "IC801 [deprecated-init-name] would fix" in closing(result, Config(diff=True))
    assert closing(result, Config()) == ""


def test_the_report_is_the_same_twice() -> None:
    assert text(samples.run(measured=True)) == text(samples.run(measured=True))


def test_a_stretch_deeper_than_trainable_is_said() -> None:
    layers = tuple(f"layers.{i}" for i in range(50))
    deep = Stretch(layers, "linear", "tanh", 1.3, 0.05, 0.4, 0.88, 7.834, 47.0)
    shallow = replace(deep, layers=layers[:20])
    result = RunResult((FileResult(samples.PATH, (Report("Deep", layers=samples.LAYERS, stretches=(deep, shallow)),)),))
    said = "50 × linear+tanh (layers.0 to layers.49): χ₁ 0.88, q* 0.4, depth scale ξ 7.83 layers, trainable to about 47"
    assert said in text(result)
    assert "20 × linear+tanh" not in text(result)
    assert "20 × linear+tanh" in text(result, show_info=True)
