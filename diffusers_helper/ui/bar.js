// The clock of the running job goes on between two answers: bar, percent, time left, and the window's title.
// The bar never goes back, and what takes longer than was told is not called 0 s.
(() => {
  let watched = {};

  function tick() {
    const clock = framepack.told('clock');
    if (!clock) return;
    const {words, ...told} = JSON.parse(clock);
    const same = told.job === watched.job && told.state === watched.state;
    if (watched.state === 'running' && !same) ended(told);
    watched = {job: told.job, state: told.state, reached: same ? watched.reached : 0};
    if (told.state === 'running') count(told, words);
  }

  function count({told_at: from, ready_at: until, fraction, state_word: state}, words) {
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
    const percent = fill(words.percent, {percent: Math.floor(100 * watched.reached)});
    write('percent', percent);
    write('left', left < 1 ? words.late : fill(words.left, {time: duration(left, words)}));
    bar?.setAttribute('aria-valuenow', Math.floor(100 * watched.reached));
    bar?.style.setProperty('--done', `${100 * watched.reached}%`);
    document.title = `${percent} · ${shortly(left, words)} · FramePack`;
  }

  // The title says how the job ended until the next one runs; what was learnt from it may change the plan.
  function ended(told) {
    document.title = told.job === watched.job ? `${told.state_word} · FramePack` : 'FramePack';
    document.dispatchEvent(new Event('framepack-ended'));
  }

  function shortly(left, words) {
    if (left < 1) return words.late;
    return left < 60 ? fill(words.title_seconds, {seconds: left})
      : fill(words.title_minutes, {minutes: Math.round(left / 60)});
  }

  function write(part, text) {
    for (const place of document.querySelectorAll(`[data-clock="${part}"]`)) {
      if (place.textContent !== text) place.textContent = text;
    }
  }

  function fill(text, values) {
    return text.replace(/{(\w+)}/g, (_, name) => values[name]);
  }

  function duration(seconds, words) {
    const minutes = Math.floor(seconds / 60);
    if (minutes < 1) return fill(words.seconds, {seconds});
    if (minutes < 60) return fill(words.minutes, {minutes, seconds: seconds % 60});
    return fill(words.hours, {hours: Math.floor(minutes / 60), minutes: minutes % 60});
  }

  document.addEventListener('framepack-shown', tick);
  setInterval(tick, 1000);
})();
