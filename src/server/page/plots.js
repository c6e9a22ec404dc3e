// Small plots of the last two minutes, on canvases.

import {h} from './dom.js';

const kSamples = 120;

// A ceiling for the axis: 1, 2 or 5 times a power of ten.
function niceCeiling(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].find((step) => step * power >= value) * power;
}

export class Plot {
  #title;
  #series;
  #format;
  #ceiling;
  #samples = [];
  #canvas;
  #now;
  #top;

  // series   [{label, color}]: the names of CSS variables; the first is shown as the number beside the title
  // format   a value as text
  // ceiling  of the axis, where it is known
  constructor({title, series, format, ceiling = null}) {
    this.#title = title;
    this.#series = series;
    this.#format = format;
    this.#ceiling = ceiling;
    this.#canvas = h('canvas', {role: 'img', 'aria-label': title});
    this.#now = h('span.plot-now', {}, '–');
    this.#top = h('span.plot-top');
    const legend = series.length < 2 ? [] : series.map(({label, color}) => {
      const key = h('span.plot-key', {}, label);
      key.style.setProperty('--key', `var(${color})`);
      return key;
    });
    this.element = h('figure.plot', {},
      h('figcaption', {}, h('span.plot-title', {}, title), ...legend, this.#now), this.#canvas, this.#top);
  }

  // One value for each series; null where there is none.
  add(values) {
    this.#samples.push(values);
    if (this.#samples.length > kSamples) this.#samples.shift();
    // Where nothing happened just now, what did last.
    const shown = values.map((value, i) => value ?? this.#samples.findLast((sample) => sample[i] !== null)?.[i] ?? null);
    this.#now.textContent = shown.map((value) => (value === null ? '–' : this.#format(value))).join(' / ');
    this.#now.classList.toggle('past', values.includes(null));
    this.#canvas.setAttribute('aria-label', `${this.#title}: ${this.#now.textContent}`);
    this.draw();
  }

  draw() {
    const {clientWidth: width, clientHeight: height} = this.#canvas;
    if (width === 0) return;
    const scale = window.devicePixelRatio || 1;
    this.#canvas.width = Math.round(width * scale);
    this.#canvas.height = Math.round(height * scale);
    const context = this.#canvas.getContext('2d');
    context.scale(scale, scale);
    const style = getComputedStyle(this.#canvas);

    const largest = Math.max(0, ...this.#samples.flat().filter((value) => value !== null));
    const ceiling = this.#ceiling ?? (largest > 0 ? niceCeiling(largest) : 1);
    this.#top.textContent = largest > 0 || this.#ceiling !== null ? this.#format(ceiling) : '';
    const x = (i) => width - 2 - ((this.#samples.length - 1 - i) * (width - 4)) / (kSamples - 1);
    const y = (value) => height - 2 - (Math.min(value, ceiling) / ceiling) * (height - 6);

    context.strokeStyle = style.getPropertyValue('--line');
    context.lineWidth = 1;
    context.beginPath();
    for (const level of [0, 0.5, 1]) {
      const at = Math.round(y(level * ceiling)) + 0.5;
      context.moveTo(0, at);
      context.lineTo(width, at);
    }
    context.stroke();
    this.#series.forEach(({color}, index) => this.#drawSeries(context, index, style.getPropertyValue(color), x, y));
  }

  #drawSeries(context, index, color, x, y) {
    const points = this.#samples.map((values, i) => [x(i), values[index]]).filter(([, value]) => value !== null);
    if (points.length === 0) return;
    context.strokeStyle = color;
    context.fillStyle = color;
    context.lineWidth = 1.5;
    context.lineJoin = 'round';
    context.beginPath();
    for (const [at, value] of points) context.lineTo(at, y(value));
    context.stroke();
    if (index === 0) {
      context.lineTo(points.at(-1)[0], y(0));
      context.lineTo(points[0][0], y(0));
      context.globalAlpha = 0.12;
      context.fill();
      context.globalAlpha = 1;
    }
    const [at, value] = points.at(-1);
    context.beginPath();
    context.arc(at, y(value), 2.2, 0, 2 * Math.PI);
    context.fill();
  }
}
