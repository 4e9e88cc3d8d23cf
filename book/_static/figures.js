// Draws the figures of a page from the plotly JSON that stands beside them, in the colours of the page's theme, and
// gives a figure with frames a slider that works by mouse, touch and keyboard, with no kernel behind it. plotly.js is
// large: it is loaded when a figure is in the window, or when the reader begins to move.
(() => {
  "use strict";
  const palettes = window.groundupPalettes;
  const root = document.documentElement;
  const address = document.currentScript.dataset.plotly;

  let loading = null;
  function plotly() {
    loading ??= new Promise((resolve, reject) => {
      const script = Object.assign(document.createElement("script"), { src: address, onload: resolve, onerror: reject });
      document.head.append(script);
    });
    return loading;
  }

  // Figures are stored in one neutral palette; each colour of it has a name, and a value in each theme.
  function themed() {
    const theme = palettes[root.dataset.theme === "dark" ? "dark" : "light"];
    return new Map(Object.entries(palettes.base).map(([name, colour]) => [colour, theme[name]]));
  }

  function recoloured(value, colours) {
    if (typeof value === "string") return colours.get(value) ?? value;
    if (Array.isArray(value)) return value.map((item) => recoloured(item, colours));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, recoloured(item, colours)]));
    }
    return value;
  }

  function control(plot, stored, show) {
    const plotly = stored.layout.sliders?.[0];
    const said = stored.layout.meta?.control;
    const values = said?.values ?? plotly?.steps?.map((step) => step.label) ?? stored.frames.map((frame) => frame.name);
    const name = said?.label ?? (plotly?.currentvalue?.prefix ?? "value").replace(/:\s*$/, "");
    const label = document.createElement("label");
    const input = document.createElement("input");
    const output = document.createElement("output");
    Object.assign(input, { type: "range", min: 0, max: stored.frames.length - 1, step: 1 });
    input.value = plotly?.active ?? 0;
    label.className = "figure-control";
    const words = document.createElement("span");
    words.textContent = name;
    label.append(words, input, output);
    const move = () => {
      output.textContent = values[input.value];
      input.setAttribute("aria-valuetext", values[input.value]);
      show(Number(input.value));
    };
    input.addEventListener("input", move);
    plot.parentElement.after(label);
    output.textContent = values[input.value];
    input.setAttribute("aria-valuetext", values[input.value]);
    return Number(input.value);
  }

  // A figure that a phone cannot show whole scrolls by itself, also from the keyboard; the page does not.
  function scroller(plot, least) {
    const box = document.createElement("div");
    box.className = "figure-scroll";
    plot.replaceWith(box);
    box.append(plot);
    if (least) {
      plot.style.minWidth = `${least}px`;
      box.tabIndex = 0;
      box.setAttribute("role", "group");
      box.setAttribute("aria-label", "figure, scrolls sideways");
    }
  }

  function figure(plot) {
    const stored = JSON.parse(plot.parentElement.querySelector('script[type="application/json"]').textContent);
    scroller(plot, stored.layout.meta?.min_width);
    const { sliders, updatemenus, ...layout } = stored.layout;
    let at = null;
    const draw = async () => {
      await plotly();
      const colours = themed();
      // A frame says all that it shows, so it is drawn as a figure of its own.
      const frame = at === null ? stored : stored.frames[at];
      const shown = at === null ? { ...layout } : { ...layout, ...frame.layout };
      // The stored height has room for plotly's own slider, which the control below replaces.
      shown.height -= stored.layout.meta?.control?.height ?? 0;
      if (shown.title?.text && plot.clientWidth < 420) {
        shown.title = { ...shown.title, font: { ...shown.title.font, size: 12 } }; // plotly does not wrap titles
      }
      return Plotly.react(
        plot,
        recoloured(frame.data ?? stored.data, colours),
        recoloured({ ...shown, autosize: true, width: undefined }, colours),
        { displayModeBar: false, ...stored.config, responsive: true },
      );
    };
    if (stored.frames?.length) {
      at = control(plot, stored, (index) => {
        at = index;
        draw();
      });
    }
    return draw;
  }

  const draws = new Map([...document.querySelectorAll(".figure-plot")].map((plot) => [plot, figure(plot)]));
  const drawn = new Set();
  const show = (plot) => {
    near.unobserve(plot);
    if (drawn.has(plot)) return null;
    drawn.add(plot);
    return draws.get(plot)();
  };
  const near = new IntersectionObserver(
    (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => show(entry.target)),
    { rootMargin: "50px 0px" },
  );
  draws.forEach((_, plot) => near.observe(plot));

  // Once somebody reads, the rest follows one by one, so that searching, jumping and printing find every figure.
  const begun = ["scroll", "pointermove", "keydown", "touchstart", "beforeprint"];
  const rest = async () => {
    begun.forEach((name) => removeEventListener(name, rest));
    for (const plot of draws.keys()) {
      await show(plot);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  };
  begun.forEach((name) => addEventListener(name, rest, { passive: true }));
  new MutationObserver(() => drawn.forEach((plot) => draws.get(plot)())).observe(root, { attributeFilter: ["data-theme"] });
})();
