// A figure that is wider than its place is moved aside with the keyboard too.
"use strict";
{
  const reach = () => {
    for (const picture of document.querySelectorAll(".picture")) {
      if (picture.scrollWidth > picture.clientWidth) picture.tabIndex = 0;
      else picture.removeAttribute("tabindex");
    }
  };
  addEventListener("load", reach);
  addEventListener("resize", reach);
}
