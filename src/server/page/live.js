// The panel of live plots. It asks for the metrics once a second, and only while it is seen.

import {ApiError, readMetrics} from './api.js';
import {find, h} from './dom.js';
import {parseMetrics, quantileBetween, rateBetween} from './metrics.js';
import {Plot} from './plots.js';

const kPeriodMs = 1000;

const number = (value) => (value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : String(+value.toFixed(2)));
export const seconds = (value) => {
  if (value < 0.001) return `${number(value * 1e6)} µs`;
  return value < 1 ? `${number(value * 1e3)} ms` : `${number(value)} s`;
};

export class LivePanel {
  #plots = {
    tokens: new Plot({title: 'Tokens per second', series: [{label: 'tokens', color: '--accent'}], format: number}),
    first: new Plot({title: 'Time to first token', series: [{label: 'median', color: '--warm'}], format: seconds}),
    between: new Plot({title: 'Time between tokens', series: [{label: 'median', color: '--warm'}], format: seconds}),
    requests: new Plot({
      title: 'Requests',
      series: [{label: 'running', color: '--accent'}, {label: 'waiting', color: '--warm'}],
      format: (value) => String(Math.round(value)),
    }),
    cache: new Plot({
      title: 'KV cache in use',
      series: [{label: 'share', color: '--accent'}],
      format: (value) => `${(100 * value).toFixed(value < 0.1 ? 1 : 0)} %`,
      ceiling: 1,
    }),
  };
  #status = h('p.note', {role: 'status'});
  #timer = null;
  #last = null;  // {at, metrics}
  #onRefused;

  // onRefused(error) is told of 401: the key is missing or wrong.
  constructor(onRefused) {
    this.#onRefused = onRefused;
    find('live-plots').append(...Object.values(this.#plots).map((plot) => plot.element), this.#status);
    document.addEventListener('visibilitychange', () => this.update());
    window.addEventListener('resize', () => this.redraw());
  }

  redraw() {
    for (const plot of Object.values(this.#plots)) plot.draw();
  }

  // Starts or stops asking, as the panel is seen or not.
  update() {
    const seen = !find('live').hidden && document.visibilityState === 'visible';
    if (seen && this.#timer === null) {
      this.#timer = setInterval(() => this.#ask(), kPeriodMs);
      this.#last = null;
      this.redraw();
      this.#ask();
    } else if (!seen && this.#timer !== null) {
      clearInterval(this.#timer);
      this.#timer = null;
    }
  }

  async #ask() {
    try {
      const text = await readMetrics(AbortSignal.timeout(5 * kPeriodMs));
      this.#show({at: performance.now(), metrics: parseMetrics(text)});
      this.#status.textContent = '';
    } catch (error) {
      this.#last = null;
      if (error instanceof ApiError && error.status === 401) this.#onRefused(error);
      this.#status.textContent = error instanceof ApiError ? error.message : 'The server does not answer.';
    }
  }

  #show(reading) {
    const {values, histograms} = reading.metrics;
    const before = this.#last?.metrics;
    this.#plots.requests.add([values.get('num_requests_running') ?? null, values.get('num_requests_waiting') ?? null]);
    this.#plots.cache.add([values.get('kv_cache_usage_perc') ?? null]);
    if (before) {
      const elapsed = (reading.at - this.#last.at) / 1000;
      const median = (name) => quantileBetween(before.histograms.get(name), histograms.get(name), 0.5);
      const tokens = 'generation_tokens_total';
      this.#plots.tokens.add([rateBetween(before.values.get(tokens), values.get(tokens), elapsed)]);
      this.#plots.first.add([median('time_to_first_token_seconds')]);
      this.#plots.between.add([median('inter_token_latency_seconds')]);
    }
    this.#last = reading;
  }
}
