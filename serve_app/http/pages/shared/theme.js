// Applies the chosen theme before the first paint. A classic script, so that it runs before the page is drawn.
(() => {
  try {
    const theme = localStorage.getItem("phi-serve.theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch {
    // Storage is forbidden here: the system's theme applies.
  }
})();
