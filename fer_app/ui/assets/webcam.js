// The webcam: takes the newest picture, sends it, draws the answer, and only then takes the next one.
"use strict";

(() => {
  const WINDOW_S = 30;
  const HIDDEN_MS = 30_000;
  const QUALITY = 0.8;
  const find = (id) => document.getElementById(id);

  let run = null; // what belongs to one start of the camera

  function tell(sentence) {
    const place = find("fer-camera-problem");
    if (!place) return;
    place.replaceChildren();
    if (!sentence) return;
    const line = document.createElement("p");
    line.className = "fer-problem";
    line.setAttribute("role", "alert");
    line.textContent = sentence[0].toUpperCase() + sentence.slice(1);
    place.append(line);
  }

  function buttons(running) {
    for (const [name, disabled] of [["camera-start", running], ["camera-stop", !running]]) {
      const button = document.querySelector(`[data-fer="${name}"]`);
      if (button) button.disabled = disabled;
    }
    const hint = find("fer-stage-hint");
    if (hint) hint.hidden = running;
  }

  const REASONS = {
    NotAllowedError: "The camera was refused. Allow it in the browser's address bar, then start again.",
    NotFoundError: "No camera was found.",
    NotReadableError: "The camera is used by another program.",
  };

  async function openCamera() {
    if (!navigator.mediaDevices) {
      throw new Error("Browsers give a camera only to pages of this machine (localhost) or with https.");
    }
    try {
      const wanted = { width: { ideal: 640 }, height: { ideal: 480 }, frameRate: { ideal: 30 } };
      return await navigator.mediaDevices.getUserMedia({ video: wanted, audio: false });
    } catch (error) {
      throw new Error(REASONS[error.name] ?? `The camera cannot be used (${error.name}).`);
    }
  }

  function openSocket() {
    const address = new URL("./fer/webcam", document.baseURI);
    address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(address);
    socket.binaryType = "arraybuffer";
    return socket;
  }

  function settings() {
    return JSON.stringify({
      model: document.querySelector("#fer-model input")?.value ?? "",
      detect_every: Number(find("fer-detect-every").value) || null,
      smooth_s: Number(find("fer-smooth").value),
    });
  }

  async function start() {
    if (run) return;
    const mine = { stream: null, socket: null, replies: [], latencies: [], history: [], sent: "", labels: [], colours: [] };
    run = mine;
    tell("");
    buttons(true);
    find("fer-status").textContent = "Starting ...";
    try {
      mine.stream = await openCamera();
      if (run !== mine) return mine.stream.getTracks().forEach((track) => track.stop());
      const video = find("fer-camera");
      video.srcObject = mine.stream;
      await video.play();
      mine.socket = openSocket();
      mine.socket.onopen = () => next(mine);
      mine.socket.onmessage = (event) => received(mine, JSON.parse(event.data));
      mine.socket.onclose = () => run === mine && stop("The connection to the program ended; start again.");
    } catch (error) {
      stop(error.message);
    }
  }

  function stop(sentence = "") {
    const old = run;
    run = null;
    old?.stream?.getTracks().forEach((track) => track.stop());
    old?.socket?.close();
    const video = find("fer-camera");
    if (video) video.srcObject = null;
    const overlay = find("fer-overlay");
    overlay?.getContext("2d").clearRect(0, 0, overlay.width, overlay.height);
    buttons(false);
    if (sentence) tell(sentence);
    if (find("fer-status")) find("fer-status").textContent = "Stopped.";
  }

  // Resolves when the camera has a picture that was not there before.
  function newPicture(video) {
    const later = new Promise((resolve) => setTimeout(resolve, 200));
    if (!video.requestVideoFrameCallback) return later;
    return Promise.race([later, new Promise((resolve) => video.requestVideoFrameCallback(resolve))]);
  }

  async function next(mine) {
    const video = find("fer-camera");
    await newPicture(video);
    while (run === mine && (document.hidden || !video.videoWidth)) await newPicture(video);
    if (run !== mine) return;
    const wanted = settings();
    if (wanted !== mine.sent) {
      mine.sent = wanted;
      mine.socket.send(wanted); // the answer to it asks for the picture
      return;
    }
    mine.taken = performance.now();
    mine.canvas ??= document.createElement("canvas");
    mine.canvas.width = video.videoWidth;
    mine.canvas.height = video.videoHeight;
    mine.canvas.getContext("2d", { willReadFrequently: true }).drawImage(video, 0, 0);
    const jpeg = await new Promise((resolve) => mine.canvas.toBlob(resolve, "image/jpeg", QUALITY));
    if (run === mine && mine.socket.readyState === WebSocket.OPEN) mine.socket.send(jpeg);
  }

  function received(mine, answer) {
    if (run !== mine) return;
    if (answer.problem) return stop(answer.problem);
    if (answer.labels) {
      mine.labels = answer.labels;
      mine.colours = answer.colours;
      mine.history = [];
      makeBars(mine);
    } else {
      draw(mine, answer);
      const now = performance.now();
      mine.replies.push(now);
      mine.latencies.push(now - mine.taken);
      report(mine, answer, now);
    }
    next(mine);
  }

  function report(mine, answer, now) {
    while (mine.replies[0] < now - 2000) mine.replies.shift();
    if (mine.latencies.length > 200) mine.latencies.shift();
    const sorted = [...mine.latencies].sort((a, b) => a - b);
    const p95 = sorted[Math.min(sorted.length - 1, Math.floor(0.95 * sorted.length))];
    const spanS = Math.max((now - mine.replies[0]) / 1000, 0.001);
    const fps = mine.replies.length > 1 ? (mine.replies.length - 1) / spanS : 0;
    const status = find("fer-status");
    Object.assign(status.dataset, { fps: fps.toFixed(2), p95: p95.toFixed(1), pictures: Number(status.dataset.pictures ?? 0) + 1 });
    const latency = mine.latencies[mine.latencies.length - 1];
    status.dataset.latency = latency.toFixed(1);
    status.textContent = `${fps.toFixed(1)} pictures a second, ${latency.toFixed(0)} ms behind ` +
      `(19 of 20: at most ${p95.toFixed(0)} ms), ${answer.width} x ${answer.height} px`;
  }

  function draw(mine, answer) {
    const overlay = find("fer-overlay");
    const mirrored = find("fer-mirror").checked;
    find("fer-camera").classList.toggle("fer-mirrored", mirrored);
    overlay.width = answer.width;
    overlay.height = answer.height;
    overlay.parentElement.style.aspectRatio = `${answer.width}/${answer.height}`;
    const pen = overlay.getContext("2d");
    const size = Math.max(14, Math.round(answer.height / 26));
    pen.font = `600 ${size}px system-ui, sans-serif`;
    for (const face of answer.faces) drawFace(pen, face, mine, mirrored ? answer.width : 0, size);
    const largest = answer.faces[0];
    const now = performance.now() / 1000;
    mine.history.push({ time: now, track: largest?.track, probs: largest?.probs });
    while (mine.history[0].time < now - WINDOW_S) mine.history.shift();
    showLargest(mine, largest);
    drawHistory(mine, now);
  }

  // The two most probable labels, as in drawn pictures.
  function candidates(mine, face) {
    const order = mine.labels.map((_, index) => index).sort((a, b) => face.probs[b] - face.probs[a]);
    return order.slice(0, 2).map((index) => `${mine.labels[index]}?`).join(" / ");
  }

  function drawFace(pen, face, mine, mirrorWidth, size) {
    const [x0, y0, x1, y1] = face.box;
    const left = mirrorWidth ? mirrorWidth - x1 : x0;
    const top = mine.labels.indexOf(face.label);
    const colour = mine.colours[top];
    pen.lineWidth = 5;
    pen.strokeStyle = "rgba(0, 0, 0, 0.6)";
    pen.strokeRect(left, y0, x1 - x0, y1 - y0);
    pen.lineWidth = 3;
    pen.strokeStyle = colour;
    pen.strokeRect(left, y0, x1 - x0, y1 - y0);
    const text = `#${face.track} ${face.uncertain ? candidates(mine, face) : `${face.label} ${Math.round(100 * face.probs[top])}%`}`;
    const width = pen.measureText(text).width + 12;
    const x = Math.max(0, Math.min(left, pen.canvas.width - width)); // two labels are wide
    const y = Math.max(0, y0 - size - 10);
    pen.fillStyle = "rgba(0, 0, 0, 0.75)";
    pen.fillRect(x, y, width, size + 8);
    pen.fillStyle = "#fff";
    pen.textBaseline = "top";
    pen.fillText(text, x + 6, y + 5);
  }

  function makeBars(mine) {
    const body = find("fer-live-bars").tBodies[0];
    body.replaceChildren(...mine.labels.map((label, index) => {
      const row = document.createElement("tr");
      const name = document.createElement("th");
      name.scope = "row";
      name.textContent = label;
      const track = document.createElement("td");
      track.className = "fer-track";
      track.setAttribute("aria-hidden", "true");
      const bar = document.createElement("span");
      bar.style.background = mine.colours[index];
      bar.style.width = "0";
      track.append(bar);
      const value = document.createElement("td");
      value.textContent = "-";
      row.append(name, track, value);
      return row;
    }));
  }

  function showLargest(mine, face) {
    const name = !face ? "No face" : face.uncertain ? candidates(mine, face) : face.label;
    const label = find("fer-live-label");
    if (label.textContent !== name) label.textContent = name;
    [...find("fer-live-bars").tBodies[0].rows].forEach((row, index) => {
      const prob = face?.probs[index];
      row.classList.toggle("fer-most", face?.label === mine.labels[index]);
      row.querySelector("span").style.width = face ? `${100 * prob}%` : "0";
      row.lastElementChild.textContent = face ? `${(100 * prob).toFixed(0)} %` : "-";
    });
  }

  // One line a label; a gap where there was no face, or another one.
  function drawHistory(mine, now) {
    const canvas = find("fer-rolling");
    const pen = canvas.getContext("2d");
    const { width, height } = canvas;
    const style = getComputedStyle(canvas);
    pen.clearRect(0, 0, width, height);
    pen.strokeStyle = pen.fillStyle = style.color;
    pen.font = "12px system-ui, sans-serif";
    pen.globalAlpha = 0.25;
    pen.lineWidth = 1;
    for (const share of [0, 0.5, 1]) {
      const y = 4 + (1 - share) * (height - 24);
      pen.beginPath();
      pen.moveTo(0, y);
      pen.lineTo(width, y);
      pen.stroke();
    }
    pen.globalAlpha = 1;
    for (let ago = 0; ago <= WINDOW_S; ago += 10) {
      const text = ago ? `${ago} s ago` : "now";
      const x = width * (1 - ago / WINDOW_S);
      pen.fillText(text, Math.min(Math.max(x - pen.measureText(text).width / 2, 0), width - pen.measureText(text).width), height - 5);
    }
    pen.lineWidth = 2.5;
    mine.labels.forEach((_, index) => {
      pen.strokeStyle = mine.colours[index];
      pen.beginPath();
      let before = null;
      for (const point of mine.history) {
        if (point.probs) {
          const x = width * (1 - (now - point.time) / WINDOW_S);
          const y = 4 + (1 - point.probs[index]) * (height - 24);
          if (before?.probs && before.track === point.track) pen.lineTo(x, y);
          else pen.moveTo(x, y);
        }
        before = point;
      }
      pen.stroke();
    });
  }

  document.addEventListener("click", (event) => {
    const what = event.target.closest?.("[data-fer]")?.dataset.fer;
    if (what === "camera-start") start();
    else if (what === "camera-stop") stop();
  });
  document.addEventListener("input", (event) => {
    if (event.target.id === "fer-smooth") find("fer-smooth-value").textContent = `${Number(event.target.value).toFixed(1)} s`;
  });
  let hidden = 0;
  document.addEventListener("visibilitychange", () => {
    clearTimeout(hidden);
    if (document.hidden && run) hidden = setTimeout(() => stop("The camera was switched off while the page was hidden."), HIDDEN_MS);
  });
  window.addEventListener("pagehide", () => run && stop());
})();
