// A mask is painted over its picture: black is what is left out, and is kept as how opaque the paint is. The answer is a
// PNG in shades of grey, as large as the picture, or null when nothing is to change.
(() => {
  const LONGEST_SIDE = 2048;
  const MOST_UNDONE = 12;
  const THUMBNAIL = 256;
  const {make} = framepack;

  function paintMask(picture, mask, number) {
    return new Promise(done => {
      const {words} = framepack.said();
      const dialog = make('dialog', {className: 'mask-dialog'});
      dialog.setAttribute('aria-label', words.mask_of.replace('{number}', number + 1));
      dialog.addEventListener('close', () => { dialog.remove(); done(dialog.painted ?? null); });
      document.querySelector('.gradio-container').append(dialog);
      open(dialog, picture, mask, words);
    });
  }

  async function open(dialog, picture, mask, words) {
    const image = await loaded(picture);
    if (!image) {
      framepack.note(words.no_drawing);
      return dialog.dispatchEvent(new Event('close'));
    }
    const scale = Math.min(1, LONGEST_SIDE / Math.max(image.naturalWidth, image.naturalHeight));
    const [width, height] = [image.naturalWidth, image.naturalHeight].map(side => Math.max(Math.round(side * scale), 1));
    const paint = new Paint(width, height, mask && await loaded(mask));
    lay(dialog, image, paint, words);
    dialog.showModal();
    paint.show();
  }

  async function loaded(address) {
    const image = new Image();
    image.src = address;
    return image.decode().then(() => image, () => null);
  }

  // Covers a canvas with black, as opaque as ``opacity`` makes of how light a picture is there.
  function asOpacity(context, picture, opacity) {
    const {width, height} = context.canvas;
    context.drawImage(picture, 0, 0, width, height);
    const pixels = context.getImageData(0, 0, width, height);
    const {data} = pixels;
    for (let at = 0; at < data.length; at += 4) {
      const light = (data[at] * 299 + data[at + 1] * 587 + data[at + 2] * 114) / 1000 * data[at + 3] / 255;
      data.set([0, 0, 0, opacity(light)], at);
    }
    context.putImageData(pixels, 0, 0);
  }

  // What a mask leaves of a picture, small; null where one of them cannot be shown.
  async function cutOut(picture, mask) {
    const [image, shown] = await Promise.all([loaded(picture), loaded(mask)]);
    if (!image || !shown) return null;
    const scale = THUMBNAIL / Math.max(image.naturalWidth, image.naturalHeight);
    const [width, height] = [image.naturalWidth, image.naturalHeight].map(side => Math.max(Math.round(side * scale), 1));
    const canvas = make('canvas', {width, height, className: 'slot-used'});
    const context = canvas.getContext('2d', {willReadFrequently: true});
    asOpacity(context, shown, light => light);
    context.globalCompositeOperation = 'source-in';
    context.drawImage(image, 0, 0, width, height);
    return canvas;
  }

  // Black paint on nothing; what is seen of it are stripes.
  class Paint {
    constructor(width, height, mask) {
      this.ink = make('canvas', {width, height});
      this.view = make('canvas', {width, height, tabIndex: 0, className: 'mask-view'});
      this.context = this.ink.getContext('2d', {willReadFrequently: true});
      this.undone = [];
      this.brush = {size: Math.round(Math.max(width, height) / 12), black: true, soft: false};
      this.at = [width / 2, height / 2];
      if (mask) this.begin(mask);
    }

    begin(mask) {
      asOpacity(this.context, mask, light => 255 - light);
    }

    keep() {
      const copy = make('canvas', {width: this.ink.width, height: this.ink.height});
      copy.getContext('2d').drawImage(this.ink, 0, 0);
      this.undone = [...this.undone.slice(1 - MOST_UNDONE), copy];
    }

    undo() {
      const last = this.undone.pop();
      if (last) this.cover('copy', last);
    }

    cover(how, source) {
      const {width, height} = this.ink;
      this.context.globalCompositeOperation = how;
      if (source) this.context.drawImage(source, 0, 0);
      else this.context.fillRect(0, 0, width, height);
      this.context.globalCompositeOperation = 'source-over';
      this.show();
    }

    all(what) {
      this.keep();
      this.cover({fill: 'source-over', clear: 'destination-out', invert: 'source-out'}[what]);
    }

    // Stamps along the way from where the brush was to where it is.
    stroke(from, to) {
      const far = Math.hypot(to[0] - from[0], to[1] - from[1]);
      const steps = Math.max(Math.ceil(far / (this.brush.size / 8)), 1);
      for (let step = 1; step <= steps; step++) {
        this.stamp(from[0] + (to[0] - from[0]) * step / steps, from[1] + (to[1] - from[1]) * step / steps);
      }
      this.at = to;
      this.show();
    }

    stamp(x, y) {
      const radius = Math.max(this.brush.size / 2, 0.5);
      const edge = this.context.createRadialGradient(x, y, 0, x, y, radius);
      edge.addColorStop(0, '#000');
      edge.addColorStop(this.brush.soft ? 0.3 : 0.97, this.brush.soft ? 'rgb(0 0 0 / 40%)' : '#000');
      edge.addColorStop(1, 'transparent');
      this.context.globalCompositeOperation = this.brush.black ? 'source-over' : 'destination-out';
      this.context.fillStyle = edge;
      this.context.fillRect(x - radius, y - radius, 2 * radius, 2 * radius);
      this.context.globalCompositeOperation = 'source-over';
      this.context.fillStyle = '#000';
    }

    show() {
      cancelAnimationFrame(this.frame);
      this.frame = requestAnimationFrame(() => {
        const context = this.view.getContext('2d');
        context.globalCompositeOperation = 'copy';
        context.drawImage(this.ink, 0, 0);
        context.globalCompositeOperation = 'source-in';
        context.fillStyle = this.stripes ??= stripes(context, Math.max(this.ink.width, this.ink.height) / 48);
        context.fillRect(0, 0, this.ink.width, this.ink.height);
        if (document.activeElement === this.view) this.ring(context);
      });
    }

    ring(context) {
      context.globalCompositeOperation = 'source-over';
      context.lineWidth = Math.max(this.ink.width / 300, 1);
      for (const [colour, more] of [['#000', 0], ['#fff', context.lineWidth]]) {
        context.strokeStyle = colour;
        context.beginPath();
        context.arc(...this.at, this.brush.size / 2 + more, 0, 2 * Math.PI);
        context.stroke();
      }
    }

    async file() {
      const {width, height} = this.ink;
      const canvas = make('canvas', {width, height});
      const context = canvas.getContext('2d', {alpha: false});
      context.fillStyle = '#fff';
      context.fillRect(0, 0, width, height);
      context.drawImage(this.ink, 0, 0);
      const blob = await new Promise(done => canvas.toBlob(done, 'image/png'));
      return new File([blob], 'mask.png', {type: 'image/png'});
    }
  }

  function stripes(context, size) {
    const tile = make('canvas', {width: Math.ceil(size), height: Math.ceil(size)});
    const drawn = tile.getContext('2d');
    drawn.fillStyle = 'rgb(20 20 20 / 86%)';
    drawn.fillRect(0, 0, size + 1, size + 1);
    drawn.strokeStyle = 'rgb(255 255 255 / 70%)';
    drawn.lineWidth = size / 6;
    drawn.beginPath();
    for (const shift of [-size, 0, size]) {
      drawn.moveTo(shift, size);
      drawn.lineTo(shift + size, 0);
    }
    drawn.stroke();
    return context.createPattern(tile, 'repeat');
  }

  function lay(dialog, image, paint, words) {
    image.alt = '';
    const shot = make('div', {className: 'mask-shot'}, image, paint.view);
    shot.style.setProperty('--ratio', paint.ink.width / paint.ink.height);
    paint.view.setAttribute('aria-label', words.hint);
    paint.view.setAttribute('role', 'application');
    const tools = make('div', {className: 'mask-tools'}, ...brushes(paint, words), ...whole(paint, words));
    const ends = make('div', {className: 'mask-ends'}, button(words.cancel, 'q-button', () => dialog.close()), button(words.save, 'q-button q-primary', async () => {
      dialog.painted = await paint.file();
      dialog.close();
    }));
    dialog.append(make('h2', {textContent: dialog.getAttribute('aria-label')}), shot, make('p', {textContent: words.hint}), tools, ends);
    hear(paint);
  }

  function brushes(paint, words) {
    const most = Math.max(paint.ink.width, paint.ink.height) / 2;
    const size = make('input', {type: 'range', min: 1, max: Math.ceil(most), value: paint.brush.size});
    size.addEventListener('input', () => { paint.brush.size = size.valueAsNumber; });
    const soft = make('input', {type: 'checkbox'});
    soft.addEventListener('change', () => { paint.brush.soft = soft.checked; });
    const colours = make('span', {className: 'segments', role: 'group', aria: {label: words.paint}}, ...['black', 'white'].map(name => {
      const one = button(words[name], '', () => colour(name), {pressed: name === 'black'});
      one.dataset.brush = name;
      return one;
    }));
    function colour(name) {
      paint.brush.black = name === 'black';
      for (const one of colours.children) one.setAttribute('aria-pressed', one.dataset.brush === name);
    }
    return [colours, make('label', {}, make('span', {textContent: words.brush}), size), make('label', {}, soft, make('span', {textContent: words.soft}))];
  }

  function whole(paint, words) {
    const acts = ['fill', 'clear', 'invert'].map(name => button(words[name], 'q-button', () => paint.all(name)));
    return [make('span', {className: 'mask-acts'}, ...acts, button(words.undo, 'q-button', () => paint.undo()))];
  }

  function button(text, className, pressed, aria = {}) {
    const made = make('button', {type: 'button', className, textContent: text, aria});
    made.addEventListener('click', pressed);
    return made;
  }

  function hear(paint) {
    const {view} = paint;
    let down = false;
    const at = event => {
      const {left, top, width, height} = view.getBoundingClientRect();
      return [(event.clientX - left) / width * view.width, (event.clientY - top) / height * view.height];
    };
    view.addEventListener('pointerdown', event => {
      if (event.button) return;
      down = true;
      view.setPointerCapture(event.pointerId);
      paint.keep();
      paint.stroke(at(event), at(event));
    });
    view.addEventListener('pointermove', event => {
      if (down) for (const each of event.getCoalescedEvents?.() ?? [event]) paint.stroke(paint.at, at(each));
      else { paint.at = at(event); paint.show(); }
    });
    for (const name of ['pointerup', 'pointercancel']) view.addEventListener(name, () => { down = false; });
    for (const name of ['focus', 'blur']) view.addEventListener(name, () => paint.show());
    view.addEventListener('keydown', event => byKey(event, paint));
  }

  function byKey(event, paint) {
    const by = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
    if (by) {
      const sides = [paint.ink.width, paint.ink.height];
      paint.at = paint.at.map((place, side) => Math.min(Math.max(place + by[side] * paint.brush.size / 4, 0), sides[side]));
      paint.show();
    } else if (event.key === ' ') {
      paint.keep();
      paint.stroke(paint.at, paint.at);
    } else if (event.key === 'z' && (event.ctrlKey || event.metaKey)) {
      paint.undo();
    } else return;
    event.preventDefault();
  }

  Object.assign(framepack, {cutOut, paintMask});
})();
