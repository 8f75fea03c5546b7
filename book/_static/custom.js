// ipywidgets typeset through MathJax 2's queue; the page has MathJax 3, which lacks one. Without this every widget
// throws "Cannot read properties of undefined (reading 'Queue')".
document.addEventListener("DOMContentLoaded", () => {
  if (window.MathJax && !MathJax.Hub)
    MathJax.Hub = { Queue: ([, , element]) => MathJax.startup?.promise?.then(() => MathJax.typesetPromise([element])) };
});

// A page opened from disk may not fetch the others: the search shows titles alone there.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
