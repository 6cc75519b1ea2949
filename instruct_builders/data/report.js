"use strict";
// Search, filters and order of the sample rows. All text is in the page already, escaped: nothing here makes markup.
(() => {
  const table = document.getElementById("rows");
  if (!table) return;
  const body = table.tBodies[0], said = document.getElementById("shown"), none = document.getElementById("none");
  const rows = [...body.rows].map((row) => ({ row, text: row.textContent.toLowerCase() }));
  const [search, split, task] = ["search", "split", "task"].map((name) => document.getElementById(name));
  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const { row, text } of rows) {
      const fits = words.every((word) => text.includes(word)) &&
        [split, task].every((one) => !one || !one.value || row.dataset[one.id] === one.value);
      row.hidden = !fits;
      shown += fits;
    }
    said.textContent = `${shown} of ${rows.length} rows shown`;
    none.hidden = shown > 0;
  };
  for (const input of [search, split, task]) if (input) input.addEventListener("input", filter);
  document.getElementById("clear").addEventListener("click", () => {
    for (const input of [search, split, task]) if (input) input.value = "";
    filter();
    search.focus();
  });
  for (const head of table.tHead.rows[0].cells) {
    const button = head.querySelector("button");
    if (!button) continue;
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = button.dataset.key;
      rows.sort((a, b) => (a.row.dataset[key] - b.row.dataset[key]) * (down ? -1 : 1));
      body.append(...rows.map(({ row }) => row));
    });
  }
  document.getElementById("tools").hidden = false;
  filter();
})();
