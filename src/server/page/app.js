// The page: a chat with the model behind this server, and a look at what the server does.
//
// Everything the page knows stays in this browser, but for what is asked: conversations and settings in localStorage,
// the API key in sessionStorage, tokens in memory. It talks to the server it came from and to nobody else.

import {ApiError, listModels} from './api.js';
import * as chats from './chats.js';
import {find, h, icon} from './dom.js';
import {generate, requestBody} from './generate.js';
import {askForKey} from './key_dialog.js';
import {LivePanel} from './live.js';
import {MessageList} from './messages.js';
import {SamplingPanel} from './sampling.js';
import {Sidebar} from './sidebar.js';
import {tokensOf} from './tokens.js';

const kSaveEveryMs = 1000;

let all = chats.loadChats();
let chat = all[0] ?? chats.newChat();
let run = null;  // the answer under way: {chat, node, controller}
let showTokens = localStorage.getItem('tandem.tokens') === 'on';

const sampling = new SamplingPanel();
const live = new LivePanel((error) => askForKey(error.message));
const list = new MessageList({
  edit: (node, text) => ask(chats.nodeOf(chat, node.parent), text),
  regenerate: (node) => answer(chats.nodeOf(chat, node.parent)),
  show: (node) => {
    chats.showNode(chat, node);
    save(chat);
    showChat();
  },
});
const sidebar = new Sidebar({
  open: (opened) => {
    chat = opened;
    showAll();
    if (isNarrow()) setPanel('sidebar', false);
    find('input').focus();
  },
  rename: (renamed, title) => {
    renamed.title = title;
    save(renamed);
    showAll();
  },
  remove: (removed) => {
    if (run?.chat === removed) run.controller.abort();
    chats.deleteChat(removed);
    all = all.filter((other) => other !== removed);
    if (chat === removed) chat = all[0] ?? chats.newChat();
    showAll();
  },
});

const isNarrow = () => window.matchMedia('(max-width: 800px)').matches;

function say(text) {
  find('status').textContent = text;
}

function notify(text) {
  const notice = find('notice');
  notice.textContent = text;
  notice.hidden = false;
  setTimeout(() => {
    notice.hidden = true;
  }, 6000);
}

function save(saved) {
  // A conversation that was deleted while its answer came stays deleted.
  if (saved.nodes.length === 0 || (saved !== chat && !all.includes(saved))) return;
  if (!all.includes(saved)) all.unshift(saved);
  if (!chats.saveChat(saved))
    notify('This browser has no room left for conversations: export some and delete them.');
}

function showChat() {
  const path = chats.pathOf(chat).map((node) => ({node, siblings: chats.siblingsOf(chat, node)}));
  list.show(path, {showTokens, streamingId: run?.node.id});
  find('title').textContent = chat.title || 'New conversation';
  document.title = chat.title ? `${chat.title} – Tandem` : 'Tandem';
  find('system').value = chat.system;
  showRun();
}

function showAll() {
  all.sort((a, b) => b.updated - a.updated);
  sidebar.show(all, chat);
  showChat();
  list.scrollToEnd();
}

function showRun() {
  const button = find('send');
  const name = run === null ? 'send' : 'stop';
  button.replaceChildren(icon(name));
  button.dataset.does = name;
  button.title = run === null ? 'Send' : 'Stop';
  button.setAttribute('aria-label', run === null ? 'Send' : 'Stop the answer');
  button.disabled = run === null && find('input').value.trim() === '';
}

// A new message behind `parent`, and its answer.
function ask(parent, text) {
  if (run !== null) return;
  const question = chats.addNode(chat, parent, 'user', text);
  save(chat);
  answer(question);
}

async function answer(question) {
  if (run !== null) return;
  const asked = chat;
  chats.showNode(asked, question);
  const path = chats.pathOf(asked).slice(0, chats.pathOf(asked).findIndex((node) => node === question) + 1);
  const model = find('model').value;
  const body = requestBody({model, system: asked.system, path, parameters: sampling.parameters(), logprobs: showTokens});
  const node = chats.addNode(asked, question, 'assistant', '');
  node.model = model;
  const tokens = [];
  if (showTokens) tokensOf.set(node.id, tokens);
  const controller = new AbortController();
  run = {chat: asked, node, controller};
  showAll();
  say('The answer is coming.');

  let savedAt = performance.now();
  const changed = () => {
    list.touch(node.id);
    if (performance.now() - savedAt < kSaveEveryMs) return;
    savedAt = performance.now();
    save(asked);
  };
  let refused = null;
  try {
    await generate({body, node, tokens, signal: controller.signal, changed});
  } catch (error) {
    if (controller.signal.aborted) {
      node.stats.finish = 'stopped';
    } else if (error instanceof ApiError) {
      node.error = error.message;
      refused = error.status === 401 ? error : null;
    } else {
      node.error = 'The connection to the server was lost.';
    }
    if (node.error !== '') node.stats.finish = 'error';
  }
  run = null;
  save(asked);
  list.finish(node.id);
  showRun();
  say(node.error || 'The answer is complete.');
  if (refused !== null && (await askForKey(refused.message))) retry(asked, question, node);
}

// Once more, with a key this time: the refused answer leaves no trace.
function retry(asked, question, node) {
  asked.nodes = asked.nodes.filter((other) => other !== node);
  chat = asked;
  loadModels();
  answer(question);
}

