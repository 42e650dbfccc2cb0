// Draws the charts of what the table of days says. Without this script the table remains.
"use strict";

(() => {
  const table = document.getElementById("by-day");
  if (!table || !window.Chart) return;
  const headings = [...table.tHead.rows[0].cells];
  const rows = [...table.tBodies[0].rows];
  const labels = rows.map((row) => row.cells[0].textContent);
  const calm = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const series = (column, n) => {
    const index = headings.findIndex((heading) => heading.dataset.column === column);
    const own = colour(n ? "--second" : "--mark");
    return {
      label: headings[index].textContent,
      data: rows.map((row) => ("value" in row.cells[index].dataset ? Number(row.cells[index].dataset.value) : null)),
      shown: rows.map((row) => row.cells[index].textContent),
      borderColor: own,
      backgroundColor: own,
      borderDash: n ? [6, 4] : [],
      spanGaps: true,
    };
  };

  const draw = (figure) => {
    const place = document.createElement("div");
    const canvas = document.createElement("canvas");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${figure.textContent.trim()} per day; the table below has the figures`);
    place.append(canvas);
    figure.append(place);
    figure.hidden = false;
    const datasets = figure.dataset.columns.split(",").map(series);
    const grid = { color: colour("--line") };
    const ticks = { color: colour("--quiet"), maxRotation: 0, autoSkipPadding: 12 };
    return new Chart(canvas, {
      type: figure.dataset.chart,
      data: { labels, datasets },
      options: {
        animation: calm ? false : { duration: 200 },
        maintainAspectRatio: false,
        interaction: { mode: "index", intersect: false },
        scales: {
          x: { grid: { display: false }, ticks },
          y: { beginAtZero: true, grid, ticks, title: { display: true, text: figure.dataset.unit, color: colour("--quiet") } },
        },
        plugins: {
          legend: { display: datasets.length > 1, labels: { color: colour("--ink") } },
          tooltip: { callbacks: { label: (item) => `${item.dataset.label}: ${item.dataset.shown[item.dataIndex]}` } },
        },
      },
    });
  };

  let charts = [];
  const figures = [...document.querySelectorAll("figure[data-chart]")];
  const drawAll = () => {
    charts.forEach((chart) => chart.destroy());
    figures.forEach((figure) => figure.querySelector("div")?.remove());
    charts = figures.map(draw);
  };
  drawAll();
  dark.addEventListener("change", drawAll);
})();
