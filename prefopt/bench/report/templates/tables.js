// Sorting, searching and following a link to a cell.

function value(cell) {
  const key = cell.dataset.sort;
  if (key === undefined) return cell.textContent.trim();
  return key === "" || Number.isNaN(Number(key)) ? key : Number(key);
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), "en", { numeric: true });
}

function sort(table, index) {
  const heads = [...table.tHead.rows[0].cells];
  const descending = heads[index].ariaSort === "ascending";
  heads.forEach((head) => head.removeAttribute("aria-sort"));
  heads[index].setAttribute("aria-sort", descending ? "descending" : "ascending");
  for (const body of table.tBodies) {
    const rows = [...body.rows].filter((row) => !row.matches(".divider"));
    const keyed = rows.map((row) => [value(row.cells[index]), row]);
    keyed.sort(([a], [b]) => (a === "") - (b === "") || (descending ? compare(b, a) : compare(a, b)));
    body.append(...keyed.map(([, row]) => row));
  }
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((head, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    head.scope = "col";
    head.addEventListener("click", () => sort(table, index));
  });
}

function search(input) {
  const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const row of document.getElementById(input.dataset.table).tBodies[0].rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
  }
}

const searches = [...document.querySelectorAll("input[data-table]")];
searches.forEach((input) => input.addEventListener("input", () => search(input)));

function openTarget() {
  const row = document.getElementById(location.hash.slice(1));
  if (!row?.matches("#ledger tr")) return;
  const input = searches.find((each) => each.dataset.table === "ledger");
  input.value = "";
  search(input);
  row.closest("details").open = true;
  row.scrollIntoView({ block: "center" });
}

addEventListener("hashchange", openTarget);
openTarget();
