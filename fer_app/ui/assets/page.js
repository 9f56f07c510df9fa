// What Gradio's components do not do: choosing faces and pictures, pasting, light and dark, seeking in the timeline.
"use strict";

(() => {
  // Shows one of several siblings, and marks the button that chose it.
  function choose(button, attribute) {
    const wanted = document.getElementById(button.getAttribute(attribute));
    if (!wanted) return;
    for (const other of button.parentElement.querySelectorAll(`[${attribute}]`)) {
      const shown = document.getElementById(other.getAttribute(attribute));
      if (shown) shown.hidden = shown !== wanted;
      other.setAttribute("aria-pressed", String(other === button));
    }
  }

  function switchTheme() {
    const dark = document.body.classList.toggle("dark");
    try {
      localStorage.setItem("fer-theme", dark ? "dark" : "light");
    } catch {
      // Without storage the choice lasts as long as the page.
    }
  }

  function rememberedTheme() {
    try {
      const kept = localStorage.getItem("fer-theme");
      if (kept) document.body.classList.toggle("dark", kept === "dark");
    } catch {
      // As above.
    }
  }

  // A pasted picture goes where a dropped one goes: into the file input of the tab that is shown.
  function paste(event) {
    const files = [...(event.clipboardData?.files ?? [])];
    const input = [...document.querySelectorAll("#fer-photo-files input[type=file], #fer-compare-files input[type=file]")]
      .find((one) => one.closest("[role=tabpanel]")?.checkVisibility() ?? true);
    if (!files.length || !input) return;
    const transfer = new DataTransfer();
    files.forEach((file) => transfer.items.add(file));
    input.files = transfer.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
    event.preventDefault();
  }

  function seek(timeline, time) {
    const video = document.getElementById(timeline.dataset.ferSeek);
    const end = Number(timeline.dataset.ferEnd);
    if (!video || !Number.isFinite(time)) return;
    video.currentTime = Math.min(Math.max(time, 0), end);
    timeline.setAttribute("aria-valuenow", video.currentTime.toFixed(1));
    timeline.setAttribute("aria-valuetext", `${video.currentTime.toFixed(1)} seconds`);
  }

  // The line that shows where the video is, moved while it plays.
  function follow(video) {
    for (const timeline of document.querySelectorAll(`[data-fer-seek="${video.id}"]`)) {
      const share = video.currentTime / Number(timeline.dataset.ferEnd);
      timeline.style.setProperty("--now", `${(100 * Math.min(share, 1)).toFixed(2)}%`);
      timeline.setAttribute("aria-valuenow", video.currentTime.toFixed(1));
    }
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-fer-face], [data-fer-photo], [data-fer]");
    if (button?.dataset.ferFace) choose(button, "data-fer-face");
    else if (button?.dataset.ferPhoto) choose(button, "data-fer-photo");
    else if (button?.dataset.fer === "theme") switchTheme();
    const timeline = event.target.closest?.("[data-fer-seek]");
    if (timeline) {
      const box = timeline.getBoundingClientRect();
      seek(timeline, ((event.clientX - box.left) / box.width) * Number(timeline.dataset.ferEnd));
    }
  });

  document.addEventListener("keydown", (event) => {
    const timeline = event.target.closest?.("[data-fer-seek]");
    const video = timeline && document.getElementById(timeline.dataset.ferSeek);
    if (!video) return;
    const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10 }[event.key];
    if (step) seek(timeline, video.currentTime + step);
    else if (event.key === "Home") seek(timeline, 0);
    else if (event.key === "End") seek(timeline, Number(timeline.dataset.ferEnd));
    else return;
    event.preventDefault();
  });

  document.addEventListener("timeupdate", (event) => follow(event.target), true);
  document.addEventListener("paste", paste);
  // Gradio sets the theme of the system when it starts; what was chosen here comes after that.
  new MutationObserver((_, observer) => {
    if (!document.querySelector(".fer-theme")) return;
    observer.disconnect();
    rememberedTheme();
  }).observe(document.documentElement, { childList: true, subtree: true });
})();
