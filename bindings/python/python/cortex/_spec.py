"""Specs: what there is, and what a text means."""

from __future__ import annotations

import json
from typing import Any

from cortex._convert import owned_string, text
from cortex._error import call, string
from cortex._native import ffi, lib

__all__ = ["codecs", "parse_spec"]


def codecs() -> dict[str, Any]:
    """
    Every name that a spec may hold: ``{"directives": […], "forms": […], "packs": […]}``, each
    entry with "name", "summary" and "options", each option with "key", "values", "default" and
    "doc".
    """
    found: dict[str, Any] = json.loads(string(lib.cortex_codecs_json()) or "{}")
    return found


def parse_spec(spec: str) -> str:
    """
    Checks a spec and gives it in canonical form: options in a fixed order, defaults left out.
    Two specs that mean the same have the same canonical form.

    Raises :class:`InvalidArgumentError`: the message names the column, what stood there and
    what was expected.
    """
    canonical = ffi.new("char **")
    call(lib.cortex_spec_parse, text(spec, "spec"), canonical)
    return owned_string(canonical)
