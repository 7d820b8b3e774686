// The time ruler: where the picture that is made stands, and what it sees. Target and pictures are dragged, or moved by the
// keyboard; post, 2x and 4x lie behind the latent window, and are switched on and off.
(() => {
  const SHORTEST = 30;
  const FARTHEST = {target: 64, control: 999};
  const ROOM = 0.075; // Of the ruler's length, what a pin needs beside another.
  const STEPS = {ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -5, PageUp: 5, Home: -Infinity, End: Infinity};
  const {make} = framepack;
  let held; // The pin that is dragged, and the ruler's length meanwhile.

  function bands({window}) {
    return {post: [window + 1, 1], two_x: [window + 2, 2], four_x: [window + 4, 16]};
  }

  function length(state) {
    const ends = Object.entries(bands(state)).map(([name, [first, count]]) => state[name] ? first + count - 1 : 0);
    return Math.max(SHORTEST, ...[state.target, ...state.places, ...ends].map(index => index + 2));
  }

  function draw() {
    const ruler = document.querySelector('[data-ruler]');
    const {words} = framepack.said();
    if (!ruler || !words.ruler) return;
    const state = framepack.placed();
    const drawn = JSON.stringify([state.count, words]);
    if (ruler.drawn !== drawn) {
      ruler.drawn = drawn;
      ruler.setAttribute('aria-label', words.ruler);
      ruler.replaceChildren(...parts(state, words));
    }
    const whole = held?.whole ?? length(state);
    ticks(ruler.querySelector('.ruler-axis'), whole);
    for (const pin of ruler.querySelectorAll('[data-pin]')) stand(pin, indexOf(pin, state), whole);
    stack([...ruler.querySelectorAll('[data-pin]:not([data-pin=target])')], state, whole);
    for (const band of ruler.querySelectorAll('[data-band]')) lie(band, state, whole);
  }

  function parts(state, words) {
    const controls = state.places.map((_, at) => pin(String(at), at + 1, words.control.replace('{number}', at + 1)));
    const switches = ['post', 'two_x', 'four_x'].map(name => (
      make('button', {type: 'button', className: `band ${name}`, data: {band: name}}, make('span', {textContent: words[name]}))
    ));
    return [
      make('div', {className: 'lane'}, pin('target', words.target, words.target)),
      make('div', {className: 'ruler-axis', aria: {hidden: true}}),
      make('div', {className: 'lane controls'}, ...controls),
      make('div', {className: 'lane bands'}, ...switches),
    ];
  }

  function pin(name, text, label) {
    const made = make('button', {type: 'button', className: 'pin', data: {pin: name}, aria: {label, valuemin: 0}}, String(text));
    made.setAttribute('role', 'slider');
    return made;
  }

  function indexOf(pin, state) {
    return pin.dataset.pin === 'target' ? state.target : state.places[pin.dataset.pin];
  }

  function stand(pin, index, whole) {
    pin.style.left = `${100 * index / whole}%`;
    pin.style.setProperty('--at', index / whole);
    pin.dataset.at = index;
    pin.setAttribute('aria-valuenow', index);
    pin.setAttribute('aria-valuemax', farthest(pin));
  }

  // Pins that would cover each other stand in rows.
  function stack(pins, state, whole) {
    const rows = [];
    for (const pin of pins) {
      const at = indexOf(pin, state) / whole;
      let row = rows.findIndex(taken => taken.every(other => Math.abs(other - at) >= ROOM));
      if (row < 0) row = rows.push([]) - 1;
      rows[row].push(at);
      pin.style.top = `${row * 1.75}rem`;
    }
    pins[0]?.parentElement.style.setProperty('--rows', rows.length);
  }

  function lie(band, state, whole) {
    const [first, count] = bands(state)[band.dataset.band];
    band.style.left = `${100 * (first - 0.5) / whole}%`;
    band.style.width = `${100 * count / whole}%`;
    band.hidden = first + count > whole + 1;
    band.setAttribute('aria-pressed', Boolean(state[band.dataset.band]));
  }

  function ticks(axis, whole) {
    if (axis.whole === whole) return;
    axis.whole = whole;
    const step = [5, 10, 20, 50, 100, 200].find(each => whole / each <= 7) ?? 500;
    const marks = Array.from({length: Math.floor(whole / step) + 1}, (_, number) => number * step);
    axis.replaceChildren(...marks.map(index => {
      const mark = make('span', {textContent: index});
      mark.style.left = `${100 * index / whole}%`;
      return mark;
    }));
  }

  function farthest(pin) {
    return pin.dataset.pin === 'target' ? FARTHEST.target : FARTHEST.control;
  }

  function move(pin, index, settled = true) {
    const to = Math.min(Math.max(index, 0), farthest(pin));
    const {places} = framepack.placed();
    framepack.place(pin.dataset.pin === 'target' ? {target: to} : {places: places.with(pin.dataset.pin, to)}, settled);
  }

  function taken(event) {
    const pin = event.target.closest?.('[data-pin]');
    if (!pin || event.button) return;
    held = {pin, whole: length(framepack.placed()), moved: false};
    pin.setPointerCapture(event.pointerId);
    pin.focus();
    event.preventDefault();
  }

  function dragged(event) {
    if (!held) return;
    const {left, width} = held.pin.parentElement.getBoundingClientRect();
    const index = Math.min(Math.round((event.clientX - left) / width * held.whole), held.whole);
    if (index === Number(held.pin.dataset.at)) return;
    held.moved = true;
    move(held.pin, index, false);
  }

  function released() {
    const moved = held?.moved;
    held = undefined;
    if (moved) framepack.place({});
  }

  function byKey(event) {
    const pin = event.target.closest?.('[data-pin]');
    const step = STEPS[event.key];
    if (!pin || !step || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const state = framepack.placed();
    move(pin, step === Infinity ? length(state) : indexOf(pin, state) + step);
  }

  function pressed(event) {
    const name = event.target.closest?.('[data-band]')?.dataset.band;
    if (name) framepack.place({[name]: !framepack.placed()[name]});
  }

  document.addEventListener('framepack-placed', draw);
  document.addEventListener('pointerdown', taken);
  document.addEventListener('pointermove', dragged);
  document.addEventListener('pointerup', released);
  document.addEventListener('pointercancel', released);
  document.addEventListener('keydown', byKey);
  document.addEventListener('click', pressed);
})();
