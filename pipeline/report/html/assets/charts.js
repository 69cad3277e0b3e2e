// Draws every chart of the page in its colours, again when light and dark change.
"use strict";
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 48rem)");

  function config() {
    const style = getComputedStyle(document.documentElement);
    const of = (name) => style.getPropertyValue(name).trim();
    const text = { labelColor: of("--ink"), titleColor: of("--ink"), labelFontSize: 12, titleFontSize: narrow.matches ? 11 : 12 };
    return {
      background: of("--paper"),
      font: "system-ui, sans-serif",
      view: { stroke: null },
      range: { category: [1, 2, 3, 4, 5, 6, 7, 8].map((number) => of(`--c${number}`)) },
      axis: { ...text, gridColor: of("--line"), domainColor: of("--line"), tickColor: of("--line"), titleFontWeight: "normal", labelLimit: narrow.matches ? 110 : 220 },
      // Several legends stand below one another: side by side they are wider than the plot and would be cut.
      legend: { ...text, orient: "top", layout: { top: { direction: "vertical", anchor: "start" } }, columns: narrow.matches ? 2 : 4, titleOrient: narrow.matches ? "top" : "left", symbolLimit: 0, labelLimit: narrow.matches ? 100 : 120, symbolBaseFillColor: of("--ink"), symbolBaseStrokeColor: of("--ink") },
      axisQuantitative: { tickCount: narrow.matches ? 4 : 8 },
      rule: { color: of("--faint") },
      line: { strokeWidth: 2 },
    };
  }

  async function draw() {
    const scheme = dark.matches ? "dark" : "light";
    for (const element of document.querySelectorAll("script.spec")) {
      const spec = JSON.parse(element.textContent);
      const chart = element.previousElementSibling;
      const tooltip = { theme: scheme };
      await vegaEmbed(chart, spec, { actions: false, renderer: "svg", config: config(), tooltip });
      chart.dataset.drawn = scheme;
    }
  }

  let last = Promise.resolve();
  const again = () => { last = last.then(draw); };
  dark.addEventListener("change", again);
  narrow.addEventListener("change", again);
  again();
})();