const stop = () => run?.controller.abort();

async function loadModels() {
  try {
    const models = await listModels();
    const select = find('model');
    const chosen = select.value;
    select.replaceChildren(...models.map((id) => h('option', {value: id}, id)));
    if (models.includes(chosen)) select.value = chosen;
    select.classList.toggle('single', models.length < 2);
    find('welcome-model').textContent = models[0] ?? '';
  } catch (error) {
    if (error instanceof ApiError && error.status === 401 && (await askForKey(error.message))) loadModels();
    else if (!(error instanceof ApiError)) notify('The server does not answer. Reload the page once it does.');
  }
}

function setPanel(name, open) {
  if (open && name !== 'sidebar') for (const other of ['sampling', 'live']) if (other !== name) setPanel(other, false);
  find(name).hidden = !open;
  find(`toggle-${name}`).setAttribute('aria-expanded', String(open));
  document.body.classList.toggle('covered', isNarrow() && ['sidebar', 'sampling', 'live'].some((id) => !find(id).hidden));
  if (name === 'live') live.update();
}

function setTheme(theme) {
  if (theme === 'auto') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  localStorage.setItem('tandem.theme', theme);
  find('theme').title = `Theme: ${theme}`;
  find('theme').setAttribute('aria-label', `Theme: ${theme}`);
  live.redraw();
}

function send() {
  const input = find('input');
  const text = input.value;
  if (text.trim() === '' || run !== null) return;
  input.value = '';
  fitInput();
  ask(chats.nodeOf(chat, chat.leaf), text);
}

function fitInput() {
  const input = find('input');
  input.style.height = 'auto';
  input.style.height = `${Math.min(input.scrollHeight, 240)}px`;
  showRun();
}

function exportChats() {
  const file = new Blob([chats.exportText(all)], {type: 'application/json'});
  const link = h('a', {href: URL.createObjectURL(file), download: 'tandem-conversations.json'});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

async function importChats(file) {
  try {
    const imported = chats.importText(await file.text());
    for (const one of imported) {
      all.unshift(one);
      save(one);
    }
    if (imported.length > 0) [chat] = imported;
    showAll();
    notify(`${imported.length} ${imported.length === 1 ? 'conversation' : 'conversations'} imported.`);
  } catch (error) {
    notify(`Not imported: ${error.message}.`);
  }
}

function wire() {
  for (const button of document.querySelectorAll('[data-icon]')) button.prepend(icon(button.dataset.icon));
  for (const name of ['sidebar', 'sampling', 'live']) {
    const toggle = () => setPanel(name, find(name).hidden);
    find(`toggle-${name}`).addEventListener('click', toggle);
    for (const button of document.querySelectorAll(`[data-closes="${name}"]`)) button.addEventListener('click', toggle);
  }
  find('cover').addEventListener('click', () => ['sidebar', 'sampling', 'live'].forEach((name) => setPanel(name, false)));
  find('toggle-tokens').addEventListener('click', () => {
    showTokens = !showTokens;
    localStorage.setItem('tandem.tokens', showTokens ? 'on' : 'off');
    find('toggle-tokens').setAttribute('aria-pressed', String(showTokens));
    find('token-card').hidden = true;
    showChat();
    if (showTokens && tokensOf.size === 0) notify('The next answers come with their tokens.');
  });
  find('theme').addEventListener('click', () => {
    const order = ['auto', 'light', 'dark'];
    setTheme(order[(order.indexOf(localStorage.getItem('tandem.theme') ?? 'auto') + 1) % order.length]);
  });
  find('new-chat').addEventListener('click', () => {
    chat = chats.newChat();
    showAll();
    if (isNarrow()) setPanel('sidebar', false);
    find('input').focus();
  });
  find('system').addEventListener('input', () => {
    chat.system = find('system').value;
    save(chat);
  });
  find('export').addEventListener('click', exportChats);
  find('import').addEventListener('click', () => find('import-file').click());
  find('import-file').addEventListener('change', async (event) => {
    const [file] = event.target.files;
    if (file) await importChats(file);
    event.target.value = '';
  });
  find('composer').addEventListener('submit', (event) => {
    event.preventDefault();
    if (run === null) send();
    else stop();
  });
  find('input').addEventListener('input', fitInput);
  find('input').addEventListener('keydown', (event) => {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });
  document.addEventListener('keydown', (event) => {
    if (event.key === 'Escape' && !find('key-dialog').open) stop();
  });
  window.addEventListener('storage', (event) => {
    // Another tab has changed the conversations; the one that is open here stays as it is.
    if (!chats.isChatKey(event.key)) return;
    all = chats.loadChats().map((other) => (other.id === chat.id ? chat : other.id === run?.chat.id ? run.chat : other));
    sidebar.show(all, chat);
  });
  window.addEventListener('pagehide', () => {
    if (run !== null) save(run.chat);
  });
}

wire();
find('toggle-tokens').setAttribute('aria-pressed', String(showTokens));
setTheme(localStorage.getItem('tandem.theme') ?? 'auto');
setPanel('sidebar', !isNarrow());
showAll();
fitInput();
loadModels();
if (!isNarrow()) find('input').focus();
