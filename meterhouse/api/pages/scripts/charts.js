// Draws each chart from its own table: one set of figures, and whoever has no script reads the table.
import { BarChart, LineChart } from "echarts/charts";
import { GridComponent, LegendComponent, TooltipComponent } from "echarts/components";
import { init, use } from "echarts/core";
import { SVGRenderer } from "echarts/renderers";

use([BarChart, LineChart, GridComponent, LegendComponent, TooltipComponent, SVGRenderer]);

const drawn = new Map();

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// {series: [name], labels: [label], cells: [[number or null per row] per series], shown: the same as texts}
function figures(table) {
  const series = [...table.tHead.rows[0].cells].slice(1).map((cell) => cell.textContent.trim());
  const rows = [...table.tBodies[0].rows];
  const labels = rows.map((row) => row.cells[0].textContent.trim());
  const at = (row, place) => row.cells[place + 1];
  const value = (cell) => { const data = cell.querySelector("data"); return data ? Number(data.value) : null; };
  return {
    series,
    labels,
    cells: series.map((_, place) => rows.map((row) => value(at(row, place)))),
    shown: series.map((_, place) => rows.map((row) => at(row, place).textContent.trim())),
  };
}

function drawnSeries(sort, { series, cells, shown }) {
  return series.map((name, place) => {
    const line = sort === "line" || (sort === "bars-and-line" && place > 0);
    const fill = colour(`--series-${sort === "bars-and-line" && line ? 2 : (place % 7) + 1}`);
    const data = sort === "causes" ? cells[place].map((value) => ({ value, label: { position: value < 0 ? "left" : "right" } })) : cells[place];
    return {
      name, data, type: line ? "line" : "bar",
      stack: sort === "stacked" ? "all" : undefined,
      // A line through one point is not seen without it.
      showSymbol: cells[place].filter((value) => value !== null).length < 2, symbol: "circle", symbolSize: 5, step: false,
      lineStyle: { width: 2, color: fill, type: sort === "line" ? ["solid", "dashed", "dotted"][place % 3] : "solid" },
      itemStyle: { color: sort === "causes" ? ({ value }) => colour(value < 0 ? "--less" : "--more") : fill, borderColor: colour("--paper"), borderWidth: sort === "stacked" ? 0.5 : 0 },
      barCategoryGap: "25%", barMaxWidth: sort === "causes" ? 26 : undefined,
      label: sort === "causes" ? { show: true, color: colour("--ink"), ...FONT, formatter: ({ dataIndex }) => shown[place][dataIndex] } : undefined,
    };
  });
}

const FONT = { fontFamily: "system-ui, sans-serif", fontSize: 12 };
const ITEM = { width: 12, height: 8, gap: 14 }; // of a legend; a name stands 5 px from its mark
const measure = document.createElement("canvas").getContext("2d");

// How high a legend is: where it breaks its lines, nobody says.
function legendHeight(series, width) {
  measure.font = `${FONT.fontSize}px ${FONT.fontFamily}`;
  let lines = 1, used = 0;
  for (const name of series) {
    const item = ITEM.width + 5 + measure.measureText(name).width;
    if (used > 0 && used + item > width - 10) { lines += 1; used = 0; }
    used += item + ITEM.gap;
  }
  return 6 + 22 * lines;
}

// Where an axis of causes ends: beyond the longest bar there is room for what it comes to, on the side it lies on.
function roomFor({ labels, cells, shown }, width) {
  const widest = (texts) => { measure.font = `${FONT.fontSize}px ${FONT.fontFamily}`; return Math.max(...texts.map((each) => measure.measureText(each).width)); };
  const least = Math.min(0, ...cells[0]), most = Math.max(0, ...cells[0]);
  const share = (widest(shown[0]) + 12) / Math.max(80, width - widest(labels) - 24);
  const room = share * (most - least) / Math.max(0.2, 1 - share * ((least < 0) + (most > 0)));
  return { min: least < 0 ? least - room : 0, max: most > 0 ? most + room : 0 };
}

const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 2 });
const figure = (value) => compact.format(value).replace("-", "\u2212");

function option({ chart: sort, unit }, read, width) {
  const causes = sort === "causes";
  const ink = colour("--ink"), faint = colour("--faint"), rule = colour("--rule");
  const text = { color: faint, ...FONT };
  const lines = (place) => [read.labels[place], ...read.series.map((name, each) => `${name}: ${read.shown[each][place]}`)];
  const places = { type: "category", data: read.labels, axisTick: { show: false }, axisLine: { lineStyle: { color: faint } }, axisLabel: { ...text, hideOverlap: true } };
  const ends = causes ? roomFor(read, width) : {};
  const values = { type: "value", ...ends, splitNumber: causes ? 3 : 5, minInterval: unit === "requests" ? 1 : 0, splitLine: { lineStyle: { color: rule } }, axisLabel: { ...text, hideOverlap: true, formatter: figure, showMinLabel: !(ends.min < 0), showMaxLabel: !(ends.max > 0) } };
  const across = { ...places, inverse: true, axisLine: { show: false }, axisLabel: { ...text, color: ink } };
  return {
    animation: false,
    textStyle: text,
    grid: { left: 4, right: 8, top: read.series.length > 1 ? legendHeight(read.series, width) : 14, bottom: 4, containLabel: true },
    legend: read.series.length > 1 ? { top: 0, left: 0, padding: [2, 5], type: "plain", textStyle: { ...text, color: ink }, itemWidth: ITEM.width, itemHeight: ITEM.height, itemGap: ITEM.gap, selectedMode: true } : undefined,
    tooltip: {
      trigger: "axis", renderMode: "richText", confine: true, backgroundColor: colour("--sheet"), borderColor: rule,
      textStyle: { ...text, color: ink }, axisPointer: { type: "shadow", shadowStyle: { color: faint, opacity: 0.08 } },
      formatter: (parts) => lines(parts[0].dataIndex).join("\n"),
    },
    xAxis: causes ? values : places,
    yAxis: causes ? across : values,
    series: drawnSeries(sort, read),
  };
}

function drawOne(box) {
  const figure = box.closest("figure[data-chart]"), table = figure?.querySelector(".twin table");
  if (!table) return;
  const chart = drawn.get(box) ?? init(box, null, { renderer: "svg" });
  drawn.set(box, chart);
  chart.resize();
  chart.setOption(option(figure.dataset, figures(table), box.clientWidth), true);
}

function draw() {
  for (const [box, chart] of drawn) {
    if (!box.isConnected) { chart.dispose(); drawn.delete(box); }
  }
  for (const box of document.querySelectorAll("figure[data-chart] .drawing")) {
    drawOne(box);
    seen.observe(box);
  }
}

// A legend breaks elsewhere at another width, so the whole is drawn anew.
const seen = new ResizeObserver((entries) => {
  for (const { target } of entries) if (target.isConnected && drawn.get(target)?.getWidth() !== target.clientWidth) drawOne(target);
});

draw();
document.addEventListener("htmx:afterSettle", draw);
// On paper a chart has paper's colours and its width.
for (const when of ["(prefers-color-scheme: dark)", "print"]) matchMedia(when).addEventListener("change", draw);
