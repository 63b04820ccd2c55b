// A live plot of one figure: a line for each node or shard, with what is newest in words beside its title.

import "uplot/dist/uPlot.min.css";

import { type ReactElement, useEffect, useId, useRef } from "react";
import uPlot from "uplot";

import { useStore } from "../store.js";
import { theme } from "../theme.js";
import { aligned, alone, type Series } from "./series.js";

/** Lines that can be told apart; more take the same colours again. */
export const LINES = 8;
const HEIGHT = 150;
/** Between labels of time, in seconds: labels have no parts of one. */
const STEPS_S = [1, 5, 10, 15, 30, 60, 120, 300, 600];

export interface PlotProps {
  readonly title: string;
  /** The figure, as the API calls it; several are as many lines of one series. */
  readonly figures: readonly { readonly name: string; readonly label?: string }[];
  /** By the name of the line. */
  readonly series: readonly { readonly label: string; readonly series: Series }[];
  readonly format: (value: number | null | undefined) => string;
  /** The axis reaches at least so far: 1 unless given. */
  readonly least?: number;
}

export function Plot({ title, figures, series, format, least = 1 }: PlotProps): ReactElement {
  const ref = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | undefined>(undefined);
  const colours = useStore(theme);
  const titleId = useId();
  const lines = series.flatMap(({ label, series }) =>
    figures.map(({ name, label: of }) => ({ name, series, label: [label, of].filter(Boolean).join(" ") })),
  );
  const labels = lines.map(({ label }) => label).join("\n");
  const first = lines[0];
  const data = first === undefined ? [[]] : dataOf(lines);
  const newestData = useRef(data);
  newestData.current = data;

  // biome-ignore lint/correctness/useExhaustiveDependencies: another theme has other colours
  useEffect(() => {
    const place = ref.current;
    if (place === null) return;
    const made = new uPlot(
      options(place, labels.split("\n"), format, least),
      newestData.current as uPlot.AlignedData,
      place,
    );
    plot.current = made;
    const observer = new ResizeObserver(() => made.setSize({ width: place.clientWidth, height: HEIGHT }));
    observer.observe(place);
    const system = matchMedia("(prefers-color-scheme: dark)");
    // The canvas does not follow the page's colours by itself.
    const redraw = () => made.redraw();
    system.addEventListener("change", redraw);
    return () => {
      system.removeEventListener("change", redraw);
      observer.disconnect();
      made.destroy();
      plot.current = undefined;
    };
  }, [labels, colours, format, least]);

  useEffect(() => {
    plot.current?.setData(data as uPlot.AlignedData);
  });

  return (
    <figure className="plot" aria-labelledby={titleId}>
      <figcaption id={titleId}>
        <span className="title">{title}</span>
        <span className="newest">
          {lines.map(({ label, name, series }, index) => (
            <span key={label} data-line={index % LINES}>
              {lines.length > 1 && <span className="label">{label} </span>}
              <b>{format(series.newest(name))}</b>
            </span>
          ))}
        </span>
      </figcaption>
      <div ref={ref} className="canvas" aria-hidden="true" />
    </figure>
  );
}

/** One axis of time, and a column for each line. */
function dataOf(lines: readonly { readonly name: string; readonly series: Series }[]): (number | null)[][] {
  const distinct = [...new Set(lines.map(({ series }) => series))];
  const names = [...new Set(lines.map(({ name }) => name))];
  const columns = new Map(names.map((name) => [name, aligned(distinct, name)]));
  const time = columns.get(names[0] ?? "")?.[0] ?? [];
  const column = ({ name, series }: { readonly name: string; readonly series: Series }) =>
    columns.get(name)?.[distinct.indexOf(series) + 1] ?? [];
  return [time, ...lines.map(column)];
}

function options(
  place: HTMLElement,
  labels: readonly string[],
  format: PlotProps["format"],
  least: number,
): uPlot.Options {
  const colour = (name: string) => () => getComputedStyle(place).getPropertyValue(name).trim();
  // A variable with light-dark() is resolved by a property only.
  const resolved = (name: string) => () => {
    const probe = document.createElement("span");
    probe.className = "probe";
    probe.dataset.probe = name;
    place.append(probe);
    const { color } = getComputedStyle(probe);
    probe.remove();
    return color || colour(name)();
  };
  const axis: uPlot.Axis = {
    stroke: resolved("muted"),
    grid: { stroke: resolved("line"), width: 1 },
    ticks: { show: false },
    font: "11px system-ui, sans-serif",
  };
  return {
    width: place.clientWidth,
    height: HEIGHT,
    legend: { show: false },
    cursor: { drag: { x: false, y: false }, points: { size: 5 } },
    padding: [8, 8, 0, 0],
    scales: {
      y: { range: (_plot, _min, max) => [0, Math.max(least, max * 1.15)] },
    },
    axes: [
      { ...axis, size: 24, space: 90, incrs: STEPS_S, values: "{HH}:{mm}:{ss}" },
      { ...axis, size: 58, space: 34, values: (_plot, values) => values.map((value) => format(value)) },
    ],
    series: [
      {},
      ...labels.map((label, index) => ({
        label,
        stroke: resolved(`line-${index % LINES}`),
        width: 1.6,
        points: { show: false, size: 4, filter: (plot: uPlot, line: number) => alone(plot.data[line] ?? []) },
        spanGaps: false,
      })),
    ],
  };
}
