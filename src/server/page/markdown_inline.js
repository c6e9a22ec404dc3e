// The inline half of Markdown: code, bold, italic, struck out, links, line ends. One pass, and never more than a few
// elements inside one another. Links lead to http, https and mailto only; images are links.

import {h} from './dom.js';

const kMarks = {'**': 'strong', __: 'strong', '*': 'em', _: 'em', '~~': 'del'};
const kLinkBytesMax = 2000;
const isWord = (char) => char !== undefined && /[\p{L}\p{N}_]/u.test(char);
const isSpace = (char) => char === undefined || /\s/.test(char);

export function safeLink(address) {
  try {
    const url = new URL(address);
    return ['http:', 'https:', 'mailto:'].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

function linkTo(address, text) {
  return h('a', {href: address, target: '_blank', rel: 'noopener noreferrer'}, text);
}

export function appendInline(parent, text) {
  const open = [{element: parent, mark: ''}];
  const noRunOf = new Set();  // lengths of backtick runs that have no partner further on
  let plain = '';

  const top = () => open[open.length - 1];
  const flush = () => {
    if (plain !== '') top().element.append(plain);
    plain = '';
  };
  const append = (element) => {
    flush();
    top().element.append(element);
  };
  // Turns the innermost open element back into text.
  const unwrap = () => {
    flush();
    const {element, mark} = open.pop();
    element.before(mark);
    while (element.firstChild) element.before(element.firstChild);
    element.remove();
  };
  const isOpen = (mark) => open.some((entry) => entry.mark === mark);
  const close = (mark) => {
    while (top().mark !== mark) unwrap();
    flush();
    open.pop();
  };
  const start = (mark) => {
    const element = h(kMarks[mark]);
    append(element);
    open.push({element, mark});
  };

  // A run of `length` marks that begins at `at`.
  const readMarks = (at, length) => {
    const char = text[at];
    const before = text[at - 1];
    const after = text[at + length];
    const mayOpen = !isSpace(after) && (char !== '_' || !isWord(before));
    const mayClose = !isSpace(before) && (char !== '_' || !isWord(after));
    for (let left = length; left > 0;) {
      const closing = top().mark;
      if (mayClose && closing[0] === char && closing.length <= left) {
        close(closing);
        left -= closing.length;
        continue;
      }
      const mark = char.repeat(char === '~' ? 2 : Math.min(2, left));
      if (mark.length > left || !(mark in kMarks)) plain += char.repeat(left);
      else if (mayClose && isOpen(mark)) close(mark);
      else if (mayOpen && !isOpen(mark)) start(mark);
      else plain += mark;
      left -= Math.min(left, mark.length);
    }
  };

  // `code` at `at`; returns its end, or 0.
  const readCode = (at) => {
    let run = at;
    while (text[run] === '`') run += 1;
    const ticks = text.slice(at, run);
    for (let from = run; !noRunOf.has(ticks.length);) {
      const begin = text.indexOf(ticks, from);
      if (begin < 0) noRunOf.add(ticks.length);
      if (begin < 0) break;
      let end = begin;
      while (text[end] === '`') end += 1;
      if (end - begin === ticks.length) {
        const inside = text.slice(run, begin).replaceAll('\n', ' ');
        const padded = inside.startsWith(' ') && inside.endsWith(' ') && inside.trim() !== '';
        append(h('code', {}, padded ? inside.slice(1, -1) : inside));
        return end;
      }
      from = end;
    }
    plain += ticks;
    return run;
  };

  // [text](address) at `at`; returns its end, or 0.
  const readLink = (at) => {
    const near = text.slice(at, at + kLinkBytesMax);
    const middle = near.indexOf('](');
    const end = middle < 0 ? -1 : near.indexOf(')', middle);
    if (end < 0 || near.slice(1, middle).includes('[')) return 0;
    const address = safeLink(near.slice(middle + 2, end).trim().split(/\s/)[0]);
    if (address === null) return 0;
    append(linkTo(address, near.slice(1, middle) || address));
    return at + end + 1;
  };

  // An address that stands in the text as it is.
  const readAddress = (at) => {
    const shown = /^https?:\/\/[^\s<>"`]+/.exec(text.slice(at, at + kLinkBytesMax))?.[0].replace(/[.,;:!?'*_)\]]+$/, '');
    const address = shown ? safeLink(shown) : null;
    if (address === null) return 0;
    append(linkTo(address, shown));
    return at + shown.length;
  };

  for (let at = 0; at < text.length;) {
    const char = text[at];
    let end = 0;
    if (char === '\\' && /[!-/:-@[-`{-~]/.test(text[at + 1] ?? '')) {
      plain += text[at + 1];
      end = at + 2;
    } else if (char === '`') {
      end = readCode(at);
    } else if (char === '*' || char === '_' || char === '~') {
      end = at + 1;
      while (text[end] === char) end += 1;
      readMarks(at, end - at);
    } else if (char === '[' || (char === '!' && text[at + 1] === '[')) {
      end = readLink(char === '!' ? at + 1 : at);
    } else if (char === 'h' && text.startsWith('http', at) && !isWord(text[at - 1])) {
      end = readAddress(at);
    } else if (char === '\n') {
      append(h('br'));
      end = at + 1;
    }
    if (end === 0) {
      plain += char;
      end = at + 1;
    }
    at = end;
  }
  while (open.length > 1) unwrap();
  flush();
}
