#!/usr/bin/env bash
# install-test-programs.sh [podman] [slurm] [chromium] [strict-syntax]: what the tests run the workflow and open the report
# with. Installs what is absent, programs as root on Debian alone, and never fails: tests whose programs are not there say
# so and are skipped. NO_INSTALL=1 installs nothing.
set -euo pipefail

packages=()
for name in "$@"; do
    case $name in
        podman)
            command -v podman >/dev/null || packages+=(podman runc)
            command -v debootstrap >/dev/null || packages+=(debootstrap)
            ;;
        strict-syntax)
            jars=$(dirname "$0")/../.venv/share/strict-syntax
            if [ -d "$jars" ] || [ -n "${NO_INSTALL:-}" ] || ! command -v mvn >/dev/null; then continue; fi
            if mvn -q -B -f "$(dirname "$0")/strict-syntax/pom.xml" dependency:copy-dependencies \
                "-DoutputDirectory=$(realpath -m "$jars.part")" >/dev/null 2>&1; then mv "$jars.part" "$jars"; fi
            ;;
        chromium)
            for program in chromium chromium-browser google-chrome; do
                if command -v "$program" >/dev/null; then continue 2; fi
            done
            packages+=(chromium)
            ;;
        slurm) { command -v slurmctld && command -v munged; } >/dev/null || packages+=(slurm-wlm munge) ;;
    esac
done
if [ ${#packages[@]} = 0 ]; then exit; fi
if [ -n "${NO_INSTALL:-}" ] || [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "make test: without ${packages[*]} (apt-get install them), the tests that need them are skipped" >&2
    exit
fi

echo "make test: installing ${packages[*]} for the tests that need them (NO_INSTALL=1 leaves them out)" >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get update -q && timeout 600 apt-get install -q -y -o DPkg::Lock::Timeout=300 --no-install-recommends "${packages[@]}"; } >"$log" 2>&1; then
    echo "make test: could not install them, and goes on without; last words were:" >&2
    tail -n 3 "$log" >&2
fi
