"use strict";
(() => {
  const page = document.documentElement;
  page.classList.add("js");

  // Charts: drawn once they can be seen, for what is folded away has no width.
  const SETTINGS = { displayModeBar: false, responsive: true, doubleClick: false };
  const PRINTED = 680; // CSS pixels that a sheet of paper is wide
  const drawn = () => document.querySelectorAll(".plot.drawn");

  function draw(within) {
    for (const plot of within.querySelectorAll(".plot:not(.drawn)")) {
      if (plot.closest("details:not([open])")) continue;
      const figure = JSON.parse(plot.nextElementSibling.textContent);
      plot.classList.add("drawn");
      Plotly.newPlot(plot, figure.data, figure.layout, SETTINGS);
    }
  }

  function showOrHide(button) {
    const shown = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(shown));
    const plot = button.closest("figure").querySelector(".plot");
    const traces = plot.data.flatMap((trace, i) => (trace.legendgroup === button.dataset.group ? [i] : []));
    Plotly.restyle(plot, { visible: shown }, traces);
  }

  // Sliders: the right image begins at the border.
  function moveBorder(input) {
    input.closest("figure").style.setProperty("--border", `${input.value}%`);
    input.setAttribute("aria-valuetext", `${input.value} % ${input.dataset.name}`);
  }

  function followPointer(event, pair) {
    const box = pair.getBoundingClientRect();
    const input = pair.closest("figure").querySelector("input");
    input.value = Math.round((100 * (event.clientX - box.left)) / box.width);
    moveBorder(input);
  }

  // Mosaics: what is pointed at is named below, with its taps.
  const number = (value) => (value === null ? "–" : String(value).replace("-", "−"));

  function tell(cell) {
    const panel = cell.closest(".panel");
    const readout = cell.closest("figure").querySelector(".readout");
    const planes = JSON.parse(panel.querySelector("script").textContent)[Number(cell.dataset.cell)];
    const name = document.createElement("strong");
    name.textContent = cell.getAttribute("aria-label");
    const tables = document.createElement("div");
    tables.className = "planes";
    for (const plane of planes) {
      const table = document.createElement("table");
      for (const taps of plane) {
        const row = table.insertRow();
        for (const tap of taps) row.insertCell().textContent = number(tap);
      }
      tables.append(table);
    }
    const grid = cell.closest('[role="grid"]');
    readout.replaceChildren(`${grid.getAttribute("aria-label")}: `, name, tables);
  }

  function step(cell, key) {
    const rows = [...cell.closest('[role="grid"]').querySelectorAll('[role="row"]')].map((row) => [...row.children]);
    let y = rows.findIndex((row) => row.includes(cell));
    let x = rows[y].indexOf(cell);
    if (key === "ArrowLeft") x -= 1;
    else if (key === "ArrowRight") x += 1;
    else if (key === "ArrowUp") y -= 1;
    else if (key === "ArrowDown") y += 1;
    else if (key === "Home") x = 0;
    else if (key === "End") x = rows[y].length - 1;
    else return false;
    const next = rows[y]?.[x];
    if (next) {
      cell.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    }
    return true;
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest(".legend button");
    if (button) showOrHide(button);
    const cell = event.target.closest('[role="gridcell"]');
    if (cell) tell(cell);
  });
  document.addEventListener("toggle", (event) => draw(event.target), true);
  document.addEventListener("input", (event) => {
    if (event.target.matches(".slider input")) moveBorder(event.target);
  });
  for (const type of ["pointerdown", "pointermove"]) {
    document.addEventListener(type, (event) => {
      const pair = event.target.closest?.(".pair");
      if (pair && event.buttons & 1) {
        event.preventDefault();
        followPointer(event, pair);
      }
    });
  }
  for (const type of ["pointerover", "focusin"]) {
    document.addEventListener(type, (event) => {
      const cell = event.target.closest?.('[role="gridcell"]');
      if (cell) tell(cell);
    });
  }
  document.addEventListener("keydown", (event) => {
    const cell = event.target.closest?.('[role="gridcell"]');
    if (cell && step(cell, event.key)) event.preventDefault();
  });
  addEventListener("beforeprint", () => drawn().forEach((plot) => Plotly.relayout(plot, { width: PRINTED })));
  addEventListener("afterprint", () => drawn().forEach((plot) => Plotly.relayout(plot, { width: null, autosize: true })));

  draw(document);
})();
