"""YAML without its surprises: `1e-3` is a number, `000` and `no` are text, a key given twice or an alias is an error.

Only plain data comes out (mappings, lists, text, numbers, true/false, null); tags that name objects are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, ClassVar

import yaml

LONGEST = 1_000_000  # characters; a recipe has about 2,000
DEEPEST = 50  # levels; a recipe has 4


class BadYaml(ValueError):
    """Text that is not the YAML we accept; the message says where."""


# yaml.CSafeLoader and CSafeDumper (libyaml) are ten times faster, and absent from some builds.
_BaseLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_BaseDumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _Loader(_BaseLoader):
    """Reads scalars by the rules of `_SCALARS` and no others."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {}


class _Dumper(_BaseDumper):
    """Writes what `_Loader` reads back; text that YAML 1.1 would read otherwise (`000`, `no`) is quoted as well."""


# The scalars of YAML 1.2's core schema, except that numbers with leading zeros (paper: 000) stay text.
_SCALARS = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", list("-+.")),
)
for _tag, _pattern, _first in _SCALARS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})\\Z"), _first)


def parse(text: str) -> Any:
    """The data in a YAML text.

    Raises:
        BadYaml: when it is not YAML, has a key twice, an alias, a tag naming an object, or is absurdly long or deep.
    """
    if len(text) > LONGEST:
        raise BadYaml(f"longer than {LONGEST} characters")
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            for problem in _surprises(node, (), set()):
                raise BadYaml(problem)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise BadYaml(_one_line(error)) from error
    except RecursionError:
        raise BadYaml("nested too deeply") from None
    except ValueError as error:
        raise error if isinstance(error, BadYaml) else BadYaml(str(error)) from error


def render(data: Any) -> str:
    """YAML text that `parse` reads back as `data`, keys in the given order."""
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)
    return text


def _surprises(node: yaml.Node, where: tuple[str, ...], seen: set[int], depth: int = 0) -> Iterator[str]:
    """Keys given twice, nodes reached twice (aliases) and endless nesting, each with its line."""
    line = f"line {node.start_mark.line + 1}"
    if id(node) in seen:
        yield f"{line}: aliases (&name, *name) are not accepted; write the value out"
        return
    if depth > DEEPEST:
        yield f"{line}: nested too deeply"
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for child in node.value:
            yield from _surprises(child, where, seen, depth + 1)
    elif isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, child in node.value:
            line = f"line {key.start_mark.line + 1}"
            if not isinstance(key, yaml.ScalarNode):
                yield f"{line}: a key must be plain text"
                return
            path = (*where, str(key.value))
            if key.value in keys:
                yield f"{line}: key {'.'.join(path)!r} is given twice"
            keys.add(key.value)
            yield from _surprises(child, path, seen, depth + 1)


def _one_line(error: yaml.YAMLError) -> str:
    """A YAML error in one line, with line and column."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
    return place + " ".join(str(problem).split())
