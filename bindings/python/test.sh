#!/usr/bin/env bash
# Installs the package into a virtual environment of its own under target/, as a user would, and
# runs its tests and the type checker. PYTHON may name another interpreter; arguments go to pytest.
# Needs Python 3.9 or newer with venv, cargo and a C compiler.
set -euo pipefail
cd "$(dirname "$0")"

python=${PYTHON:-python3}
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
venv=${CARGO_TARGET_DIR:-../../target}/python/venv-$version
[ -x "$venv/bin/pip" ] || "$python" -m venv --clear "$venv"
# An installed one of the same version would stay.
"$venv/bin/pip" uninstall --quiet --yes cortex-tensor 2>/dev/null || true
"$venv/bin/pip" install --quiet --disable-pip-version-check '.[test]'

"$venv/bin/python" -m pytest "$@"
"$venv/bin/python" -m mypy python/cortex tests/typing_usage.py
