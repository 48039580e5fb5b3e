"""The quickstart and the README, run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, weights

import cortex


def quickstart(*arguments: str) -> subprocess.CompletedProcess[str]:
    script = ROOT / "examples/python/quickstart.py"
    return subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, timeout=60
    )


def test_the_quickstart(digits: Path, tmp_path: Path) -> None:
    path = tmp_path / "digits.cai"
    cortex.compress_model(digits, path)
    done = quickstart(str(path))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:6]] == list(cortex.open(path))
    assert "float32[384 x 64]" in lines[1] and "bits, error" in lines[1]
    sums = cortex.open(path)["fc1.weight"].matmul(np.ones(64, np.float32))
    expected = " ".join(f"{v:g}" for v in sums[:8])
    assert lines[-1] == f"y = W x for fc1.weight, x all ones: {expected} ..."


def test_the_quickstart_tells_what_is_wrong(tmp_path: Path) -> None:
    done = quickstart(str(tmp_path / "none.cai"))
    assert done.returncode == 1 and done.stderr.startswith("io: ") and done.stdout == ""
    done = quickstart()
    assert done.returncode == 1 and "usage" in done.stderr


def test_the_readme(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "bindings/python/README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 3
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(digits.read_bytes())
    names = {"weights": weights(4096, 64)}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert "InvalidArgumentError" in capsys.readouterr().out
