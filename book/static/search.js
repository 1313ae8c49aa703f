// The search page: BOOK (search-index.js) holds every section; Stemmer and stopwords are Sphinx's.
"use strict";

(() => {
  const stemmer = new Stemmer();
  const known = new Map();
  // "padding" and "pads" are "pad"
  const stem = (word) => {
    const lower = word.toLowerCase();
    if (!known.has(lower)) known.set(lower, stemmer.stemWord(lower));
    return known.get(lower);
  };
  const WORD = /[\p{Letter}\p{Number}_]+/gu;
  const said = (text) => (text.toLowerCase().match(WORD) || []).filter((word) => !stopwords.includes(word));
  const stems = (text) => said(text).map(stem);
  const spaced = (list) => ` ${list.join(" ")} `;
  const count = (text, part) => text.split(part).length - 1;

  // every section as the stems of its parts; what the text says weighs more than what code says
  const sections = BOOK.flatMap(({ page, title, sections }) =>
    sections.map((section, place) => ({
      ...section,
      page,
      title,
      whole: place === 0, // a chapter's first section stands for the chapter
      stems: {
        title: spaced(stems(title)),
        heading: spaced(stems(section.heading)),
        text: spaced(stems(section.text)),
        code: spaced(stems(section.code)),
      },
    })),
  );
  const WEIGHT = { title: 6, heading: 10, text: 4, code: 1 };
  const found = (part, words) => {
    const times = count(part, ` ${words} `);
    return times / (times + 1); // the tenth time says little more than the third
  };

  const rare = (word) => {
    const holding = sections.filter((s) => Object.values(s.stems).some((p) => p.includes(` ${word} `)));
    return Math.log(1 + sections.length / (1 + holding.length));
  };

  // a word that no section holds may be the beginning or a part of one that some do
  const completed = (word) => {
    const all = new Set(sections.flatMap((s) => Object.values(s.stems).flatMap((p) => p.trim().split(" "))));
    if (all.has(word)) return [word];
    const longer = [...all].filter((other) => other.includes(word) && word.length > 2);
    return longer.sort((a, b) => a.length - b.length).slice(0, 1);
  };

  const lacking = (section, words) =>
    words.filter((word) => !Object.values(section.stems).some((part) => part.includes(` ${word} `))).length;

  const score = (section, words, phrase, rarity) => {
    let sum = 0;
    for (const [part, weight] of Object.entries(WEIGHT)) {
      for (const word of words) sum += weight * rarity.get(word) * found(section.stems[part], word);
      if (phrase.includes(" ")) sum += 3 * weight * found(section.stems[part], phrase);
    }
    return sum * (section.page.startsWith("book/") ? 0.5 : 1); // chapters before lists
  };

  // pages by their best section, each with its best three; sections with all words, or with the most
  const search = (query) => {
    const phrase = stems(query).join(" ");
    const words = [...new Set(stems(query).flatMap(completed))];
    const rarity = new Map(words.map((word) => [word, rare(word)]));
    const fewest = Math.min(...sections.map((section) => lacking(section, words)));
    const pages = new Map();
    for (const section of fewest < words.length ? sections : []) {
      if (lacking(section, words) > fewest) continue;
      if (!pages.has(section.page)) pages.set(section.page, []);
      pages.get(section.page).push({ ...section, points: score(section, words, phrase, rarity) });
    }
    const total = (list) => list.reduce((sum, s, place) => sum + s.points / 2 ** place, 0);
    for (const list of pages.values()) list.sort((a, b) => b.points - a.points);
    return { words, pages: [...pages.values()].sort((a, b) => total(b) - total(a)) };
  };

  // some 200 letters of a section around the place with the most of the words
  const excerpt = (section, words) => {
    const text = section.text || section.code;
    const places = [...text.matchAll(WORD)].filter((m) => words.includes(stem(m[0]))).map((m) => m.index);
    const near = (at) => new Set(places.filter((p) => p >= at && p < at + 120).map((p) => stem(text.slice(p).match(WORD)[0])));
    const best = places.reduce((a, b) => (near(b).size > near(a).size ? b : a), places[0] || 0);
    const from = best < 80 ? 0 : text.indexOf(" ", best - 80) + 1;
    const end = text.length < from + 220 ? text.length : text.lastIndexOf(" ", from + 220);
    return `${from ? "… " : ""}${text.slice(from, end)}${end < text.length ? " …" : ""}`;
  };

  const marked = (text, words) => {
    const line = document.createElement("p");
    let done = 0;
    for (const match of text.matchAll(WORD)) {
      if (!words.includes(stem(match[0]))) continue;
      line.append(text.slice(done, match.index), Object.assign(document.createElement("mark"), { textContent: match[0] }));
      done = match.index + match[0].length;
    }
    line.append(text.slice(done));
    return line;
  };

  const link = (section, text, query) => {
    const target = section.whole ? "" : `#${section.anchor}`;
    // where the browser can, it marks the words on the page
    const mark = !section.whole && "fragmentDirective" in document ? `:~:text=${encodeURIComponent(query.trim())}` : "";
    return Object.assign(document.createElement("a"), { href: section.page + target + mark, textContent: text });
  };

  const show = (query) => {
    const { words, pages } = search(query);
    const out = document.getElementById("search-results");
    const status = document.createElement("p");
    status.setAttribute("role", "status");
    status.textContent = pages.length
      ? `${pages.length} page${pages.length > 1 ? "s" : ""} with “${query}”`
      : `No page holds “${query}”. Try fewer words, or one of them alone.`;
    out.replaceChildren(status);
    for (const list of pages.slice(0, 10)) {
      const item = out.appendChild(document.createElement("section"));
      const chapter = { page: list[0].page, whole: true };
      item.appendChild(document.createElement("h2")).append(link(chapter, list[0].title, query));
      for (const section of list.slice(0, 3).sort((a, b) => b.whole - a.whole)) {
        if (!section.whole) item.appendChild(document.createElement("h3")).append(link(section, section.heading, query));
        item.append(marked(excerpt(section, words), words));
      }
    }
  };

  const query = new URLSearchParams(location.search).get("q") || "";
  for (const field of document.querySelectorAll('input[name="q"]')) field.value = query;
  if (query.trim()) show(query);
})();
