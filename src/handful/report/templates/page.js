// Draws the figures of the page: unpack Plotly, follow the reader's light or dark mode, switch the x axis, print.
(async () => {
  "use strict";
  const charts = [...document.querySelectorAll(".chart")].map((chart) => ({
    chart,
    plot: chart.querySelector(".plot"),
    spec: JSON.parse(chart.querySelector("script").textContent),
    x: null,
  }));
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const coarse = matchMedia("(pointer: coarse)").matches;
  let printing = false;

  // light colour -> the same colour for a dark page (PALETTE in traces.py)
  const DARK = {
    "#0072b2": "#56b4e9", "#c44e00": "#ff9a4d", "#007a5a": "#2fc79c",
    "#a84a86": "#e59bc6", "#7a5c00": "#e3c04b", "#5b6470": "#a9b3c0",
    "#f4f7fb": "#1d2126", "#6baed6": "#2f78b0", "#08427d": "#a9d8ff",
    "rgba(0,114,178,0.2)": "rgba(86,180,233,0.25)", "rgba(196,78,0,0.2)": "rgba(255,154,77,0.25)",
    "rgba(0,122,90,0.2)": "rgba(47,199,156,0.25)", "rgba(168,74,134,0.2)": "rgba(229,155,198,0.25)",
    "rgba(122,92,0,0.2)": "rgba(227,192,75,0.25)", "rgba(91,100,112,0.2)": "rgba(169,179,192,0.25)",
  };
  const recolour = (value, key) => {
    if (typeof value === "string") return /color/i.test(key) ? DARK[value] || value : value;
    if (Array.isArray(value)) return /colorscale/i.test(key) ? value.map((v) => recolour(v, key)) : value;
    if (!value || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, recolour(v, k)]));
  };

  const draw = (item) => {
    const night = dark.matches && !printing;
    const style = getComputedStyle(document.documentElement);
    const [text, quiet, rule, panel] = printing
      ? ["#1b2026", "#56606c", "#dfe3e8", "#f6f7f9"]
      : ["--text", "--quiet", "--rule", "--panel"].map((name) => style.getPropertyValue(name).trim());
    let data = item.spec.data.map((trace, i) => {
      const xs = item.spec.xs[i];
      return item.x && xs && xs[item.x] ? { ...trace, x: xs[item.x] } : { ...trace };
    });
    if (night) data = data.map((trace) => recolour(trace, ""));
    data.forEach((trace) => {
      if (trace.colorbar) trace.colorbar = { ...trace.colorbar, tickfont: { color: quiet } };
    });
    const given = item.spec.layout;
    const axis = (given) => ({
      gridcolor: rule, linecolor: rule, tickfont: { color: quiet }, ...given,
      title: { ...given.title, font: { color: quiet, size: 12 }, standoff: 8 },
    });
    const layout = {
      ...given,
      xaxis: axis(given.xaxis),
      yaxis: axis(given.yaxis),
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: 'system-ui, -apple-system, "Segoe UI", Roboto, sans-serif', size: 12, color: text },
      hoverlabel: { bgcolor: panel, bordercolor: rule, font: { color: text, size: 12 } },
      dragmode: coarse ? false : "zoom", // on a phone a finger on a figure scrolls the page
      modebar: { bgcolor: "rgba(0,0,0,0)", color: quiet, activecolor: text },
      autosize: true,
    };
    if (item.x && Object.keys(item.spec.xs[0] || {}).length) layout.xaxis.title.text = item.x;
    // on a narrow page the labels of a matrix and its colour bar would leave no room for the cells
    if (item.plot.clientWidth < 480) {
      data.forEach((trace) => { if (trace.type === "heatmap") trace.showscale = false; });
      layout.xaxis.nticks = 5;
      const every = Math.ceil((given.xaxis.tickvals || []).length / 8); // names of classes
      if (every > 1) for (const key of ["tickvals", "ticktext"]) layout.xaxis[key] = given.xaxis[key].filter((_, i) => i % every === 0);
    }
    const config = {
      responsive: true, displaylogo: false, displayModeBar: coarse || item.plot.clientWidth < 480 ? false : "hover",
      modeBarButtons: [["toImage", "resetScale2d"]], scrollZoom: false,
    };
    return Plotly.react(item.plot, data, layout, config);
  };

  const redraw = () => charts.forEach(draw);

  try {
    const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
    for (const item of charts) {
      item.plot.replaceChildren();
      item.plot.classList.add("drawn");
      await draw(item);
    }
  } catch (problem) {
    charts.forEach(({ plot }) => {
      plot.style.height = "auto";
      plot.textContent = "This browser could not draw the figure: see the numbers below. (" + problem + ")";
    });
    return;
  }

  document.querySelectorAll(".switch").forEach((choice) => {
    choice.addEventListener("change", (event) => {
      const inside = charts.filter(({ chart }) => choice.parentElement.contains(chart));
      inside.forEach((item) => { item.x = event.target.value; draw(item); });
    });
  });
  dark.addEventListener("change", redraw);
  addEventListener("beforeprint", () => { printing = true; redraw(); });
  addEventListener("afterprint", () => { printing = false; redraw(); });
  document.documentElement.dataset.drawn = "yes";
})();
