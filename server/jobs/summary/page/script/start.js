// @ts-check
// Starts the page when all parts are there.

const viewer = new Viewer();
const table = document.querySelector("#class-table");
if (table instanceof HTMLTableElement) startTable(table);
if (form) startFilters(form);
