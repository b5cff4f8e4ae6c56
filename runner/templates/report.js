"use strict";
// Players, and lyrics that follow them. Without this script the browser's own players are there.
const SKIP_S = 5;
const players = [...document.querySelectorAll(".player")].map(setUp);
let playsAll = false;

document.documentElement.classList.add("js");
const all = document.querySelector(".all");
if (all) {
  all.hidden = false;
  all.addEventListener("click", () => {
    playsAll = !players.some((player) => !player.sound.paused);
    if (playsAll) start(players[0]);
    else players.forEach((player) => player.sound.pause());
  });
}

function setUp(box) {
  const player = {
    box,
    sound: box.querySelector("audio"),
    play: box.querySelector(".play"),
    seek: box.querySelector(".seek"),
    lines: [...box.closest(".piece").querySelectorAll(".lyrics button")],
  };
  const { sound, play, seek, lines } = player;
  sound.controls = false;
  play.addEventListener("click", () => toggle(player));
  seek.addEventListener("input", () => moveTo(player, Number(seek.value)));
  seek.addEventListener("keydown", (event) => onKey(player, event));
  sound.addEventListener("play", () => {
    players.forEach((other) => other !== player && other.sound.pause());
    play.setAttribute("aria-pressed", "true");
    if (all) all.textContent = "Pause";
    follow(player);
  });
  sound.addEventListener("pause", () => {
    play.setAttribute("aria-pressed", "false");
    if (all && players.every((each) => each.sound.paused)) all.textContent = "Play all";
    draw(player);
  });
  sound.addEventListener("loadedmetadata", () => {
    if (player.target !== undefined) sound.currentTime = player.target;
    player.target = undefined;
  });
  sound.addEventListener("timeupdate", () => draw(player));
  sound.addEventListener("seeked", () => draw(player));
  sound.addEventListener("ended", () => {
    const next = players[players.indexOf(player) + 1];
    if (playsAll && next) start(next);
  });
  sound.addEventListener("error", () => {
    box.querySelector(".trouble").textContent = "cannot be played here: moved, or of another format";
  });
  for (const line of lines) {
    line.addEventListener("click", () => {
      if (leader(player) !== player) return; // of several takes, the one that was heard last
      moveTo(player, Number(line.dataset.start));
      start(player);
    });
  }
  return player;
}

// Which of the takes that share these lyrics a line speaks to.
function leader(player) {
  const mine = players.filter((other) => other.box.closest(".piece") === player.box.closest(".piece"));
  return mine.find((other) => !other.sound.paused) || mine.find((other) => other.heard) || mine[0];
}

// What keeps a sound from being played is told by its error event.
function start(player) {
  player.sound.play().catch(() => {});
}

function toggle(player) {
  playsAll = false;
  if (player.sound.paused) start(player);
  else player.sound.pause();
}

function length(player) {
  return Number.isFinite(player.sound.duration) ? player.sound.duration : Number(player.box.dataset.seconds);
}

function moveTo(player, seconds) {
  const target = Math.min(Math.max(seconds, 0), length(player));
  const { sound } = player;
  if (sound.readyState > 0) sound.currentTime = target;
  else {
    player.target = target; // for when its length is known
    if (sound.networkState !== HTMLMediaElement.NETWORK_LOADING) sound.load();
  }
  draw(player, target);
}

function onKey(player, event) {
  const now = player.sound.currentTime;
  const targets = {
    ArrowLeft: now - SKIP_S, ArrowDown: now - SKIP_S, ArrowRight: now + SKIP_S, ArrowUp: now + SKIP_S,
    Home: 0, End: length(player),
  };
  if (event.key === " ") toggle(player);
  else if (event.key in targets) moveTo(player, targets[event.key]);
  else return;
  event.preventDefault();
}

function follow(player) {
  players.forEach((other) => { other.heard = other === player; });
  const frame = () => {
    draw(player);
    if (!player.sound.paused) requestAnimationFrame(frame);
  };
  frame();
}

function clock(seconds) {
  return `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
}

function draw(player, now = player.sound.currentTime) {
  const { box, seek } = player;
  const whole = length(player) || 1;
  const share = Math.min(now / whole, 1);
  box.classList.toggle("begun", now > 0);
  box.querySelector(".wave").style.setProperty("--played", share);
  box.querySelector(".head").style.left = `${100 * share}%`;
  box.querySelector(".now").textContent = clock(now);
  seek.max = whole;
  seek.value = now;
  seek.setAttribute("aria-valuetext", `${clock(now)} of ${clock(whole)}`);
  if (leader(player) === player) mark(player.lines, now);
}

function mark(lines, now) {
  let current = null;
  for (const line of lines) if (Number(line.dataset.start) <= now + 0.05) current = line;
  for (const line of lines) {
    if (line === current) {
      if (line.getAttribute("aria-current")) continue;
      line.setAttribute("aria-current", "true");
      const list = line.parentElement;
      if (line.offsetTop < list.scrollTop + list.offsetTop || line.offsetTop + line.offsetHeight > list.scrollTop + list.offsetTop + list.clientHeight)
        list.scrollTop = line.offsetTop - list.offsetTop - list.clientHeight / 3;
    } else line.removeAttribute("aria-current");
  }
}
