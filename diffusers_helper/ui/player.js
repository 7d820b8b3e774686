// The screen of the stage: which picture it shows, and the player of a video, frame by frame.
// The server renders what there is; this remembers what is looked at, whatever is rendered anew.
(() => {
  const chosen = {};
  let drawing = false;

  const stage = () => document.querySelector('.stage');
  const film = () => stage()?.querySelector('.screen [data-shot=video] video');
  const twin = () => stage()?.querySelector('.screen [data-shot=twin] video');

  // What was chosen for this job as long as it is offered, else what the server thinks best.
  function look() {
    const bar = stage()?.querySelector('.views');
    const screen = stage()?.querySelector('.screen');
    if (!screen) return;
    const offered = bar ? [...bar.querySelectorAll('[data-view]')] : [];
    const wish = chosen.job === bar?.dataset.job ? chosen.view : null;
    const view = offered.find(one => one.dataset.view === wish) ? wish : bar?.dataset.default || 'start';
    for (const one of offered) one.setAttribute('aria-pressed', one.dataset.view === view);
    screen.dataset.view = stage().dataset.view = view;
    beat();
    wire();
  }

  // A new preview goes on where the last one was in its loop.
  function beat() {
    for (const one of stage().getAnimations({subtree: true})) if (one.animationName === 'film') one.startTime = 0;
  }

  function wire() {
    const video = film();
    const player = stage().querySelector('.player');
    if (!player) return;
    const slider = player.querySelector('[data-cut]');
    slider.oninput = () => cut(slider.value);
    cut(slider.value); // The screen stays where the slider is rendered anew, as for another job.
    if (!video) return;
    const loops = framepack.remembered('loop') !== 'off';
    video.loop = loops;
    player.querySelector('[data-player=loop]').setAttribute('aria-pressed', loops);
    player.querySelector('[data-place]').oninput = event => go(event.target.value - 1);
    if (!filling()) player.querySelector('[data-player=full]')?.remove();
    if (!drawing) draw();
  }

  // How the whole display is filled: an iPhone lets a video do that and nothing else; null where nothing can.
  function filling() {
    const screen = stage().querySelector('.screen'), video = film();
    if (screen.requestFullscreen) return () => screen.requestFullscreen();
    return video.webkitEnterFullscreen ? () => video.webkitEnterFullscreen() : null;
  }

  function cut(percent) {
    stage().querySelector('.screen').style.setProperty('--cut', percent + '%');
  }

  function fps() {
    return Number(film().dataset.fps) || 30;
  }

  function frames() {
    return Number(stage().querySelector('.player').dataset.frames);
  }

  function now() {
    return Math.min(Math.floor(film().currentTime * fps() + .01), frames() - 1);
  }

  // The middle of a frame's time, so that no rounding shows its neighbour.
  function go(frame) {
    film().pause();
    film().currentTime = (Math.min(Math.max(frame, 0), frames() - 1) + .5) / fps();
  }

  // Slider, count and button follow the video for as long as there is one.
  function draw() {
    const video = film();
    const player = stage()?.querySelector('.player');
    drawing = Boolean(video && player);
    if (!drawing) return;
    const frame = String(now() + 1);
    const slider = player.querySelector('[data-place]');
    if (slider.value !== frame) slider.value = frame;
    const count = player.querySelector('output');
    if (count.textContent !== frame) count.textContent = frame;
    player.classList.toggle('playing', !video.paused);
    if (twin()) follow(video, twin());
    requestAnimationFrame(draw);
  }

  // The twin's video does what the job's does. It is put right only where it is more than a moment away, around the end
  // of the loop too, since each jump lets a playing video stop for a moment.
  function follow(video, other) {
    const plays = !video.paused && stage().dataset.view === 'compare';
    if (plays === other.paused) plays ? other.play().catch(() => {}) : other.pause();
    other.loop = video.loop;
    const apart = Math.abs(other.currentTime - video.currentTime);
    const around = plays && video.loop ? Math.min(apart, Math.abs(video.duration - apart)) : apart;
    if (!other.seeking && around > (plays ? 2 / fps() : .001)) other.currentTime = video.currentTime;
  }

  const acts = {
    play: () => (film().paused ? film().play() : film().pause()),
    back: () => go(now() - 1),
    forward: () => go(now() + 1),
    loop: () => { framepack.remember('loop', film().loop ? 'off' : 'on'); wire(); },
    full: () => (document.fullscreenElement ? document.exitFullscreen() : filling()?.()),
  };
  const KEYS = {',': 'back', '.': 'forward', ' ': 'play'};

  function pressed(event) {
    const view = event.target.closest?.('[data-view]');
    if (view?.closest('.views')) {
      Object.assign(chosen, {job: view.closest('.views').dataset.job, view: view.dataset.view});
      look();
    }
    const act = event.target.closest?.('[data-player]')?.dataset.player;
    if (act && film()) acts[act]();
    if (event.target.closest?.('[data-shot=video], [data-shot=twin]') && film()) acts.play();
  }

  function typed(event) {
    const busy = event.target.closest?.('input:not([type=range]), textarea, select, [contenteditable]');
    const act = KEYS[event.key];
    if (!act || busy || event.ctrlKey || event.metaKey || event.altKey || !film()?.checkVisibility()) return;
    if (event.key === ' ' && event.target.closest?.('button, a, summary, [role=tab]')) return;
    event.preventDefault();
    acts[act]();
  }

  // A poster in the history plays while it is pointed at, or moves where the result is a picture that does.
  function hover(event) {
    const poster = event.target.closest?.('[data-film], [data-moving]');
    if (!poster || poster.querySelector('.moving')) return;
    const {film: played, moving: shown} = poster.dataset;
    const moving = document.createElement(played ? 'video' : 'img');
    moving.className = 'moving';
    Object.assign(moving, played ? {src: played, muted: true, loop: true, playsInline: true, autoplay: true} : {src: shown});
    poster.append(moving);
    poster.addEventListener('pointerleave', () => moving.remove(), {once: true});
  }

  document.addEventListener('click', pressed);
  document.addEventListener('keydown', typed);
  document.addEventListener('pointerover', hover);
  document.addEventListener('framepack-shown', look);
})();
