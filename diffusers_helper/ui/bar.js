// The clock of the running job goes on between two answers: bar, percent, time left, and the window's title.
// The bar never goes back, and what takes longer than was told is not called 0 s.
(() => {
  let watched = {};
  let told = null;
  let words = {};

  function tick() {
    if (!told) return;
    const same = told.job === watched.job && told.state === watched.state;
    if (watched.state === 'running' && !same) ended();
    watched = {job: told.job, state: told.state, reached: same ? watched.reached : 0};
    if (told.state === 'running') count(told);
  }

  function count({told_at: from, ready_at: until, fraction, state_word: state}) {
    const bar = document.querySelector('[data-clock="bar"]');
    const left = until === null ? null : Math.round(until - framepack.now());
    if (left === null) {
      bar?.removeAttribute('aria-valuenow');
      write('percent', '');
      document.title = `${state} · FramePack`;
      return;
    }
    const share = Math.min(Math.max(1 - left / Math.max(until - from, 1), 0), 1);
    watched.reached = Math.max(watched.reached, Math.min(fraction + (1 - fraction) * share, 0.99));
    const percent = fill('percent', {percent: Math.floor(100 * watched.reached)});
    write('percent', percent);
    write('left', left < 1 ? fill('late') : fill('left', {time: duration(left)}));
    bar?.setAttribute('aria-valuenow', Math.floor(100 * watched.reached));
    bar?.style.setProperty('--done', `${100 * watched.reached}%`);
    document.title = `${percent} · ${shortly(left)} · FramePack`;
  }

  // The title says how the job ended until the next one runs; what was learnt from it may change the plan.
  function ended() {
    document.title = told.job === watched.job ? `${told.state_word} · FramePack` : 'FramePack';
    document.dispatchEvent(new Event('framepack-ended'));
  }

  function shortly(left) {
    if (left < 1) return fill('late');
    return left < 60 ? fill('title_seconds', {seconds: left})
      : fill('title_minutes', {minutes: Math.round(left / 60)});
  }

  function write(part, text) {
    for (const place of document.querySelectorAll(`[data-clock="${part}"]`)) {
      if (place.textContent !== text) place.textContent = text;
    }
  }

  function fill(name, values = {}) {
    return words[`job.${name}`].replace(/{(\w+)}/g, (_, name) => values[name]);
  }

  function duration(seconds) {
    const minutes = Math.floor(seconds / 60);
    if (minutes < 1) return fill('seconds', {seconds});
    if (minutes < 60) return fill('minutes', {minutes, seconds: seconds % 60});
    return fill('hours', {hours: Math.floor(minutes / 60), minutes: minutes % 60});
  }

  document.addEventListener('framepack-news', event => { ({clock: told, words} = event.detail); });
  document.addEventListener('framepack-shown', tick);
  setInterval(tick, 1000);
})();
