for (const canvas of document.querySelectorAll(".around")) {
  const gl = canvas.getContext("webgl2", { antialias: false });
  if (!gl) { canvas.insertAdjacentHTML("afterend", '<p class="faint">This browser has no WebGL 2.</p>'); continue; }
  const corners = `#version 300 es
    in vec2 at; out vec2 here; void main() { here = at; gl_Position = vec4(at, 0.0, 1.0); }`;
  // a direction has x to the right, y up and z to the middle of the picture; its longitude picks the column
  const colours = `#version 300 es
    precision highp float;
    in vec2 here; out vec4 colour;
    uniform sampler2D before, after; uniform vec2 size, look; uniform float zoom, share, aspect; uniform bool sphere;
    const float PI = 3.14159265358979;
    void main() {
      vec3 d = normalize(vec3(here.x * size.x / size.y, here.y, zoom));
      float c = cos(look.y), s = sin(look.y);
      d = vec3(d.x, c * d.y + s * d.z, c * d.z - s * d.y);
      float lon = atan(d.x, d.z) + look.x;
      float v = sphere ? 0.5 - asin(d.y) / PI : 0.5 - d.y / length(d.xz) * aspect / (2.0 * PI);
      vec2 uv = vec2(lon / (2.0 * PI) + 0.5, v);
      if (v < 0.0 || v > 1.0) { colour = vec4(0.07, 0.07, 0.07, 1.0); return; }
      bool source = (here.x + 1.0) / 2.0 < share;
      colour = source ? texture(before, uv) : texture(after, uv);
      if (share > 0.0 && share < 1.0 && abs((here.x + 1.0) / 2.0 - share) * size.x < 1.0) colour = vec4(1.0);
    }`;
  const program = gl.createProgram();
  for (const [kind, text] of [[gl.VERTEX_SHADER, corners], [gl.FRAGMENT_SHADER, colours]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, text);
    gl.compileShader(shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  gl.useProgram(program);
  gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ARRAY_BUFFER, new Float32Array([-1, -1, 3, -1, -1, 3]), gl.STATIC_DRAW);
  const place = gl.getAttribLocation(program, "at");
  gl.enableVertexAttribArray(place);
  gl.vertexAttribPointer(place, 2, gl.FLOAT, false, 0, 0);
  const value = (name) => gl.getUniformLocation(program, name);

  let yaw = 0, pitch = 0, zoom = 1.2, share = 0, grab = null, wanted = false;
  const draw = () => {
    wanted = false;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.max(1, Math.round(canvas.clientWidth * ratio));
    canvas.height = Math.max(1, Math.round(canvas.clientHeight * ratio));
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.uniform2f(value("size"), canvas.width, canvas.height);
    gl.uniform2f(value("look"), yaw, pitch);
    gl.uniform1f(value("zoom"), zoom);
    gl.uniform1f(value("share"), share);
    gl.uniform1f(value("aspect"), Number(canvas.dataset.aspect));
    gl.uniform1i(value("sphere"), canvas.dataset.kind === "sphere" ? 1 : 0);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  };
  const redraw = () => { if (!wanted) { wanted = true; requestAnimationFrame(draw); } };
  const turn = (dx, dy) => {
    yaw += dx;
    pitch = Math.min(Math.max(pitch + dy, -Math.PI / 2), Math.PI / 2);
    redraw();
  };
  const closer = (factor) => { zoom = Math.min(Math.max(zoom * factor, 0.5), 12); redraw(); };
  ["before", "after"].forEach((name, unit) => {
    const image = new Image();
    image.onload = () => {
      gl.activeTexture(gl.TEXTURE0 + unit);
      gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGB, gl.RGB, gl.UNSIGNED_BYTE, image);
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR);
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_S, gl.REPEAT); // the seam is no border
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
      gl.uniform1i(value(name), unit);
      redraw();
    };
    image.src = canvas.dataset[name];
  });
  canvas.addEventListener("pointerdown", (event) => {
    grab = { x: event.clientX, y: event.clientY };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!grab) return;
    const scale = 2 / (zoom * canvas.clientHeight);
    turn((grab.x - event.clientX) * scale, (event.clientY - grab.y) * scale);
    grab = { x: event.clientX, y: event.clientY };
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { grab = null; });
  canvas.addEventListener("wheel", (event) => { event.preventDefault(); closer(Math.exp(-event.deltaY / 400)); }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] };
    if (event.key in steps) turn(...steps[event.key]);
    else if (event.key === "+" || event.key === "=") closer(1.2);
    else if (event.key === "-") closer(1 / 1.2);
    else return;
    event.preventDefault();
  });
  const buttons = [...canvas.parentElement.querySelectorAll("[data-share]")];
  for (const button of buttons) {
    button.addEventListener("click", () => {
      share = Number(button.dataset.share);
      for (const other of buttons) other.classList.toggle("on", other === button);
      redraw();
    });
  }
  new ResizeObserver(redraw).observe(canvas);
}
