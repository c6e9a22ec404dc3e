// An answer as its tokens: coloured by how likely each was, with what might have stood there instead.

import {h} from './dom.js';

// The tokens of answers, by message id. They are many, so they are not kept beyond this visit.
export const tokensOf = new Map();

export const toToken = ({token, logprob, top_logprobs: top}) => ({
  text: String(token),
  logprob: Number(logprob),
  top: (top ?? []).map((other) => ({text: String(other.token), logprob: Number(other.logprob)})),
});

// What cannot be seen is written out.
const visible = (text) => (text === '' ? '∅' : text.replaceAll('\n', '↵').replaceAll('\t', '⇥').replaceAll(' ', '·'));

const percent = (logprob) => {
  const value = 100 * Math.exp(logprob);
  return value >= 99.95 ? '100 %' : value >= 1 ? `${value.toFixed(1)} %` : value >= 0.01 ? `${value.toFixed(2)} %` : '< 0.01 %';
};

// From likely to unlikely: 0 to 5.
const levelOf = (logprob) => [0.9, 0.6, 0.3, 0.1, 0.02].filter((bound) => Math.exp(logprob) < bound).length;

function showCard(card, token, span) {
  const rows = token.top.some((other) => other.text === token.text) ? token.top : [token, ...token.top];
  card.replaceChildren(...rows.map((row) => {
    const bar = h('span.bar');
    bar.style.width = `${100 * Math.exp(row.logprob)}%`;
    return h(row.text === token.text ? 'div.chosen' : 'div', {},
      h('code', {}, visible(row.text)), h('span.bar-box', {}, bar), h('span.share', {}, percent(row.logprob)));
  }));
  card.hidden = false;
  const place = span.getBoundingClientRect();
  const size = card.getBoundingClientRect();
  const left = Math.max(8, Math.min(place.left, window.innerWidth - size.width - 8));
  const above = place.top - size.height - 6;
  card.style.left = `${left}px`;
  card.style.top = `${above > 8 ? above : place.bottom + 6}px`;
}

// Shows tokens that only ever become more.
export class TokenView {
  #parent;
  #shown = 0;
  #tokens = [];

  // card  the one element that shows a token's alternatives
  constructor(parent, card) {
    this.#parent = parent;
    parent.classList.add('tokens');
    const show = (event) => {
      const index = event.target.dataset?.index;
      if (index !== undefined) showCard(card, this.#tokens[Number(index)], event.target);
    };
    const hide = () => {
      card.hidden = true;
    };
    parent.addEventListener('mouseover', show);
    parent.addEventListener('focusin', show);
    parent.addEventListener('mouseout', hide);
    parent.addEventListener('focusout', hide);
    // One stop for the Tab key; from there the arrows go on.
    parent.addEventListener('keydown', (event) => {
      const next = {ArrowRight: 'nextElementSibling', ArrowLeft: 'previousElementSibling'}[event.key];
      const to = next && event.target[next];
      if (!to) return;
      event.preventDefault();
      event.target.tabIndex = -1;
      to.tabIndex = 0;
      to.focus();
    });
  }

  update(tokens) {
    this.#tokens = tokens;
    const spans = tokens.slice(this.#shown).map((token, i) => {
      const text = token.text.replaceAll('\n', '↵\n');
      const index = this.#shown + i;
      return h(`span.level-${levelOf(token.logprob)}`, {
        'data-index': index, tabindex: index === 0 ? 0 : -1, 'aria-label': `${visible(token.text)}, ${percent(token.logprob)}`,
      }, text);
    });
    this.#shown = tokens.length;
    this.#parent.append(...spans);
  }
}
