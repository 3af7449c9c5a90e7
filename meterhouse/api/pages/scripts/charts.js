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

function drawnSeries(sort, { series, cells }) {
  return series.map((name, place) => {
    const line = sort === "line" || (sort === "bars-and-line" && place > 0);
    const fill = colour(`--series-${sort === "bars-and-line" && line ? 2 : (place % 7) + 1}`);
    return {
      name, data: cells[place], type: line ? "line" : "bar",
      stack: sort === "stacked" ? "all" : undefined,
      // A line through one point is not seen without it.
      showSymbol: cells[place].filter((value) => value !== null).length < 2, symbol: "circle", symbolSize: 5, step: false,
      lineStyle: { width: 2, color: fill, type: sort === "line" ? ["solid", "dashed", "dotted"][place % 3] : "solid" },
      itemStyle: { color: sort === "causes" ? ({ value }) => colour(value < 0 ? "--less" : "--more") : fill, borderColor: colour("--paper"), borderWidth: sort === "stacked" ? 0.5 : 0 },
      barCategoryGap: "25%",
    };
  });
}

// How high a legend is, of lines of 18 px: where it breaks, nobody says.
function legendHeight(series, width) {
  let lines = 1, used = 0;
  for (const name of series) {
    const item = 31 + 7 * name.length;
    if (used + item > width && used > 0) { lines += 1; used = 0; }
    used += item;
  }
  return 26 + 18 * lines;
}

function option(sort, read, width) {
  const causes = sort === "causes";
  const ink = colour("--ink"), faint = colour("--faint"), rule = colour("--rule");
  const text = { color: faint, fontFamily: "system-ui, sans-serif", fontSize: 12 };
  const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 2 });
  const lines = (place) => [read.labels[place], ...read.series.map((name, each) => `${name}: ${read.shown[each][place]}`)];
  return {
    animation: false,
    textStyle: text,
    grid: { left: 4, right: 8, top: read.series.length > 1 ? legendHeight(read.series, width) : 14, bottom: 4, containLabel: true },
    legend: read.series.length > 1 ? { top: 0, left: 0, type: "plain", textStyle: { ...text, color: ink }, itemWidth: 12, itemHeight: 8, itemGap: 14, selectedMode: true } : undefined,
    tooltip: {
      trigger: "axis", renderMode: "richText", confine: true, backgroundColor: colour("--sheet"), borderColor: rule,
      textStyle: { ...text, color: ink }, axisPointer: { type: "shadow", shadowStyle: { color: faint, opacity: 0.08 } },
      formatter: (parts) => lines(parts[0].dataIndex).join("\n"),
    },
    xAxis: { type: "category", data: read.labels, axisTick: { show: false }, axisLine: { onZero: !causes, lineStyle: { color: faint } }, axisLabel: { ...text, hideOverlap: true, interval: causes ? 0 : undefined, width: causes ? 60 : undefined, lineHeight: causes ? 14 : undefined, overflow: causes ? "break" : undefined } },
    yAxis: { type: "value", splitLine: { lineStyle: { color: rule } }, axisLabel: { ...text, formatter: (value) => compact.format(value) } },
    series: drawnSeries(sort, read),
  };
}

function draw() {
  for (const [box, chart] of drawn) {
    if (!box.isConnected) { chart.dispose(); drawn.delete(box); }
  }
  for (const figure of document.querySelectorAll("figure[data-chart]")) {
    const box = figure.querySelector(".drawing"), table = figure.querySelector(".twin table");
    if (!box || !table) continue;
    const chart = drawn.get(box) ?? init(box, null, { renderer: "svg" });
    drawn.set(box, chart);
    chart.setOption(option(figure.dataset.chart, figures(table), box.clientWidth), true);
    seen.observe(box);
  }
}

const seen = new ResizeObserver((entries) => {
  for (const { target } of entries) drawn.get(target)?.resize();
});

draw();
document.addEventListener("htmx:afterSettle", draw);
// On paper a chart has paper's colours and its width.
for (const when of ["(prefers-color-scheme: dark)", "print"]) {
  matchMedia(when).addEventListener("change", () => { draw(); drawn.forEach((chart) => chart.resize()); });
}
