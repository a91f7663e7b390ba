// @ts-check
// The table of classes: sorted, searched, and a way to the images of a class.

/** @param {HTMLTableElement} table */
function startTable(table) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  rows.forEach((row, i) => {
    row.setAttribute("data-class", String(i));
    const cell = row.cells[0];
    const button = make("button", { type: "button" }, ...cell.childNodes);
    cell.append(button);
    button.addEventListener("click", () => {
      form?.reset();
      getField("class").value = String(i);
      form?.dispatchEvent(new Event("input"));
      find("#images").scrollIntoView();
    });
  });
  const read = (/** @type {HTMLTableRowElement} */ row, /** @type {number} */ column) =>
    Number((row.cells[column].textContent ?? "").replaceAll(",", "").replace("–", "-1") || -1);
  const headers = [...(table.tHead?.rows[0].cells ?? [])];
  headers.forEach((header, column) => {
    const button = make("button", { type: "button" }, ...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const first = column === 0 ? "ascending" : "descending";
      const order = header.getAttribute("aria-sort") !== first ? first : column === 0 ? "descending" : "ascending";
      for (const other of headers) other.removeAttribute("aria-sort");
      header.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const compare = (/** @type {HTMLTableRowElement} */ a, /** @type {HTMLTableRowElement} */ b) =>
        column === 0
          ? (a.cells[0].textContent ?? "").localeCompare(b.cells[0].textContent ?? "", "en", { numeric: true })
          : read(a, column) - read(b, column);
      body.replaceChildren(...[...rows].sort((a, b) => sign * compare(a, b)));
    });
  });
  const search = /** @type {HTMLInputElement} */ (find("#find-class"));
  search.addEventListener("input", () => {
    const wanted = search.value.trim().toLowerCase();
    for (const row of rows) row.hidden = !(row.cells[0].textContent ?? "").toLowerCase().includes(wanted);
    const found = rows.filter((row) => !row.hidden).length;
    find("#found-classes").textContent = wanted ? `${found} of ${rows.length} classes` : "";
  });
  find(".tools").hidden = false;
}
