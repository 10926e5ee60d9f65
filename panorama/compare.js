"use strict";
for (const box of document.querySelectorAll(".compare")) {
  const moved = box.querySelectorAll(".sheet-move"), divider = box.querySelector(".divider");
  let zoom = 1, left = 0, top = 0, grab = null;
  const draw = () => {
    const { width, height } = box.getBoundingClientRect();
    left = Math.min(0, Math.max(left, width * (1 - zoom)));
    top = Math.min(0, Math.max(top, height * (1 - zoom)));
    for (const sheet of moved) sheet.style.transform = `translate(${left}px, ${top}px) scale(${zoom})`;
  };
  // what lies under (x, y) stays there
  const zoomAt = (factor, x, y) => {
    const next = Math.min(Math.max(zoom * factor, 1), 24);
    left = x - ((x - left) * next) / zoom;
    top = y - ((y - top) * next) / zoom;
    zoom = next;
    draw();
  };
  const cutAt = (share) => {
    const percent = 100 * Math.min(Math.max(share, 0), 1);
    box.style.setProperty("--cut", percent.toFixed(2) + "%");
    divider.setAttribute("aria-valuenow", percent.toFixed(0));
  };
  const at = (event) => {
    const area = box.getBoundingClientRect();
    return { x: event.clientX - area.left, y: event.clientY - area.top, width: area.width, height: area.height };
  };
  box.addEventListener("pointerdown", (event) => {
    const { x, y } = at(event);
    grab = { cut: event.target === divider, x: x - left, y: y - top };
    box.setPointerCapture(event.pointerId);
  });
  box.addEventListener("pointermove", (event) => {
    if (!grab) return;
    const { x, y, width } = at(event);
    if (grab.cut) cutAt(x / width);
    else { left = x - grab.x; top = y - grab.y; draw(); }
  });
  for (const name of ["pointerup", "pointercancel"]) box.addEventListener(name, () => { grab = null; });
  box.addEventListener("wheel", (event) => {
    event.preventDefault();
    const { x, y } = at(event);
    zoomAt(Math.exp(-event.deltaY / 400), x, y);
  }, { passive: false });
  box.addEventListener("dblclick", () => { zoom = 1; left = top = 0; draw(); });
  box.addEventListener("keydown", (event) => {
    const { width, height } = box.getBoundingClientRect();
    const cut = parseFloat(getComputedStyle(box).getPropertyValue("--cut")) / 100;
    if (event.key === "+" || event.key === "=") zoomAt(1.25, width / 2, height / 2);
    else if (event.key === "-") zoomAt(0.8, width / 2, height / 2);
    else if (event.key === "ArrowLeft") cutAt(cut - 0.02);
    else if (event.key === "ArrowRight") cutAt(cut + 0.02);
    else return;
    event.preventDefault();
  });
  window.addEventListener("resize", draw);
}
