"""JSON: the keys that others build on, and no value that JSON does not have."""

from __future__ import annotations

import json
from typing import Any

import report_samples as samples

from initcheck.config import Config
from initcheck.findings import Finding, Fix, InsertInit, Location, RewriteCall, Severity, Substitute
from initcheck.report import render
from initcheck.report.json import finding_to_dict
from initcheck.results import FixSummary, RunResult


def data(result: RunResult, **options: Any) -> dict[str, Any]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    text = render(result, samples.SOURCES, Config(output_format="json", **options))
    loaded: dict[str, Any] = json.loads(text, parse_constant=refuse)
    return loaded


def test_a_finding_carries_everything() -> None:
    first = data(samples.run())["findings"][0]
    assert first | {"evidence": None, "fix": None} == {
        "code": "IC202",
        "name": "forward-vanishing",
        "severity": "error",
        "message": "the signal of Deep shrinks to 3e-58 of its size over 50 layers",
        "path": "models/deep.py",
        "line": 8,
        "column": 39,
        "end_line": 8,
        "end_column": 70,
        "cell": None,
        "model": "Deep",
        "parameter": "layers.0.weight",
        "evidence": None,
        "suggestion": 'nn.init.kaiming_normal_(module.weight, nonlinearity="relu")',
        "fix": None,
        "data": {"ratio": None, "layers": 50},
    }
    assert [line["text"] for line in first["evidence"]][1] == "the class is made here"
    assert first["evidence"][1]["location"]["line"] == 5
    assert first["fix"]["safe"] is False
    assert first["fix"]["edits"][0]["kind"] == "insert-init"
    assert first["fix"]["edits"][0]["statements"] == [
        {"target": "module.weight", "function": "kaiming_normal_", "arguments": {"nonlinearity": '"relu"'}}
    ]


def test_findings_come_by_path_line_column_and_info_on_demand() -> None:
    assert [f["code"] for f in data(samples.run())["findings"]] == ["IC202", "IC801"]
    assert [f["code"] for f in data(samples.run(), show_info=True)["findings"]] == ["IC003", "IC202", "IC801"]


def test_a_model_carries_rung_coverage_and_the_layer_table_and_unknown_is_null() -> None:
    deep, fine = data(samples.run())["models"]
    assert (deep["model"], deep["rung"], deep["coverage"], deep["mode"]) == ("Deep", "recorder", 0.997, "train")
    assert deep["unknown_ops"] == {"erfcx": 3, "bincount": 1}
    assert [layer["name"] for layer in deep["layers"]] == ["layers.0", "layers.1", "head", "odd"]
    assert deep["layers"][1]["grad_std"] is None  # infinite
    assert deep["layers"][2]["forward_mean"] is None  # not a number
    assert deep["layers"][0]["output_shape"] == [2, 100]
    assert [f["code"] for f in deep["findings"]] == ["IC202"]
    assert fine["findings"] == []


def test_a_report_as_a_dict_is_one_model_of_the_document() -> None:
    assert samples.DEEP.to_dict() == data(samples.run(), show_info=True)["models"][0]


def test_the_measurement_is_in_the_model() -> None:
    measured = data(samples.run(measured=True))["models"][0]["measured"]
    assert measured["rows"][0]["after_forward_std"] == 0.98
    assert measured["changed"] == ["layers.0.weight", "head.weight"]


def test_errors_fixes_and_the_summary_are_there() -> None:
    fixes = FixSummary((samples.DEPRECATED,), ((samples.VANISHING, "no"),), "diff", written=True)
    document = data(samples.run(errors=("gone.py: no such file or folder",), fixes=fixes))
    assert document["errors"] == ["gone.py: no such file or folder"]
    assert document["files"][0]["fixes"]["applied"][0]["code"] == "IC801"
    assert document["files"][0]["fixes"]["refused"][0]["reason"] == "no"
    assert document["summary"]["findings"] == {"error": 1, "warning": 1, "info": 1}
    assert document["summary"]["hidden"] == 1
    assert document["summary"]["exit_code"] == 2
    assert document["summary"]["models"] == 2


def test_a_place_without_an_end_ends_where_it_begins() -> None:
    place = finding_to_dict(samples.PARTLY) | finding_to_dict(samples.DEPRECATED)
    assert (place["line"], place["end_line"]) == (10, 10)


def test_every_kind_of_edit_has_a_form() -> None:
    where = Location("m.py", 1, 1, 1, 4)
    edits = (Substitute(where, "name"), RewriteCall(where, "zeros_"), InsertInit(where, "Net", ()))
    fix = Fix("mend it", edits)
    finding = Finding("IC105", "filter-matches-nothing", Severity.ERROR, "message", where, fix=fix)
    kinds = [edit["kind"] for edit in finding_to_dict(finding)["fix"]["edits"]]
    assert kinds == ["substitute", "rewrite-call", "insert-init"]
