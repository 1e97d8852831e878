#!/usr/bin/env bash
# Prints the first Python 3.11 to 3.13 found that can make virtual environments; PYTHON=... overrides the search.
set -euo pipefail

for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python}; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
    then
        command -v "$candidate"
        exit 0
    fi
done
echo "python: none of ${PYTHON:-python3, python3.13, python3.12, python3.11} is 3.11 to 3.13 with venv;" \
    "install one (Debian: apt install python3-venv) or name it: make env PYTHON=..." >&2
exit 1
