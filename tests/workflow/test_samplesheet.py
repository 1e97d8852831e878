"""The workflow's own reading of the samplesheet: as the command line's, in the same words, and quick."""

import csv
import json
import shutil
import tempfile
from pathlib import Path

import pytest

import stmcdi_cli as stmcdi
from stmcdi_cli.errors import InputError

GOOD = "A,data/a.h5ad\n"
SHEETS = {
    "plain": f"sample,h5ad\n{GOOD}",
    "quoted": '"sample","h5ad","patient"\n"A","data/a.h5ad","P ""1"", left\nside"\n"B","data/b.h5ad",""\n',
    "semicolons": "sample;h5ad;age\nA;data/a.h5ad;6,5\n",
    "tabs": "sample\th5ad\tsection_key\nA\tdata/a.h5ad\tsection\n",
    "index": ',sample,h5ad\n"0",A,data/a.h5ad\n"1",B,data/b.h5ad\n',
    "header case, trailing column, BOM": "\ufeffSample,H5AD,Group,\r\nA,data/a.h5ad,g,\r\nB,data/b.h5ad,g,,,\r\n,,\r\n",
    "no newline at the end": f"sample,h5ad\n{GOOD}".rstrip(),
    "remote": "sample,h5ad\nA,s3://bucket/a.h5ad\n",
    "home": "sample,h5ad\nA,~/none.h5ad\n",
    "empty": "",
    "header only": "sample,h5ad\n",
    "missing columns": "group,x\n1,2\n",
    "repeated and reserved": "sample,h5ad,x,x,shard\nA,data/a.h5ad,1,2,3\n",
    "many faults": f"sample,h5ad,section_key\n{GOOD[:-1]},s\n{GOOD[:-1]},$(rm)\n"
    'B b,data,\nC,none.h5ad,\nD,"a b.h5ad",\nE\nF,,\n',
    "more than ten": "sample,h5ad\n" + "".join(f"S{i},none.h5ad\n" for i in range(12)),
    "groups": "sample,h5ad,group,section_key\nA,data/a.h5ad,A,\nB,data/b.h5ad,g,s\nC,data/b.h5ad,g,t\n",
    "references": "sample,h5ad,Reference\nA,data/a.h5ad,data/b.h5ad\nB,data/b.h5ad,\nC,data/a.h5ad,s3://bucket/r.h5ad\n",
    "bad references": "sample,h5ad,group,reference\nA,none.h5ad,g,data/b.h5ad\nB,data/b.h5ad,g,none.h5ad\nC,,,$x\n",
    "unclosed quote": f'sample,h5ad\n{GOOD}"B,data/b.h5ad\n',
    "text after a quote": f'sample,h5ad\n"A"x,data/a.h5ad\n{GOOD}',
    "quotes inside": 'sample,h5ad\nA,data/"a".h5ad\n',
    "Latin-1": "sample,h5ad,note\nA,data/a.h5ad,Größe\n".encode("latin-1"),
    "UTF-16": f"sample,h5ad\n{GOOD}".encode("utf-16"),
    "Excel, by another name": b"PK\x03\x04\x14\x00\x06\x00\x08\x00\xff\xfe\x00[Content_Types].xml",
}
SCRIPT = """
include {{ readSamplesheet }} from '{root}/workflows/samplesheet'

workflow {{
    {names}.each {{ name ->
        def clock = java.lang.management.ManagementFactory.threadMXBean
        def began = clock.currentThreadCpuTime
        def sheet = readSamplesheet(file("{folder}/${{name}}"), "{folder}/${{name}}".toString())
        def took = clock.currentThreadCpuTime - began
        def samples = sheet.samples.collect {{ meta, h5ad -> meta + [h5ad: h5ad.toString()] }}
        println(groovy.json.JsonOutput.toJson([name: name, faults: sheet.faults, samples: samples, took: took]))
    }}
}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sheets")
    (folder / "data").mkdir()
    for name in ("a", "b"):
        (folder / f"data/{name}.h5ad").touch()
    for number, text in enumerate(SHEETS.values()):
        (folder / f"{number}.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    for rows in (5, 50, 500):
        text = "sample,h5ad,age\n" + "".join(f'"S{i}",data/a.h5ad,{i}\n' for i in range(rows))
        (folder / f"rows_{rows}.csv").write_text(text)
    return folder


@pytest.fixture(scope="module")
def read(nextflow, root, folder) -> dict[str, dict]:
    """What the workflow makes of each sheet."""
    names = [f"'{path.name}'" for path in folder.glob("*.csv")]
    script = SCRIPT.format(root=root, folder=folder, names=f"[{', '.join(names)}]")
    (folder / "main.nf").write_text(script)
    done = nextflow(folder, "-q", "run", "main.nf")
    assert done.returncode == 0, done.stdout + done.stderr
    return {found["name"]: found for found in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("name", SHEETS)
def test_the_command_line_says_the_same(read, folder, name):
    found = read[f"{list(SHEETS).index(name)}.csv"]
    sheet = folder / found["name"]
    try:
        stmcdi.check_samplesheet(sheet, folder / "valid.out")
    except InputError as error:
        first, *others = found["faults"]
        others = [fault.removeprefix(f"{sheet}, ").removeprefix(f"{sheet}: ") for fault in others]
        more = [f"and {len(others) - 9} more"] if len(others) > 9 else []
        assert "; ".join([first, *others[:9], *more]) == str(error)
        return
    assert found["faults"] == []
    with open(folder / "valid.out", newline="") as file:
        rows = list(csv.DictReader(file))
    for row, sample in zip(rows, found["samples"], strict=True):
        row["id"] = row.pop("sample")
        row = {
            column: cell for column, cell in row.items() if cell or column not in ("section_key", "group", "reference")
        }
        assert {key: value for key, value in sample.items() if value is not None} == row


@pytest.mark.parametrize("rows", [5, 50, 500])
def test_a_sheet_is_read_at_once(read, rows):
    found = read[f"rows_{rows}.csv"]
    assert (found["faults"], len(found["samples"])) == ([], rows)
    assert found["took"] < 2e9  # nanoseconds of work


def test_files_of_a_quoted_sheet_are_mounted_in_containers(nextflow, root, tmp_path, request):
    # Outside of the launch folder's tree.
    data = Path(tempfile.mkdtemp(dir="/var/tmp")) / "a.h5ad"
    data.touch()
    request.addfinalizer(lambda: shutil.rmtree(data.parent))
    (tmp_path / "samples.csv").write_text(f'"sample","h5ad"\n"A","{data}"\n')
    (tmp_path / "bin").mkdir()
    docker = tmp_path / "bin/docker"
    docker.write_text(f'#!/bin/bash\necho "docker $*" >> {tmp_path}/calls\nexit 3\n')
    docker.chmod(0o755)
    nextflow(tmp_path, "run", root, "-profile", "docker", "--input", "samples.csv", path=docker.parent)
    assert f"-v {data.parent}:" in (tmp_path / "calls").read_text()
