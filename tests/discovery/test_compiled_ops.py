"""A package whose compiled ops did not load imports all the same, also when its parts are imported late."""

from __future__ import annotations

import pytest
import torch

from initcheck.discovery import compiled_ops
from initcheck.discovery.compiled_ops import with_declared_ops

MESSAGE = "operator initcheck_tests::boxes does not exist"


def test_an_op_named_anywhere_in_the_chain_of_errors_is_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_ops, "_SCHEMAS", {("initcheck_tests", "boxes"): "(Tensor dets) -> Tensor"})

    def late() -> str:
        if not hasattr(torch.ops.initcheck_tests, "boxes"):
            try:
                raise RuntimeError(MESSAGE)
            except RuntimeError as error:
                raise ModuleNotFoundError("Could not import module 'Detector'") from error
        return "imported"

    assert with_declared_ops(late) == "imported"


def test_other_errors_are_as_they_were() -> None:
    def broken() -> None:
        raise ImportError("no module named nothing")

    with pytest.raises(ImportError, match="nothing"):
        with_declared_ops(broken)
