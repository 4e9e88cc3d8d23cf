// Sets the formulas of a page from its top to its end, a few at a time, so that scrolling and typing never wait long.
// Whoever needs all of them waits for MathJax.startup.promise, as without this script.
(() => {
  "use strict";
  const SLICE = 6; // milliseconds of work between two pauses; on a phone that is a few times as long

  async function setAll() {
    const formulas = [...document.querySelectorAll("span.math, div.math")];
    let count = 1;
    while (formulas.length) {
      const started = performance.now();
      await MathJax.typesetPromise(formulas.splice(0, count));
      // As many at once as fit in a slice; the first takes long, for it sets MathJax up.
      count = Math.max(1, Math.min(2 * count, Math.round((count * SLICE) / (performance.now() - started))));
      await new Promise((resolve) => setTimeout(resolve));
    }
  }

  MathJax.startup.promise = MathJax.startup.promise.then(setAll);
  // On paper stands what is on the page, so what is left is set at once.
  addEventListener("beforeprint", () => MathJax.typeset?.());
})();
