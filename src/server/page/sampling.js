// The drawer of sampling parameters. An empty field says nothing, so that the server's own default holds.

import {find, h} from './dom.js';

const kFields = [
  {name: 'temperature', label: 'Temperature', min: 0, max: 2, step: 0.05, help: '0 always takes the likeliest token.'},
  {name: 'top_p', label: 'Top p', min: 0.01, max: 1, step: 0.01, help: 'The likeliest tokens that make up this share.'},
  {name: 'top_k', label: 'Top k', min: 0, step: 1, whole: true, help: 'At most this many tokens; 0: all.'},
  {name: 'min_p', label: 'Min p', min: 0, max: 1, step: 0.01, help: 'Drops what is below this share of the likeliest.'},
  {name: 'max_tokens', label: 'Max tokens', min: 1, step: 1, whole: true, help: 'The longest answer.'},
  {name: 'seed', label: 'Seed', min: 0, step: 1, whole: true, help: 'The same seed gives the same answer.'},
  {name: 'presence_penalty', label: 'Presence penalty', min: -2, max: 2, step: 0.1},
  {name: 'frequency_penalty', label: 'Frequency penalty', min: -2, max: 2, step: 0.1},
  {name: 'repetition_penalty', label: 'Repetition penalty', min: 0.01, step: 0.05, help: '1: none.'},
];
const kKey = 'tandem.sampling';

function problemOf(field, text) {
  const value = Number(text);
  if (text.trim() === '') return '';
  if (!Number.isFinite(value)) return 'Not a number.';
  if (field.whole && !Number.isSafeInteger(value)) return 'A whole number, please.';
  if (value < field.min || value > (field.max ?? Infinity))
    return field.max === undefined ? `At least ${field.min}.` : `From ${field.min} to ${field.max}.`;
  return '';
}

export class SamplingPanel {
  #inputs = new Map();

  constructor() {
    let saved = {};
    try {
      saved = JSON.parse(localStorage.getItem(kKey)) ?? {};
    } catch {
      // What was saved is broken: begin again.
    }
    for (const field of kFields) {
      const id = `sampling-${field.name}`;
      const note = h('span.field-note', {id: `${id}-note`}, field.help ?? '');
      const input = h('input', {
        id, type: 'text', inputmode: 'decimal', autocomplete: 'off', placeholder: 'default', 'aria-describedby': note.id,
        oninput: () => this.#check(field, input, note),
      });
      input.value = typeof saved[field.name] === 'string' ? saved[field.name] : '';
      this.#inputs.set(field, input);
      find('sampling-fields').append(h('div.field', {}, h('label', {for: id}, field.label), input, note));
      this.#check(field, input, note);
    }
    find('sampling-reset').addEventListener('click', () => {
      for (const input of this.#inputs.values()) {
        input.value = '';
        input.dispatchEvent(new Event('input'));
      }
    });
  }

  #check(field, input, note) {
    const problem = problemOf(field, input.value);
    input.setAttribute('aria-invalid', String(problem !== ''));
    note.textContent = problem || (field.help ?? '');
    const texts = [...this.#inputs].map(([{name}, {value}]) => [name, value]);
    localStorage.setItem(kKey, JSON.stringify(Object.fromEntries(texts)));
  }

  // What to send: the fields that say something sensible.
  parameters() {
    const said = [...this.#inputs].filter(([field, {value}]) => value.trim() !== '' && problemOf(field, value) === '');
    return Object.fromEntries(said.map(([{name}, {value}]) => [name, Number(value)]));
  }
}
