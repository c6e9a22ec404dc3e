// The list of conversations.

import {find, h, iconButton} from './dom.js';

export class Sidebar {
  #actions;

  // actions  {open(chat), rename(chat, title), remove(chat)}
  constructor(actions) {
    this.#actions = actions;
  }

  show(chats, current) {
    find('chats').replaceChildren(...chats.map((chat) => this.#row(chat, chat.id === current.id)));
  }

  #row(chat, isCurrent) {
    const title = chat.title || 'Untitled';
    const open = h('button.chat-title', {
      type: 'button', title, 'aria-current': isCurrent ? 'true' : null, onclick: () => this.#actions.open(chat),
    }, title);
    const row = h(isCurrent ? 'li.current' : 'li', {'data-id': chat.id}, open,
      iconButton('edit', `Rename ${title}`, () => this.#rename(chat, row)),
      iconButton('trash', `Delete ${title}`, () => this.#askToDelete(chat, row)));
    return row;
  }

  #rename(chat, row) {
    const input = h('input', {type: 'text', 'aria-label': 'Title', maxlength: 120});
    input.value = chat.title;
    let settled = false;
    const settle = (title) => {
      if (settled) return;
      settled = true;
      this.#actions.rename(chat, title);
    };
    input.addEventListener('keydown', (event) => {
      if (event.key !== 'Enter' && event.key !== 'Escape') return;
      event.preventDefault();
      event.stopPropagation();
      settle(event.key === 'Enter' ? input.value.trim() : chat.title);
    });
    input.addEventListener('blur', () => settle(input.value.trim()));
    row.replaceChildren(input);
    input.select();
  }

  #askToDelete(chat, row) {
    const before = [...row.childNodes];
    const yes = h('button.danger', {type: 'button', onclick: () => this.#actions.remove(chat)}, 'Delete');
    const no = h('button.plain', {type: 'button', onclick: () => row.replaceChildren(...before)}, 'Keep');
    row.replaceChildren(h('span.question', {}, 'For good?'), yes, no);
    no.focus();
  }
}
