"""Messages: one line for what other libraries say in many."""

from __future__ import annotations

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from robustcli.errors import one_line


class Pair(BaseModel):
    a: int
    b: int


def test_one_line() -> None:
    with pytest.raises(ValidationError) as wrong:
        Pair.model_validate({"a": "x"})
    assert one_line(wrong.value).startswith("a: Input should be a valid integer")
    assert one_line(wrong.value).endswith("; b: Field required")
    with pytest.raises(ValidationError) as torn:
        Pair.model_validate_json("{")
    assert one_line(torn.value).startswith("Invalid JSON: EOF")
    with pytest.raises(yaml.YAMLError) as cut:
        yaml.safe_load("a: [")
    assert one_line(cut.value).count("\n") == 0
    assert one_line(PermissionError(13, "Permission denied", "/x")) == "Permission denied"
