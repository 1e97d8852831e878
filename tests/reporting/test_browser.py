"""The report in a real browser: no error, every picture there, fits a laptop, a phone and paper, table sorts."""

import json
import re
import shutil
import subprocess
from html import unescape

import pytest

import stmcdi_cli as stmcdi

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="REPORT NOT TESTED IN A BROWSER: no chromium; apt-get install chromium"
)

# What the page is asked once it has loaded. It stands in a frame, as no window is narrower than 500 pixels; the answer
# goes into the document around it, which chromium then prints.
FRAME = """<!doctype html><script>
addEventListener("message", event => {
  const pre = document.createElement("pre");
  pre.id = "probe";
  pre.textContent = event.data;
  document.body.append(pre);
});
</script><body style="margin:0"><iframe src="%s" style="width:%dpx;height:9000px;border:0"></iframe>"""
PROBE = """<script>
window.faults = [];
addEventListener("error", event => faults.push(String(event.message)));
addEventListener("load", () => {
  const column = () => [...document.querySelectorAll("#genes tbody tr")].map(row => row.cells[2].textContent);
  const seen = {
    width: [innerWidth, document.documentElement.scrollWidth],
    images: [...document.images].map(image => [image.alt, image.naturalWidth, image.clientWidth]),
    charts: [...document.querySelectorAll("svg.chart")].map(c => [c.getAttribute("aria-label"), c.clientWidth]),
    before: column(),
  };
  document.querySelectorAll("#genes th button")[2].click();
  seen.after = column();
  document.getElementById("find").value = "gene_11";
  document.getElementById("find").oninput();
  seen.found = [...document.querySelectorAll("#genes tbody tr")].map(row => row.cells[0].textContent);
  URL.createObjectURL = blob => { blob.text().then(text => {
    seen.csv = text;
    seen.faults = window.faults;
    parent.postMessage(JSON.stringify(seen), "*");
  }); return "blob:none"; };
  HTMLAnchorElement.prototype.click = () => {};
  document.getElementById("download").click();
});
</script>"""


def chromium(*arguments):
    # --no-sandbox: tests may run as root in a container
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def page(imputed_run, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "tissue_report.html"
    stmcdi.report(
        imputed_run.imputed,
        path,
        model_dir=imputed_run.model,
        truth=imputed_run.truth,
        baseline=[imputed_run.baseline],
        genes=["gene_2", "gene_1"],
    )
    return path


@pytest.fixture(scope="module", params=[1280, 400])
def seen(page, request):
    probed = page.with_name(f"probed_{request.param}.html")
    probed.write_text(page.read_text().replace("<head>", "<head>" + PROBE, 1))
    frame = page.with_name(f"frame_{request.param}.html")
    frame.write_text(FRAME % (probed.name, request.param))
    result = chromium("--window-size=1300,2000", "--virtual-time-budget=5000", "--dump-dom", frame.as_uri())
    assert "CONSOLE" not in result.stderr, result.stderr
    answer = json.loads(unescape(re.search('<pre id="probe">(.*?)</pre>', result.stdout, re.S)[1]))
    return answer | {"asked": request.param}


def test_there_is_no_error_and_nothing_is_fetched(page, seen):
    assert seen["faults"] == []
    text = page.read_text()
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", text)
    assert not re.search(r"url\((?!#)", text) and "@import" not in text and "fetch(" not in text


def test_it_is_small(page):
    assert page.stat().st_size < 5_000_000


def test_every_picture_is_there(seen):
    maps = [name for name, natural, shown in seen["images"] if natural > 0 and shown > 20]
    assert len(maps) == len(seen["images"])
    for gene in ("gene_1", "gene_2"):
        for what in ("measured", "imputed", "uncertainty"):
            for section in ("section_1", "section_2"):
                assert f"{gene}: {what}, {section}" in maps  # side by side
    assert len({name.split(":")[0] for name in maps if ":" in name}) == 2 + 6  # named, and those that gained most
    charts = [name for name, width in seen["charts"] if width > 100]
    assert len(charts) == len(seen["charts"]) == 9


def test_it_fits_the_window(seen):
    window, content = seen["width"]
    assert window == seen["asked"] and content <= window


def test_the_table_sorts_is_searched_and_downloaded(seen, imputed_run):
    before, after = ([float(value) for value in seen[key]] for key in ("before", "after"))
    assert before == sorted(before, reverse=True) and after == sorted(after) and len(before) == 25
    assert set(seen["found"]) == {name for name in imputed_run.imputed.var_names if "gene_11" in name}
    lines = seen["csv"].splitlines()
    assert lines[0].startswith("gene,verdict,expected_r,") and len(lines) == 1 + len(seen["found"])


def test_it_prints(page, tmp_path):
    result = chromium(f"--print-to-pdf={tmp_path / 'out.pdf'}", page.as_uri())
    assert (tmp_path / "out.pdf").read_bytes().startswith(b"%PDF"), result.stderr
