// Loads the explorer when one on the page comes near: its style, its scripts and the network. These
// are plain scripts, not modules, because a browser loads no module from a file: address.
"use strict";

{
  const FOLDER = new URL(".", document.currentScript.src).href;
  const roots = document.querySelectorAll("[data-explorer]");

  function load(tag, properties) {
    return new Promise((done, failed) => {
      const made = Object.assign(document.createElement(tag), properties);
      made.onload = done;
      made.onerror = () => failed(new Error(properties.src));
      document.head.append(made);
    });
  }

  function failed() {
    for (const root of roots)
      root.textContent = "The explorer’s data did not load. Is there a connection? " +
        "Loading the page again tries again.";
  }

  async function start() {
    const style = load("link", { rel: "stylesheet", href: `${FOLDER}explorer.css` });
    // in this order: a script that is added takes its turn only if it is told so
    const scripts = ["explorer-data.js", "inference.js", "parts.js", "view.js"];
    try {
      await Promise.all(scripts.map((name) =>
        load("script", { src: FOLDER + name, async: false })));
    } catch {
      return failed();
    }
    await style.catch(() => {}); // without its style it still works
    window.qlinearExplorer.start(FOLDER);
  }

  if (roots.length && !window.qlinearExplorerStarted) {
    window.qlinearExplorerStarted = true;
    const watch = new IntersectionObserver((entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      watch.disconnect();
      // after the first paint, and after what the page itself loads
      const idle = window.requestIdleCallback ?? ((go) => setTimeout(go, 50));
      const soon = () => idle(start, { timeout: 1000 });
      if (document.readyState === "complete") soon();
      else window.addEventListener("load", soon, { once: true });
    }, { rootMargin: "400px" });
    for (const root of roots) watch.observe(root);
  }
}
