// Calls to the server that this page came from, and the key they carry.

import {readEvents} from './sse.js';

export class ApiError extends Error {
  constructor(status, message, code = null) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

// Kept for this tab only, and sent nowhere but here.
export const apiKey = {
  get: () => sessionStorage.getItem('tandem.key') ?? '',
  set: (key) => sessionStorage.setItem('tandem.key', key),
};

async function errorOf(response) {
  let error = {};
  try {
    error = (await response.json()).error ?? {};
  } catch {
    // Not ours, then; a proxy's, perhaps.
  }
  const message = typeof error.message === 'string' ? error.message : `the server answered ${response.status}`;
  return new ApiError(response.status, message, error.code ?? null);
}

// Throws ApiError for an answer that is not 2xx, and what fetch throws where there is no answer.
export async function request(path, options = {}) {
  const headers = {...options.headers};
  if (apiKey.get() !== '') headers.authorization = `Bearer ${apiKey.get()}`;
  const response = await fetch(path, {...options, headers, cache: 'no-store', credentials: 'omit'});
  if (!response.ok) throw await errorOf(response);
  return response;
}

export async function listModels() {
  const {data} = await (await request('v1/models')).json();
  return data.map((model) => String(model.id));
}

export async function readMetrics(signal) {
  return (await request('metrics', {signal})).text();
}

// Streams an answer. Yields {text, reasoning, tokens, finish, usage}, each where it came; `tokens` are the entries of
// logprobs.content.   body  without `stream`
export async function* streamChat(body, signal) {
  const response = await request('v1/chat/completions', {
    method: 'POST',
    headers: {'content-type': 'application/json'},
    body: JSON.stringify({...body, stream: true, stream_options: {include_usage: true}}),
    signal,
  });
  for await (const event of readEvents(response.body)) {
    if (event.data === '[DONE]') return;
    const chunk = JSON.parse(event.data);
    if (chunk.error) throw new ApiError(chunk.error.status ?? 0, String(chunk.error.message), chunk.error.code);
    const choice = chunk.choices?.[0];
    yield {
      text: choice?.delta?.content ?? '',
      reasoning: choice?.delta?.reasoning ?? choice?.delta?.reasoning_content ?? '',
      tokens: choice?.logprobs?.content ?? [],
      finish: choice?.finish_reason ?? null,
      usage: chunk.usage ?? null,
    };
  }
  throw new ApiError(0, 'the connection ended before the answer did');
}
