#!/usr/bin/env bash
# Prints the first Python found, on PATH or of pyenv, that can make virtual environments: of the version that is named
# (tools/find-python.sh 3.13), or any of 3.11 to 3.13. PYTHON=... overrides the search.
set -euo pipefail

wanted=${1:-}
check='import sys, venv, ensurepip
version = "%d.%d" % sys.version_info[:2]
sys.exit(version != sys.argv[1] if sys.argv[1] else version not in ("3.11", "3.12", "3.13"))'

names="python3 python3.13 python3.12 python3.11 python"
for candidate in ${PYTHON:-$names "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/*/bin/python3}; do
    if "$candidate" -c "$check" "$wanted" 2>/dev/null; then
        command -v "$candidate"
        exit 0
    fi
done
echo "python: none of ${PYTHON:-${names// /, }} is ${wanted:-3.11 to 3.13} with venv;" \
    "install one (Debian: apt install python3-venv) or name it: make ... PYTHON=..." >&2
exit 1
