// Conversations: trees of messages, kept in this browser.
//
// A message's answers and a question's rewordings are siblings; `leaf` names the end of the path that is shown. Nodes
// stand in the order they were made in, so a parent always stands before its children.

const kPrefix = 'tandem.chat.';
const kRoles = ['user', 'assistant'];
const kNodesMax = 10_000;

const newId = () => `${Date.now().toString(36)}${Math.random().toString(36).slice(2, 8)}`;

export function newChat() {
  const now = Date.now();
  return {id: newId(), title: '', system: '', created: now, updated: now, nodes: [], leaf: null};
}

export function addNode(chat, parent, role, text) {
  const node = {id: newId(), parent: parent?.id ?? null, role, text, reasoning: '', model: '', stats: null, error: ''};
  chat.nodes.push(node);
  chat.leaf = node.id;
  chat.updated = Date.now();
  if (chat.title === '' && role === 'user') chat.title = text.trim().split('\n')[0].slice(0, 60);
  return node;
}

export const nodeOf = (chat, id) => chat.nodes.find((node) => node.id === id) ?? null;

// From the first message to the leaf.
export function pathOf(chat) {
  const byId = new Map(chat.nodes.map((node) => [node.id, node]));
  const path = [];
  for (let node = byId.get(chat.leaf); node; node = byId.get(node.parent)) path.push(node);
  return path.reverse();
}

export const siblingsOf = (chat, node) => chat.nodes.filter((other) => other.parent === node.parent);

// Shows the path through `node`, on to the latest message behind it.
export function showNode(chat, node) {
  let leaf = node;
  for (let child = node; child; child = chat.nodes.findLast((next) => next.parent === leaf.id)) leaf = child;
  chat.leaf = leaf.id;
}

export function loadChats() {
  const chats = [];
  for (let i = 0; i < localStorage.length; i += 1) {
    const key = localStorage.key(i);
    if (!key.startsWith(kPrefix)) continue;
    try {
      chats.push(readChat(JSON.parse(localStorage.getItem(key))));
    } catch {
      // Not one of ours after all: left where it is.
    }
  }
  return chats.sort((a, b) => b.updated - a.updated);
}

// Whether there was room for it.
export function saveChat(chat) {
  try {
    localStorage.setItem(kPrefix + chat.id, JSON.stringify(chat));
    return true;
  } catch {
    return false;
  }
}

export const deleteChat = (chat) => localStorage.removeItem(kPrefix + chat.id);

export const isChatKey = (key) => key === null || key.startsWith(kPrefix);

export const exportText = (chats) => JSON.stringify({format: 'tandem-conversations', version: 1, chats}, null, 1);

// The conversations of an exported file, under new ids. Throws an Error that says what is wrong with it.
export function importText(text) {
  let file;
  try {
    file = JSON.parse(text);
  } catch {
    throw new Error('this file is not JSON');
  }
  if (file?.format !== 'tandem-conversations' || !Array.isArray(file.chats))
    throw new Error('this file was not exported from Tandem');
  return file.chats.map((chat) => ({...readChat(chat), id: newId()}));
}

const textOf = (value, fallback = '') => (typeof value === 'string' ? value : fallback);
const numberOf = (value, fallback) => (Number.isFinite(value) ? value : fallback);

// A conversation as it may be trusted: nothing but the known fields, of the known types, in one tree.
function readChat(value) {
  if (typeof value !== 'object' || value === null || !Array.isArray(value.nodes) || value.nodes.length > kNodesMax)
    throw new Error('a conversation in this file has no messages that can be read');
  const nodes = [];
  const seen = new Set();
  for (const node of value.nodes) {
    const id = textOf(node?.id);
    const parent = node?.parent ?? null;
    if (id === '' || seen.has(id) || !kRoles.includes(node.role) || (parent !== null && !seen.has(parent)))
      throw new Error('a message in this file has no place in its conversation');
    seen.add(id);
    nodes.push({
      id,
      parent,
      role: node.role,
      text: textOf(node.text),
      reasoning: textOf(node.reasoning),
      model: textOf(node.model),
      stats: readStats(node.stats),
      error: textOf(node.error),
    });
  }
  const now = Date.now();
  return {
    id: textOf(value.id) || newId(),
    title: textOf(value.title),
    system: textOf(value.system),
    created: numberOf(value.created, now),
    updated: numberOf(value.updated, now),
    nodes,
    leaf: seen.has(value.leaf) ? value.leaf : (nodes.at(-1)?.id ?? null),
  };
}

function readStats(stats) {
  if (typeof stats !== 'object' || stats === null) return null;
  return {
    tokens: numberOf(stats.tokens, 0),
    promptTokens: numberOf(stats.promptTokens, 0),
    firstMs: numberOf(stats.firstMs, null),
    perSecond: numberOf(stats.perSecond, null),
    thoughtMs: numberOf(stats.thoughtMs, null),
    finish: textOf(stats.finish),
  };
}
