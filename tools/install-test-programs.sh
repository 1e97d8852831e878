#!/usr/bin/env bash
# install-test-programs.sh [podman] [slurm]: what the tests run the workflow with. Installs what is absent, as root on
# Debian alone, and never fails: tests whose programs are not there say so and are skipped. NO_INSTALL=1 installs nothing.
set -euo pipefail

packages=()
for name in "$@"; do
    case $name in
        podman)
            command -v podman >/dev/null || packages+=(podman runc)
            command -v debootstrap >/dev/null || packages+=(debootstrap)
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
if ! { apt-get update -q && timeout 600 apt-get install -q -y --no-install-recommends "${packages[@]}"; } >"$log" 2>&1; then
    echo "make test: could not install them, and goes on without; last words were:" >&2
    tail -n 3 "$log" >&2
fi
