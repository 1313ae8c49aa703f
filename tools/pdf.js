// What the book as one page of a browser has, and paper has not: tools/pdf.py runs this in the page.
([picture, address]) => {
  // a link to a file of this machine, such as a pixel of the explorer, leads to the site
  for (const link of document.querySelectorAll("a[href]"))
    if (link.protocol === "file:" && link.pathname !== location.pathname) {
      const file = link.getAttribute("href").replace(/^([.][.][/])+/, "");
      link.href = address + file.replace(/^[/]/, "");
    }
  // code that the site folds away stays away, but for the solutions of exercises
  for (const fold of document.querySelectorAll("details.hide")) {
    const solution = fold.closest('section[id^="exercise"]');
    fold.querySelector("summary").remove();
    if (solution) fold.replaceWith(...fold.childNodes); else fold.remove();
  }
  for (const place of document.querySelectorAll("[data-explorer]")) {
    const figure = document.createElement("figure");
    const there = `${address}book/explorer.html`;
    figure.className = "paper-explorer";
    figure.innerHTML = `<img src="${picture}" alt="The pixel explorer">
      <figcaption>The pixel explorer: <a href="${there}">${there}</a></figcaption>`;
    place.replaceWith(figure);
  }
  // every heading gets a name of its own: several chapters have a section "Summary"
  const parts = JSON.parse(document.getElementById("paper-parts").textContent);
  const list = document.querySelector(".paper-contents");
  const line = (kind, heading) => {
    const name = heading.cloneNode(true);
    for (const extra of name.querySelectorAll(".headerlink, .katex-mathml")) extra.remove();
    const anchor = document.createElement("span");
    anchor.id = `paper-${list.children.length}`;
    heading.prepend(anchor);
    const link = list.appendChild(document.createElement("a"));
    link.href = `#${anchor.id}`;
    link.className = kind;
    link.append(name.textContent, Object.assign(document.createElement("span"), { className: "page" }));
  };
  const heading = (section) => section.querySelector(":scope > :is(h1, h2, h3)");
  [...document.querySelectorAll(".toctree-wrapper")].forEach((wrapper, part) => {
    list.appendChild(document.createElement("p")).className = "part";
    list.lastChild.append(parts[part]);
    for (const chapter of wrapper.querySelectorAll(":scope > section")) {
      line("chapter", heading(chapter));
      if (chapter.id === "cheat-sheet") continue; // its sections are the chapters again
      for (const section of chapter.querySelectorAll(":scope > section")) line("section", heading(section));
    }
  });
}
