// Markdown as models write it, made of DOM nodes: paragraphs, headings, fenced code, lists, quotes, tables, rules.
// Whatever is not understood is shown as it stands. No HTML is ever parsed.

import {copyButton, h} from './dom.js';
import {appendInline} from './markdown_inline.js';

const kDepthMax = 8;  // quotes and lists inside one another; what is deeper is a paragraph
const kFence = /^ {0,3}(`{3,}|~{3,})\s*([^`\s]*)[^`]*$/;
const kHeading = /^ {0,3}(#{1,6})\s+(\S.*)$/;
const kQuote = /^ {0,3}> ?/;
const kItem = /^( *)([-*+]|\d{1,9}[.)])( +|$)/;

const isBlank = (line) => line.trim() === '';
const indentOf = (line) => line.length - line.trimStart().length;

function isRule(line) {
  const marks = line.replace(/\s/g, '');
  return marks.length >= 3 && '-*_'.includes(marks[0]) && marks.split(marks[0]).join('') === '';
}

const beginsBlock = (line) =>
  kFence.test(line) || kHeading.test(line) || kQuote.test(line) || kItem.test(line) || isRule(line);

function cellsOf(line) {
  const inner = line.trim().replace(/^\|/, '').replace(/\|$/, '');
  return inner.split('|').map((cell) => cell.trim());
}

function isTableAt(lines, at) {
  if (!lines[at].includes('|') || at + 1 >= lines.length || !lines[at + 1].includes('-')) return false;
  const rule = cellsOf(lines[at + 1]);
  return rule.length === cellsOf(lines[at]).length && rule.every((cell) => /^:?-+:?$/.test(cell));
}

// Each reader takes the block that begins at lines[at], and returns its end and how to make its element.

function readCode(lines, at) {
  const [, fence, language] = kFence.exec(lines[at]);
  const indent = indentOf(lines[at]);
  let end = at + 1;
  const isClosing = (line) => {
    const text = line.trim();
    return text.length >= fence.length && text === fence[0].repeat(text.length) && indentOf(line) < 4;
  };
  while (end < lines.length && !isClosing(lines[end])) end += 1;
  const body = lines.slice(at + 1, end).map((line) => line.slice(Math.min(indent, indentOf(line))));
  return {end: end + 1, language, code: body.join('\n'), make: () => codeBlock(language, body.join('\n'))};
}

function codeBlock(language, text) {
  const code = h('code', {}, text);
  const head = h('div.code-head', {}, h('span', {}, language), copyButton('Copy code', () => code.textContent));
  return h('div.code', {}, head, h('pre', {tabindex: 0}, code));
}

function readQuote(lines, at, depth) {
  let end = at;
  while (end < lines.length && kQuote.test(lines[end])) end += 1;
  const inner = lines.slice(at, end).map((line) => line.replace(kQuote, ''));
  return {end, make: () => appendBlocks(h('blockquote'), inner, depth + 1)};
}

function readTable(lines, at) {
  let end = at + 2;
  while (end < lines.length && lines[end].includes('|')) end += 1;
  const row = (line, tag) => {
    const cells = cellsOf(line).map((text) => {
      const cell = h(tag);
      appendInline(cell, text);
      return cell;
    });
    return h('tr', {}, ...cells);
  };
  const make = () =>
    h('div.table', {tabindex: 0}, h('table', {},
      h('thead', {}, row(lines[at], 'th')),
      h('tbody', {}, ...lines.slice(at + 2, end).map((line) => row(line, 'td')))));
  return {end, make};
}

function readList(lines, at, depth) {
  const [, margin, firstMark] = kItem.exec(lines[at]);
  const ordered = firstMark.length > 1;
  const items = [];
  let end = at;
  while (end < lines.length) {
    const found = kItem.exec(lines[end]);
    if (!found || found[1].length > margin.length + 1 || (found[2].length > 1) !== ordered || isRule(lines[end])) break;
    // The item's text stands to the right of its mark; a mark with five blanks behind it begins with indented code.
    const inset = found[0].length - (found[3].length > 4 ? found[3].length - 1 : 0);
    const inner = [lines[end].slice(inset)];
    end += 1;
    for (; end < lines.length; end += 1) {
      const line = lines[end];
      const deeper = indentOf(line) > margin.length && indentOf(line) >= Math.min(inset, margin.length + 2);
      // A line without indent goes on with the item's paragraph, unless something begins there.
      const goesOn = deeper || (!isBlank(lines[end - 1]) && !beginsBlock(line));
      if (!isBlank(line) && !goesOn) break;
      inner.push(isBlank(line) ? '' : line.slice(Math.min(inset, indentOf(line))));
    }
    items.push(inner);
  }
  const make = () => {
    const start = ordered ? Number.parseInt(firstMark, 10) : 1;
    const list = h(ordered ? 'ol' : 'ul', {start: start === 1 ? null : start});
    for (const inner of items) list.append(appendBlocks(h('li'), inner, depth + 1));
    return list;
  };
  return {end, make};
}

function readParagraph(lines, at) {
  let end = at + 1;
  while (end < lines.length && !isBlank(lines[end]) && !beginsBlock(lines[end]) && !isTableAt(lines, end)) end += 1;
  const text = lines.slice(at, end).map((line) => line.trim()).join('\n');
  const make = () => {
    const paragraph = h('p');
    appendInline(paragraph, text);
    return paragraph;
  };
  return {end, make};
}

function readHeading(lines, at) {
  const [, marks, text] = kHeading.exec(lines[at]);
  const make = () => {
    const heading = h(`h${Math.min(6, marks.length + 2)}`);  // the page's own headings come first
    appendInline(heading, text.replace(/\s+#+\s*$/, ''));
    return heading;
  };
  return {end: at + 1, make};
}

function readBlock(lines, at, depth) {
  const line = lines[at];
  if (kFence.test(line)) return readCode(lines, at);
  if (kHeading.test(line)) return readHeading(lines, at);
  if (isRule(line)) return {end: at + 1, make: () => h('hr')};
  if (depth < kDepthMax && kQuote.test(line)) return readQuote(lines, at, depth);
  if (depth < kDepthMax && kItem.test(line)) return readList(lines, at, depth);
  if (isTableAt(lines, at)) return readTable(lines, at);
  return readParagraph(lines, at);
}

// The blocks of these lines: [{at, end, make, code}].
function readBlocks(lines, depth) {
  const blocks = [];
  for (let at = 0; at < lines.length;) {
    if (isBlank(lines[at])) {
      at += 1;
      continue;
    }
    const block = {...readBlock(lines, at, depth), at};
    blocks.push(block);
    at = block.end;
  }
  return blocks;
}

function appendBlocks(parent, lines, depth) {
  for (const block of readBlocks(lines, depth)) parent.append(block.make());
  return parent;
}

const linesOf = (text) => text.replaceAll('\r\n', '\n').replaceAll('\t', '    ').split('\n');

// Shows a text that only ever grows: at every moment what appendMarkdown() would show. Where blocks begin depends on two
// lines at most, so what stands before the last block of which two lines are whole is never looked at again.
export class MarkdownView {
  #parent;
  #length = 0;   // of the text that was shown
  #settled = 0;  // where the blocks begin that may still change
  #open = [];    // those: [{element, language, code}]

  constructor(parent) {
    this.#parent = parent;
  }

  update(text) {
    if (text.length === this.#length) return;
    this.#length = text.length;
    const source = text.slice(this.#settled);
    const lines = linesOf(source);
    const blocks = readBlocks(lines, 0);
    if (!this.#growCode(blocks)) {
      for (const {element} of this.#open) element.remove();
      this.#open = blocks.map((block) => ({...block, element: block.make()}));
      this.#parent.append(...this.#open.map(({element}) => element));
    }
    const at = this.#open.findLastIndex((block) => block.at < lines.length - 2);
    if (at <= 0) return;
    // Back from lines to characters: every line of `source` ends with one "\n", whatever stands before it.
    let settled = 0;
    for (let line = 0; line < this.#open[at].at; line += 1) settled = source.indexOf('\n', settled) + 1;
    this.#settled += settled;
    this.#open = this.#open.slice(at);
  }

  // The same block of code, longer: its element stays, and with it what the reader has selected.
  #growCode(blocks) {
    const [old] = this.#open;
    if (this.#open.length !== 1 || blocks.length !== 1 || old.code === undefined) return false;
    if (old.language !== blocks[0].language || !blocks[0].code?.startsWith(old.code)) return false;
    old.element.querySelector('pre code').append(blocks[0].code.slice(old.code.length));
    old.code = blocks[0].code;
    return true;
  }
}

export function appendMarkdown(parent, text) {
  appendBlocks(parent, linesOf(text), 0);
}
