"use strict";
for (const box of document.querySelectorAll(".players")) {
  const clips = [...box.querySelectorAll("video")];
  const lead = clips[0];
  const find = (name) => box.querySelector(name);
  const fps = Number(box.dataset.fps) || 25;
  const seek = find(".seek"), clock = find(".clock"), play = find(".play"), stage = find(".stage");
  let wanted = false; // what the user asked for, which survives a seek

  const length = () => (Number.isFinite(lead.duration) ? lead.duration : 0);
  const show = () => {
    seek.value = length() ? String(Math.round((1000 * lead.currentTime) / length())) : "0";
    clock.textContent = lead.currentTime.toFixed(2) + " s";
    play.innerHTML = wanted ? "&#10074;&#10074;" : "&#9654;";
  };
  const to = (time) => {
    const t = Math.min(Math.max(time, 0), Math.max(length() - 0.5 / fps, 0));
    for (const clip of clips) clip.currentTime = t;
    show();
  };
  const set = (on) => {
    wanted = on;
    for (const clip of clips) on ? clip.play().catch(() => {}) : clip.pause();
    if (!on) to((Math.floor(lead.currentTime * fps + 1e-3) + 0.5) / fps);
    show();
  };
  const step = (n) => {
    if (wanted) set(false);
    to((Math.floor(lead.currentTime * fps + 1e-3) + n + 0.5) / fps);
  };
  // followers drift by a decoded frame or two; pull them back when they are off by more than half a frame
  const follow = () => {
    if (wanted) {
      for (const clip of clips.slice(1)) {
        if (!clip.seeking && Math.abs(clip.currentTime - lead.currentTime) > 0.6 / fps) clip.currentTime = lead.currentTime;
        if (clip.paused) clip.play().catch(() => {});
      }
      show();
    }
    requestAnimationFrame(follow);
  };
  play.addEventListener("click", () => set(!wanted));
  find(".back").addEventListener("click", () => step(-1));
  find(".next").addEventListener("click", () => step(1));
  seek.addEventListener("input", () => to((Number(seek.value) / 1000) * length()));
  find(".speed").addEventListener("change", (e) => { for (const clip of clips) clip.playbackRate = Number(e.target.value); });
  lead.addEventListener("loadedmetadata", show);
  for (const button of box.querySelectorAll("[data-mode]")) {
    button.addEventListener("click", () => {
      box.dataset.view = button.dataset.mode;
      for (const other of box.querySelectorAll("[data-mode]")) other.classList.toggle("on", other === button);
    });
  }
  const cut = (event) => {
    if (box.dataset.view !== "wipe" || (event.type === "pointermove" && event.pointerType !== "mouse" && !event.buttons)) return;
    const area = stage.getBoundingClientRect();
    const part = Math.min(Math.max((event.clientX - area.left) / area.width, 0), 1);
    stage.style.setProperty("--cut", (100 * part).toFixed(2) + "%");
  };
  stage.addEventListener("pointermove", cut);
  stage.addEventListener("pointerdown", cut);
  box.tabIndex = 0;
  box.addEventListener("keydown", (event) => {
    if (event.target !== box) return;
    if (event.key === " ") set(!wanted);
    else if (event.key === "ArrowLeft") step(-1);
    else if (event.key === "ArrowRight") step(1);
    else return;
    event.preventDefault();
  });
  requestAnimationFrame(follow);
  show();
}
