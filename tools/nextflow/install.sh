#!/usr/bin/env bash
# install.sh VENV: makes VENV/bin/nextflow, a real Nextflow. In this order: the one on PATH, the jars on Maven Central,
# Nextflow's own installer. Running it again takes up where an interrupted run stopped.
# shellcheck disable=SC2329 # the from_ functions are called by name at the end
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=$(cd "$1" && pwd)
share=$venv/share/nextflow
version=$(sed -n '/<artifactId>nextflow</,/<version>/s:.*<version>\(.*\)</version>.*:\1:p' "$here/pom.xml")
log=$(mktemp)
trap 'rm -f "$log"' EXIT

if ! "${JAVA_HOME:+$JAVA_HOME/bin/}java" -version >"$log" 2>&1; then
    echo "nextflow: no working java found; install Java 17 or later and run 'make env' again" >&2
    exit 1
fi
mkdir -p "$venv/bin" "$share"

# Does this Nextflow start, without the network, and is it new enough for nextflow.config's manifest?
starts() {
    local found
    found=$(cd "$share" && NXF_OFFLINE=true timeout 120 "$1" -version 2>"$log" </dev/null |
        sed -n 's/.*version \([0-9][0-9.]*\).*/\1/p' | head -n 1) || return 1
    [ -n "$found" ] && [ "$(printf '%s\n' 24.10.0 "$found" | sort -V | head -n 1)" = 24.10.0 ]
}

from_path() {
    local candidate
    rm -rf "$share/jars" "$share/nextflow"
    while read -r candidate; do
        if [ "$candidate" -ef "$venv/bin/nextflow" ]; then continue; fi
        starts "$candidate"
        return
    done < <(type -aP nextflow)
    return 1
}

from_maven() {
    command -v mvn >/dev/null || return 1
    rm -rf "$share/jars.part"
    if ! mvn -q -B -f "$here/pom.xml" dependency:copy-dependencies "-DoutputDirectory=$share/jars.part" >"$log" 2>&1; then
        echo "nextflow: Maven could not fetch it ($(grep -m 1 ERROR "$log" | cut -c 1-200)); trying the installer" >&2
        return 1
    fi
    mv "$share/jars.part" "$share/jars"
}

from_installer() {
    local part=$share/installer.part
    rm -rf "$part"
    mkdir "$part"
    (
        cd "$part"
        if command -v curl >/dev/null; then curl -fsSL https://get.nextflow.io; else wget -qO- https://get.nextflow.io; fi |
            NXF_VER=$version NXF_HOME=$share/home NXF_OFFLINE=false bash
    ) >"$log" 2>&1 || return 1
    mv "$part/nextflow" "$share/nextflow"
    rm -rf "$part"
}

# Keeps a run's classes as Java has them in memory: with them Nextflow starts in a fifth less time.
keep_classes() {
    local run=$share/run.part
    rm -rf "$run" "$share/jars/classes.jsa"
    mkdir "$run"
    (
        cd "$run"
        touch a.h5ad
        printf 'sample,h5ad\nA,a.h5ad\n' >samples.csv
        PATH=$venv/bin:$PATH NXF_OPTS="-Dgroovy.target.indy=false -XX:ArchiveClassesAtExit=$share/jars/classes.jsa" \
            "$venv/bin/nextflow" run "$here/../.." -stub-run --evaluate --input samples.csv
    ) >"$log" 2>&1 || rm -f "$share/jars/classes.jsa"
    rm -rf "$run"
}

for source in from_path from_maven from_installer; do
    if "$source"; then
        install -m 755 "$here/nextflow" "$venv/bin/nextflow"
        if starts "$venv/bin/nextflow"; then
            if [ -d "$share/jars" ]; then keep_classes; fi
            exit 0
        fi
        rm -rf "$share/jars" "$share/nextflow"
    fi
done
rm -f "$venv/bin/nextflow"
echo "nextflow: not on PATH, and neither Maven Central nor its installer could be reached; last words were:" >&2
tail -n 5 "$log" >&2
echo "Install Nextflow 24.10 or later on PATH and run 'make env' again." >&2
exit 1
