// A tap on an entry of the contents leads there, so the drawer that lay over the page goes.
"use strict";
document.addEventListener("click", (event) => {
  if (event.target.closest("dialog[open] a[href]")) event.target.closest("dialog").close();
});
