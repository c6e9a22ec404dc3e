// The messages of a conversation on the screen.

import {copyButton, find, h, icon, iconButton} from './dom.js';
import {seconds} from './live.js';
import {MarkdownView} from './markdown.js';
import {TokenView, tokensOf} from './tokens.js';

const kFinishes = {
  stop: 'complete',
  length: 'cut at the longest answer',
  stopped: 'stopped',
  error: 'failed',
  content_filter: 'filtered',
  tool_calls: 'tool call',
};

function statsText({tokens, promptTokens, firstMs, perSecond, finish}) {
  const parts = [];
  if (perSecond !== null) parts.push(`${perSecond >= 100 ? perSecond.toFixed(0) : perSecond.toFixed(1)} tok/s`);
  if (firstMs !== null) parts.push(`first after ${seconds(firstMs / 1000)}`);
  if (tokens > 0) parts.push(`${tokens} ${tokens === 1 ? 'token' : 'tokens'}`);
  if (promptTokens > 0) parts.push(`prompt ${promptTokens}`);
  if (finish !== '') parts.push(kFinishes[finish] ?? finish);
  return parts.join(' · ');
}

class MessageView {
  #node;
  #actions;
  #body = h('div.body');
  #content = null;  // MarkdownView or TokenView
  #reasoning = null;
  #error = null;
  #stats = h('span.stats');

  // actions  {edit(node, text), regenerate(node), show(node)}
  constructor(node, siblings, actions, {showTokens}) {
    this.#node = node;
    this.#actions = actions;
    this.element = h(`article.message.${node.role}`, {'data-id': node.id, 'aria-label': node.role === 'user' ? 'You' : 'Answer'});
    this.element.append(this.#body, this.#footer(siblings));
    if (node.role === 'user') {
      this.#body.append(h('div.text', {}, node.text));
    } else {
      const inner = h('div.text');
      this.#body.append(inner);
      const asTokens = showTokens && tokensOf.has(node.id);
      this.#content = asTokens ? new TokenView(inner, find('token-card')) : new MarkdownView(inner);
      this.refresh();
    }
  }

  #footer(siblings) {
    const node = this.#node;
    const footer = h('footer', {});
    if (siblings.length > 1) {
      const at = siblings.indexOf(node);
      const step = (name, label, to) => {
        const button = iconButton(name, label, () => this.#actions.show(siblings[to]));
        button.disabled = to < 0 || to >= siblings.length;
        return button;
      };
      footer.append(h('span.branches', {role: 'group', 'aria-label': 'Versions'}, step('left', 'Earlier version', at - 1),
        h('span', {}, `${at + 1}/${siblings.length}`), step('right', 'Later version', at + 1)));
    }
    footer.append(copyButton('Copy message', () => node.text));
    if (node.role === 'user') footer.append(iconButton('edit', 'Edit and ask again', () => this.#startEdit()));
    else footer.append(iconButton('again', 'Answer again', () => this.#actions.regenerate(node)), this.#stats);
    return footer;
  }

  // Shows what has come since.
  refresh() {
    const node = this.#node;
    if (node.reasoning !== '') {
      if (this.#reasoning === null) {
        this.#reasoning = h('details.reasoning', {}, h('summary', {}, 'Thinking'), h('div.thoughts'));
        this.#body.prepend(this.#reasoning);
      }
      const [summary, thoughts] = this.#reasoning.children;
      const shown = thoughts.firstChild?.length ?? 0;
      if (shown < node.reasoning.length) thoughts.append(node.reasoning.slice(shown));
      thoughts.normalize();
      const thought = node.stats?.thoughtMs;
      const done = node.text !== '' || (node.stats?.finish ?? '') !== '';
      summary.textContent = done ? (thought ? `Thought for ${seconds(thought / 1000)}` : 'Thoughts') : 'Thinking…';
    }
    if (this.#content instanceof TokenView) this.#content.update(tokensOf.get(node.id));
    else this.#content.update(node.text);
    if (node.error !== '' && this.#error === null) {
      this.#error = h('p.error', {role: 'alert'});
      this.#body.append(this.#error);
    }
    if (this.#error !== null) this.#error.textContent = node.error;
    this.#stats.textContent = node.stats === null ? '' : statsText(node.stats);
  }

  setStreaming(streaming) {
    this.element.classList.toggle('streaming', streaming);
    this.element.setAttribute('aria-busy', String(streaming));
  }

  #startEdit() {
    const area = h('textarea', {'aria-label': 'Edit message', rows: Math.min(12, this.#node.text.split('\n').length + 1)});
    area.value = this.#node.text;
    const original = [...this.#body.childNodes];
    const cancel = () => {
      this.element.classList.remove('editing');
      this.#body.replaceChildren(...original);
    };
    const save = () => {
      cancel();
      if (area.value.trim() !== '') this.#actions.edit(this.#node, area.value);
    };
    area.addEventListener('keydown', (event) => {
      if (event.key === 'Escape') cancel();
      if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) save();
      else if (event.key !== 'Escape') return;
      event.preventDefault();
      event.stopPropagation();
    });
    this.element.classList.add('editing');
    this.#body.replaceChildren(area, h('div.edit-buttons', {},
      h('button.plain', {type: 'button', onclick: cancel}, 'Cancel'),
      h('button.primary', {type: 'button', onclick: save}, 'Ask again')));
    area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
  }
}

// All of them, and where the reader has scrolled to.
export class MessageList {
  #list = find('messages');
  #views = new Map();  // by message id
  #dirty = new Set();
  #sticks = true;  // follows what comes at the bottom
  #actions;

  constructor(actions) {
    this.#actions = actions;
    const scroller = find('scroller');
    const toBottom = find('to-bottom');
    toBottom.append(icon('arrow'));
    toBottom.addEventListener('click', () => this.scrollToEnd());
    scroller.addEventListener('scroll', () => {
      this.#sticks = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 60;
      toBottom.hidden = this.#sticks;
    });
  }

  // path      the messages to show, and for each its siblings
  show(path, {showTokens, streamingId}) {
    this.#views.clear();
    this.#dirty.clear();
    const elements = path.map(({node, siblings}) => {
      const view = new MessageView(node, siblings, this.#actions, {showTokens});
      view.setStreaming(node.id === streamingId);
      this.#views.set(node.id, view);
      return view.element;
    });
    this.#list.replaceChildren(...elements);
    find('welcome').hidden = path.length > 0;
  }

  // The answer is whole.
  finish(id) {
    this.#views.get(id)?.setStreaming(false);
    this.touch(id);
  }

  // The message has changed: it is shown again with the next frame.
  touch(id) {
    if (!this.#views.has(id)) return;
    if (this.#dirty.size === 0) requestAnimationFrame(() => this.#flush());
    this.#dirty.add(id);
  }

  #flush() {
    for (const id of this.#dirty) this.#views.get(id)?.refresh();
    this.#dirty.clear();
    if (this.#sticks) this.scrollToEnd();
  }

  scrollToEnd() {
    const scroller = find('scroller');
    this.#sticks = true;
    scroller.scrollTop = scroller.scrollHeight;
  }
}
