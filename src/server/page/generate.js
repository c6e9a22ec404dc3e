// One answer: streams it into its message and measures it.

import {streamChat} from './api.js';
import {toToken} from './tokens.js';

// What the server is asked for the answer that ends `path`, a list of messages of which the last is a question.
export function requestBody({model, system, path, parameters, logprobs}) {
  const messages = path.map(({role, text}) => ({role, content: text}));
  if (system.trim() !== '') messages.unshift({role: 'system', content: system});
  const body = {messages, ...parameters};
  if (model !== '') body.model = model;
  if (logprobs) Object.assign(body, {logprobs: true, top_logprobs: 5});
  return body;
}

// Fills `node` and `tokens` as the answer comes, and calls `changed` each time. Throws what the call throws; the node
// then holds what had come until then.
export async function generate({body, node, tokens, signal, changed}) {
  const started = performance.now();
  let first = null;
  let answered = null;
  let last = null;
  let counted = 0;
  let usage = null;
  const stats = {tokens: 0, promptTokens: 0, firstMs: null, perSecond: null, thoughtMs: null, finish: ''};
  node.stats = stats;

  const measure = () => {
    stats.tokens = usage?.completion_tokens ?? counted;
    stats.promptTokens = usage?.prompt_tokens ?? 0;
    if (first === null) return;
    stats.firstMs = first - started;
    if (node.reasoning !== '') stats.thoughtMs = (answered ?? last) - first;
    stats.perSecond = stats.tokens > 1 && last > first ? (1000 * (stats.tokens - 1)) / (last - first) : null;
  };
  for await (const part of streamChat(body, signal)) {
    if (part.text !== '' || part.reasoning !== '' || part.tokens.length > 0) {
      last = performance.now();
      first ??= last;
      if (part.text !== '') answered ??= last;
      counted += part.tokens.length || 1;  // a piece is a token, mostly; the server's count comes at the end
    }
    node.text += part.text;
    node.reasoning += part.reasoning;
    tokens.push(...part.tokens.map(toToken));
    if (part.finish !== null) stats.finish = part.finish;
    usage = part.usage ?? usage;
    measure();
    changed();
  }
}
