// The table of genes: sorted, searched and downloaded in the browser; nothing is fetched.
"use strict";
const table = document.getElementById("genes");
const {columns, rows, styles} = JSON.parse(document.getElementById("gene-data").textContent);
const order = Object.keys(styles);
const find = document.getElementById("find"), only = document.getElementById("only"), most = document.getElementById("most");
let by = columns.findIndex(c => c.key === "expected_r"), ascending = false;

function shown(value, column) {
  if (value === null) return "–";
  if (column.kind === "share") return (100 * value).toFixed(1) + "%";
  if (column.kind === "number") return value.toFixed(2);
  return String(value);
}

function chosen() {
  const word = find.value.trim().toLowerCase();
  const verdict = columns.findIndex(c => c.key === "verdict");
  const kept = rows.filter(r => (!word || r[0].toLowerCase().includes(word)) && (!only.value || r[verdict] === only.value));
  const sign = ascending ? 1 : -1;
  return kept.sort((a, b) => {
    let x = a[by], y = b[by];
    if (by === verdict) { x = -order.indexOf(x); y = -order.indexOf(y); }
    if (x === null || y === null) return (x === null) - (y === null);
    return sign * (typeof x === "string" ? x.localeCompare(y, "en", {numeric: true}) : x - y);
  });
}

function fill() {
  const kept = chosen(), limit = Number(most.value) || kept.length;
  const body = document.createElement("tbody");
  for (const row of kept.slice(0, limit)) {
    const line = body.insertRow();
    row.forEach((value, k) => {
      const cell = line.insertCell();
      if (columns[k].key === "verdict") {
        const badge = document.createElement("span");
        badge.className = "badge " + styles[value];
        badge.textContent = value;
        cell.className = "text";
        cell.append(badge);
      } else {
        cell.textContent = shown(value, columns[k]);
        if (columns[k].kind === "text") cell.className = k ? "words" : "text";
      }
    });
  }
  table.tBodies[0].replaceWith(body);
  [...table.tHead.rows[0].cells].forEach((cell, k) => {
    if (k === by) cell.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    else cell.removeAttribute("aria-sort");
  });
  document.getElementById("count").textContent = `${Math.min(limit, kept.length)} of ${rows.length} genes shown`;
}

const head = table.tHead.rows[0];
columns.forEach((column, k) => {
  const cell = document.createElement("th"), button = document.createElement("button");
  cell.title = column.help;
  if (column.kind === "text") cell.className = "text";
  button.type = "button";
  button.textContent = column.name;
  button.onclick = () => { ascending = k === by ? !ascending : column.kind === "text"; by = k; fill(); };
  cell.append(button);
  head.append(cell);
});
find.oninput = only.onchange = most.onchange = fill;
document.getElementById("download").onclick = () => {
  const quote = v => v === null ? "" : /[",\n]/.test(v) ? `"${String(v).replaceAll('"', '""')}"` : String(v);
  const lines = [columns.map(c => c.key), ...chosen()].map(line => line.map(quote).join(","));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], {type: "text/csv"}));
  link.download = table.dataset.file;
  link.click();
  URL.revokeObjectURL(link.href);
};
fill();
